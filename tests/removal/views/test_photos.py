"""Photos asked in batches answer as they do one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.removal.layers import ViewLayers
from spinnerf_ns.removal.views import offers
from spinnerf_ns.removal.views.offers import ENOUGH, Asked
from spinnerf_ns.removal.views.photos import Photos, look
from spinnerf_ns.scene.cameras import CameraStack, project
from spinnerf_ns.scene.view import View

DISTORTION = np.array([0.05, -0.02, 0.004, 0.0, 0.001, -0.002])


def photo(number: int) -> ViewLayers:
    """A photo of a wall 4 in front of it; sizes, camera models, distortion, regions and gaps of depth differ."""
    width, height = 40 + 3 * (number % 4), 30 + number % 3
    model = "OPENCV_FISHEYE" if number % 5 == 3 else "OPENCV"
    distortion = DISTORTION if number % 2 else np.zeros(6)
    c2w = np.hstack([np.eye(3), [[0.1 * number - 0.5], [0.05 * number], [0.0]]])
    view = View(str(number), Path("none"), width, height, 45.0, 44.0, width / 2, height / 2, distortion, model, c2w, frozenset())
    generator = np.random.default_rng(number)
    z = (4 * (1 + 0.01 * generator.standard_normal((height, width)))).astype(np.float32)
    z[generator.random(z.shape) < 0.02] = 0
    z[0, 0], z[5, 5] = np.inf, np.nan
    region = np.zeros(z.shape, bool)
    region[10:16, 8 + number : 14 + number] = True
    return ViewLayers(view, generator.integers(20, 230, (*z.shape, 3)).astype(np.uint8), region, z, np.zeros_like(z))


@pytest.fixture
def layers():
    return [photo(number) for number in range(12)]


@pytest.fixture
def points():
    generator = np.random.default_rng(0)
    return np.ascontiguousarray((generator.uniform(-1, 1, (500, 3)) * [3, 2, 2] - [0, 0, 3.5]).T)


def test_cameras_project_together_as_each_alone(layers, points):
    views = [layer.view for layer in layers]
    x, y, z = CameraStack(views)[3:].project(points)
    for number, view in enumerate(views[3:]):
        xy, depth = project(view, points.T)
        np.testing.assert_allclose(np.stack([x[number], y[number]], axis=1), xy, rtol=1e-12)
        np.testing.assert_allclose(z[number], depth, rtol=1e-12)


def test_photos_see_together_what_each_sees_alone(layers, points):
    photos = Photos(layers).all_but(2)
    together = look(photos, points, 0.05)
    assert len(together.point) > 500 and together.through.any() and together.edge.any()
    for number, layer in enumerate(layers[:2] + layers[3:]):
        own, alone = together[together.photo == number], look(Photos([layer]), points, 0.05)
        for name in ("point", "x", "y", "ratio", "deviation", "through", "edge"):
            np.testing.assert_allclose(getattr(own, name), getattr(alone, name), rtol=1e-12)


def test_next_to_a_hole_and_to_unknown_depth_a_photo_says_nothing(layers, points):
    seen = look(Photos(layers), points, 0.05)
    for number, column, row in zip(seen.photo, (seen.x - 0.5).astype(int), (seen.y - 0.5).astype(int)):
        around = np.s_[row : row + 2, column : column + 2]
        layer = layers[number]
        assert not layer.region[around].any()
        assert ((layer.z_visible[around] > 0) & np.isfinite(layer.z_visible[around])).all()


@pytest.mark.parametrize("at_a_time", [1, 3, 100])
def test_a_pixel_with_enough_colours_asks_no_further_photos(layers, points, at_a_time, monkeypatch):
    monkeypatch.setattr(offers, "POINTS", 64)
    points[2] = -4
    whole = Asked(points, 0.02)
    whole.ask(Photos(layers))
    parts, photos = Asked(points, 0.02), Photos(layers)
    parts.found.append((slice(0, points.shape[1]), []))
    for first in range(0, len(layers), at_a_time):
        pixels = np.flatnonzero(parts.used < ENOUGH)
        last = min(first + at_a_time, len(layers))
        seen = look(photos[first:last], points[:, pixels], 0.02)
        parts.found[0][1].append(parts._count(seen, pixels, first, last))
    assert whole.used.max() == ENOUGH and ((whole.used > 0) & (whole.used < ENOUGH)).any()
    for name in ("used", "supports", "conflicts", "ratios", "correction"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    taken = np.arange(points.shape[1]) % 3 > 0
    colours = [asked.colours(taken, layers[0], photos, None) for asked in (whole, parts)]
    np.testing.assert_array_equal(*colours)
    assert len(colours[0]) == taken.sum()


def test_little_is_kept_of_each_colour(layers, points):
    points[2] = -4
    asked = Asked(points, 0.02)
    asked.ask(Photos(layers))
    kept = [values for _, block in asked.found for each in block for values in vars(each).values()]
    assert all(values.base is None for values in kept)  # a view would keep all that was seen
    assert sum(values.nbytes for values in kept) == 34 * asked.used.sum() > 0
