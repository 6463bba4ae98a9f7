"""The twin as a small capture that each test may spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
from tests.scene.captures import read_meta, write_transforms

PHOTOS = 12


@pytest.fixture(scope="session")
def clean_twin(tmp_path_factory) -> Path:
    """12 photos of 128x96 with transforms.json; no splits, no workspace."""
    made = tmp_path_factory.mktemp("twin") / "made"
    write_twin(made, TwinConfig(width=128, height=96, num_train=PHOTOS, num_test=1, supersampling=1))
    folder = made.with_name("twin")
    folder.mkdir()
    meta = read_meta(made)
    kept = set(meta["train_filenames"])
    frames = [frame for frame in meta["frames"] if frame["file_path"] in kept]
    for frame in frames:
        (folder / frame["file_path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / frame["file_path"], folder / frame["file_path"])
    meta = {key: value for key, value in meta.items() if not key.endswith("_filenames")}
    if "ply_file_path" in meta:
        shutil.copy(made / meta["ply_file_path"], folder / meta["ply_file_path"])
    write_transforms(folder, {**meta, "frames": frames})
    return folder


@pytest.fixture
def twin(clean_twin, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(clean_twin, tmp_path / "scene"))
