"""Bounds that a capture states."""

from __future__ import annotations

import pytest

from spinnerf_ns.scene.bounds import STATED_FRACTION, scene_bounds
from spinnerf_ns.scene.capture import load_capture
from tests.scene.captures import make_capture, read_meta, write_transforms


def with_bounds(folder, bounds):
    make_capture(folder, 6)
    meta = read_meta(folder)
    for frame, given in zip(meta["frames"], bounds):
        frame["bounds"] = given
    write_transforms(folder, meta)
    return load_capture(folder)


def test_stated_depths_place_a_capture_without_points(tmp_path):
    capture = with_bounds(tmp_path / "scene", [[2.0, 4.0]] * 5 + [[1.5, 4.5]])
    assert len(capture.bounds) == 6 and min(capture.bounds.values()) == (1.5, 4.5)
    found = scene_bounds(capture, None)
    assert 0 < found.near <= STATED_FRACTION * 1.5 * capture.world_scale
    # The photos look at the origin from three units away: that is where the content is.
    assert found.radius < 6 * capture.world_scale


@pytest.mark.parametrize("given", [[0.0, 1.0], [2.0, 1.0], ["near", "far"], [1.0], None, [1.0, float("inf")], 3])
def test_bounds_that_mean_nothing_are_left_out(tmp_path, given):
    capture = with_bounds(tmp_path / "scene", [given] * 6)
    assert capture.bounds == {} and scene_bounds(capture, None) is None
