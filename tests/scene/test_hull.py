"""The hull of a ball that cameras all around see, against the ball itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.scene.hull import visual_hull
from spinnerf_ns.scene.view import View
from tests.scene.captures import look_at

RADIUS, SIZE, FOCAL = 0.4, 64, 70.0


def ball_seen_from(position) -> tuple[View, np.ndarray]:
    """A camera that looks at the ball in the origin, and where it sees the ball."""
    c2w = look_at(position)[:3]
    view = View(
        photo=str(position), path=Path("unused.png"), width=SIZE, height=SIZE, fx=FOCAL, fy=FOCAL, cx=SIZE / 2, cy=SIZE / 2,
        distortion=np.zeros(6), camera_model="OPENCV", c2w=c2w, splits=frozenset({"train"}),
    )  # fmt: skip
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    rays = np.stack([(x - SIZE / 2) / FOCAL, -(y - SIZE / 2) / FOCAL, -np.ones_like(x)], axis=-1) @ c2w[:, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    nearest = np.linalg.norm(c2w[:, 3] - (rays @ c2w[:, 3])[..., None] * rays, axis=-1)
    return view, nearest < RADIUS


@pytest.fixture(scope="module")
def around():
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    return [ball_seen_from((2.5 * np.cos(a), 2.5 * np.sin(a), 0.8 * np.sin(3 * a))) for a in angles]


@pytest.fixture(scope="module")
def surface() -> np.ndarray:
    points = np.random.default_rng(0).standard_normal((500, 3))
    return RADIUS * points / np.linalg.norm(points, axis=1, keepdims=True)


def centers(hull) -> np.ndarray:
    cells = np.stack(np.meshgrid(*(np.arange(n) for n in hull.inside.shape), indexing="ij"), axis=-1)
    return hull.origin + (cells + 0.5) * hull.cell


def test_holds_the_ball_and_little_more(around, surface):
    views, regions = zip(*around, strict=True)
    hull = visual_hull(views, regions, surface)
    far = np.linalg.norm(centers(hull), axis=-1)
    assert hull.inside[far < 0.93 * RADIUS].all()
    assert not hull.inside[far > 1.5 * RADIUS].any()
    true = 4 / 3 * np.pi * RADIUS**3
    assert true * 0.95 < hull.inside.sum() * hull.cell**3 < 1.4 * true


def test_one_wrong_mask_among_many_does_not_cut_it(around, surface):
    views, regions = zip(*(around * 2), strict=True)
    regions = [np.zeros_like(regions[0]), *regions[1:]]
    hull = visual_hull(views, regions, surface)
    assert hull.inside[np.linalg.norm(centers(hull), axis=-1) < 0.9 * RADIUS].all()


def test_empty_without_points_and_without_holes(around, surface):
    views, regions = zip(*around, strict=True)
    assert not visual_hull(views, regions, np.zeros((0, 3))).inside.any()
    assert not visual_hull(views, [np.zeros_like(region) for region in regions], surface).inside.any()


def test_what_a_photo_without_the_object_sees_is_no_part_of_it(around, surface):
    """That photo trains what is in there: a table on which the object stood."""
    views, regions = zip(*around, strict=True)
    right = np.zeros((SIZE, SIZE), bool)
    right[:, SIZE // 2 :] = True
    hull, half = visual_hull(views, regions, surface), visual_hull(views, regions, surface, [(views[0], right)])
    assert not visual_hull(views, regions, surface, [(views[0], np.ones_like(right))]).inside.any()
    seen = centers(hull)[..., 1] > hull.cell  # the first camera stands on the x axis and looks along it
    assert not half.inside[seen].any()
    assert np.array_equal(half.inside[centers(hull)[..., 1] < -hull.cell], hull.inside[centers(hull)[..., 1] < -hull.cell])
