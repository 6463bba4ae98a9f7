"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What a backend called "auto" takes must not depend on the network; tests of downloads have a server of their own.
os.environ.setdefault("SPINNERF_OFFLINE", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real captures; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("SPINNERF_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real captures at {folder}; set SPINNERF_TEST_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def statue_folder(real_data: Path) -> Path:
    """A real SPIn-NeRF scene with a mask per photo (29 photos, 504x378)."""
    folder = real_data / "statue"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder
