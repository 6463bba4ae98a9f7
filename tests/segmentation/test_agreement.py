"""Masks that agree in space, on a twin whose masks are known."""

from __future__ import annotations

import numpy as np
import pytest

from spinnerf_ns.evaluation.truth.twin import TARGET_CENTER, TwinConfig, write_twin
from spinnerf_ns.files import load_object_mask
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.segmentation.agreement import agreement, carve


@pytest.fixture(scope="module", params=["forward", "orbit"])
def masked(request, tmp_path_factory):
    """(views, true masks) of the photos that show the object."""
    config = TwinConfig(layout=request.param, width=160, height=120, num_train=9, num_test=1)
    scene = write_twin(tmp_path_factory.mktemp("twin") / "scene", config)
    names = {photo.removeprefix("images/").removesuffix(".png"): photo for photo in scene.train_photos}
    views = [view for view in load_capture(scene.root).views if view.photo in names]
    return views, {view.photo: load_object_mask(scene.truth(names[view.photo], "object_masks")) for view in views}


def test_true_masks_agree_and_the_object_is_where_it_is(masked) -> None:
    views, masks = masked
    agrees, solid = agreement(views, masks)
    assert set(agrees) == set(masks) and min(agrees.values()) > 0.75
    middle = np.median(solid.points, axis=0)
    distances = [np.linalg.norm(view.c2w[:, 3] - middle) for view in views]
    assert np.linalg.norm(middle - TARGET_CENTER) < 0.25 * np.median(distances)
    assert 0 < solid.surface.sum() <= len(solid.points)


@pytest.mark.parametrize("wrong", [1, 3])
def test_wrong_masks_agree_least(masked, wrong) -> None:
    views, masks = masked
    bad = [view.photo for view in views[1 : 2 * wrong : 2]]
    spoilt = {**masks, **{photo: np.roll(masks[photo], 45, axis=1) for photo in bad}}
    agrees, _ = agreement(views, spoilt)
    assert set(sorted(agrees, key=agrees.__getitem__)[:wrong]) == set(bad)
    assert max(agrees[photo] for photo in bad) < min(agrees[photo] for photo in masks if photo not in bad) - 0.1


def test_too_little_is_no_object(masked) -> None:
    views, masks = masked
    assert not len(carve(views[:2], [masks[view.photo] for view in views[:2]]).points)
    assert agreement(views, {})[0] == {} and agreement(views, dict.fromkeys(masks))[0] == {}
    empty = {photo: np.zeros_like(mask) for photo, mask in masks.items()}
    assert agreement(views, empty)[0] == {}
    lost = {**masks, views[0].photo: None}
    assert set(agreement(views, lost)[0]) == set(masks) - {views[0].photo}
