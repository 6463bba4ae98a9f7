"""Multi-view consistency on surfaces whose colour and depth are known exactly."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from spinnerf_ns.evaluation.consistency import RenderedView, multiview_consistency, warp_into
from spinnerf_ns.scene.cameras import project, ray_directions

WIDTH, HEIGHT, FOCAL = 80, 60, 70.0
BACK_Z, FRONT_Z = 4.0, 2.0


def _camera(x: float, distortion=(0.0,) * 6) -> SimpleNamespace:
    """A camera at (x, 0, 0) that looks along -z."""
    return SimpleNamespace(
        width=WIDTH, height=HEIGHT, fx=FOCAL, fy=FOCAL, cx=WIDTH / 2, cy=HEIGHT / 2, camera_model="OPENCV",
        distortion=np.array(distortion), c2w=np.hstack([np.eye(3), [[x], [0.0], [0.0]]]),
    )  # fmt: skip


def _render(x: float, tint: float = 0.0, distortion=(0.0,) * 6) -> RenderedView:
    """A wavy wall at z = 4 behind a small square at z = 2; the square is the object mask."""
    view = _camera(x, distortion)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    centres = np.stack([columns + 0.5, rows + 0.5], axis=-1).reshape(-1, 2)
    directions = ray_directions(view, centres)
    directions = directions / -directions[:, 2:]  # to planar depth 1
    in_front = directions * FRONT_Z + view.c2w[:, 3]
    hit = (np.abs(in_front[:, 0]) < 0.3) & (np.abs(in_front[:, 1]) < 0.3)
    z = np.where(hit, FRONT_Z, BACK_Z)
    points = directions * z[:, None] + view.c2w[:, 3]
    waves = 0.5 + 0.4 * np.sin(2 * points[:, 0]), 0.5 + 0.4 * np.cos(2 * points[:, 1])
    colours = np.stack([*waves, 0.3 + 0.2 * hit], axis=-1)
    shape = (HEIGHT, WIDTH)
    return RenderedView(view, (colours + tint).reshape(*shape, 3), z.reshape(shape), hit.reshape(shape))


@pytest.mark.parametrize("distortion", [(0.0,) * 6, (0.05, -0.02, 0.0, 0.0, 0.002, -0.001)])
def test_exact_views_agree(distortion) -> None:
    first, second = _render(0.0, distortion=distortion), _render(0.4, distortion=distortion)
    figures = multiview_consistency(first, second)
    assert figures["consistency_psnr_full"] > 45
    assert 0.75 < figures["consistency_seen_full"] < 0.99
    assert figures["consistency_seen_mask"] > 0.85  # all of the square but its rim


def test_what_only_one_view_sees_is_left_out() -> None:
    """Against a slow reference: each wall point is lifted and tested for the square by hand."""
    first, second = _render(0.0), _render(0.4)
    colours, seen = warp_into(first, second)
    for row, column in [(30, 40), (30, 55), (30, 50), (10, 10), (5, 3), (30, 75), (29, 30), (30, 60)]:
        z = first.z[row, column]
        x, y = (column + 0.5 - WIDTH / 2) / FOCAL * z, -(row + 0.5 - HEIGHT / 2) / FOCAL * z
        there = FOCAL * (x - 0.4) / z + WIDTH / 2 - 0.5, -FOCAL * y / z + HEIGHT / 2 - 0.5
        inside = 0 <= there[0] <= WIDTH - 1 and 0 <= there[1] <= HEIGHT - 1
        expected = inside and second.z[round(there[1]), round(there[0])] == z
        assert seen[row, column] == expected, (row, column)
        if expected:
            truth = [0.5 + 0.4 * np.sin(2 * x), 0.5 + 0.4 * np.cos(2 * y), 0.3 + 0.2 * (z == FRONT_Z)]
            assert colours[row, column] == pytest.approx(truth, abs=0.01)
    assert not seen[30, 1], "falls off the other view's left edge: the wall shifts by 0.4 * 70 / 4 = 7 pixels"


def test_a_colour_difference_is_measured() -> None:
    figures = multiview_consistency(_render(0.0), _render(0.4, tint=0.1))
    assert figures["consistency_mse_full"] == pytest.approx(0.01, rel=0.05)
    assert figures["consistency_psnr_full"] == pytest.approx(20, abs=0.3)


def test_wrong_depth_costs() -> None:
    first, second = _render(0.0), _render(0.4)
    wrong = [replace(each, z=each.z * 1.3) for each in (first, second)]
    worse = multiview_consistency(*wrong)
    assert worse["consistency_mse_full"] > 20 * multiview_consistency(first, second)["consistency_mse_full"]


def test_no_depth_no_overlap_and_no_mask_are_answered() -> None:
    first = _render(0.0)
    unknown = replace(first, z=np.zeros_like(first.z), object_mask=None)
    assert multiview_consistency(unknown, first) == {
        "consistency_seen_full": 0.0,
        "consistency_seen_mask": 0.0,
        "consistency_seen_outside": 0.0,
    }
    far = replace(_render(0.0), view=_camera(1000.0), object_mask=np.zeros((HEIGHT, WIDTH), dtype=bool))
    figures = multiview_consistency(replace(first, object_mask=far.object_mask), far)
    assert figures == {"consistency_seen_full": 0.0, "consistency_seen_outside": 0.0}
    nan = replace(first, z=np.full_like(first.z, np.nan))
    assert multiview_consistency(nan, nan)["consistency_seen_full"] == 0.0


def test_a_view_agrees_with_itself_and_with_its_uint8() -> None:
    first = _render(0.0)
    same = multiview_consistency(first, first)
    assert same["consistency_mse_full"] < 1e-20 and same["consistency_seen_full"] > 0.999
    rounded = replace(first, image=(first.image * 255).round().astype(np.uint8))
    assert multiview_consistency(first, rounded)["consistency_mse_full"] < 1e-5
    assert project(first.view, [[0.0, 0.0, -1.0]])[0][0] == pytest.approx([WIDTH / 2, HEIGHT / 2])
