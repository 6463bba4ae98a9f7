"""Build the C++ kernels that ship with the package, once per machine, and load them.

Not `torch.utils.cpp_extension.load`: it compiles torch's headers (half a minute instead of four seconds), needs ninja, and its
lock file makes every later process wait for ever once a build was killed. Here a build goes to a name of its own and is
renamed when it is whole, so two processes that build at once do no harm.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BUILD_TIMEOUT_S = 300
# A kernel that may round differently from torch asks for more: the last flag counts.
_BASE = ("-O3", "-std=c++17", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
# OpenMP is compiled for but not linked: the symbols are those of the runtime that torch has loaded, and a second one beside
# it would fight over the cores. Where that runtime has them not (macOS, clang), std::thread does the work.
_VARIANTS = (("-march=native", "-fopenmp"), ("-march=native", "-pthread"), ("-pthread",))


class KernelUnavailable(Exception):
    """Why a kernel can't be had here, in one line; callers do without."""


def cache_folder() -> Path:
    """Where built kernels lie: $SPINNERF_KERNEL_CACHE, else kernels/ in the package's folder of the user's cache."""
    named = os.environ.get("SPINNERF_KERNEL_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spinnerf_ns" / "kernels"


def find_compiler() -> str | None:
    """The C++ compiler: $CXX if it is set, else the first of c++, g++, clang++ on the path; None without one."""
    if sys.platform == "win32":  # the flags are gcc's and clang's
        return None
    named = os.environ.get("CXX")
    candidates = [named] if named else ["c++", "g++", "clang++"]
    return next((path for name in candidates if (path := shutil.which(name))), None)


def load_kernel(source: Path) -> ctypes.CDLL:
    """The library built from a C++ file, from the cache if it was built before.

    Args:
        source: the file; what it includes by `#include "name"` has that path from the file's folder. A line `// flags: ...`
            names further compiler flags.

    Raises:
        KernelUnavailable: no compiler, or none of the ways to build it made a library that loads.
    """
    reason = ""
    options = tuple(" ".join(re.findall(r"^// flags: (.+)$", source.read_text(), re.MULTILINE)).split())
    for flags in _VARIANTS:
        try:
            return _load_variant(source, (*options, *flags))
        except KernelUnavailable as error:
            reason = str(error)
    raise KernelUnavailable(reason)


def _load_variant(source: Path, flags: tuple[str, ...]) -> ctypes.CDLL:
    library = cache_folder() / f"{source.stem}-{_key(source, flags)}.so"
    if library.is_file():
        with contextlib.suppress(OSError):  # a damaged file: build it again
            return ctypes.CDLL(str(library))
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=f".{library.stem}-", suffix=".so", dir=library.parent)
        keep = True
    except OSError:  # no place to keep it: build for this process alone
        handle, partial = tempfile.mkstemp(prefix=f"{library.stem}-", suffix=".so")
        keep = False
    os.close(handle)
    try:
        _compile(source, Path(partial), flags)
        loaded = _open(partial)
        if keep:
            os.replace(partial, library)
        return loaded
    finally:
        with contextlib.suppress(OSError):  # a loaded library stays mapped without its name
            os.unlink(partial)


def _open(path: str | Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelUnavailable(f"the built kernel does not load: {error}") from error


def _compile(source: Path, target: Path, flags: tuple[str, ...]) -> None:
    compiler = find_compiler()
    if compiler is None:
        raise KernelUnavailable("no C++ compiler found (install g++ or clang, or set CXX)")
    unit = target.with_suffix(".o")
    try:
        link_flags = [flag for flag in flags if flag != "-fopenmp"]
        for command in (
            [compiler, *_BASE, *flags, "-c", str(source), "-o", str(unit)],
            [compiler, "-shared", *link_flags, str(unit), "-o", str(target)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
            if done.returncode != 0:
                said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
                raise KernelUnavailable(f"{compiler} failed on {source.name}: {said[0] if said else done.returncode}")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelUnavailable(f"{compiler} failed on {source.name}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            unit.unlink()


def _key(source: Path, flags: tuple[str, ...]) -> str:
    """A library fits its sources, its flags and, because of -march=native, its processor: a home may be shared by several."""
    text = source.read_text()
    headers = [(source.parent / name).read_text() for name in re.findall(r'^#include "(.+)"', text, re.MULTILINE)]
    parts = [text, *headers, " ".join(_BASE + flags), sys.platform, platform.machine(), _processor_features()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _processor_features() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return platform.processor()


@functools.cache
def kernel_sources() -> tuple[Path, ...]:
    """The C++ files of all kernels of the package; each one's stem is its kernel's name."""
    return tuple(sorted(Path(__file__).parents[1].rglob("*.cpp")))


def build_all() -> None:
    """Builds every kernel of the package that is not built yet, so that no command has to wait for it, and says how it went."""
    import torch  # noqa: F401  # whose OpenMP the kernels take: without it other variants would be built than commands load

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the compiler is a process of its own
        for source, built in [(source, pool.submit(load_kernel, source)) for source in kernel_sources()]:
            try:
                built.result()
                print(f"kernel {source.stem}: built")
            except KernelUnavailable as error:
                print(f"kernel {source.stem}: {error}; the package does without")


if __name__ == "__main__":
    build_all()
