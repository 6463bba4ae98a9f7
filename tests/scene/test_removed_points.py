"""The object-free capture's points: none on the object, some behind it."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from spinnerf_ns.conventions import LEAST_DILATION, dilate_mask
from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
from spinnerf_ns.files import load_object_mask, read_image
from spinnerf_ns.scene.cameras import project
from spinnerf_ns.scene.capture import Capture, load_capture
from spinnerf_ns.scene.points import read_points
from spinnerf_ns.scene.removed import RemovedView, RemovedWriter
from spinnerf_ns.scene.removed_points import POINTS_FROM_DEPTH, TOLERANCE, CleanPhoto, removed_points


@pytest.fixture(scope="module")
def twin(tmp_path_factory) -> tuple[Capture, dict[str, tuple[CleanPhoto, np.ndarray]]]:
    """A twin; training photo -> what it shows without the object, and its depth with it."""
    scene = write_twin(tmp_path_factory.mktemp("twin") / "twin", TwinConfig(width=96, height=72, num_train=16, num_test=2))
    capture = load_capture(scene.root)
    photos = {}
    for view in capture.split("train"):
        truth = scene.root / "truth"
        z, with_object = (np.load(truth / f"{name}/{view.photo}.npy") for name in ("depths", "depths_with_object"))
        region = dilate_mask(load_object_mask(truth / f"object_masks/{view.photo}.png"), least=LEAST_DILATION)
        photos[view.photo] = CleanPhoto(read_image(truth / f"images/{view.photo}.png"), region, z), with_object
    return capture, photos


def on_object(capture: Capture, photos: dict, points: np.ndarray) -> np.ndarray:
    """(P,) whether a point lies on the object, by the true depths."""
    found = np.zeros(len(points), bool)
    for photo, (clean, with_object) in photos.items():
        xy, z = project(capture.view(photo), points)
        inside = (z > 0) & (xy >= 0).all(axis=1) & (xy < clean.z.shape[::-1]).all(axis=1)
        columns, rows = xy[inside].astype(int).T
        objects = with_object < (1 - TOLERANCE) * clean.z  # its foot is the floor, as far as anybody can tell
        found[inside] |= objects[rows, columns] & (np.abs(z[inside] / with_object[rows, columns] - 1) < 0.005)
    return found


def off_the_surfaces(capture: Capture, photos: dict, points: np.ndarray) -> np.ndarray:
    """(P,) the least relative distance in depth from any photo's true surface without the object."""
    least = np.full(len(points), np.inf)
    for photo, (clean, _) in photos.items():
        xy, z = project(capture.view(photo), points)
        inside = (z > 0) & (xy >= 0).all(axis=1) & (xy < clean.z.shape[::-1]).all(axis=1)
        columns, rows = xy[inside].astype(int).T
        least[inside] = np.minimum(least[inside], np.abs(z[inside] / clean.z[rows, columns] - 1))
    return least


def removed(capture: Capture, photos: dict, change=lambda photo, clean: clean, source=None):
    source = read_points(capture) if source is None else source
    views = [capture.view(photo) for photo in photos]
    read = lambda view: change(view.photo, photos[view.photo][0])  # noqa: E731
    return source, removed_points(views, read, source.positions, source.colors.astype(np.uint8))


def test_the_objects_points_go_and_the_others_stay(twin):
    capture, photos = twin
    source, found = removed(capture, photos)
    objects = on_object(capture, photos, source.positions)
    assert objects.sum() > 30
    kept = (found.positions[: found.measured, None] == source.positions[None]).all(axis=2).any(axis=0)
    assert not kept[objects].any()
    assert kept[~objects].mean() > 0.98
    assert not on_object(capture, photos, found.positions).any()


def test_new_points_lie_on_the_surfaces_behind_as_dense_as_the_others(twin):
    capture, photos = twin
    source, found = removed(capture, photos)
    new = found.positions[found.measured :]
    assert np.median(off_the_surfaces(capture, photos, new)) < 0.003
    inside, outside = [], []
    for number, (photo, (clean, _)) in enumerate(photos.items()):
        xy, _ = project(capture.view(photo), found.positions[found.seen[number]])
        columns, rows = xy.astype(int).T
        inside.append(clean.region[rows, columns].sum() / clean.region.sum())
        outside.append((~clean.region)[rows, columns].sum() / (~clean.region).sum())
    assert 0.5 < np.mean(inside) / np.mean(outside) < 2
    view, (clean, _) = capture.view(next(iter(photos))), next(iter(photos.values()))
    xy, z = project(view, new)
    columns, rows = np.clip(xy, 0, np.array(clean.z.shape[::-1]) - 1).astype(int).T
    shown = found.seen[0, found.measured :]
    assert np.abs(found.colors[found.measured :][shown].astype(float) - clean.image[rows, columns][shown]).mean() < 15


def test_masks_that_fail_in_some_photos_do_no_harm(twin):
    capture, photos = twin
    lost = set(list(photos)[::5])

    def change(photo: str, clean: CleanPhoto) -> CleanPhoto:
        return CleanPhoto(clean.image, np.zeros_like(clean.region) if photo in lost else clean.region, clean.z)

    source, found = removed(capture, photos, change)
    assert on_object(capture, photos, found.positions).sum() <= 0.03 * on_object(capture, photos, source.positions).sum()


def test_a_photo_with_a_wrong_guess_is_outvoted(twin):
    """A surface completed far too near in one photo: the others look through it."""
    capture, photos = twin
    wrong = next(iter(photos))

    def change(photo: str, clean: CleanPhoto) -> CleanPhoto:
        return CleanPhoto(clean.image, clean.region, np.where(clean.region & (photo == wrong), 0.7, 1) * clean.z)

    _, found = removed(capture, photos, change)
    assert (off_the_surfaces(capture, photos, found.positions[found.measured :]) < 0.02).mean() > 0.97


def test_a_capture_without_points_has_them_from_depth(twin):
    capture, photos = twin
    source = read_points(capture)
    nothing = type(source)(source.positions[:0], source.colors[:0])
    _, found = removed(capture, photos, source=nothing)
    assert found.measured == 0 and 0.9 * POINTS_FROM_DEPTH < len(found.positions) <= POINTS_FROM_DEPTH
    assert not on_object(capture, photos, found.positions).any()
    assert (off_the_surfaces(capture, photos, found.positions) < 0.01).mean() > 0.95


def test_the_datasets_points_are_those(twin, tmp_path):
    """The .ply of removed/: nerfstudio's splats start from it, our fields train on the measured part alone."""
    capture, photos = twin
    writer = RemovedWriter(capture, tmp_path / "removed", [view.photo for view in capture.split("test")])
    for photo, (clean, _) in photos.items():
        writer.write(RemovedView(photo, clean.image, clean.region, clean.region, clean.z))
    writer.finish()
    _, expected = removed(capture, photos)
    cloud = trimesh.load(tmp_path / "removed/sparse_pc.ply", process=False)
    np.testing.assert_allclose(cloud.vertices, expected.positions, atol=1e-6)
    found = load_capture(tmp_path / "removed")
    assert found.source_meta["measured_points"] == expected.measured
    np.testing.assert_allclose(read_points(found).positions, expected.positions[: expected.measured], atol=1e-6)
    model = (tmp_path / "removed/colmap/sparse/0/points3D.txt").read_text().splitlines()
    assert len(model) == len(expected.positions) + 1


def test_unknown_depth_in_a_region_says_object(twin):
    capture, photos = twin
    change = lambda _, clean: CleanPhoto(clean.image, clean.region, np.where(clean.region, 0, clean.z))  # noqa: E731
    source, found = removed(capture, photos, change)
    assert len(found.positions) == found.measured
    assert not on_object(capture, photos, found.positions).any()
