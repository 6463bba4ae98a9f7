"""What an installed copy has: every package of the source, and the files in it that are no Python."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")


def test_every_package_and_every_data_file_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in (ROOT / "spinnerf_ns").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert names | {"spinnerf_ns.method_configs"} == set(settings["packages"])
    for path in (ROOT / "spinnerf_ns").rglob("*"):
        if path.is_dir() or "__pycache__" in path.parts or path.suffix in (".py", ".pyc"):
            continue
        package = max((folder for folder in folders if folder in path.parents), key=lambda folder: len(folder.parts))
        patterns = settings["package-data"].get(".".join(package.relative_to(ROOT).parts), [])
        assert any(fnmatch.fnmatch(path.relative_to(package).as_posix(), pattern) for pattern in patterns), path
