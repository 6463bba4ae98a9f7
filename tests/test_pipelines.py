"""From masks to the object-free capture and back into nerfstudio, on a small made-up scene."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.twin import TwinConfig, TwinScene, write_twin
from spinnerf_ns.files import load_object_mask, read_image, save_object_mask
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from tests.nerf.conftest import SMALL, no_network

STEPS = 80


def small_config(method: str, **settings):
    """A registered method with a tiny grid and few steps."""
    from spinnerf_ns.runs import apply, method_config

    config = method_config(method)
    config.max_num_iterations = STEPS
    for name, value in SMALL.items():
        setattr(config.pipeline.model, name, value)
    config.pipeline.datamanager.train_num_rays_per_batch = 128
    return apply(config, settings)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> TwinScene:
    """A twin of eight small photos with exact masks as the tracked ones."""
    root = tmp_path_factory.mktemp("twin") / "scene"
    twin = write_twin(root, TwinConfig(width=64, height=48, num_train=6, num_test=2, supersampling=1))
    workspace = Workspace.open(root)
    workspace.set_object_free([Path(photo).stem for photo in twin.object_free])
    for photo in twin.train_photos:
        mask = load_object_mask(twin.truth(photo, "object_masks"))
        save_object_mask(workspace.mask_path("masks_2d", Path(photo).stem), mask)
    return twin


@pytest.fixture(scope="module")
def seg_run(scene, tmp_path_factory) -> Path:
    """A short spinnerf-seg run on it, exported; its config.yml."""
    from spinnerf_ns.runs import train

    # So few steps have none to spare: objectness learns in each.
    settings = {"pipeline.mask_round_steps": (STEPS // 2,), "pipeline.model.objectness_every": 1}
    config = small_config("spinnerf-seg-lite", **settings)
    with no_network():
        return train(config, scene.root, tmp_path_factory.mktemp("runs"), "test").config_path


@pytest.fixture(scope="module")
def inpaint_run(scene, seg_run) -> Path:
    """A short spinnerf-inpaint run on the export; its config.yml. --data is the scene, not the export."""
    from spinnerf_ns.runs import train

    config = small_config("spinnerf-inpaint-lite", **{"pipeline.datamanager.patch_start_step": 2})
    config.pipeline.model.perceptual_loss = "ssim"
    with no_network():
        return train(config, scene.root, seg_run.parents[3], "test").config_path


def test_export_writes_a_dataset_with_equal_poses_and_untouched_pixels(scene, seg_run):
    capture, workspace = load_capture(scene.root), Workspace.open(scene.root)
    removed = load_capture(workspace.removed)
    assert removed.photos == capture.photos
    for view in capture.views:
        twin = removed.view(view.photo)
        np.testing.assert_allclose(twin.c2w, view.c2w, atol=1e-5)
        np.testing.assert_allclose(removed.cameras([twin]).camera_to_worlds, capture.cameras([view]).camera_to_worlds, atol=1e-5)
        region = load_object_mask(workspace.removed / "object_masks" / f"{view.photo}.png")
        assert np.array_equal(twin.read_image()[~region], view.read_image()[~region])
        if view.photo in workspace.object_free:
            assert not region.any()
    names = json.loads((workspace.removed / "transforms.json").read_text())
    assert {Path(name).stem for name in names["train_filenames"]} == {Path(photo).stem for photo in scene.train_photos}


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


def test_exported_depth_reads_back_through_nerfstudio(scene, seg_run):
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from nerfstudio.data.datasets.depth_dataset import DepthDataset

    from spinnerf_ns.files import load_depth

    removed = Workspace.open(scene.root).removed
    outputs = NerfstudioDataParserConfig(data=removed, load_3D_points=False).setup().get_dataparser_outputs("train")
    dataset = DepthDataset(outputs)
    for index, path in enumerate(outputs.image_filenames):
        expected = load_depth(removed / "depths" / f"{path.stem}.npy") * outputs.dataparser_scale
        np.testing.assert_allclose(dataset[index]["depth_image"][..., 0].numpy(), expected, rtol=1e-4)


def test_export_fits_a_field_of_what_stays_and_leaves_the_data_manager_as_it_was(scene, seg_run):
    """The regions are not looked at; the same export gives the same field, bit by bit."""
    from spinnerf_ns.evaluation.baselines import load_pipeline
    from spinnerf_ns.nerf.background_field import BackgroundField, fit_background

    workspace = Workspace.open(scene.root)
    kept = BackgroundField.load(workspace.root / "background" / "field.pt")
    assert {path.stem for path in (workspace.root / "background" / "depths").iterdir()} == {
        Path(photo).stem for photo in scene.train_photos
    }
    pipeline = load_pipeline(seg_run)
    manager = pipeline.datamanager
    before = (manager.train_pool, manager.sparse_pixels, manager.layout)
    files = [workspace.removed / "object_masks" / path.name for path in manager.train_dataset.image_filenames]
    regions = torch.from_numpy(np.concatenate([load_object_mask(file).reshape(-1) for file in files]))
    drawn, plain = [], manager.rays
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manager, "rays", lambda pool, flat, *rest: drawn.append(flat) or plain(pool, flat, *rest))
        model = fit_background(pipeline.model, manager, ~regions, STEPS)
    assert not regions[torch.cat(drawn)].any()
    assert before == (manager.train_pool, manager.sparse_pixels, manager.layout)
    assert not model.training
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in kept.state.items())


def test_inpainting_starts_from_that_field_unless_told_not_to(scene, seg_run, tmp_path, capsys, monkeypatch):
    from spinnerf_ns.nerf.background_field import BackgroundField
    from spinnerf_ns.nerf.inpaint_model import SpinnerfInpaintModel
    from spinnerf_ns.runs import train

    skip, warm = SpinnerfInpaintModel.skip_warm_up, []
    monkeypatch.setattr(SpinnerfInpaintModel, "skip_warm_up", lambda model: warm.append(model) or skip(model))

    kept = BackgroundField.load(Workspace.open(scene.root).root / "background" / "field.pt")
    name = "field.mlp_head.layers.0.weight"
    for start in (True, False):
        config = small_config("spinnerf-inpaint-lite", **{"pipeline.start_from_background": start})
        config.max_num_iterations = 1
        for group in config.optimizers.values():
            group["optimizer"].lr = group["scheduler"].lr_final = 1e-12
        run = train(config, scene.root, tmp_path, f"start-{start}")
        checkpoint = next((run.config_path.parent / "nerfstudio_models").glob("*.ckpt"))
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["pipeline"]
        assert torch.allclose(state[f"_model.{name}"], kept.state[name], atol=1e-6) == start
        assert ("Started from the export's field" in capsys.readouterr().out) == start
        assert len(warm) == 1  # the first of the two runs
        if start:  # a resumed run is not started anew, but it knows that it went on from a trained field
            config.load_dir, config.max_num_iterations = checkpoint.parent, 2
            train(config, scene.root, tmp_path, "resumed")
            assert warm.pop() is not warm[0]
            assert "Started from" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["new", "old", "several GPUs", "several GPUs, old"])
def test_inpainting_checkpoints_of_all_kinds_load(inpaint_run, kind):
    """Of one and of several GPUs; and from before a model knew what it was started from."""
    from spinnerf_ns.evaluation.baselines import load_pipeline

    pipeline = load_pipeline(inpaint_run)
    state = {key: torch.zeros_like(value) for key, value in pipeline.state_dict().items()}
    state["_model.started_from_field"] = torch.tensor(True)
    if "old" in kind:
        del state["_model.started_from_field"]
    if "several" in kind:
        state = {key.replace("_model.", "_model.module.", 1): value for key, value in state.items()}
    pipeline.load_state_dict(state)
    assert pipeline.model.started_from_field == ("old" not in kind)
    assert not any(parameter.any() for parameter in pipeline.model.parameters())


def test_second_export_is_fresh_and_other_settings_want_overwrite(scene, seg_run):
    from spinnerf_ns.pipelines import export_run

    removed = Workspace.open(scene.root).removed
    before = (removed / "transforms.json").stat().st_mtime_ns
    export_run(seg_run, ExportConfig())
    assert (removed / "transforms.json").stat().st_mtime_ns == before
    with pytest.raises(SpinnerfError, match="--overwrite"):
        export_run(seg_run, ExportConfig(dilation=20.0))
    assert (removed / "transforms.json").stat().st_mtime_ns == before


def test_inpainting_run_records_what_it_used(inpaint_run):
    record = json.loads((inpaint_run.parent / "spinnerf_run.json").read_text())
    assert record["perceptual_loss"] == "ssim"
    assert record["layout"]["patches"][0] > 0 and record["layout"]["depth"] > 0


def test_checkpoint_loads_with_the_installed_torch_and_renders(inpaint_run, scene):
    from spinnerf_ns.evaluation.baselines import load_pipeline
    from spinnerf_ns.nerf.rendering import render_pixels

    capture = load_capture(scene.root)
    model = load_pipeline(inpaint_run).model
    view = capture.views[0]
    rendered = render_pixels(model, capture.cameras([view]), ("rgb", "z"))
    assert rendered["rgb"].shape == (view.height, view.width, 3)
    assert np.isfinite(rendered["z"]).all()


def test_rendering_some_pixels_equals_rendering_all(seg_run, scene):
    from spinnerf_ns.evaluation.baselines import load_pipeline
    from spinnerf_ns.nerf.rendering import render_pixels

    capture = load_capture(scene.root)
    model = load_pipeline(seg_run).model
    pixels = np.zeros((48, 64), dtype=bool)
    pixels[10:20, 5:40] = True
    everything = render_pixels(model, capture.cameras(capture.views[:1]), ("objectness",))["objectness"]
    some = render_pixels(model, capture.cameras(capture.views[:1]), ("objectness",), pixels)["objectness"]
    np.testing.assert_allclose(some[pixels], everything[pixels], atol=1e-5)
    assert (some[~pixels] == 0).all()


def test_foreign_checkpoint_is_refused(seg_run, inpaint_run):
    from nerfstudio.utils.eval_utils import eval_setup

    copy = inpaint_run.parent.parent / "foreign"
    shutil.copytree(inpaint_run.parent, copy, dirs_exist_ok=True)
    text = (copy / "config.yml").read_text().replace(inpaint_run.parent.name, "foreign")
    (copy / "config.yml").write_text(text)
    checkpoint = next((copy / "nerfstudio_models").glob("*.ckpt"))
    shutil.copy(next((seg_run.parent / "nerfstudio_models").glob("*.ckpt")), checkpoint)
    with pytest.raises(SpinnerfError, match="unexpected .*objectness_field"):
        eval_setup(copy / "config.yml")


def always_the_field_s(monkeypatch):
    """The field is believed whatever the tracked masks say: these runs have hardly learnt anything."""
    from spinnerf_ns.nerf import mask_choice
    from spinnerf_ns.nerf.refinement import Choice, refined

    def choose(view, objectness, label, others, trusted, fine):
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


def test_a_viewer_sees_the_object_tinted_and_a_new_field_knows_what_was_invented(seg_run, inpaint_run):
    from spinnerf_ns.evaluation.baselines import load_pipeline
    from spinnerf_ns.nerf.rendering import render_pixels

    for run in (seg_run, inpaint_run):
        manager = load_pipeline(run).datamanager
        shown, photo = manager.train_dataset[1], manager.train_dataset.get_data(1)  # so short a run loses the object in some
        is_object = shown.get("object_label", shown.get("object_mask"))[..., 0] == 1
        assert is_object.any() and (shown["image"][is_object] != photo["image"][is_object]).any()
        assert torch.equal(shown["image"][~is_object], photo["image"][~is_object])
    model, cameras = load_pipeline(inpaint_run).model, manager.train_dataset.cameras
    invented = render_pixels(model, cameras[0:1], ("provenance",))["provenance"]
    assert set(np.unique(invented)) <= {0, 1}


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


SLOW_EXPORT = """
import sys, time
from pathlib import Path
from spinnerf_ns.removal.inpainters.opencv import OpenCVInpainter
plain = OpenCVInpainter.inpaint
def slow(self, *args, **kwargs):
    time.sleep(0.7)
    print("inpainted", flush=True)
    return plain(self, *args, **kwargs)
OpenCVInpainter.inpaint = slow
from spinnerf_ns.pipelines import export_run
from spinnerf_ns.removal.config import ExportConfig
settings = {"inpainter": "opencv", "fill_from_views": False, "by_surface": False, "carry": False}
export_run(Path(sys.argv[1]), ExportConfig(**settings, overwrite=True))
"""


def test_export_killed_midway_leaves_nothing_finished_and_resumes(scene, seg_run):
    """kill -9 while photos are being inpainted: the old export stands; the next run goes on where it was."""
    from spinnerf_ns.pipelines import export_run

    workspace = Workspace.open(scene.root)
    before = {path: path.read_bytes() for path in workspace.removed.rglob("*") if path.is_file()}
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_EXPORT, str(seg_run)], stdout=subprocess.PIPE, text=True, env=environment
    )
    deadline, lines = time.monotonic() + 120, 0
    assert process.stdout is not None
    for line in process.stdout:
        lines += line.strip() == "inpainted"
        if lines == 4 or time.monotonic() > deadline:  # the reference view comes first, and is kept with its turn
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lines == 4
    assert {path: path.read_bytes() for path in workspace.removed.rglob("*") if path.is_file()} == before
    resumed = []
    from spinnerf_ns.removal.inpainters.opencv import OpenCVInpainter

    plain = OpenCVInpainter.inpaint

    def counted(self, image, region, photo=None):
        resumed.append(photo)
        return plain(self, image, region, photo)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenCVInpainter, "inpaint", counted)
        settings = {"inpainter": "opencv", "fill_from_views": False, "by_surface": False, "carry": False}
        export_run(seg_run, ExportConfig(**settings, overwrite=True))
    assert 0 < len(resumed) <= len(scene.train_photos) - 2  # two photos at least were done; the reference view is drawn again
    for view in load_capture(workspace.removed).views:
        assert read_image(view.path).shape == (48, 64, 3)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("layout", ["side", "wipe"])
def test_before_and_after_in_one_video(scene, inpaint_run, tmp_path, layout):
    import mediapy

    from spinnerf_ns.cli.video import Video, segmentation_run

    assert segmentation_run(inpaint_run).parent.parent.name == "spinnerf-seg-lite"
    output = tmp_path / "before-after.mp4"
    Video(inpaint_run, layout=layout, output=output, steps_between=1, downscale=2).main()
    frames = mediapy.read_video(output)
    height, width = frames.shape[1:3]
    assert (height, width) == (24, 64 if layout == "side" else 32)
    halves = frames[0, :, : width // 2].astype(int), frames[0, :, width // 2 :].astype(int)
    if layout == "side":
        assert 1 < np.abs(halves[0] - halves[1]).mean() < 60, "the same view, once with the object"


def test_a_video_that_cannot_be_made_says_why(scene, seg_run, tmp_path):
    from spinnerf_ns.cli.video import Video

    with pytest.raises(SpinnerfError, match="--before CONFIG"):
        Video(seg_run, output=tmp_path / "x.mp4").main()
    with pytest.raises(SpinnerfError, match="ends with .mp4"):
        Video(seg_run, output=tmp_path / "x.gif").main()
    with pytest.raises(SpinnerfError, match="camera path in ns-viewer"):
        Video(seg_run, camera_path=tmp_path / "none.json", output=tmp_path / "x.mp4").main()
    assert not list(tmp_path.iterdir())


def test_an_applied_transform_moves_nothing_in_the_export(scene, seg_run, tmp_path):
    """What ns-process-data did to COLMAP's world is told in the file; it must not move the hull that is emptied."""
    from spinnerf_ns.evaluation.baselines import load_pipeline
    from spinnerf_ns.runs import read_config

    pipeline = load_pipeline(seg_run)
    checkpoint = next((seg_run.parent / "nerfstudio_models").glob("*.ckpt"))
    applied = {"applied_transform": [[0, 0, 1, 0.5], [1, 0, 0, 0], [0, 1, 0, -1]], "applied_scale": 0.25}
    written = []
    for name, further in (("plain", {}), ("applied", applied)):
        folder = tmp_path / name
        shutil.copytree(
            scene.root, folder, ignore=shutil.ignore_patterns("runs", "removed", "background", "layers", "masks_3d", ".*")
        )
        manifest = Workspace.open(folder).read_manifest()
        Workspace.open(folder).write_manifest({**manifest, "stages": {}})
        meta = json.loads((folder / "transforms.json").read_text())
        (folder / "transforms.json").write_text(json.dumps({**meta, **further}))
        config = read_config(seg_run).pipeline
        config.datamanager.data = folder
        other = config.setup(device="cpu", test_mode="test").eval()
        other.load_state_dict(pipeline.state_dict())
        other.export(checkpoint, ExportConfig(inpainter="opencv", background_steps=5, by_surface=False))
        files = [
            *folder.glob("spinnerf/background/depths/*"),
            *folder.glob("spinnerf/removed/*/*.*"),
        ]  # not its COLMAP model: COLMAP's own world
        written.append({path.relative_to(folder): path for path in sorted(files)})
    assert written[0].keys() == written[1].keys()
    differ, unit = [], applied["applied_scale"]
    for name, path in written[0].items():
        other = written[1][name]
        if name.suffix == ".npy":
            scale = unit if "removed" in name.parts else 1.0  # removed/ has nerfstudio's unit: see scene/removed.py
            same = np.allclose(np.load(path), np.load(other) * scale, rtol=1e-5)
        else:
            same = path.read_bytes() == other.read_bytes()
        differ += [] if same else [name]
    assert len(written[0]) > 30 and not differ
