"""The C++ kernels as the rest of the package sees them: whether one is used, on how many threads, and what does without.

The environment variable SPINNERF_KERNELS chooses: "auto" (the default: each kernel that works here), "off", or "native" (a kernel
that can't be had is an error); for single kernels KERNEL=CHOICE, after a comma: "off,hash_grid=native". A kernel's name is its
file's, without .cpp. The variables of version 0.1 (SPINNERF_HASH_GRID=torch) are still understood.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from spinnerf_ns.accel.kernels import KernelUnavailable, kernel_sources, load_kernel
from spinnerf_ns.errors import SpinnerfError

VARIABLE = "SPINNERF_KERNELS"
CHOICES = ("auto", "off", "native")
COMPILED = "compiled"
"""What hash_grid alone has besides: torch.compile."""

_OLD_CHOICES = {"torch": "off", "scipy": "off", "numpy": "off"}
_in_forked_child = False


class Kernel:
    """A C++ kernel, built on first use and tried once against what does its work without it.

    Args:
        module: `__file__` of the module that wraps it; its own file lies beside it, with .cpp in place of .py.
        declare: sets argument and result types of the library's functions; may raise `KernelUnavailable`.
        agrees: runs the kernel and the other library on one input; whether both give the same.
        slow: what to tell the user where the kernel can't be had: a sentence that the reason follows in brackets.
        other: the library that does the work without it.
        old_variable: the environment variable that chose it in version 0.1.
    """

    def __init__(
        self,
        module: str,
        declare: Callable[[ctypes.CDLL], None],
        agrees: Callable[[], bool],
        slow: str,
        other: str = "torch",
        old_variable: str = "",
    ) -> None:
        self.source, self.other = Path(module).with_suffix(".cpp"), other
        self.name = self.source.stem
        self._declare, self._agrees, self._slow, self._old = declare, agrees, slow, old_variable
        self._library: ctypes.CDLL | None = None
        self._used: dict[str, bool] = {}
        self._is_tried = False

    def library(self) -> ctypes.CDLL:
        """The built library, its functions declared.

        Raises:
            KernelUnavailable: it can't be had.
        """
        if self._library is None:
            library = load_kernel(self.source)
            self._declare(library)
            self._library = library
        return self._library

    def choice(self) -> str:
        """What the environment asks for.

        Raises:
            SpinnerfError: it asks for something that there is not.
        """
        return _choice(self.name, os.environ.get(VARIABLE, ""), self._old, os.environ.get(self._old, ""))

    def is_used(self) -> bool:
        """Whether the kernel is to be used here and now; builds and tries it at the first call.

        Raises:
            SpinnerfError: the environment asks for something that there is not, or for a kernel that can't be had.
        """
        if self._is_tried:
            return True
        choice = self.choice()
        if choice not in self._used:
            self._used[choice] = choice != "off" and self._works(choice)
        return self._used[choice]

    def _works(self, choice: str) -> bool:
        reason = self.failure()
        if reason is None:
            return True
        if choice == "native":
            raise SpinnerfError(
                f"{VARIABLE} asks for the kernel {self.name}, which can't be had here ({reason}); set it to auto or {self.name}=off"
            )
        CONSOLE.print(f"[yellow]{self._slow} ({reason})[/yellow]")
        return False

    def failure(self) -> str | None:
        """Why the kernel can't be used, in one line; None if it can."""
        with self._tried():
            return failure_of(self._agrees, self.other)

    @contextmanager
    def _tried(self) -> Iterator[None]:
        """Within this context the kernel is used, so that it can be tried."""
        self._is_tried = True
        try:
            yield
        finally:
            self._is_tried = False

    def forget(self) -> None:
        """Builds and tries anew at the next use."""
        self._library = None
        self._used.clear()


@functools.lru_cache(maxsize=64)
def _choice(name: str, text: str, old_variable: str, old: str) -> str:
    everyone, own = "auto", ""
    names = {source.stem for source in kernel_sources()}
    for part in filter(None, (part.strip() for part in text.split(","))):
        kernel, _, choice = part.rpartition("=")
        known = choice in CHOICES or (kernel == "hash_grid" and choice == COMPILED)
        if not known or (kernel and kernel not in names):
            raise SpinnerfError(
                f"{VARIABLE}={text}: '{part}' is not understood; set it to {', '.join(CHOICES)}, or to KERNEL=one of these, "
                f"several after commas; kernels: {', '.join(sorted(names))}"
            )
        if kernel == name:
            own = choice
        elif not kernel:
            everyone = choice
    if own or not old:
        return own or everyone
    old = _OLD_CHOICES.get(old, old)
    if old not in CHOICES and not (name == "hash_grid" and old == COMPILED):
        raise SpinnerfError(f"{old_variable}={old} names no implementation: set {VARIABLE}={name}=auto, off or native in its place")
    return old


def failure_of(agrees: Callable[[], bool], other: str = "torch") -> str | None:
    """Why an implementation can't be used, in one line: it can't be had, fails, or gives other values; None if it can.

    Args:
        agrees: runs it and the other library on the same input; whether both give the same.
        other: that library.
    """
    try:
        # The first use may be a render without gradients.
        with torch.inference_mode(False), torch.enable_grad():
            return None if agrees() else f"its values differ from {other}'s"
    except KernelUnavailable as error:
        return str(error)
    except Exception as error:  # whatever a compiler or a kernel may raise: a slow path is better than none
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def kernel_threads() -> int:
    """Threads that a kernel may use."""
    # An OpenMP runtime that was used before a fork hangs in the child as soon as it is used there with several threads.
    return 1 if _in_forked_child else torch.get_num_threads()


def is_tracing() -> bool:
    """Whether torch.compile, torch.jit.trace or torch.func reads the model: they can follow the torch path alone."""
    compiling = getattr(torch.compiler, "is_compiling", None)
    transforming = getattr(torch._C, "_are_functorch_transforms_active", None)  # private, so it may be absent
    return torch.jit.is_tracing() or bool(compiling and compiling()) or bool(transforming and transforming())


def _after_fork() -> None:
    global _in_forked_child
    _in_forked_child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
