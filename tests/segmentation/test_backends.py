"""The contract of every segmenter and tracker that is there, our own and other packages'.

Those that are networks run as small ones with random weights, from files of the published formats: what is checked here is
how they are driven. What the embedded ones find is checked as well.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import save_object_mask
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.segmenters import SEGMENTERS
from spinnerf_ns.segmentation.trackers import TRACKERS
from tests.segmentation.conftest import iou, moving_disc, texture

NETWORKS = {"sam": "sam_file", "sam2": "sam2_folder"}
"""Name of a backend -> the fixture with its small checkpoint."""


def ready(registry) -> list[str]:
    """Names of the backends that need no option."""
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


def small(registry, name, request):
    """An instance; of a network, a small one."""
    if name not in NETWORKS:
        return registry.create(name)
    checkpoint = request.getfixturevalue(NETWORKS[name])
    return registry.create(name, checkpoint=checkpoint, device="cpu", **({"model": "small"} if name == "sam" else {}))


@pytest.fixture(params=ready(SEGMENTERS))
def segmenter(request):
    return small(SEGMENTERS, request.param, request)


@pytest.fixture(params=ready(TRACKERS))
def tracker(request):
    return small(TRACKERS, request.param, request)


def test_the_backends_are_there() -> None:
    assert {"grabcut", "sam", "sam2"} <= set(ready(SEGMENTERS)) and {"flow", "sam2"} <= set(ready(TRACKERS))
    assert "folder" in SEGMENTERS.names() and "folder" not in ready(SEGMENTERS)  # it wants a folder


# ------------------------------------------------------------------------------------------------------------- segmenters
PROMPTS = {
    "box": Prompt("a", box=(20, 25, 76, 71)),
    "click": Prompt("a", points=((48.0, 48.0),), labels=(1,)),
    "points": Prompt("a", points=((48.0, 48.0), (44.0, 50.0), (5.0, 90.0)), labels=(1, 1, 0)),
    "beside it first": Prompt("a", points=((5.0, 90.0), (48.0, 48.0)), labels=(0, 1)),
    "both": Prompt("a", points=((48.0, 48.0), (24.0, 30.0)), labels=(1, 0), box=(20, 25, 76, 71)),
}


def thing() -> tuple[np.ndarray, np.ndarray]:
    """A photo of an odd size with a thing of another colour in it, and its mask."""
    image = texture(97, 95, 3, 120, 200)
    object_mask = np.zeros(image.shape[:2], bool)
    object_mask[30:66, 27:70] = True
    image[object_mask] = texture(97, 95, 4, 0, 60)[object_mask]
    return image, object_mask


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_segmenter_answers_every_prompt_alike_each_time(segmenter, prompt) -> None:
    image, object_mask = thing()
    before = image.copy()
    found = segmenter.segment(image, prompt)
    assert found.shape == image.shape[:2] and found.dtype == bool
    assert found.any() and not found.all()
    assert (image == before).all()
    if segmenter.name not in NETWORKS and prompt in (PROMPTS["box"], PROMPTS["points"], PROMPTS["both"]):
        assert iou(found, object_mask) > 0.95  # a thing of another colour
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


def test_segmenter_on_a_photo_4000_pixels_wide(segmenter) -> None:
    image = np.repeat(np.repeat(texture(60, 250, 6), 16, axis=0), 16, axis=1)
    found = segmenter.segment(image, Prompt("a", box=(1000, 200, 1300, 500)))
    assert found.shape == (960, 4000) and found.dtype == bool


def test_segmenter_refuses_a_point_outside(segmenter) -> None:
    with pytest.raises(SpinnerfError, match="outside the photo"):
        segmenter.segment(texture(40, 60, 5), Prompt("a", points=((60.0, 3.0),), labels=(1,)))


STRANGE = {"one pixel": np.s_[40:41, 50:51], "everything": np.s_[:, :], "corner": np.s_[:30, 70:], "nothing": np.s_[:0]}


def strange(name: str) -> np.ndarray:
    """(96, 96) bool."""
    object_mask = np.zeros((96, 96), bool)
    object_mask[STRANGE[name]] = True
    return object_mask


@pytest.mark.parametrize("name", sorted(set(NETWORKS) & set(ready(SEGMENTERS))))
@pytest.mark.parametrize("object_mask", list(STRANGE))
def test_network_refines_a_rough_mask(name, object_mask, request, tmp_path) -> None:
    segmenter = small(SEGMENTERS, name, request)
    save_object_mask(tmp_path / "rough.png", strange(object_mask))
    found = segmenter.segment(texture(96, 96, 7), Prompt("a", mask_path=tmp_path / "rough.png"))
    assert found.shape == (96, 96) and found.dtype == bool
    assert object_mask != "nothing" or not found.any()


# --------------------------------------------------------------------------------------------------------------- trackers
def track(tracker, images, sources):
    return tracker.track([lambda image=image: image for image in images], sources)


def check_followed(tracker, tracked, masks, least: float = 0.85) -> None:
    """Whether the object was found again: a network with random weights cannot."""
    if tracker.name not in NETWORKS:
        assert min(iou(found, true) for found, true in zip(tracked, masks)) > least


def test_tracker_answers_alike_each_time(tracker) -> None:
    images, masks = moving_disc()
    seen = []
    readers = [lambda image=image: image for image in images]
    tracked = tracker.track(readers, {2: masks[2]}, seen.append)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert all(mask.shape == (96, 96) and mask.dtype == bool and mask.any() for mask in tracked)
    assert (tracked[2] == masks[2]).all()  # what was given is returned
    check_followed(tracker, tracked, masks)
    again = track(tracker, images, {2: masks[2]})
    assert all((first == second).all() for first, second in zip(tracked, again))


def test_tracker_with_several_sources(tracker) -> None:
    images, masks = moving_disc()
    tracked = track(tracker, images, {0: masks[0], 4: masks[4]})
    assert (tracked[0] == masks[0]).all() and (tracked[4] == masks[4]).all()
    assert all(found is not None for found in tracked)
    check_followed(tracker, tracked, masks)


def test_tracker_at_odd_and_different_sizes(tracker) -> None:
    images, masks = moving_disc(3)
    images[0], images[2] = images[0][:91, :], images[2][:, 3:]
    tracked = track(tracker, images, {1: masks[1]})
    assert [found.shape for found in tracked] == [(91, 96), (96, 96), (96, 93)]
    check_followed(tracker, tracked, [masks[0][:91], masks[1], masks[2][:, 3:]], 0.8)


@pytest.mark.parametrize("object_mask", list(STRANGE))
def test_tracker_on_strange_masks(tracker, object_mask) -> None:
    images, _ = moving_disc(3)
    mask = strange(object_mask)
    tracked = track(tracker, images, {1: mask})
    assert (tracked[1] == mask).all()
    for found in tracked:
        assert found is None or (found.shape == (96, 96) and found.dtype == bool)
    if object_mask == "nothing":
        assert tracked[0] is None and tracked[2] is None  # nothing was said about them


def test_tracker_on_photos_4000_pixels_wide(tracker) -> None:
    images, masks = moving_disc(2)
    images = [np.repeat(np.repeat(image[30:66], 42, axis=1), 16, axis=0)[:, :4000] for image in images]
    mask = np.repeat(np.repeat(masks[0][30:66], 42, axis=1), 16, axis=0)[:, :4000]
    tracked = track(tracker, images, {0: mask})
    assert (tracked[0] == mask).all()
    assert tracked[1] is None or (tracked[1].shape == (576, 4000) and tracked[1].dtype == bool)


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
