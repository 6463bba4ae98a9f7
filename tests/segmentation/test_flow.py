"""The flow tracker: it follows the object, not the background beside it, and says when it has lost it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spinnerf_ns.files import load_object_mask, read_image
from spinnerf_ns.segmentation.trackers import flow
from spinnerf_ns.segmentation.trackers.flow import FlowTracker
from spinnerf_ns.segmentation.trackers.object_motion import DenseFlow, fit_affine, fit_object_motion, pixel_grid
from tests.segmentation.conftest import iou, moving_disc, photos, texture, truth


def track(images, sources, **options):
    return FlowTracker(**options).track([lambda image=image: image for image in images], sources)


def plain_flow(images, masks, source):
    """What everybody tries first: each mask warped from its neighbour's by dense flow. Written as simply as possible."""
    warped = {source: masks[source].astype(np.float32)}
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    for step in (1, -1):
        index = source + step
        while 0 <= index < len(images):
            flow = search.calc(gray[index], gray[index - step], None)
            warped[index] = cv2.remap(warped[index - step], pixel_grid(flow.shape[:2]) + flow, None, cv2.INTER_LINEAR)
            index += step
    return [warped[index] > 0.5 for index in range(len(images))]


def test_better_than_plain_flow_on_the_twin(twin) -> None:
    images, masks = photos(twin), [truth(twin, photo) for photo in twin.train_photos]
    source = twin.train_photos.index(twin.prompt_view)
    ours = [iou(found, true) for found, true in zip(track(images, {source: masks[source]}), masks)]
    plain = [iou(found, true) for found, true in zip(plain_flow(images, masks, source), masks)]
    assert np.mean(ours) > 0.95 and min(ours) > 0.92
    assert np.mean(ours) > np.mean(plain) + 0.03


def test_real_photos(statue_folder) -> None:
    files = sorted((statue_folder / "images_2").glob("*.png"))[12:19:2]
    images = [read_image(file) for file in files]
    masks = [load_object_mask(file.parent / "label" / file.name) for file in files]
    tracked = track(images, {1: masks[1]}, window_size=256)
    assert min(iou(found, true) for found, true in zip(tracked, masks)) > 0.92


def test_masks_are_drawn_as_generously_as_the_sources(twin, monkeypatch) -> None:
    images = photos(twin)[:4]
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    masks = [cv2.dilate(truth(twin, photo).astype(np.uint8), cross) > 0 for photo in twin.train_photos[:4]]
    drawn = track(images, {1: masks[1]})
    monkeypatch.setattr(flow, "LEVELS", np.array([0.5]))
    uncalibrated = track(images, {1: masks[1]})

    def excess(found):
        return np.mean([abs(np.log(one.sum() / true.sum())) for one, true in zip(found, masks)])

    assert excess(drawn) < 0.7 * excess(uncalibrated)


def test_lost_where_the_object_is_not(twin) -> None:
    images, masks = photos(twin)[:3], [truth(twin, photo) for photo in twin.train_photos[:3]]
    images[1] = read_image(twin.truth(twin.train_photos[1], "images"))  # the same photo without the object
    tracked = track(images, {0: masks[0]})
    assert tracked[1] is None
    assert iou(tracked[2], masks[2]) > 0.9  # the next one is tracked from before the loss


def test_lost_in_another_scene() -> None:
    images, masks = moving_disc(2)
    assert track([images[0], texture(96, 96, 9)], {0: masks[0]})[1] is None


def test_leaving_the_frame_does_not_smear() -> None:
    images, masks = moving_disc(5)
    images, masks = [image[:, :64] for image in images], [mask[:, :64] for mask in masks]
    tracked = track(images, {1: masks[1]})
    assert masks[4][:, -1].sum() > 20  # cut by the right edge
    assert min(iou(found, true) for found, true in zip(tracked, masks)) > 0.8


def test_large_photos_come_back_at_their_size() -> None:
    images, masks = moving_disc(3)
    big = [cv2.resize(image, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC) for image in images]
    known = np.kron(masks[1], np.ones((5, 5), bool))
    tracked = track(big, {1: known}, photo_size=240)
    assert tracked[0].shape == (480, 480)
    assert iou(tracked[0], np.kron(masks[0], np.ones((5, 5), bool))) > 0.88


# ------------------------------------------------------------------------------------------------------------------ motion
def test_flow_and_its_check() -> None:
    image = cv2.cvtColor(texture(80, 100, 1), cv2.COLOR_RGB2GRAY)
    moved = np.roll(image, 4, axis=1)
    flow, agrees = DenseFlow(finest_scale=0)(image, moved)
    inside = np.s_[10:-10, 10:-14]
    assert np.abs(flow[inside] - [4, 0]).max() < 0.5
    assert agrees[inside].mean() > 0.98
    other = cv2.cvtColor(texture(80, 100, 2), cv2.COLOR_RGB2GRAY)
    assert DenseFlow(finest_scale=0)(image, other)[1].mean() < 0.35


def test_affine_ignores_the_background_and_outliers() -> None:
    true = np.array([[1.1, 0.05, 3], [-0.04, 0.95, -2]])
    grid = pixel_grid((60, 80))
    object_mask = np.zeros((60, 80), bool)
    object_mask[15:45, 20:60] = True
    flow = np.full((60, 80, 2), -7.0, np.float32)
    moved = grid @ true[:, :2].T + true[:, 2]
    flow[object_mask] = (moved - grid)[object_mask]
    flow[15:20, 20:60] = 30  # an eighth of the object is wrong
    assert np.abs(fit_affine(flow, np.ones((60, 80), bool), object_mask) - true).max() < 0.05
    only_shift = fit_affine(flow, np.zeros((60, 80), bool), object_mask)
    assert (only_shift[:, :2] == np.eye(2)).all()


def test_object_motion_is_carried_over_the_rim() -> None:
    grid = pixel_grid((64, 64))
    known = ((grid - 32) ** 2).sum(axis=-1) < 15**2
    own = np.stack([2 + 0.05 * (grid[..., 0] - 32), -1 + 0.0 * grid[..., 1]], axis=-1).astype(np.float32)
    lands = np.linalg.norm(grid + own - 32, axis=-1) < 15
    flow = np.where(lands[..., None], own, -6).astype(np.float32)
    motion = fit_object_motion(flow, np.ones((64, 64), bool), known.astype(np.float32), smoothing=8)
    near = np.linalg.norm(grid - 32, axis=-1) < 22  # the rim's other side too
    assert np.abs(motion.flow - own)[near].max() < 0.3
    assert motion.support > 0.9
    nothing = fit_object_motion(flow, np.zeros((64, 64), bool), known.astype(np.float32), smoothing=8)
    assert nothing.support == 0 and not nothing.flow.any()


def test_window_maps_points_where_it_should() -> None:
    # A sub-pixel error here would shift every mask a little further from photo to photo.
    images, masks = moving_disc(1)
    still = track([images[0]] * 4, {0: masks[0]})
    assert iou(still[3], masks[0]) > 0.95
    rows, columns = np.nonzero(still[3])
    true_rows, true_columns = np.nonzero(masks[0])
    assert abs(rows.mean() - true_rows.mean()) < 0.15 and abs(columns.mean() - true_columns.mean()) < 0.15


@pytest.mark.parametrize("count", [1, 2])
def test_photos_are_read_again_rather_than_kept(count, monkeypatch) -> None:
    monkeypatch.setattr("spinnerf_ns.segmentation.trackers.flow.CACHED_PHOTOS", count)
    images, masks = moving_disc(4)
    tracked = track(images, {0: masks[0]})
    assert min(iou(found, true) for found, true in zip(tracked, masks)) > 0.85
