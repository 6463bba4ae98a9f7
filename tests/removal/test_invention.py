"""One invention for all photos, on a wall that no photo shows behind a square."""

import numpy as np
import pytest

from spinnerf_ns.removal.invention import Open, carried, choose_references
from tests.removal.views.test_fill import HEIGHT, WIDTH, render

PLACES = (-0.6, -0.3, 0.0, 0.3, 0.6)


def photos(gain=1.0):
    """Photos of a wall whose middle is open in all of them, and the truth."""
    result, truths = [], []
    for number, place in enumerate(PLACES):
        layer, truth = render(place, half=0.5, yaw=0.1 * place)
        factor = gain if number % 2 else 1.0
        truth = np.clip(truth * factor, 0, 255).astype(np.uint8)
        image = truth.copy()
        image[layer.region] = 0
        result.append(Open(layer.view, image, layer.region, layer.z_background))
        truths.append(truth)
    return result, truths


def drawing(truths, calls):
    def draw(number, image, to_fill):
        calls.append((number, int(to_fill.sum())))
        return truths[number]

    return draw


def psnr(image, truth, where):
    return 10 * np.log10(255**2 / np.mean((image.astype(float) - truth)[where] ** 2))


def test_one_reference_is_drawn_and_the_others_show_the_same():
    given, truths = photos()
    calls = []
    references = choose_references(given, 2, drawing(truths, calls))
    assert references[0].number == 2 and calls[0] == (2, int(given[2].to_fill.sum()))
    for photo, truth in zip(given, truths):
        result = carried(references, photo)
        covered = result.source > 0
        if photo is not given[2]:
            assert covered.sum() > 0.5 * photo.to_fill.sum()
            assert psnr(result.image, truth, covered) > 30
        np.testing.assert_array_equal(result.image[~photo.to_fill], photo.image[~photo.to_fill])
        assert not (covered & ~photo.to_fill).any()


def test_a_reference_draws_only_what_the_ones_before_leave_open():
    given, truths = photos()
    calls = []
    references = choose_references(given, 0, drawing(truths, calls))
    assert len(references) > 1, "the outer photo's square hides another part of the wall than the others'"
    for number, area in calls[1:]:
        assert area < 0.8 * given[number].to_fill.sum()


def test_exposure_is_the_photos_own():
    given, truths = photos(gain=0.93)
    references = choose_references(given, 2, drawing(truths, []))
    result = carried(references, given[1])
    covered = result.source > 0
    assert psnr(result.image, truths[1], covered) > 30
    plain = carried(
        references[:1], Open(given[1].view, given[1].image, given[1].to_fill, np.where(given[1].to_fill, given[1].z, 0))
    )
    assert psnr(plain.image, truths[1], plain.source > 0) < psnr(result.image, truths[1], covered), "the test can't fail"


def test_off_and_mended_and_nothing_to_do():
    given, truths = photos()
    mended = np.full((HEIGHT, WIDTH, 3), 77, np.uint8)
    references = choose_references(given, 2, drawing(truths, []), mended=mended, carry=False)
    assert len(references) == 1 and (references[0].image[given[2].to_fill] == 77).all()
    result = carried(references, given[1])
    assert np.median(np.abs(result.image[result.source > 0].astype(int) - 77)) <= 32
    for photo in given:
        photo.to_fill[:] = False
    assert choose_references(given, 2, drawing(truths, [])) == []


@pytest.mark.parametrize("z", [0.0, np.float32(1.0)])
def test_wrong_or_unknown_depth_carries_nothing_wrong(z):
    given, truths = photos()
    given[1].z[given[1].to_fill] = z  # the photo's own guess does not matter: the reference's surface is carried
    references = choose_references(given, 2, drawing(truths, []))
    result = carried(references, given[1])
    covered = result.source > 0
    assert covered.sum() > 0.5 * given[1].to_fill.sum() and psnr(result.image, truths[1], covered) > 30
