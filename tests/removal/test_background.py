"""Depth behind the object, carried over from other photos, against the twin's exact depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.conventions import dilate_mask
from spinnerf_ns.evaluation.truth.twin import TwinConfig, TwinScene, write_twin
from spinnerf_ns.files import load_object_mask
from spinnerf_ns.removal.background import background_depths
from spinnerf_ns.removal.layers import ViewLayers
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


@pytest.fixture(scope="module")
def layers(twin, capture) -> list[ViewLayers]:
    result = []
    for name in twin.train_photos:
        view = capture.view(name)
        hole = dilate_mask(load_object_mask(twin.truth(name, "object_masks")))
        z = exact(twin, view.photo, "depths_with_object")
        result.append(ViewLayers(view, view.read_image(), hole, z, np.zeros_like(z)))
    return result


def test_carried_depth_is_the_background_s(twin, layers):
    covered = []
    for layer, z in zip(layers, background_depths(layers), strict=True):
        assert (z[~layer.hole] == 0).all()
        known = z > 0
        covered.append(known.sum() / layer.hole.sum())
        error = np.abs(z[known] / exact(twin, layer.view.photo, "depths")[known] - 1)
        assert np.median(error) < 0.005
        assert np.mean(error < 0.03) > 0.9
    assert np.mean(covered) > 0.3  # an orbit shows a good part of what lies behind


def test_no_hole_and_no_other_photo_give_nothing(layers):
    alone = background_depths(layers[:1])[0]
    assert (alone == 0).all()
    whole = ViewLayers(layers[0].view, layers[0].image, np.zeros_like(layers[0].hole), *[layers[0].z_visible] * 2)
    assert (background_depths([whole, layers[1]])[0] == 0).all()


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
