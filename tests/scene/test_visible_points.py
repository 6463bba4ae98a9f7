"""Sparse points in the photos that show them, against the twin's exact depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.evaluation.truth.twin import TwinConfig, TwinScene, write_twin
from spinnerf_ns.scene.capture import Capture, load_capture
from spinnerf_ns.scene.points import read_points, visible_depths


@pytest.fixture(scope="module")
def twin(tmp_path_factory) -> TwinScene:
    config = TwinConfig(layout="orbit", width=96, height=72, num_train=12, num_test=2, supersampling=1)
    return write_twin(tmp_path_factory.mktemp("twin") / "scene", config)


@pytest.fixture(scope="module")
def capture(twin) -> Capture:
    return load_capture(twin.root)


def exact(twin: TwinScene, photo: str, kind: str) -> np.ndarray:
    return np.load(twin.truth(f"images/{photo}.png", kind)).astype(np.float32)


def test_sparse_points_are_found_where_they_are_seen(twin, capture):
    points = read_points(capture)
    assert points is not None
    for name in twin.train_photos[::4]:
        view = capture.view(name)
        pixels, z = visible_depths(view, view.read_image(), points)
        assert len(z) > 50
        truth = exact(twin, view.photo, "depths_with_object")[pixels[:, 0], pixels[:, 1]]
        assert np.mean(np.abs(z / truth - 1) < 0.03) > 0.98


def test_a_capture_without_points_has_none(tmp_path):
    class Bare:
        source_meta = {"ply_file_path": Path(tmp_path / "missing.ply")}
        colmap_model = None

    assert read_points(Bare()) is None
