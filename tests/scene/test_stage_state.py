"""What people and accidents do to a workspace between two runs: by-hand work is kept, damage is mended, nothing is a traceback."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask, save_depth, save_object_mask
from spinnerf_ns.scene import lock, manifest
from spinnerf_ns.scene.workspace import Workspace
from tests.scene.test_workspace import PHOTOS, die, hidden, killed, run, scene  # noqa: F401  (scene is a fixture)

PAINTED = np.ones((4, 4), dtype=bool)


def paint(path) -> None:
    save_object_mask(path, PAINTED)


def is_painted(path) -> bool:
    return bool(load_object_mask(path).all())


def second_stage(scene, overwrite=False, capture=None, **parameters):  # noqa: F811
    """A stage that works photo by photo on the first one's masks; returns the photos that it worked on."""
    workspace = Workspace.open(scene)
    inputs, outputs = [workspace.masks_2d], [workspace.masks_3d, workspace.root / "layers"]
    worked_on = []
    with workspace.stage("render", parameters, inputs, outputs, overwrite, capture) as stage:
        for photo in () if stage.fresh else PHOTOS:
            if not stage.done(photo):
                worked_on.append(photo)
                save_object_mask(stage.folder(workspace.masks_3d) / f"{photo}.png", np.eye(4, dtype=bool))
                save_depth(stage.folder(workspace.root / "layers") / f"{photo}.npy", np.ones((4, 4)))
                stage.record(photo)
    return worked_on


# -------------------------------------------------------------------------------------------------------------- by hand
def test_masks_painted_and_deleted_by_hand_are_kept_and_said(scene, capsys):  # noqa: F811
    run(scene)
    folder = Workspace.open(scene).masks_2d
    paint(folder / "cam/a.png")
    paint(folder / "cam/new.png")
    (folder / "cam/b.png").unlink()
    for _ in range(2):
        assert run(scene) == []
        said = capsys.readouterr().out
        assert is_painted(folder / "cam/a.png") and is_painted(folder / "cam/new.png") and not (folder / "cam/b.png").exists()
        assert all(name in said for name in ("masks_2d/cam/a.png", "masks_2d/cam/b.png", "masks_2d/cam/new.png", "--overwrite"))
        assert len(said.splitlines()) == 1
    assert run(scene, overwrite=True) == ["cam/a", "cam/b"]
    assert not is_painted(folder / "cam/a.png") and (folder / "cam/b.png").exists() and not (folder / "cam/new.png").exists()
    assert run(scene, overwrite=True) == []


def test_all_masks_gone_is_no_work_of_hands(scene):  # noqa: F811
    run(scene)
    folder = Workspace.open(scene).masks_2d
    for path in folder.rglob("*.png"):
        path.unlink()
    assert run(scene) == PHOTOS
    shutil.rmtree(folder)
    assert run(scene) == PHOTOS


def all_at_once(scene, overwrite=False):  # noqa: F811
    """As `run`, of a stage that cannot go on photo by photo, as tracking cannot; whether it worked."""
    workspace = Workspace.open(scene)
    outputs = [workspace.masks_2d, workspace.prompts_path]
    with workspace.stage("segment", {"tracker": "flow"}, [scene / "images"], outputs, overwrite) as stage:
        for photo in () if stage.fresh else PHOTOS:
            save_object_mask(stage.folder(workspace.masks_2d) / f"{photo}.png", np.eye(4, dtype=bool))
            stage.record(photo, area=4)
        if not stage.fresh:
            stage.folder(workspace.prompts_path).write_text("{}")
        return not stage.fresh


def test_what_was_done_by_hand_outlives_a_stage_that_must_run_again(scene):  # noqa: F811
    all_at_once(scene)
    workspace = Workspace.open(scene)
    paint(workspace.masks_2d / "cam/a.png")
    (workspace.masks_2d / "cam/b.png").unlink()
    workspace.prompts_path.unlink()  # which the next stage needs
    assert all_at_once(scene)
    assert is_painted(workspace.masks_2d / "cam/a.png") and not (workspace.masks_2d / "cam/b.png").exists()
    assert not all_at_once(scene)  # and is still known to be by hand
    assert all_at_once(scene, overwrite=True)
    assert not is_painted(workspace.masks_2d / "cam/a.png") and (workspace.masks_2d / "cam/b.png").exists()


def test_later_stages_follow_what_was_painted(scene, capsys):  # noqa: F811
    run(scene), second_stage(scene)
    workspace = Workspace.open(scene)
    paint(workspace.masks_2d / "cam/a.png")
    capsys.readouterr()
    assert second_stage(scene) == PHOTOS
    assert "made again, since spinnerf/masks_2d/cam/a.png changed" in capsys.readouterr().out
    assert second_stage(scene) == []
    paint(workspace.masks_3d / "cam/c.png")
    paint(workspace.masks_2d / "cam/d.png")
    with pytest.raises(SpinnerfError, match=r"masks_3d: exists already.*by hand: 1 changed \(masks_3d/cam/c.png\).*--overwrite"):
        second_stage(scene)
    assert second_stage(scene, overwrite=True) == PHOTOS and not is_painted(workspace.masks_3d / "cam/c.png")


def test_only_the_photos_whose_files_are_lost_or_damaged_are_made_again(scene, capsys):  # noqa: F811
    run(scene), second_stage(scene)
    workspace = Workspace.open(scene)
    (workspace.masks_3d / "cam/a.png").unlink()
    (workspace.masks_3d / "cam/b.png").write_bytes(b"")
    depth = workspace.root / "layers/cam/c.npy"
    depth.write_bytes(depth.read_bytes()[:-8])
    paint(workspace.masks_3d / "cam/d.png")
    paint(workspace.masks_3d / "cam/e.png")
    (workspace.root / "layers/cam/e.npy").unlink()
    assert second_stage(scene) == ["cam/a", "cam/b", "cam/c", "cam/e"]
    assert "2 gone" in capsys.readouterr().out
    assert is_painted(workspace.masks_3d / "cam/d.png") and is_painted(workspace.masks_3d / "cam/e.png")
    assert second_stage(scene) == [] and "2 changed" in capsys.readouterr().out
    assert second_stage(scene, overwrite=True) == ["cam/d", "cam/e"]  # what was made anew is known, too
    assert second_stage(scene) == [] and hidden(workspace) == []


def test_a_link_that_copying_the_scene_resolved_is_nobody_s_work(scene, tmp_path, capsys):  # noqa: F811
    """As removed/colmap/images, a link to removed/images."""

    def linked(scene):
        workspace = Workspace.open(scene)
        with workspace.stage("export", {}, [scene / "images"], [workspace.removed]) as stage:
            if not stage.fresh:
                for photo in "ab":
                    if not stage.done(photo):
                        save_object_mask(stage.folder(workspace.removed / "images") / f"{photo}.png", np.eye(4, dtype=bool))
                        stage.record(photo)
                (stage.folder(workspace.removed / "colmap") / "images").symlink_to("../images")
        return not stage.fresh

    assert linked(scene) and not linked(scene)
    copied = shutil.copytree(scene, tmp_path / "copied")  # follows links
    removed = Workspace.open(copied).removed
    assert (removed / "colmap/images/a.png").is_file() and not (removed / "colmap/images").is_symlink()
    capsys.readouterr()
    assert not linked(copied) and not capsys.readouterr().out
    paint(removed / "images/a.png")
    (removed / "images/b.png").unlink()
    assert linked(copied) and is_painted(removed / "images/a.png") and not is_painted(removed / "images/b.png")


def test_a_repair_that_is_killed_goes_on(scene):  # noqa: F811
    run(scene), second_stage(scene)
    workspace = Workspace.open(scene)
    (workspace.masks_3d / "cam/a.png").unlink()
    (workspace.masks_3d / "cam/b.png").unlink()

    def die_at_b():
        record = manifest.is_records  # any function that record() does not call
        assert record

        def save(path, mask, plain=save_object_mask):
            if path.name == "b.png":
                die()
            plain(path, mask)

        globals()["save_object_mask"] = save
        second_stage(scene)

    killed(die_at_b)
    assert second_stage(scene) == ["cam/b"]
    assert hidden(workspace) == []


# -------------------------------------------------------------------------------------------------- cameras and versions
def test_other_cameras_for_the_same_photos_are_not_ignored(scene):  # noqa: F811
    run(scene)
    first, better = SimpleNamespace(digest="aa"), SimpleNamespace(digest="bb")
    assert second_stage(scene, capture=first) == PHOTOS
    assert second_stage(scene, capture=first) == []
    with pytest.raises(SpinnerfError, match="masks_3d: exists already, made with other cameras.*--overwrite"):
        second_stage(scene, capture=better)
    assert second_stage(scene, overwrite=True, capture=better) == PHOTOS


def test_another_version_of_an_algorithm_makes_its_outputs_stale(scene, monkeypatch):  # noqa: F811
    run(scene)
    monkeypatch.setitem(manifest.VERSIONS, "segment", manifest.VERSIONS["segment"] + 1)
    with pytest.raises(SpinnerfError, match=r"masks_2d: exists already, made by another version of the algorithm.*--overwrite"):
        run(scene)


def test_a_workspace_of_before_is_refused_in_a_line_and_says_what_to_do(scene):  # noqa: F811
    run(scene)
    workspace = Workspace.open(scene)
    content = json.loads(workspace.manifest_path.read_text())
    entry = content["stages"]["segment"]
    del entry["capture"], entry["version"], content["scene"], content["scene_was"]
    entry["outputs"] = {"masks_2d": [f"cam/{name}.png" for name in "abcdef"], "prompts.json": []}
    entry["key"] = "of before"
    workspace.manifest_path.write_text(json.dumps({**content, "schema": 1}))
    with pytest.raises(SpinnerfError, match="masks_2d: exists already, made by an earlier spinnerf-ns.*--overwrite"):
        run(scene)
    assert Workspace.open(scene).records("segment")["cam/a"]["status"] == "done"  # what only reads it goes on
    assert run(scene, overwrite=True) == PHOTOS


# --------------------------------------------------------------------------------------------------------------- moved
def test_a_workspace_finds_its_capture_wherever_both_are_moved(tmp_path):
    capture, root = tmp_path / "captures/vase", tmp_path / "work/vase"
    capture.mkdir(parents=True)
    Workspace.open(capture, root).set_object_free(["a"])
    assert Workspace.at(root).scene == capture
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.move(tmp_path / "captures", moved)
    shutil.move(tmp_path / "work", moved)
    assert Workspace.at(moved / "work/vase").scene == moved / "captures/vase"
    shutil.move(moved / "work/vase", tmp_path / "alone")
    assert Workspace.at(tmp_path / "alone").scene == tmp_path  # gone: the folder around it, as by default
    shutil.move(moved / "captures", tmp_path / "captures")
    assert Workspace.at(tmp_path / "alone").scene == capture  # the place where it was


def test_photos_of_equal_names_in_folders_of_a_workspace_elsewhere_are_told_apart(scene, tmp_path):  # noqa: F811
    workspace = Workspace.open(scene, tmp_path / "elsewhere")
    assert workspace.relative(workspace.masks_2d / "cam/a.png") == "spinnerf/masks_2d/cam/a.png"
    assert workspace.relative(scene / "images/a.jpg") == "images/a.jpg"


# ------------------------------------------------------------------------------------------------------------- damaged
def test_the_manifest_is_parsed_once_for_each_time_that_it_is_written(scene, monkeypatch):  # noqa: F811
    workspace = Workspace.open(scene)
    workspace.set_object_free(["a"])
    parsed = []
    plain = json.loads
    monkeypatch.setattr(manifest.json, "loads", lambda text: parsed.append(text) or plain(text))
    for _ in range(20):
        assert workspace.object_free == ("a",) and workspace.records("segment") == {}
    assert len(parsed) <= 1
    Workspace.open(scene).set_object_free(["b"])
    assert workspace.object_free == ("b",)


@pytest.mark.parametrize("content", ["records", "no records", "outputs", "key", "emptied"])
def test_a_damaged_entry_vouches_for_nothing(scene, content):  # noqa: F811
    run(scene)
    workspace = Workspace.open(scene)
    whole = json.loads(workspace.manifest_path.read_text())
    entry = whole["stages"]["segment"]
    if content == "records":
        entry["records"] = {"cam/a": 3}
    elif content == "no records":
        del entry["records"]
    elif content == "emptied":
        entry.clear()
    else:
        entry[content] = None
    workspace.manifest_path.write_text(json.dumps(whole))
    again = Workspace.open(scene)
    assert isinstance(again.records("segment"), dict) and again.reference_view is None
    with pytest.raises(SpinnerfError, match="masks_2d: exists already.*--overwrite"):
        run(scene)
    assert run(scene, overwrite=True) == PHOTOS


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'["cam/a"]\n', b'["cam/a", 1]\n', b"\xff\xfe\n"])
@pytest.mark.parametrize("name", ["key.json", "records.jsonl", "commit.json"])
def test_damaged_state_of_an_interrupted_run_is_thrown_away(scene, name, content):  # noqa: F811
    def fail(photo):
        if photo == "cam/c":
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run(scene, before_photo=fail)
    state = scene / "spinnerf/.stage-segment"
    (state / name).write_bytes(content)
    assert run(scene) == PHOTOS
    assert run(scene) == [] and hidden(Workspace.open(scene)) == []


def test_a_damaged_line_costs_the_photos_after_it_and_no_more(scene):  # noqa: F811
    def fail(photo):
        if photo == "cam/e":
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run(scene, before_photo=fail)
    path = scene / "spinnerf/.stage-segment/records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + b"\x00\x00\x00\n" + lines[3])
    assert run(scene) == PHOTOS[2:]


# ------------------------------------------------------------------------------------------------------ impossible places
@pytest.mark.parametrize("place", ["file", "below a file", "proc", "dev"])
def test_a_workspace_in_an_impossible_place_is_one_line(scene, tmp_path, place):  # noqa: F811
    (tmp_path / "file").write_text("x")
    root = {"file": tmp_path / "file", "below a file": tmp_path / "file/w", "proc": "/proc/w", "dev": "/dev/null"}[place]
    with pytest.raises(SpinnerfError, match="--workspace FOLDER") as raised:
        workspace = Workspace.open(scene, root)
        with workspace.stage("segment", {}, [], [workspace.masks_2d]) as stage:
            stage.folder(workspace.masks_2d)
    assert "\n" not in str(raised.value) and (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("code, text", [(13, "--workspace FOLDER"), (30, "--workspace FOLDER"), (28, "No space left")])
def test_a_place_that_cannot_be_written_to_is_one_line(scene, monkeypatch, code, text):  # noqa: F811
    def refuse(self, *args, **kwargs):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(lock.Path, "mkdir", refuse)
    with pytest.raises(SpinnerfError, match=text) as raised:
        run(scene)
    assert str(scene / "spinnerf") in str(raised.value) and not (scene / "spinnerf").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_capture_suggests_another_workspace(scene):  # noqa: F811
    scene.chmod(0o555)
    try:
        with pytest.raises(SpinnerfError, match="Permission denied.*--workspace FOLDER"):
            run(scene)
    finally:
        scene.chmod(0o755)


# ------------------------------------------------------------------------------------------------------------- two at once
def hold(root, ready, release):
    with lock.WorkspaceLock(root):
        ready.set()
        release.wait(60)


def test_a_second_process_is_refused_in_a_line_that_names_the_first_and_leaves_nothing(scene, monkeypatch):  # noqa: F811
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    run(scene)
    workspace = Workspace.open(scene)
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(workspace.root, ready, release))
    process.start()
    try:
        assert ready.wait(30)
        before = {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")}
        with pytest.raises(SpinnerfError, match=rf"process {process.pid} on .* is working on it") as raised:
            run(scene, overwrite=True, points=[1])
        assert "--overwrite" not in str(raised.value)
        assert {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")} == before
        assert run(scene) == []  # who only finds that all is there needs no lock
    finally:
        release.set()
        process.join(30)
    assert run(scene, overwrite=True, points=[1]) == PHOTOS


def test_who_waited_finds_the_work_done(scene, monkeypatch):  # noqa: F811
    """Two processes with one command: the second does nothing over again."""
    context = multiprocessing.get_context("fork")
    started = context.Event()

    def slow():
        run(scene, before_photo=lambda photo: (started.set(), time.sleep(0.1)))

    monkeypatch.setattr(lock, "PATIENCE", 30)
    process = context.Process(target=slow)
    process.start()
    assert started.wait(30)
    assert run(scene) == []
    process.join(30)
    assert process.exitcode == 0 and hidden(Workspace.open(scene)) == []


def test_a_killed_process_holds_no_lock(scene):  # noqa: F811
    killed(run, scene, False, lambda photo: die() if photo == "cam/c" else None)
    assert re.fullmatch(r"\d+ .+", (scene / "spinnerf/.holder").read_text())
    assert run(scene) == PHOTOS[2:]
