"""What is installed: all packages and their files; and, where SPINNERF_TEST_WHEEL is set, an installed wheel at work.

The latter builds an sdist, from that a wheel, installs it into an empty environment outside the checkout that borrows this one's
other packages, and runs it there: `SPINNERF_TEST_WHEEL=1 pytest tests/test_packaging.py`, some minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = {"spinnerf_ns": ROOT / "spinnerf_ns", "spinnerf_ns.method_configs": ROOT / "method_configs"}
METHODS = ("spinnerf-seg", "spinnerf-seg-lite", "spinnerf-inpaint", "spinnerf-inpaint-lite", "spinnerf-inpaint-release")


def files() -> dict[str, list[str]]:
    """Package -> the names of the files that it is made of."""
    found: dict[str, list[str]] = {}
    for package, folder in CODE.items():
        for path in folder.rglob("*"):
            parts = path.relative_to(folder).parts
            if not path.is_file() or "__pycache__" in parts or (package == "spinnerf_ns" and parts[0] == "method_configs"):
                continue
            own = path.parent
            while not (own / "__init__.py").is_file():  # a folder of data belongs to the package above it
                own = own.parent
            name = ".".join([package, *own.relative_to(folder).parts])
            found.setdefault(name, []).append(path.relative_to(own).as_posix())
    return found


def test_every_package_and_every_file_is_listed():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert sorted(files()) == sorted(listed["packages"])
    for package, names in files().items():
        patterns = ["*.py", *listed["package-data"].get(package, ())]
        assert [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)] == [], package


def test_building_does_not_look_for_data_of_its_own_accord():
    """All data is listed; with it on, building warns of folders of data that it takes for packages (page/static)."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert listed.get("include-package-data", True) is False


def run(command: list[object], folder: Path, **environment: str) -> str:
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run([str(part) for part in command], cwd=folder, env=ours, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built from an sdist, built from a copy of the checkout."""
    if not os.environ.get("SPINNERF_TEST_WHEEL"):
        pytest.skip("takes minutes: set SPINNERF_TEST_WHEEL=1")
    folder = tmp_path_factory.mktemp("build")
    tracked = run(["git", "ls-files", "-co", "--exclude-standard"], ROOT).splitlines()
    for name in tracked:
        if (ROOT / name).is_file():
            (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "checkout" / name).write_bytes((ROOT / name).read_bytes())
    build = "from setuptools import build_meta; build_meta.build_{}('..')"
    run([sys.executable, "-c", build.format("sdist")], folder / "checkout")
    (source,) = folder.glob("*.tar.gz")
    run(["tar", "xzf", source], folder)
    run([sys.executable, "-c", build.format("wheel")], folder / source.name.removesuffix(".tar.gz"))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel alone, and the way to this one's other packages."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    python = folder / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel], folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file adds packages, but runs no .pth of theirs: the checkout's editable install stays out.
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def test_the_wheel_holds_every_file(wheel):
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert held == {f"{package.replace('.', '/')}/{name}" for package, names in files().items() for name in names}


def test_an_installed_wheel_registers_its_methods(environment, tmp_path):
    python = environment / "bin" / "python"
    place = run([python, "-c", "import spinnerf_ns; print(spinnerf_ns.__file__)"], tmp_path)
    assert Path(place.strip()).is_relative_to(environment)
    said = run([python, "-m", "nerfstudio.scripts.train", "--help"], tmp_path, COLUMNS="200")
    assert all(method in said for method in METHODS)


@pytest.mark.timeout(1800)
def test_an_installed_wheel_runs_the_demo(environment, tmp_path):
    demo = [environment / "bin" / "ns-spinnerf", "demo", "--output", "demo", "--seg-steps", "12", "--inpaint-steps", "12"]
    said = run(demo, tmp_path)
    assert "psnr_mask" in said and (tmp_path / "demo" / "report.html").stat().st_size > 100_000
