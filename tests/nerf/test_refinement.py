"""Which of a photo's two masks is taken: a ball before cameras on an arc, with masks and rendered objectness made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.nerf.refinement import (
    Consensus,
    FieldCheck,
    agreement,
    choose,
    depth_agreement,
    refined,
)
from spinnerf_ns.scene.cameras import ray_directions
from spinnerf_ns.scene.view import View
from tests.scene.captures import look_at

WIDTH, HEIGHT = 120, 90


def make_view(index: int, angle: float) -> View:
    pose = look_at((3 * np.sin(angle), -3 * np.cos(angle), 0.8), (0, 0, 0.2))[:3]
    return View(
        f"p{index:02d}", Path(f"p{index:02d}.png"), WIDTH, HEIGHT, 110.0, 110.0, 60.0, 45.0, np.zeros(6), "OPENCV", pose,
        frozenset({"train"}),
    )  # fmt: skip


def ball(view: View, center=(0.0, 0.0, 0.2), radius=0.4) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    rays = ray_directions(view, np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    to = np.array(center) - view.c2w[:, 3]
    return (np.linalg.norm(to - (rays @ to)[:, None] * rays, axis=1) < radius).reshape(HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def views() -> list[View]:
    return [make_view(index, angle) for index, angle in enumerate(np.linspace(-0.6, 0.6, 20))]


@pytest.fixture(scope="module")
def true(views) -> dict[str, np.ndarray]:
    return {view.photo: ball(view) for view in views}


@pytest.fixture(scope="module")
def tracked(views, true) -> dict[str, np.ndarray]:
    """One of each kind is wrong: empty, shifted, another thing's."""
    masks = dict(true)
    masks["p04"] = np.zeros((HEIGHT, WIDTH), bool)
    masks["p10"] = np.roll(true["p10"], 20, axis=1)
    masks["p15"] = np.zeros((HEIGHT, WIDTH), bool)
    masks["p15"][:20, :20] = True
    return masks


@pytest.fixture(scope="module")
def others(views, tracked) -> Consensus:
    return Consensus(views, [tracked[view.photo] for view in views])


def rendered(object_mask: np.ndarray) -> np.ndarray:
    return np.where(object_mask, 0.95, 0.05)


def label(object_mask: np.ndarray) -> np.ndarray:
    return object_mask.astype(np.uint8)


def test_where_the_field_is_sure_it_overrules_and_leaves_the_outline():
    objectness = np.array([[0.95, 0.95, 0.05, 0.05, 0.6, 0.4, 0.6, 0.4]], np.float32)
    labels = np.array([[1, 0, 1, 0, 0, 1, 255, 255]], np.uint8)
    assert refined(objectness, labels).tolist() == [[True, True, False, False, False, True, True, False]]


def test_the_other_photos_say_where_the_object_is_whatever_a_photo_s_own_mask_says(views, true, others):
    assert others.trusted
    for view in views:
        assert others.support(view, true[view.photo]) > 0.85
        assert agreement(others.full(view), true[view.photo]) > 0.85


def test_a_right_field_mends_wrong_masks_and_leaves_right_ones(views, true, tracked, others):
    for view in views:
        choice = choose(view, rendered(true[view.photo]), label(tracked[view.photo]), others, trusted=True)
        assert np.array_equal(choice.object_mask, true[view.photo]), view.photo
        assert not choice.doubtful
        assert (choice.source == "field") == (view.photo in ("p04", "p10", "p15"))


def test_an_unsure_field_mends_wrong_masks_with_the_others_outline(views, true, tracked, others):
    """Trained on a wrong mask in this photo, the field is sure of nothing in it."""
    for photo in ("p04", "p10", "p15"):
        view = views[int(photo[1:])]
        unsure = np.where(true[photo], 0.7, 0.05)
        choice = choose(view, unsure, label(tracked[photo]), others, trusted=True)
        assert choice.source == "field" and agreement(choice.object_mask, true[photo]) > 0.85
        lost = choose(view, np.where(true[photo], 0.55, 0.45), None, others, trusted=True)
        assert agreement(lost.object_mask, true[photo]) > 0.85


def test_what_stands_before_the_object_stays(views, true, others):
    """In one photo most of it is hidden; tracked mask and field know that, the other photos cannot."""
    view = views[9]
    shown = true["p09"].copy()
    rows = np.flatnonzero(shown.any(axis=1))
    shown[: rows[0] + int(0.8 * len(rows))] = False
    choice = choose(view, rendered(shown), label(shown), others, trusted=True)
    assert np.array_equal(choice.object_mask, shown)
    assert np.array_equal(choose(view, rendered(shown), None, others, trusted=True).object_mask, shown)


def test_an_outline_stays_unless_the_others_clearly_lack_it(views, true):
    """A field's outline is blurred by its grid; a part that one tracked mask lacks, and the others have, is mended."""

    def shortened(photo: str, by: int) -> np.ndarray:
        rows = np.flatnonzero(true[photo].any(axis=1))
        short = true[photo].copy()
        short[rows[-by] :] = False
        return short

    view, all_masks = views[8], [true[view.photo] for view in views]
    others = Consensus(views, all_masks)
    grown = true[view.photo] | np.roll(true[view.photo], 1, axis=1)
    assert agreement(grown, true[view.photo]) > 0.88
    assert choose(view, rendered(grown), label(true[view.photo]), others, trusted=True).source == "tracked"
    assert choose(view, rendered(true[view.photo]), label(grown), others, trusted=True).source == "tracked"
    short = shortened(view.photo, 4)
    assert agreement(short, true[view.photo]) > 0.88
    one = Consensus(views, [short if each is view else mask for each, mask in zip(views, all_masks, strict=True)])
    assert np.array_equal(choose(view, rendered(true[view.photo]), label(short), one, trusted=True).object_mask, true[view.photo])
    short = [shortened(each.photo, 4) for each in views]  # where all lack it, nobody speaks for the field
    assert choose(view, rendered(true[view.photo]), label(short[8]), Consensus(views, short), trusted=True).source == "tracked"


@pytest.mark.parametrize("wrong", ["nothing", "shifted", "worn away", "everything"])
def test_a_wrong_field_changes_no_right_mask(views, true, others, wrong):
    make = {
        "nothing": np.zeros_like,
        "shifted": lambda mask: np.roll(mask, 6, axis=1),
        "worn away": lambda mask: mask & np.roll(mask, 5, axis=0) & np.roll(mask, -5, axis=0),
        "everything": np.ones_like,
    }[wrong]
    for view in views:
        for trusted in (True, False):
            choice = choose(view, rendered(make(true[view.photo])), label(true[view.photo]), others, trusted)
            assert choice.source == "tracked" and np.array_equal(choice.object_mask, true[view.photo])


def test_a_photo_without_a_mask_takes_the_field_s_or_what_the_others_say(views, true, others):
    view = views[7]
    known = choose(view, rendered(true[view.photo]), None, others, trusted=True)
    assert known.source == "field" and np.array_equal(known.object_mask, true[view.photo]) and not known.doubtful
    nothing = np.full((HEIGHT, WIDTH), 0.05)
    hidden = choose(view, nothing, None, others, trusted=True)  # something may stand before it
    assert not hidden.object_mask.any()
    unknown = choose(view, nothing, None, others, trusted=False)
    assert unknown.source == "others" and unknown.doubtful and agreement(unknown.object_mask, true[view.photo]) > 0.85


def test_photos_from_elsewhere_are_not_judged(views, true, others):
    """From the side, what lies inside all masks is longer than the object."""
    behind = make_view(99, np.pi * 0.6)
    assert others.trusted and not others.knows(behind)
    nothing = np.full((HEIGHT, WIDTH), 0.05)
    choice = choose(behind, nothing, None, others, trusted=False)
    assert choice.source == "field" and choice.doubtful and not choice.object_mask.any()
    tracked = label(ball(behind))
    assert choose(behind, rendered(np.roll(tracked, 9, axis=1) > 0), tracked, others, trusted=True).source == "tracked"


def test_masks_that_contradict_one_another_judge_nothing(views):
    rng = np.random.default_rng(0)
    masks = []
    for _ in views:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        row, column = rng.integers(0, HEIGHT - 15), rng.integers(0, WIDTH - 15)
        mask[row : row + 15, column : column + 15] = True
        masks.append(mask)
    others = Consensus(views, masks)
    assert not others.trusted
    same = choose(views[0], rendered(masks[0]), label(masks[0]), others, trusted=True)
    assert same.source == "field" and same.tracked != same.tracked
    other = choose(views[0], rendered(masks[1]), label(masks[0]), others, trusted=True)
    assert other.source == "tracked" and other.doubtful


@pytest.mark.parametrize("number", [0, 1, 2])
def test_too_few_masks_say_nothing(views, true, number):
    others = Consensus(views[:number], [true[view.photo] for view in views[:number]])
    assert not others.trusted and not others.of(views[5]).any()


def test_the_record_says_null_where_nobody_knows(views, true, others):
    record = choose(views[7], rendered(true["p07"]), None, others, trusted=True).record()
    assert record["mask"] == "field" and record["agreement"] is None and record["field_with_others"] > 0.85


def test_a_field_is_trusted_by_masks_and_depth():
    assert FieldCheck.of([0.9, 0.8, 0.1], [0.95, float("nan")]).trusted  # a minority of wrong masks does not matter
    assert FieldCheck.of([0.9], []).trusted and FieldCheck.of([], []).trusted
    bad = FieldCheck.of([0.3, 0.4, 0.9], [0.9])
    assert not bad.trusted and bad.unexplained == 2 and bad.photos == 3
    assert not FieldCheck.of([0.9], [0.3, 0.2, 0.9]).trusted


def test_depth_agreement_counts_points():
    z = np.full((10, 10), 2.0)
    pixels = np.stack(np.unravel_index(np.arange(40), (10, 10)), axis=1)
    known = np.where(np.arange(40) < 30, 2.05, 3.0)
    assert depth_agreement(z, pixels, known) == pytest.approx(0.75)
    assert np.isnan(depth_agreement(z, pixels[:5], known[:5]))
