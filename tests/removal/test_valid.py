"""What may not be used is no source and is not filled; held-out photos are no source; a photo without depth stops nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.conventions import dilate_mask
from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
from spinnerf_ns.files import load_depth, load_object_mask, read_image, save_depth, save_object_mask, write_png
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.export import export_removed, render_stage
from spinnerf_ns.removal.views.fill import fill_from_views
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from tests.removal.views.test_fill import scene

PINK = np.array([255, 0, 255], np.uint8)


@pytest.fixture
def twin(tmp_path):
    """Six photos at 64x48 in each of which somebody in pink stands beside the object, says mask_path; two are held out."""
    made = write_twin(tmp_path / "scene", TwinConfig(width=64, height=48, num_train=6, num_test=1, supersampling=1))
    meta = json.loads((made.root / "transforms.json").read_text())
    for frame in meta["frames"]:
        frame["mask_path"] = frame["file_path"].replace("images/", "masks/")
        mask = load_object_mask(made.truth(frame["file_path"], "object_masks"))
        image = read_image(made.root / frame["file_path"])
        write_png(made.root / frame["file_path"], np.where(walker(mask)[..., None], PINK, image))
        save_object_mask(made.root / frame["mask_path"], ~walker(mask))
    (made.root / "transforms.json").write_text(json.dumps(meta))
    return made


def walker(object_mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: a strip over the object's right edge and beyond it."""
    columns = np.flatnonzero(object_mask.any(axis=0))
    strip = np.zeros_like(object_mask)
    strip[:, max(0, columns[-1] - 1) : columns[-1] + 9] = True
    return strip


def export(twin, tmp_path, truth=None, **settings):
    capture = load_capture(twin.root)
    workspace = Workspace.open(twin.root, tmp_path / "workspace")
    workspace.set_object_free([Path(photo).stem for photo in twin.object_free])

    def true(view):
        mask = load_object_mask(twin.truth(view.photo, "object_masks"))
        return mask, np.load(twin.truth(view.photo, "depths_with_object")).astype(np.float32)

    config = ExportConfig(**{"inpainter": "patchmatch", "overwrite": True, **settings})
    render_stage(capture, workspace, truth or true, config, [], {})
    export_removed(capture, workspace, config)
    return capture, workspace


@pytest.mark.parametrize("from_views", [True, False])
def test_the_captures_own_masks_are_kept(twin, tmp_path, from_views) -> None:
    capture, workspace = export(twin, tmp_path, fill_from_views=from_views)
    removed = load_capture(workspace.removed)
    for view in capture.views:
        valid, region = view.valid_mask(), load_object_mask(workspace.removed / "object_masks" / f"{view.photo}.png")
        image = read_image(workspace.removed / "images" / f"{view.photo}.png")
        assert not valid.all() and not (region & ~valid).any()  # never filled
        assert np.array_equal(image[~region], view.read_image()[~region])
        if view.photo not in workspace.object_free:
            assert region.sum() > 20
            assert not (abs(image[region].astype(int) - PINK).max(axis=-1) < 60).any()  # never a source
        assert np.array_equal(removed.view(view.photo).valid_mask(), valid)  # still masked
        stored = load_object_mask(workspace.removed / "valid_masks" / f"{view.photo}.png")
        assert np.array_equal(stored, valid & ~region)
        assert (load_depth(workspace.removed / "depths" / f"{view.photo}.npy")[~valid] == 0).all()


def test_a_held_out_photo_is_no_source() -> None:
    layers, truths = scene()
    spoilt = [dataclasses.replace(layer, image=layer.image.copy()) for layer in layers]
    for number in (1, 3):
        spoilt[number].image[:] = PINK
    held_out = [dataclasses.replace(layer, is_source=number not in (1, 3)) for number, layer in enumerate(spoilt)]
    filled = fill_from_views(held_out)
    for layer, answer, truth in zip(held_out, filled, truths):
        seen = layer.region & ~answer.unseen_mask
        if layer.is_source:
            assert seen.any() and abs(answer.image[seen].astype(int) - truth[seen]).mean() < 12
        else:
            assert seen.any()  # it is filled itself


def test_the_export_takes_nothing_from_held_out_photos(twin, tmp_path) -> None:
    meta = json.loads((twin.root / "transforms.json").read_text())
    held_out = sorted(meta["train_filenames"])[2:4]
    meta["train_filenames"] = [name for name in meta["train_filenames"] if name not in held_out]
    meta["val_filenames"] = meta["test_filenames"] = [*meta["test_filenames"], *held_out]
    (twin.root / "transforms.json").write_text(json.dumps(meta))
    _, workspace = export(twin, tmp_path)
    before = {path.name: read_image(path) for path in (workspace.removed / "images").iterdir()}
    for name in held_out:
        path = twin.root / name
        write_png(path, 255 - read_image(path))
    export(twin, tmp_path)
    for name, image in before.items():
        same = np.array_equal(image, read_image(workspace.removed / "images" / name))
        assert same == (f"images/{name}" not in held_out)


@pytest.mark.parametrize("planes", [False, True])
def test_a_photo_without_any_depth_stops_nothing(twin, tmp_path, capsys, planes) -> None:
    blind = Path(sorted(twin.train_photos)[2]).stem

    def truth(view):
        mask = load_object_mask(twin.truth(view.photo, "object_masks"))
        z = np.load(twin.truth(view.photo, "depths_with_object")).astype(np.float32)
        return mask, z * (view.photo != blind)

    for photo in map(Path, twin.train_photos if planes else ()):
        z = np.load(twin.truth(str(photo), "depths")).astype(np.float32)
        save_depth(tmp_path / "workspace/background/depths" / f"{photo.stem}.npy", z * (photo.stem != blind))
    _, workspace = export(twin, tmp_path, truth, fill_from_views=False, carry=False)
    assert f"{blind}: no depth is known in this photo" in " ".join(capsys.readouterr().out.split())
    region = load_object_mask(workspace.removed / "object_masks" / f"{blind}.png")
    assert region.any() and (load_depth(workspace.removed / "depths" / f"{blind}.npy") == 0).all()
    image = read_image(workspace.removed / "images" / f"{blind}.png")
    true = load_object_mask(twin.truth(f"images/{blind}.png", "object_masks"))
    assert (image[region & dilate_mask(true)] != load_capture(twin.root).view(blind).read_image()[region & dilate_mask(true)]).any()
