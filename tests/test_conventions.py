"""Masks and depth at another resolution: exact at the pixels' centres."""

from __future__ import annotations

import numpy as np
import pytest

from spinnerf_ns.conventions import resize_depth, resize_labels, resize_mask

SHAPES = [((30, 40), (15, 20)), ((31, 41), (10, 14)), ((24, 32), (96, 128)), ((10, 14), (31, 41)), ((50, 60), (51, 60))]


def centers(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The pixels' centres as parts of the picture: x (1, W), y (H, 1)."""
    return ((np.arange(shape[1]) + 0.5) / shape[1])[None], ((np.arange(shape[0]) + 0.5) / shape[0])[:, None]


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_a_plane_stays_where_it_is(old, new) -> None:
    def plane(shape):
        x, y = centers(shape)
        return (1 / (0.2 + 0.1 * x + 0.15 * y)).astype(np.float32)

    np.testing.assert_allclose(resize_depth(plane(old), new), plane(new), rtol=1e-5)


def test_depth_is_not_mixed_across_an_edge_nor_with_the_unknown() -> None:
    z = np.full((20, 30), 2.0, np.float32)
    z[:, 15:] = 5.0
    z[:5] = 0.0
    for shape in ((40, 60), (60, 90), (10, 15), (7, 11)):
        found = resize_depth(z, shape)
        assert set(np.unique(found.round(4))) == {0.0, 2.0, 5.0}
        assert abs(found[-1, 0] - 2) < 1e-6 and abs(found[-1, -1] - 5) < 1e-5 and found[0, 0] == 0


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_a_mask_keeps_its_middle_and_its_area(old, new) -> None:
    def disc(shape):
        x, y = centers(shape)
        return (x - 0.47) ** 2 + (y - 0.55) ** 2 < 0.3**2

    found = resize_mask(disc(old), new)
    x, y = centers(new)
    x, y = (np.broadcast_to(values, new)[found] for values in (x, y))
    coarsest = [min(sides) for sides in zip(old, new)]  # a quarter of a pixel of the coarser one
    assert abs(x.mean() - 0.47) < 0.25 / coarsest[1] and abs(y.mean() - 0.55) < 0.25 / coarsest[0]
    assert found.mean() == pytest.approx(np.pi * 0.09, rel=0.06)


def test_half_a_mask_is_half_a_mask() -> None:
    """INTER_NEAREST takes each block's first pixel: half a pixel of the small mask too far."""
    left = np.zeros((8, 12), bool)
    left[:, :5] = True  # two and a half pixels of the small one
    assert resize_mask(left, (4, 6)).sum(axis=1).tolist() == [3] * 4
    assert resize_mask(~left, (4, 6)).sum(axis=1).tolist() == [4] * 4  # a pixel that is half set is set in both
    assert resize_mask(left, (8, 12)) is left


def test_labels_are_those_at_the_centres() -> None:
    labels = np.arange(9 * 12, dtype=np.uint8).reshape(9, 12)
    assert np.array_equal(resize_labels(labels, (3, 4)), labels[1::3, 1::3])
    assert np.array_equal(resize_labels(resize_labels(labels, (27, 36)), (9, 12)), labels)
