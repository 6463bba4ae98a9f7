"""A trained and exported capture that was moved, damaged or interrupted: the same command mends it, or says what does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from spinnerf_ns.cli import main
from spinnerf_ns.cli.remove import Remove, remove
from spinnerf_ns.cli.segment import Segment
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
from spinnerf_ns.files import load_object_mask, read_image, save_object_mask, write_png
from spinnerf_ns.nerf.data.inpaint_data import find_removed
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.runs import read_config
from spinnerf_ns.scene.workspace import Workspace
from tests.nerf.conftest import no_network
from tests.pipelines.conftest import small_config

STEPS = 4


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A capture with masks, a run inside its workspace, as `remove` leaves it, and its export."""
    from spinnerf_ns.pipelines import export_run
    from spinnerf_ns.runs import train

    root = tmp_path_factory.mktemp("broken") / "scene"
    twin = write_twin(root, TwinConfig(width=48, height=36, num_train=4, num_test=2, supersampling=1))
    workspace = Workspace.open(root)
    workspace.set_object_free([Path(photo).stem for photo in twin.object_free])
    for photo in twin.train_photos:
        mask = load_object_mask(twin.truth(photo, "object_masks"))
        save_object_mask(workspace.mask_path("masks_2d", Path(photo).stem), mask)
    settings = {
        "pipeline.export_on_completion": False, "pipeline.mask_round_steps": (), "pipeline.datamanager.workspace": workspace.root,
    }  # fmt: skip
    config = small_config("spinnerf-seg-lite", **settings)
    config.max_num_iterations = STEPS
    with no_network():
        run = train(config, root, workspace.root / "runs", "remove")
        export_run(run.config_path, EXPORT)
    return root


EXPORT = ExportConfig(inpainter="opencv", fill_from_views=False, by_surface=False)
OPTIONS = ["--inpainter", "opencv", "--no-fill-from-views", "--no-by-surface"]


@pytest.fixture
def capture(template, tmp_path) -> Path:
    """A copy to break."""
    return shutil.copytree(template, tmp_path / "scene")


def config_of(scene: Path) -> Path:
    return next((scene / "spinnerf/runs").rglob("config.yml"))


def run_export(scene: Path, capsys, *options: str) -> tuple[int, list[str]]:
    """`ns-spinnerf export`: its exit status, and the lines of its error."""
    capsys.readouterr()
    status = 0
    try:
        main(["export", "--load-config", str(config_of(scene)), *OPTIONS, *options])
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    print(captured.out, captured.err)  # for whoever reads a failure
    return status, captured.err.strip().splitlines()


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# --------------------------------------------------------------------------------------------------------------- moved
def test_a_renamed_capture_is_exported_by_the_same_command_and_is_fresh(capture, template, capsys):
    hidden = template.with_name("hidden")  # what the run's config.yml names is not there any more
    template.rename(hidden)
    try:
        renamed = capture.rename(capture.with_name("renamed [1] scene"))
        before = times(renamed / "spinnerf/removed")
        assert run_export(renamed, capsys) == (0, [])
        assert times(renamed / "spinnerf/removed") == before
    finally:
        hidden.rename(template)


def test_labels_are_found_by_a_workspace_that_was_moved_and_missed_in_a_line(capture, tmp_path, capsys):
    """The object mask of an object-free photo: without it, psnr_mask is dropped."""
    elsewhere = tmp_path / "work/vase"
    workspace = Workspace.open(capture)
    Workspace.open(capture, elsewhere).write_manifest(workspace.read_manifest())
    shutil.copytree(workspace.removed, elsewhere / "removed")
    photo = next(iter(workspace.object_free))

    def label_known() -> bool:
        config = small_config("spinnerf-inpaint-lite").pipeline.datamanager
        config.data = elsewhere / "removed"
        manager = config._target.__new__(config._target)
        manager.config, manager._workspace, manager._removed = config, None, {}
        manager._views_by_path = {}
        manager.view_of = lambda path: SimpleNamespace(photo=photo)
        return bool(manager.extras(Path("x.png"), (36, 48))["object_mask"].any())

    capsys.readouterr()
    assert label_known() and "No true object masks" not in capsys.readouterr().out
    capture.rename(capture.with_name("moved away"))
    assert not label_known()
    said = capsys.readouterr().out
    assert "No true object masks" in said and "psnr_mask" in said and len(said.splitlines()) == 1


# ------------------------------------------------------------------------------------------------------------- damaged
@pytest.mark.parametrize("how", ["cut short", "emptied", "gone", "another program's"])
def test_a_damaged_checkpoint_is_one_line(capture, template, capsys, how):
    path = next((capture / "spinnerf/runs").rglob("*.ckpt"))
    content = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes({"cut short": content[:-100], "emptied": b"", "another program's": b"\x80\x02}q\x00."}[how])
    status, lines = run_export(capture, capsys)
    assert status == 1 and len(lines) == 1 and "train again: ns-train spinnerf-seg-lite --data" in lines[0]


@pytest.mark.parametrize("content", [b"", b'{"frames": [', None])
def test_a_damaged_export_is_a_line_for_training_and_mended_by_exporting_again(capture, capsys, content):
    workspace = Workspace.open(capture)
    file = workspace.removed / "transforms.json"
    before, others = file.read_bytes(), times(workspace.removed / "images")
    file.write_bytes(content) if content is not None else file.unlink()
    with pytest.raises(SpinnerfError, match="make it again: ns-spinnerf export --load-config .*config.yml") as raised:
        find_removed(workspace.removed)
    assert str(config_of(capture)) in str(raised.value)
    assert run_export(capture, capsys) == (0, [])
    assert file.read_bytes() == before and times(workspace.removed / "images") == others


@pytest.mark.parametrize("how", ["cut short", "emptied", "gone"])
def test_a_damaged_field_is_a_line_for_training_and_mended_by_exporting_again(capture, capsys, how):
    from spinnerf_ns.nerf.background_field import BackgroundField

    path = Workspace.open(capture).root / "background/field.pt"
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-50] if how == "cut short" else b"")
        with pytest.raises(SpinnerfError, match="field.pt: cannot be read as a field.*ns-spinnerf export --load-config"):
            BackgroundField.load(path)
    assert run_export(capture, capsys) == (0, [])
    BackgroundField.load(path)


def test_a_photo_mended_by_hand_in_the_export_is_kept(capture, capsys):
    workspace = Workspace.open(capture)
    paths = sorted((workspace.removed / "images").rglob("*.png"))[:2]
    mended = np.full_like(read_image(paths[0]), 7)
    write_png(paths[0], mended)
    paths[1].unlink()
    assert run_export(capture, capsys) == (0, [])
    assert np.array_equal(read_image(paths[0]), mended) and paths[1].is_file()
    assert run_export(capture, capsys, "--overwrite") == (0, [])
    assert not np.array_equal(read_image(paths[0]), mended)


def test_a_mask_painted_between_the_stages_is_exported_without_overwrite(capture, capsys):
    workspace = Workspace.open(capture)
    path = sorted(workspace.masks_3d.rglob("*.png"))[0]
    painted = np.zeros_like(load_object_mask(path))
    painted[5:15, 5:15] = True
    save_object_mask(path, painted)
    assert run_export(capture, capsys) == (0, [])
    assert np.array_equal(load_object_mask(path), painted)
    assert load_object_mask(workspace.removed / "object_masks" / path.name)[painted].all()


def test_other_cameras_want_overwrite(capture, capsys):
    meta = json.loads((capture / "transforms.json").read_text())
    for frame in meta["frames"]:
        frame["transform_matrix"][0][3] += 0.01
    (capture / "transforms.json").write_text(json.dumps(meta))
    status, lines = run_export(capture, capsys)
    assert status == 1 and len(lines) == 1 and "other cameras" in lines[0] and "--overwrite" in lines[0]


# --------------------------------------------------------------------------------------------------------- interrupted
@pytest.mark.parametrize(
    "error, text", [(OSError(28, "No space left on device", "x.png"), "No space left"), (KeyboardInterrupt(), "stopped")]
)
def test_a_full_disk_and_ctrl_c_are_a_line_and_leave_what_stands(capture, capsys, monkeypatch, error, text):
    import spinnerf_ns.removal.export as export

    before = times(Workspace.open(capture).removed)

    def fail(*_):
        raise error

    monkeypatch.setattr(export.RemovedWriter, "write", fail)
    status, lines = run_export(capture, capsys, "--dilation", "20", "--overwrite")
    assert status == (130 if text == "stopped" else 1) and len(lines) == 1 and text in lines[0]
    assert times(Workspace.open(capture).removed) == before
    monkeypatch.undo()
    assert run_export(capture, capsys, "--dilation", "20", "--overwrite") == (0, [])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device", "x.png"), SpinnerfError("x: bad")])
def test_an_export_that_ends_early_in_ns_train_is_said_in_two_lines(error, capsys, tmp_path):
    from spinnerf_ns.pipelines import SpinnerfSegPipeline

    def fail(*_):
        raise error

    trainer = SimpleNamespace(checkpoint_dir=tmp_path, base_dir=tmp_path / "a run")
    pipeline = SimpleNamespace(export=fail, config=SimpleNamespace(export=EXPORT))
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(SystemExit) as stop:
            SpinnerfSegPipeline._export_at_end(pipeline, SimpleNamespace(trainer=trainer), 3)
        assert stop.value.code == 130
    else:
        SpinnerfSegPipeline._export_at_end(pipeline, SimpleNamespace(trainer=trainer), 3)
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= 2 and f"ns-spinnerf export --load-config '{tmp_path}/a run/config.yml'" in said


def stock(program: str, *options, **popen) -> subprocess.Popen:
    """One of nerfstudio's commands, started."""
    folder = os.pathsep.join(sys.path[:1] + [str(Path.cwd())])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": folder}
    words = [str(word) for word in (Path(sys.executable).with_name(program), *options)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **popen)


def training(scene: Path, runs: Path, *options) -> subprocess.Popen:
    given = ["--data", scene, "--vis", "tensorboard", "--output-dir", runs, "--machine.device-type", "cpu"]
    return stock("ns-train", "spinnerf-seg-lite", *given, *options)


def last_of(started: subprocess.Popen) -> str:
    """The last line that a command prints, which is no traceback's."""
    out, error = started.communicate(timeout=250)
    print(out, error)
    assert "Traceback" not in out + error
    return error.strip().splitlines()[-1]


@pytest.mark.parametrize("parser, text", [((), "ns-spinnerf segment"), (("colmap",), "ColmapDataParser parser cannot read")])
def test_ns_train_ends_in_one_line_for_what_a_user_can_mend(template, tmp_path, parser, text):
    """A capture without masks, and a sub-command for another kind of capture; nerfstudio alone would show a traceback."""
    scene = shutil.copytree(template, tmp_path / "scene", ignore=shutil.ignore_patterns("spinnerf"))
    started = training(scene, tmp_path / "runs", *parser)
    line = last_of(started)
    assert started.returncode == 1 and line.startswith("ns-train: ") and text in line


def test_ns_eval_names_a_checkpoint_that_is_cut_short(capture):
    path = next((capture / "spinnerf/runs").rglob("*.ckpt"))
    path.write_bytes(path.read_bytes()[:-100])
    config = config_of(capture)
    named = read_config(config)
    named.output_dir, named.data = capture / "spinnerf/runs", capture
    named.pipeline.datamanager.data = capture
    config.write_text(yaml.dump(named))
    started = stock("ns-eval", "--load-config", config, "--output-path", capture / "figures.json")
    line = last_of(started)
    assert started.returncode == 1 and line.startswith(f"ns-eval: {path}: cut short or damaged")


def test_ctrl_c_in_ns_train_is_one_line_that_says_how_to_go_on(capture, tmp_path):
    started = training(capture, tmp_path / "runs", "--max-num-iterations", 100_000, "--steps-per-save", 2)
    for _ in range(2000):
        if any((tmp_path / "runs").rglob("*.ckpt")) or started.poll() is not None:
            break
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    line = last_of(started)
    folder = next((tmp_path / "runs").rglob("nerfstudio_models"))
    assert started.returncode == 130 and line == (
        f"ns-train: stopped; to go on from the last checkpoint, the same command with: --load-dir {folder}"
    )


# --------------------------------------------------------------------------------------------------------------- remove
@pytest.mark.parametrize(
    "wanted, text", [("frame_9", "no photo is called 'frame_9'"), ("frame_0005", "cannot be the reference view")]
)
def test_a_reference_view_that_is_none_is_told_before_anything_works(capture, capsys, wanted, text):
    """The second one is object-free."""
    from spinnerf_ns.pipelines import SpinnerfSegPipeline
    from spinnerf_ns.scene.capture import load_capture

    before = times(capture)
    with pytest.raises(SystemExit) as stop:
        main(["remove", "--data", str(capture), "--lite", "--export.reference-view", wanted])
    assert stop.value.code == 1 and text in capsys.readouterr().err and times(capture) == before
    manager = SimpleNamespace(capture=load_capture(capture), workspace=Workspace.open(capture))
    pipeline = SpinnerfSegPipeline.__new__(SpinnerfSegPipeline)
    pipeline.__dict__ |= {"datamanager": manager, "config": SimpleNamespace(export=ExportConfig(reference_view=wanted))}
    with pytest.raises(SpinnerfError, match=text):
        pipeline.before_training(resumed=False)


def test_remove_trains_again_for_other_masks_and_cameras_but_not_for_overwrite(capture, monkeypatch):
    """The keys of its runs, without running them."""
    import spinnerf_ns.pipelines
    import spinnerf_ns.runs

    keys: list[dict] = []

    def train(config, data, output, name, key):
        keys.append({**key, "mask_rounds": getattr(config.pipeline, "mask_round_steps", None)})
        return SimpleNamespace(config_path=config_of(capture))

    monkeypatch.setattr(spinnerf_ns.runs, "train", train)
    monkeypatch.setattr(spinnerf_ns.pipelines, "export_run", lambda path, config: Workspace.open(capture).removed)
    monkeypatch.setattr(Segment, "main", lambda self: None)

    def keys_of(**settings) -> list[dict]:
        keys.clear()
        export = ExportConfig(inpainter="opencv", overwrite=settings.pop("overwrite", False))
        remove(Remove(Segment(capture), export=export, lite=True, **settings))
        return [*keys]

    first = keys_of()
    assert keys_of() == first and keys_of(overwrite=True) == first
    fewer = keys_of(seg_steps=400)
    assert fewer[0]["steps"] == 400 and fewer[0]["mask_rounds"] == (250,) and fewer[1] == first[1]
    path = sorted(Workspace.open(capture).masks_2d.rglob("*.png"))[0]
    save_object_mask(path, np.ones_like(load_object_mask(path)))
    painted = keys_of()
    assert painted[0] != first[0] and painted[1] == first[1]
    depth = next((Workspace.open(capture).removed / "depths").rglob("*.npy"))
    np.save(depth, np.load(depth) + 1)
    assert keys_of()[1] != first[1]
    meta = json.loads((capture / "transforms.json").read_text())
    meta["frames"][0]["transform_matrix"][0][3] += 0.01
    (capture / "transforms.json").write_text(json.dumps(meta))
    assert keys_of()[0] != painted[0]


@pytest.mark.parametrize("option", ["--seg-steps", "--inpaint-steps"])
@pytest.mark.parametrize("steps", ["-5", "0"])
@pytest.mark.parametrize("command", ["remove", "demo"])
def test_no_steps_are_refused_before_anything_is_written(command, option, steps, tmp_path, capsys):
    options = (
        ["--data", str(tmp_path), "--view", "a", "--box", "1,2,3,4"] if command == "remove" else ["--output", str(tmp_path / "o")]
    )
    with pytest.raises(SystemExit) as stop:
        main([command, *options, option, steps])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 1 and f"{option} {steps}" in error and "\n" not in error
    assert not list(tmp_path.iterdir())
