"""The export's inpainting: the reference view, a photo mended by hand, disparity by a network, auto offline."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from spinnerf_ns.conventions import DILATION_PER_1000, LEAST_DILATION
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
from spinnerf_ns.files import load_depth, load_object_mask, read_image, save_depth, save_object_mask, write_png
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.export import export_removed, render_stage
from spinnerf_ns.removal.plan import background_path, object_mask_path, removed_region
from spinnerf_ns.removal.reference import choose_reference, reference_candidates
from spinnerf_ns.scene.camera_path import most_unseen_near_middle, order_along_path
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.points import read_ply
from spinnerf_ns.scene.workspace import Workspace
from tests.removal.networks import save_lama


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    return write_twin(
        tmp_path_factory.mktemp("twin") / "scene", TwinConfig(width=64, height=48, num_train=6, num_test=2, supersampling=1)
    )


@pytest.fixture
def exported(twin, tmp_path):
    """The twin with true masks and depth in place of rendered ones; a function that exports with some settings."""
    capture = load_capture(twin.root)
    workspace = Workspace.open(twin.root, tmp_path / "workspace")
    workspace.set_object_free([Path(photo).stem for photo in twin.object_free])

    def truth(view):
        mask = load_object_mask(twin.truth(view.photo, "object_masks"))
        return mask, np.load(twin.truth(view.photo, "depths_with_object")).astype(np.float32)

    def export(**settings):
        config = ExportConfig(**{"inpainter": "opencv", "fill_from_views": False, "overwrite": True, **settings})
        render_stage(capture, workspace, truth, config, [], {})
        export_removed(capture, workspace, config)
        return workspace

    export.capture, export.workspace = capture, workspace
    return export


def photos(workspace, kind="images"):
    return {path.stem: path.read_bytes() for path in sorted((workspace.removed / kind).iterdir())}


def pictures_of(workspace):
    return {path.stem: read_image(path) for path in sorted((workspace.removed / "images").iterdir())}


# ---------------------------------------------------------------------------------------------------- the removed region
def growth(region, mask):
    """By how many pixels a region is longer than a mask: to the left, right, top and bottom."""
    assert not (mask & ~region).any()
    sides = []
    for axis in (0, 1):
        inner, outer = (np.flatnonzero(each.any(axis=axis)) for each in (mask, region))
        sides += [int(inner[0] - outer[0]), int(outer[-1] - inner[-1])]
    return sides


def test_the_removed_region_is_the_mask_grown_by_the_dilation(exported):
    """In pixels of a 1000-pixel-wide photo, but at least 3 of the photo's own unless 0 is asked for; nothing that is not valid."""
    view, workspace = exported.capture.split("train")[0], exported.workspace
    for width, expected in ((800, 8), (64, LEAST_DILATION)):
        mask = np.zeros((width // 2, width), bool)
        mask[width // 5 : width // 4, width // 3 : width // 2] = True
        valid = np.ones_like(mask)
        object_mask_path(workspace, view).parent.mkdir(parents=True, exist_ok=True)
        save_object_mask(object_mask_path(workspace, view), mask)
        assert DILATION_PER_1000 == 10.0 == ExportConfig().dilation
        assert growth(removed_region(workspace, view, ExportConfig(), valid), mask) == [expected] * 4
        assert growth(removed_region(workspace, view, ExportConfig(dilation=0.0), valid), mask) == [0] * 4
        valid[:, : width // 3] = False
        assert growth(removed_region(workspace, view, ExportConfig(), valid), mask)[0] == 0


@pytest.mark.parametrize(("dilation", "pixels"), [(DILATION_PER_1000, LEAST_DILATION), (0.0, 0), (80.0, 5)])
def test_the_exports_object_masks_are_grown(exported, dilation, pixels):
    workspace = exported(dilation=dilation, carry=False, by_surface=False)
    sides = []
    for view in workspace.views_with_object(exported.capture):
        mask = load_object_mask(object_mask_path(workspace, view))
        if mask.any() and not mask[[0, -1]].any() and not mask[:, [0, -1]].any():
            sides += growth(load_object_mask(workspace.removed / f"object_masks/{view.photo}.png"), mask)
    assert sides and max(sides) == pixels and sides.count(pixels) >= 0.5 * len(sides)  # fewer at the photo's edge


# ------------------------------------------------------------------------------------------------------- reference view
def test_the_reference_is_a_large_hole_near_the_middle_of_the_path(twin):
    views = load_capture(twin.root).split("train")
    order = order_along_path(views)
    middle, end = order[len(order) // 2], order[0]
    same = [100.0] * len(views)
    assert most_unseen_near_middle(views, same) in order[1:-1]
    assert most_unseen_near_middle(views, [0.0] * len(views)) in order[1:-1]
    larger = list(same)
    larger[middle] = 130.0
    assert most_unseen_near_middle(views, larger) == middle
    larger[end] = 200.0  # larger, but at the end of the path
    assert most_unseen_near_middle(views, larger) == middle
    assert most_unseen_near_middle(views, [float(index == end) for index in range(len(views))]) == end
    assert most_unseen_near_middle(views[:1], [0.0]) == 0


def test_candidates_are_training_photos_that_showed_the_object(twin):
    capture = load_capture(twin.root)
    views = [view for view in capture.views if view.photo not in {Path(photo).stem for photo in twin.object_free}]
    assert reference_candidates(capture, views, None) == list(range(len(views)))
    assert reference_candidates(capture, views, views[2].photo) == [2]
    with pytest.raises(SpinnerfError, match="object-free"):
        reference_candidates(capture, views, Path(twin.object_free[0]).stem)
    with pytest.raises(SpinnerfError, match="nothing-like-it"):
        reference_candidates(capture, views, "nothing-like-it")
    assert choose_reference(views, [], []) is None


def test_the_export_records_its_reference_and_training_takes_it(exported, capsys):
    workspace = exported()
    chosen = workspace.reference_view
    assert chosen in {view.photo for view in exported.capture.split("train")}
    assert f"Reference view: {chosen}" in capsys.readouterr().out
    assert sum("reference" in record for record in workspace.records("export").values()) == 1
    other = next(view.photo for view in exported.capture.split("train") if view.photo != chosen)
    assert exported(reference_view=other).reference_view == other

    from spinnerf_ns.method_configs.spinnerf_inpaint_lite import spinnerf_inpaint_lite

    config = deepcopy(spinnerf_inpaint_lite.config.pipeline.datamanager)
    config.data = workspace.removed
    manager = config.setup(device="cpu")
    assert manager.view_of(manager.train_dataset.image_filenames[manager.reference_index]).photo == other


def test_a_hand_mended_photo_takes_the_references_place(exported, tmp_path, capsys):
    workspace = exported(carry=False)
    before, reference = photos(workspace), workspace.reference_view
    unseen = load_object_mask(workspace.removed / "unseen_masks" / f"{reference}.png")
    mended = np.full((48, 64, 3), (10, 200, 30), np.uint8)  # everything painted over: only the region is taken
    write_png(tmp_path / "mended.png", mended)
    capsys.readouterr()
    exported(reference_photo=tmp_path / "mended.png", carry=False)
    assert f"Reference view: {reference}" in capsys.readouterr().out
    after = photos(workspace)
    assert [name for name in after if after[name] != before[name]] == [reference]
    image = read_image(workspace.removed / "images" / f"{reference}.png")
    original = exported.capture.view(reference).read_image()
    np.testing.assert_array_equal(image[unseen], mended[unseen])
    np.testing.assert_array_equal(image[~unseen], original[~unseen])

    written = (workspace.removed / "transforms.json").stat().st_mtime_ns
    exported(reference_photo=tmp_path / "mended.png", overwrite=False, carry=False)  # fresh
    assert (workspace.removed / "transforms.json").stat().st_mtime_ns == written
    write_png(tmp_path / "mended.png", mended[::-1] // 2)
    with pytest.raises(SpinnerfError, match="--overwrite"):  # mended again: another input
        exported(reference_photo=tmp_path / "mended.png", overwrite=False, carry=False)


def test_without_invention_what_no_photo_shows_is_in_no_training(exported, capsys):
    """Grey pixels that are masked for every reader, no depth, no ray and no point of them."""
    workspace = exported(fill_from_views=True)
    before = pictures_of(workspace)
    capsys.readouterr()
    exported(fill_from_views=True, invention=False)
    assert "is seen in none and is left out" in capsys.readouterr().out
    after, points = pictures_of(workspace), read_ply(workspace.removed / "sparse_pc.ply")
    unseen = {name: load_object_mask(workspace.removed / "unseen_masks" / f"{name}.png") for name in after}
    assert sum(mask.sum() for mask in unseen.values()) > 0
    for name, image in after.items():
        mask = unseen[name]
        assert (image[mask] == 128).all() and np.array_equal(image[~mask], before[name][~mask])
        assert not load_object_mask(workspace.removed / "masks" / f"{name}.png")[mask].any()
        assert not load_depth(workspace.removed / "depths" / f"{name}.npy")[mask].any()
    assert not (points.colors == 128).all(axis=1).any()

    from spinnerf_ns.method_configs.spinnerf_inpaint_lite import spinnerf_inpaint_lite

    config = deepcopy(spinnerf_inpaint_lite.config.pipeline.datamanager)
    config.data = workspace.removed
    manager = config.setup(device="cpu")
    left_out = np.concatenate([unseen[manager.view_of(path).photo].ravel() for path in manager.train_dataset.image_filenames])
    for _ in range(5):
        _, batch = manager.next_train(1000)
        left, patches = left_out[batch["flat"].numpy()], batch["layout"].rows("patches")
        if batch["layout"].patch_rays:  # a patch may reach over them, and then they teach nothing
            assert not batch["patch_valid"].numpy()[left[patches]].any()
            left[patches] = False
        assert not left.any()


@pytest.mark.parametrize("carry", [True, False])
def test_one_invention_is_learnt_from_in_all_photos_that_show_it(exported, carry):
    """Photos that were inpainted each for itself disagree: then the reference alone is believed, and geometry is let alone."""
    from spinnerf_ns.method_configs.spinnerf_inpaint_lite import spinnerf_inpaint_lite
    from spinnerf_ns.nerf.base_model import TRAINS_GEOMETRY

    config = deepcopy(spinnerf_inpaint_lite.config.pipeline.datamanager)
    config.data = exported(carry=carry).removed
    manager = config.setup(device="cpu")
    photos_of = manager.train_pool.locate(manager.reference_pixels)[:, 0].unique()
    assert manager.reference_index in photos_of and (len(photos_of) > 1) == carry
    bundle, batch = manager.next_train(1000)
    assert (bundle.metadata[TRAINS_GEOMETRY][batch["layout"].rows("reference")] == carry).all()
    config.reference_photos = "one"
    manager = config.setup(device="cpu")
    assert manager.train_pool.locate(manager.reference_pixels)[:, 0].unique().tolist() == [manager.reference_index]


def test_depth_measured_in_the_region_is_the_objects_and_is_met_by_no_ray(exported, monkeypatch):
    """Methods whose rays look into the region (per-view inpainting) would grow the object again, in black."""
    from spinnerf_ns.evaluation.baselines import PerViewDataManagerConfig
    from spinnerf_ns.nerf.data import datamanager

    monkeypatch.setattr("spinnerf_ns.stereo.maps.has_stereo", lambda workspace: True)
    everywhere = lambda manager, scale: torch.ones(manager.train_pool.num_pixels)  # noqa: E731
    monkeypatch.setattr(datamanager, "stereo_disparities", everywhere)
    manager = PerViewDataManagerConfig(data=exported().removed).setup(device="cpu")
    assert (manager.stereo_disparity[manager.region_pixels] == 0).all()
    assert manager.stereo_disparity.sum() == manager.train_pool.num_pixels - len(manager.region_pixels)


@pytest.mark.parametrize("kind", ["missing", "size"])
def test_a_mended_photo_that_does_not_fit_is_refused_before_any_work(exported, tmp_path, kind):
    workspace = exported()
    before = photos(workspace)
    if kind == "size":
        write_png(tmp_path / "mended.png", np.zeros((10, 12, 3), np.uint8))
    with pytest.raises(SpinnerfError, match="mended.png.*missing" if kind == "missing" else "12x10.*64x48"):
        exported(reference_photo=tmp_path / "mended.png")
    assert photos(workspace) == before


# ------------------------------------------------------------------------------------------------- inpainters and depth
def test_disparity_by_the_network_changes_depth_in_the_hole_alone(exported, tmp_path):
    options = (f"weights={save_lama(tmp_path / 'small.pt')}", "trust_weights=true", "device=cpu")
    workspace = exported(inpainter="lama", inpainter_options=options, carry=False)
    rim = {photo: load_depth(path) for photo, path in depths(workspace)}
    images = photos(workspace)
    exported(inpainter="lama", inpainter_options=options, disparity_inpainter="lama", carry=False)
    assert photos(workspace) == images
    for photo, path in depths(workspace):
        region = load_object_mask(workspace.removed / "object_masks" / f"{photo}.png")
        z = load_depth(path)
        np.testing.assert_array_equal(z[~region], rim[photo][~region])
        if region.any():
            assert (z[region] > 0).all() and (z[region] != rim[photo][region]).any()
            assert 0.3 < np.median(z[region] / rim[photo][region]) < 3


def depths(workspace):
    return [(path.stem, path) for path in sorted((workspace.removed / "depths").iterdir())]


def test_auto_offline_exports_with_patchmatch(exported, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SPINNERF_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    workspace = exported(inpainter="auto")
    assert capsys.readouterr().out.count("taking 'patchmatch' instead of 'lama'") == 1
    assert workspace.read_manifest()["stages"]["export"]["parameters"]["inpainter"] == "patchmatch"
    with pytest.raises(SpinnerfError, match="big-lama.pt"):
        exported(inpainter="lama")


def test_a_hand_mended_photo_reaches_all_photos(exported, tmp_path):
    mended = np.full((48, 64, 3), (10, 200, 30), np.uint8)
    write_png(tmp_path / "mended.png", mended)
    workspace = exported(reference_photo=tmp_path / "mended.png")
    greens = []
    for photo in workspace.records("export"):
        unseen = load_object_mask(workspace.removed / "unseen_masks" / f"{photo}.png")
        greens.append(
            float(np.median(np.abs(read_image(workspace.removed / "images" / f"{photo}.png")[unseen].astype(int) - mended[0, 0])))
        )
    assert np.median(greens) <= 32, "blending at the rim may take this much away"


# ----------------------------------------------------------------------------------------------------- one invention
def test_what_no_photo_shows_is_drawn_in_few_photos_and_carried_to_the_others(exported, monkeypatch, capsys):
    from spinnerf_ns.removal.inpainters.opencv import OpenCVInpainter

    drawn = []
    fill = OpenCVInpainter.fill

    def counted(self, image, region, photo):
        drawn.append((photo, int(region.sum())))
        return fill(self, image, region, photo)

    monkeypatch.setattr(OpenCVInpainter, "fill", counted)
    workspace = exported(carry=False)
    alone, drawn_alone = photos(workspace), sum(area for _, area in drawn)
    drawn.clear()
    workspace = exported()
    assert 0 < sum(area for _, area in drawn) < 0.7 * drawn_alone
    records = workspace.records("export")
    assert any(record["carried"] > 0 for record in records.values())
    assert "invented" not in capsys.readouterr().out, "other photos were not asked"
    together = photos(workspace)
    reference = workspace.reference_view
    assert together[reference] == alone[reference], "the first reference is drawn as before"
    for view in exported.capture.views:  # whatever was carried, nothing outside the removed region changes
        region = load_object_mask(workspace.removed / "object_masks" / f"{view.photo}.png")
        clean = read_image(workspace.removed / "images" / f"{view.photo}.png")
        np.testing.assert_array_equal(clean[~region], view.read_image()[~region])
    exported(fill_from_views=True)
    assert "seen in none and is invented" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("winner", ["by surface", "whole"])
def test_a_rehearsal_decides_whether_surfaces_are_drawn_alone(exported, twin, monkeypatch, winner):
    from spinnerf_ns.removal import cleaning as module
    from spinnerf_ns.removal.rehearsal import MOST_PHOTOS, Rehearsal, Rehearsed, decide

    found, by_surface = [], []

    def told(*given):
        found.append(decide(*given))
        return Rehearsal(winner, [Rehearsed(winner, 1.5)], 1)

    def counted(*given):
        by_surface.append(len(found))
        return fill_by_surface(*given)

    def once(number, *given):
        tried.append(number)
        return try_photo(number, *given)

    fill_by_surface, try_photo, tried = module.fill_by_surface, module.try_photo, []
    monkeypatch.setattr(module, "try_photo", once)
    monkeypatch.setattr(module, "decide", told)
    monkeypatch.setattr(module, "fill_by_surface", counted)
    for view in exported.capture.views:
        if Path(view.photo).name not in {Path(photo).stem for photo in twin.object_free}:
            z = np.load(twin.truth(view.photo, "depths_with_object")).astype(np.float32)
            save_depth(background_path(exported.workspace, view.photo), z)
    workspace = exported()
    assert found[0].places > 0 and {each.name for each in found[0].table} == {"by surface", "whole"}
    assert len(tried) == len(set(tried)) == MOST_PHOTOS < len(exported.capture.views)
    assert (by_surface.count(1) > 0) == (winner == "by surface")
    assert workspace.records("export")[workspace.reference_view]["rehearsal"] == {winner: 1.5}
