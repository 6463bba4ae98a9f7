"""A click changes the part that it lies in, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from spinnerf_ns.files import save_object_mask
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.refine import to_lab
from spinnerf_ns.segmentation.segmenters.clicks import on_edges, part_of_click
from spinnerf_ns.segmentation.segmenters.grabcut import GrabCutSegmenter
from tests.segmentation.conftest import iou, texture


@pytest.fixture
def things():
    """A photo with three squares of the same colour, far from each other."""
    image = texture(90, 150, 1, 150, 220)
    squares = []
    for left in (15, 60, 105):
        square = np.zeros((90, 150), bool)
        square[30:60, left : left + 30] = True
        image[square] = texture(90, 150, 2 + left, 0, 60)[square]
        squares.append(square)
    return image, squares


def disc(shape, x, y, radius=4):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def test_a_click_takes_its_part_up_to_the_edges(things) -> None:
    image, (first, second, third) = things
    lab = to_lab(image)
    nothing = np.zeros_like(first)
    added = part_of_click(lab, ~first, disc(first.shape, 75, 45), nothing, 8.0, adds=True)
    assert iou(added, second) > 0.85 and not (added & (first | third)).any()
    wrong = first | second  # the second was taken for the object as well
    dropped = part_of_click(lab, wrong, disc(first.shape, 75, 45), nothing, 8.0, adds=False)
    assert iou(dropped, second) > 0.85 and not (dropped & first).any()


def test_it_never_takes_what_other_clicks_say(things) -> None:
    image, (first, second, _) = things
    others = disc(first.shape, 80, 45)
    added = part_of_click(to_lab(image), ~first, disc(first.shape, 68, 45), others, 8.0, adds=True)
    assert added[45, 68] and not (added & others).any() and not (added & first).any()
    assert not part_of_click(to_lab(image), first, disc(first.shape, 75, 45), np.zeros_like(first), 8.0, adds=False).any()


def test_edges_tell_a_right_contour_from_a_wrong_one(things) -> None:
    image, (first, *_) = things
    lab = to_lab(image)
    assert on_edges(lab, first) > 1.5 * on_edges(lab, np.roll(first, 8, axis=0))
    assert on_edges(lab, np.zeros_like(first)) == on_edges(lab, np.ones_like(first)) == 0


def test_clicks_correct_a_mask_that_is_given(things, tmp_path) -> None:
    """As where a tracked mask is corrected: what was right stays right, to the pixel."""
    image, (first, second, third) = things
    save_object_mask(tmp_path / "tracked.png", first | second)
    prompt = Prompt("a", ((75.0, 45.0), (120.0, 45.0)), (0, 1), mask_path=tmp_path / "tracked.png")
    found = GrabCutSegmenter().segment(image, prompt)
    assert (found & first).sum() == first.sum()
    assert iou(found & ~first, third) > 0.85 and not (found & second)[35:55, 65:85].any()
    said_already = Prompt("a", ((30.0, 45.0), (5.0, 5.0)), (1, 0), mask_path=tmp_path / "tracked.png")
    assert (GrabCutSegmenter().segment(image, said_already) == (first | second)).all()


def test_known_clicks_are_not_taken_again(things, monkeypatch) -> None:
    image, _ = things
    counted, corrected = [], GrabCutSegmenter._corrected
    monkeypatch.setattr(GrabCutSegmenter, "_corrected", lambda self, *others: counted.append(1) or corrected(self, *others))
    points, labels = ((30.0, 45.0), (75.0, 45.0), (120.0, 45.0)), (1, 1, 0)
    masks = [GrabCutSegmenter().segment(image, Prompt("a", points[:n], labels[:n])) for n in (1, 2, 3)]
    assert len(counted) == 2
    masks[2][:] = True  # whoever got a mask may write into it
    from spinnerf_ns.segmentation.segmenters import memory

    again = GrabCutSegmenter().segment(image, Prompt("a", points[:2], labels[:2]))
    assert len(counted) == 2 and (again == masks[1]).all()
    memory._masks.clear()
    assert (GrabCutSegmenter().segment(image, Prompt("a", points[:2], labels[:2])) == masks[1]).all()
    GrabCutSegmenter(iterations=2).segment(image, Prompt("a", points[:2], labels[:2]))
    GrabCutSegmenter().segment(image[::-1].copy(), Prompt("a", points[:2], labels[:2]))
    assert len(counted) == 5
