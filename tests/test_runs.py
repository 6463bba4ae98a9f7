"""Runs: how many steps they have, and finding what they were made from wherever it is now."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.runs import KEY_FILE, find, find_checkpoint, load_run, method_config, with_steps


@pytest.mark.parametrize("method", ["spinnerf-seg", "spinnerf-seg-lite", "spinnerf-inpaint", "spinnerf-inpaint-lite"])
def test_other_steps_move_all_that_is_said_in_steps(method):
    full, half = method_config(method), method_config(method)
    steps = full.max_num_iterations
    with_steps(half, steps // 2)
    assert half.max_num_iterations == steps // 2
    for name, group in full.optimizers.items():
        assert half.optimizers[name]["scheduler"].max_steps == round(group["scheduler"].max_steps / 2)
    model = (full.pipeline.model, half.pipeline.model)
    for name in ("proposal_warmup", "proposal_weights_anneal_max_num_iters"):
        assert getattr(model[1], name) == round(getattr(model[0], name) / 2)
    if "seg" in method:
        rounds = full.pipeline.mask_round_steps
        assert rounds and half.pipeline.mask_round_steps == tuple(round(step / 2) for step in rounds)
    else:
        assert half.pipeline.datamanager.patch_start_step == full.pipeline.datamanager.patch_start_step / 2
    assert method_config(method).max_num_iterations == steps, "the registered method was changed"


def test_mask_rounds_stay_within_a_handful_of_steps():
    config = with_steps(method_config("spinnerf-seg-lite"), 2)
    assert all(0 < step <= 2 for step in config.pipeline.mask_round_steps)
    assert config.pipeline.model.proposal_warmup >= 1


@pytest.mark.parametrize("steps", [0, -5])
def test_no_steps_are_refused(steps):
    with pytest.raises(SpinnerfError, match=f"steps {steps}: .*at least 1"):
        with_steps(method_config("spinnerf-seg-lite"), steps)


# -------------------------------------------------------------------------------------------------------------- on disk
def write_run(root: Path, data: Path | str, output_dir: Path | str, checkpoint: bytes | None = None, workspace=None) -> Path:
    """A run's folder as ns-train leaves it, without having trained; its config.yml."""
    config = method_config("spinnerf-seg-lite")
    config.data = config.pipeline.datamanager.data = Path(data)
    config.pipeline.datamanager.workspace = workspace
    config.output_dir, config.experiment_name, config.timestamp = Path(output_dir), "scene", "now"
    folder = root / "scene" / config.method_name / "now"
    (folder / "nerfstudio_models").mkdir(parents=True)
    import yaml

    (folder / "config.yml").write_text(yaml.dump(config))
    path = folder / "nerfstudio_models/step-000000009.ckpt"
    if checkpoint is not None:
        path.write_bytes(checkpoint)
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", "x")
    return folder / "config.yml"


def test_a_capture_renamed_with_its_runs_inside_is_found(tmp_path):
    old, new = tmp_path / "scene", tmp_path / "scene, renamed [1]"
    old.mkdir()
    write_run(old / "spinnerf/runs", old, old / "spinnerf/runs", workspace=old / "spinnerf")
    old.rename(new)
    path = new / "spinnerf/runs/scene/spinnerf-seg-lite/now/config.yml"
    config = load_run(path)
    assert config.data == config.pipeline.datamanager.data == new
    assert config.pipeline.datamanager.workspace == new / "spinnerf"
    assert config.load_dir == path.parent / "nerfstudio_models" and config.load_step == 9


def test_relative_paths_lead_to_the_capture_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "captures/vase").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    path = write_run(tmp_path / "outputs", "captures/vase", "outputs")
    assert load_run(path).data == Path("captures/vase")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_run(path).data == tmp_path / "captures/vase"
    assert load_run(Path(os.path.relpath(path))).data == tmp_path / "captures/vase"


def test_a_capture_moved_away_is_asked_for_and_taken(tmp_path):
    path = write_run(tmp_path / "outputs", tmp_path / "gone", tmp_path / "outputs")
    with pytest.raises(SpinnerfError, match=r"gone any more; say where it is: ns-spinnerf evaluate --data FOLDER --load-config "):
        load_run(path, program="evaluate")
    with pytest.raises(SpinnerfError, match="say where it is"):
        load_run(path, tmp_path / "nowhere")
    (tmp_path / "here").mkdir()
    assert load_run(path, tmp_path / "here").data == tmp_path / "here"


@pytest.mark.parametrize("what", ["none", "empty", "cut short", "no folder"])
def test_a_checkpoint_that_is_gone_or_cut_short_is_one_line(tmp_path, what):
    path = write_run(tmp_path, tmp_path, tmp_path)
    checkpoint = path.parent / "nerfstudio_models/step-000000009.ckpt"
    if what in ("none", "no folder"):
        checkpoint.unlink()
        if what == "no folder":
            checkpoint.parent.rmdir()
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[: 0 if what == "empty" else -10])
    with pytest.raises(SpinnerfError, match="train again: ns-train spinnerf-seg-lite --data"):
        load_run(path)


def test_of_two_checkpoints_the_broken_one_may_be_deleted(tmp_path):
    path = write_run(tmp_path, tmp_path, tmp_path)
    later = path.parent / "nerfstudio_models/step-000000019.ckpt"
    later.write_bytes(b"PK")
    with pytest.raises(SpinnerfError, match="step-000000019.ckpt: cut short.*delete it, so that step-000000009.ckpt is taken"):
        load_run(path)
    later.unlink()
    (later.parent / "notes.txt").write_text("nobody's checkpoint")
    assert load_run(path).load_step == 9


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"sha256": 1}', b"\xff\xfe"])
def test_a_damaged_key_is_of_no_run(tmp_path, content):
    path = write_run(tmp_path, tmp_path, tmp_path)
    folder = tmp_path / "scene/spinnerf-seg-lite"
    key = path.parent / KEY_FILE
    key.write_text(json.dumps({"sha256": "wanted"}))
    assert find(folder, "wanted") == path
    key.write_bytes(content)
    assert find(folder, "wanted") is None


def test_a_finished_run_without_its_checkpoint_is_trained_again_and_said(tmp_path, capsys):
    path = write_run(tmp_path, tmp_path, tmp_path)
    (path.parent / KEY_FILE).write_text(json.dumps({"sha256": "wanted"}))
    from spinnerf_ns.runs import read_config

    find_checkpoint(path, read_config(path)).unlink()
    assert find(tmp_path / "scene/spinnerf-seg-lite", "wanted") is None
    assert "Not used" in capsys.readouterr().out
    path.write_text("emptied")
    assert find(tmp_path / "scene/spinnerf-seg-lite", "wanted") is None
