"""What a run leaves: checkpoints that load, what they start from, and pictures and videos of them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from tests.pipelines.conftest import small_config


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
