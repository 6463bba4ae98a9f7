"""The contract of every segmenter and tracker that is there, our own and other packages'."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.segmenters import SEGMENTERS
from spinnerf_ns.segmentation.trackers import TRACKERS
from tests.segmentation.conftest import iou, moving_disc, texture


def ready(registry) -> list[str]:
    """Names of the backends that need no option and whose package is installed."""
    names = []
    for name in registry.names():
        try:
            backend = registry.get(name)
        except SpinnerfError:
            continue
        missing = (dataclasses.MISSING, dataclasses.MISSING)
        if all((field.default, field.default_factory) != missing for field in dataclasses.fields(backend)):
            names.append(name)
    return names


@pytest.fixture(params=ready(SEGMENTERS))
def segmenter(request):
    return SEGMENTERS.create(request.param)


@pytest.fixture(params=ready(TRACKERS))
def tracker(request):
    return TRACKERS.create(request.param)


def test_the_embedded_backends_are_there() -> None:
    assert "grabcut" in ready(SEGMENTERS) and "flow" in ready(TRACKERS)
    assert "folder" in SEGMENTERS.names() and "folder" not in ready(SEGMENTERS)  # it wants a folder


# ------------------------------------------------------------------------------------------------------------- segmenters
@pytest.mark.parametrize(
    "prompt",
    [
        Prompt("a", box=(20, 25, 76, 71)),
        Prompt("a", points=((48.0, 48.0), (44.0, 50.0), (5.0, 90.0)), labels=(1, 1, 0)),
        Prompt("a", points=((48.0, 48.0), (24.0, 30.0)), labels=(1, 0), box=(20, 25, 76, 71)),
    ],
    ids=["box", "points", "both"],
)
def test_segmenter_finds_a_thing_of_another_colour(segmenter, prompt) -> None:
    image = texture(97, 95, 3, 120, 200)  # an odd size
    object_mask = np.zeros(image.shape[:2], bool)
    object_mask[30:66, 27:70] = True
    image[object_mask] = texture(97, 95, 4, 0, 60)[object_mask]
    before = image.copy()
    found = segmenter.segment(image, prompt)
    assert found.shape == image.shape[:2] and found.dtype == bool
    assert iou(found, object_mask) > 0.95
    assert (image == before).all()
    assert (segmenter.segment(image, prompt) == found).all()


@pytest.mark.parametrize("shape", [(1, 40), (3, 5), (33, 2), (64, 64)])
def test_segmenter_on_tiny_and_plain_photos(segmenter, shape) -> None:
    image = np.full((*shape, 3), 128, np.uint8)
    prompt = Prompt("a", points=((shape[1] / 2, shape[0] / 2),), labels=(1,))
    found = segmenter.segment(image, prompt)
    assert found.shape == shape and found.dtype == bool


def test_segmenter_with_a_box_that_is_the_photo(segmenter) -> None:
    found = segmenter.segment(texture(40, 60, 5), Prompt("a", box=(0, 0, 60, 40)))
    assert found.shape == (40, 60) and found.dtype == bool


def test_segmenter_refuses_a_point_outside(segmenter) -> None:
    with pytest.raises(SpinnerfError, match="outside the photo"):
        segmenter.segment(texture(40, 60, 5), Prompt("a", points=((60.0, 3.0),), labels=(1,)))


# --------------------------------------------------------------------------------------------------------------- trackers
def track(tracker, images, sources):
    return tracker.track([lambda image=image: image for image in images], sources)


def test_tracker_follows_and_repeats_itself(tracker) -> None:
    images, masks = moving_disc()
    seen = []
    readers = [lambda image=image: image for image in images]
    tracked = tracker.track(readers, {2: masks[2]}, seen.append)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert all(mask.shape == (96, 96) and mask.dtype == bool for mask in tracked)
    assert (tracked[2] == masks[2]).all()  # what was given is returned
    assert min(iou(found, true) for found, true in zip(tracked, masks)) > 0.85
    again = track(tracker, images, {2: masks[2]})
    assert all((first == second).all() for first, second in zip(tracked, again))


def test_tracker_with_several_sources(tracker) -> None:
    images, masks = moving_disc()
    tracked = track(tracker, images, {0: masks[0], 4: masks[4]})
    assert (tracked[0] == masks[0]).all() and (tracked[4] == masks[4]).all()
    assert min(iou(found, true) for found, true in zip(tracked, masks)) > 0.85


def test_tracker_at_odd_and_different_sizes(tracker) -> None:
    images, masks = moving_disc(3)
    images[0], images[2] = images[0][:91, :], images[2][:, 3:]
    tracked = track(tracker, images, {1: masks[1]})
    assert [found.shape for found in tracked] == [(91, 96), (96, 96), (96, 93)]
    assert iou(tracked[0], masks[0][:91]) > 0.8 and iou(tracked[2], masks[2][:, 3:]) > 0.8


STRANGE = {"one pixel": np.s_[40:41, 50:51], "everything": np.s_[:, :], "corner": np.s_[:30, 70:], "nothing": np.s_[:0]}


@pytest.mark.parametrize("object_mask", list(STRANGE))
def test_tracker_on_strange_masks(tracker, object_mask) -> None:
    images, _ = moving_disc(3)
    mask = np.zeros((96, 96), bool)
    mask[STRANGE[object_mask]] = True
    tracked = track(tracker, images, {1: mask})
    assert (tracked[1] == mask).all()
    for found in tracked:
        assert found is None or (found.shape == (96, 96) and found.dtype == bool)
    if object_mask == "nothing":
        assert tracked[0] is None and tracked[2] is None  # nothing was said about them


def test_tracker_of_a_single_photo(tracker) -> None:
    images, masks = moving_disc(1)
    assert (track(tracker, images, {0: masks[0]})[0] == masks[0]).all()


def test_tracker_refuses_what_cannot_be(tracker) -> None:
    images, masks = moving_disc(2)
    with pytest.raises(SpinnerfError, match="no source mask"):
        track(tracker, images, {})
    with pytest.raises(SpinnerfError, match="export the mask at the photo's size"):
        track(tracker, images, {0: masks[0][:50]})
    with pytest.raises(SpinnerfError, match="expected 0 to 1"):
        track(tracker, images, {2: masks[0]})
