"""Disparity completion against surfaces whose truth is known in closed form."""

import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.disparity.depth import complete_disparity
from spinnerf_ns.removal.disparity.membrane import span_membrane

HEIGHT, WIDTH = 150, 240
Y, X = np.mgrid[:HEIGHT, :WIDTH].astype(float)
FLOOR = 0.1 + 0.004 * Y
WALL = 0.3 + 0.0006 * X + 0.0002 * Y
HOLE = np.zeros((HEIGHT, WIDTH), bool)
HOLE[40:110, 80:170] = True


def relative_error(truth, shown=None, to_fill=HOLE, trusted=None):
    shown = np.array(truth if shown is None else shown, np.float32)
    shown[to_fill] = 9.0
    completed = complete_disparity(shown, to_fill, trusted)
    assert completed.dtype == np.float32
    np.testing.assert_array_equal(completed[~to_fill], shown[~to_fill])
    return (np.abs(completed - truth) / truth)[to_fill]


def test_plane_is_continued_exactly():
    assert relative_error(WALL).max() < 1e-5
    assert relative_error(1e-4 * WALL).max() < 1e-5  # whatever the unit


@pytest.mark.parametrize("combine", [np.maximum, np.minimum])
def test_crease_stays_sharp(combine):
    error = relative_error(combine(WALL, FLOOR))
    assert error.max() < 5e-3 and error.mean() < 5e-4


def test_hole_at_the_border():
    to_fill = HOLE.copy()
    to_fill[40:, 80:170] = True
    assert relative_error(WALL, to_fill=to_fill).max() < 1e-5
    assert relative_error(np.maximum(WALL, FLOOR), to_fill=to_fill).max() < 2e-2


def test_noise_is_not_amplified():
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal(WALL.shape)
    error = relative_error(WALL, WALL * noise)
    assert error.max() < 0.02 and error.mean() < 3e-3


def test_object_on_the_rim_is_not_continued():
    shown = WALL.copy()
    shown[38:112, 78:172] = 0.9  # two pixels of the object were left outside the mask
    assert relative_error(WALL, shown).max() < 1e-3


def test_unknown_and_untrusted_pixels_are_not_used():
    generator = np.random.default_rng(1)
    unknown = generator.random(WALL.shape) < 0.4
    shown = np.where(unknown, 0, WALL)
    shown[0, 0] = np.nan
    assert relative_error(WALL, shown).max() < 1e-4
    garbage = np.where(unknown, 5.0, WALL)
    assert relative_error(WALL, garbage, trusted=~unknown).max() < 1e-4


def test_far_rim_is_found_when_the_near_one_is_unknown():
    shown = WALL.copy()
    shown[20:130, 60:190] = 0
    assert relative_error(WALL, shown).max() < 1e-3


def test_curved_surface_meets_the_rim():
    curved = 1 / (3 + 0.4 * np.sin(X / 25) * np.cos(Y / 30))
    shown = curved.astype(np.float32)
    shown[HOLE] = 0
    completed = complete_disparity(shown, HOLE)
    inside, outside = completed[41:109, 80], completed[41:109, 79]  # just inside and just outside the left edge
    assert np.abs(inside / outside - 1).max() < 0.01
    assert (np.abs(completed - curved) / curved)[HOLE].mean() < 0.03


def test_pieces_deterministic_positive_and_small():
    to_fill = np.random.default_rng(2).random(WALL.shape) < 0.02
    to_fill[100:130, 200:] = True
    first = complete_disparity(np.where(to_fill, 0, WALL).astype(np.float32), to_fill)
    again = complete_disparity(np.where(to_fill, 0, WALL).astype(np.float32), to_fill)
    np.testing.assert_array_equal(first, again)
    assert (first > 0).all() and np.abs(first / WALL - 1).max() < 1e-4


def test_one_known_pixel_gives_its_value():
    shown = np.zeros((20, 30), np.float32)
    shown[3, 4] = 0.25
    to_fill = np.ones((20, 30), bool)
    to_fill[3, 4] = False
    np.testing.assert_allclose(complete_disparity(shown, to_fill), 0.25, rtol=1e-6)


def test_empty_hole_and_nothing_known():
    shown = WALL.astype(np.float32)
    np.testing.assert_array_equal(complete_disparity(shown, np.zeros_like(HOLE)), shown)
    with pytest.raises(SpinnerfError, match="no pixel of known disparity"):
        complete_disparity(shown, np.ones_like(HOLE))
    with pytest.raises(SpinnerfError, match="to_fill is"):
        complete_disparity(shown, HOLE[1:])


def test_membrane_keeps_what_is_known_and_is_harmonic_between():
    known = np.zeros((31, 40), bool)
    known[:, [0, -1]] = True
    values = np.where(known, np.arange(40.0) * 2, np.nan)
    spanned = span_membrane(values, known)
    np.testing.assert_allclose(spanned, np.tile(np.arange(40.0) * 2, (31, 1)), atol=3.0)
    np.testing.assert_array_equal(spanned[known], values[known])
    assert (span_membrane(values, np.zeros_like(known)) == 0).all()
