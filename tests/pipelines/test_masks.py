"""Masks that training starts from, mask rounds, and whose mask is exported."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask, save_object_mask
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from tests.pipelines.conftest import small_config


def test_the_manifest_says_whose_mask_was_taken_of_each_photo(scene, seg_run):
    workspace = Workspace.open(scene.root)
    records = workspace.records("render")
    assert set(records) == {Path(photo).stem for photo in scene.train_photos}
    for photo, record in records.items():
        assert record["mask"] in ("field", "tracked", "others")
        assert {"agreement", "tracked_with_others", "field_with_others", "depth_at_points"} <= set(record)
        if record["mask"] == "tracked":
            both = [load_object_mask(workspace.mask_path(kind, photo)) for kind in ("masks_2d", "masks_3d")]
            assert np.array_equal(*both)


def always_the_field_s(monkeypatch):
    """The field is believed whatever the tracked masks say: these runs have hardly learnt anything."""
    from spinnerf_ns.nerf import mask_choice
    from spinnerf_ns.nerf.refinement import Choice, refined

    def choose(view, objectness, label, others, trusted):
        return Choice(refined(objectness, label), "field", 1.0, 1.0, 1.0, doubtful=False)

    monkeypatch.setattr(mask_choice, "choose", choose)


def test_masks_of_a_round_take_the_tracked_ones_place(scene, seg_run, monkeypatch):
    from spinnerf_ns.evaluation.baselines import load_pipeline
    from spinnerf_ns.nerf.refinement import refined
    from spinnerf_ns.nerf.rendering import render_objectness

    always_the_field_s(monkeypatch)
    pipeline = load_pipeline(seg_run)
    manager = pipeline.datamanager
    before = manager.labels.clone()
    pipeline.refine_masks()
    start, end = manager.train_pool.starts[:2].tolist()
    camera, downscale = manager.train_dataset.cameras[0:1], pipeline.config.mask_round_downscale
    objectness = render_objectness(pipeline.model, camera, downscale)
    if (objectness > 0.5).any():
        expected = refined(objectness, before[start:end].view(objectness.shape).numpy())
        assert torch.equal(manager.labels[start:end].bool(), torch.from_numpy(expected).flatten())
    else:
        assert torch.equal(manager.labels[start:end], before[start:end])


def test_a_checkpoint_keeps_the_refined_masks(scene, seg_run, monkeypatch):
    """A resumed run goes on with what it trained on, not with the tracked masks."""
    from spinnerf_ns.evaluation.baselines import load_pipeline
    from spinnerf_ns.nerf import rendering

    def all_but_the_top(model, camera, downscale):
        objectness = np.ones((int(camera.height), int(camera.width)), np.float32)
        objectness[:2] = 0
        return objectness

    monkeypatch.setattr(rendering, "render_objectness", all_but_the_top)
    always_the_field_s(monkeypatch)
    pipeline = load_pipeline(seg_run)
    pipeline.refine_masks()
    refined = pipeline.datamanager.labels.clone()
    state = pipeline.state_dict()
    assert refined.float().mean() > 0.9
    assert sum(value.numel() for key, value in state.items() if not key.startswith("_model.")) < refined.numel() / 8

    resumed = load_pipeline(seg_run)
    assert resumed.datamanager.labels.float().mean() < 0.5
    resumed.load_state_dict(state)
    assert torch.equal(resumed.datamanager.labels, refined)
    assert {key: value.tolist() for key, value in resumed.state_dict().items() if not key.startswith("_model.")} == {
        key: value.tolist() for key, value in state.items() if not key.startswith("_model.")
    }

    before = {key: value for key, value in state.items() if key.startswith("_model.")}  # a checkpoint from before
    untouched = load_pipeline(seg_run)
    tracked = untouched.datamanager.labels.clone()
    untouched.load_state_dict(before)
    assert torch.equal(untouched.datamanager.labels, tracked)


def test_refined_masks_of_other_photos_are_not_taken(seg_run, capsys):
    from spinnerf_ns.evaluation.baselines import load_pipeline

    pipeline = load_pipeline(seg_run)
    tracked = pipeline.datamanager.labels.clone()
    other = pipeline.datamanager.packed_labels()
    pipeline.datamanager.labels = pipeline.datamanager.labels[:-1]
    pipeline.load_state_dict({**pipeline.state_dict(), "refined_labels": other})
    assert torch.equal(pipeline.datamanager.labels, tracked[:-1])
    assert "masks" in capsys.readouterr().out


def test_one_annotated_view_is_enough_to_start(scene, tmp_path):
    """Photos without a mask train colour only: their labels are unknown."""
    from spinnerf_ns.nerf.losses import UNKNOWN

    shutil.copytree(scene.root, tmp_path / "scene", ignore=shutil.ignore_patterns("spinnerf"))
    capture = load_capture(tmp_path / "scene")
    first = capture.split("train")[0].photo
    workspace = Workspace.open(tmp_path / "scene")
    workspace.set_object_free([Path(photo).stem for photo in scene.object_free])
    mask = load_object_mask(Workspace.open(scene.root).mask_path("masks_2d", first))
    save_object_mask(workspace.mask_path("masks_2d", first), mask)
    config = small_config("spinnerf-seg-lite").pipeline.datamanager
    config.data = tmp_path / "scene"
    manager = config.setup(device="cpu")
    known = manager.labels != UNKNOWN
    assert int(known.sum()) == mask.size and int((manager.labels == 1).sum()) == int(mask.sum())
    assert len(manager.train_dataset) == len(scene.train_photos)


def test_no_mask_at_all_says_which_command_makes_them(scene, tmp_path):
    shutil.copytree(scene.root, tmp_path / "scene", ignore=shutil.ignore_patterns("spinnerf"))
    config = small_config("spinnerf-seg-lite").pipeline.datamanager
    config.data = tmp_path / "scene"
    with pytest.raises(SpinnerfError, match="ns-spinnerf segment"):
        config.setup(device="cpu")


def test_inpainting_without_an_export_says_which_command_makes_it(scene, tmp_path):
    shutil.copytree(scene.root, tmp_path / "scene", ignore=shutil.ignore_patterns("spinnerf"))
    config = small_config("spinnerf-inpaint-lite").pipeline.datamanager
    config.data = tmp_path / "scene"
    with pytest.raises(SpinnerfError, match="ns-train spinnerf-seg"):
        config.setup(device="cpu")
