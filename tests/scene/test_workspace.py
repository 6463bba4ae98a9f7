"""The workspace's manifest and stages: what is fresh, what is refused, and what a kill leaves."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import atomic_path, save_object_mask
from spinnerf_ns.scene.workspace import Workspace

PHOTOS = [f"cam/{name}" for name in "abcdef"]


@pytest.fixture
def scene(tmp_path) -> Path:
    folder = tmp_path / "scene"
    (folder / "images").mkdir(parents=True)
    for photo in PHOTOS:
        (folder / "images" / f"{photo[-1]}.jpg").write_bytes(photo.encode())
    return folder


def open_stage(scene: Path, overwrite: bool = False, **parameters):
    workspace = Workspace.open(scene)
    outputs = [workspace.masks_2d, workspace.prompts_path]
    return workspace, workspace.stage("segment", {"tracker": "flow", **parameters}, [scene / "images"], outputs, overwrite)


def run(scene: Path, overwrite: bool = False, before_photo=lambda photo: None, **parameters) -> list[str]:
    """Runs a stage that writes a mask per photo and a file; returns the photos that it worked on."""
    workspace, stage = open_stage(scene, overwrite, **parameters)
    worked_on = []
    with stage:
        if stage.fresh:
            return []
        for photo in PHOTOS:
            if stage.done(photo):
                continue
            before_photo(photo)
            worked_on.append(photo)
            save_object_mask(stage.folder(workspace.masks_2d) / f"{photo}.png", np.eye(4, dtype=bool))
            stage.record(photo, area=np.int64(4))
        stage.folder(workspace.prompts_path).write_text(json.dumps(parameters))
    return worked_on


def killed(function, *arguments) -> None:
    """Runs a function in a process of its own, which must die of SIGKILL."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hidden(workspace: Workspace) -> list[str]:
    return sorted(path.name for path in workspace.root.rglob(".*"))


# ------------------------------------------------------------------------------------------------------------------ layout
def test_opening_creates_nothing(scene):
    workspace = Workspace.open(scene)
    assert workspace.root == scene / "spinnerf" and not workspace.root.exists()
    assert workspace.mask_path("masks_3d", "cam/x") == scene / "spinnerf/masks_3d/cam/x.png"
    assert workspace.object_free == () and workspace.records("segment") == {}
    with open_stage(scene)[1] as stage:
        assert not stage.fresh
        assert {path.name for path in workspace.root.iterdir()} == {".lock", ".holder"}
        stage.folder(workspace.masks_2d), stage.folder(workspace.prompts_path).touch()


def test_a_stage_that_fails_before_it_writes_leaves_nothing(scene, tmp_path):
    for root in (scene / "spinnerf", tmp_path / "not/yet/there"):
        workspace = Workspace.open(scene, root)
        with pytest.raises(RuntimeError), workspace.stage("segment", {}, [], [workspace.masks_2d]):
            raise RuntimeError
        assert not root.exists() and not (tmp_path / "not").exists()


def test_the_workspace_of_a_json_file_and_another_folder(scene, tmp_path):
    (scene / "transforms.json").write_text("{}")
    assert Workspace.open(scene / "transforms.json").root == scene / "spinnerf"
    assert Workspace.open(scene, tmp_path / "other").manifest_path == tmp_path / "other/manifest.json"
    with pytest.raises(SpinnerfError, match="no such folder"):
        Workspace.open(scene / "nowhere")


def test_object_free_photos_are_kept(scene):
    Workspace.open(scene).set_object_free(["b", "a", "b"])
    run(scene)
    assert Workspace.open(scene).object_free == ("b", "a")
    assert json.loads((scene / "spinnerf/manifest.json").read_text())["schema"] == 2


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"schema": 3, "of": "another kind"}', "schema 3.*git pull"),
        ('{"schema": 1, "object_f', "cannot be read as a manifest"),
        ("[]", "is no manifest"),
        ('{"schema": 1, "object_free": "x", "stages": {}}', "is no manifest"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(scene, content, message):
    path = scene / "spinnerf/manifest.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(SpinnerfError, match=message) as raised:
        Workspace.open(scene)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert path.read_text() == content


# ------------------------------------------------------------------------------------------------------------------- fresh
def test_a_finished_stage_is_fresh_until_something_changes(scene):
    assert run(scene) == PHOTOS
    workspace = Workspace.open(scene)
    assert workspace.records("segment")["cam/a"] == {"status": "done", "area": 4}
    assert sorted(path.name for path in workspace.masks_2d.rglob("*.png")) == [f"{name}.png" for name in "abcdef"]
    assert hidden(workspace) == []
    assert run(scene) == []
    os.utime(scene / "images/a.jpg", (0, 0))  # contents count, not times
    assert run(scene) == []


def test_a_moved_scene_is_still_fresh(scene, tmp_path):
    run(scene)
    moved = tmp_path / "moved"
    scene.rename(moved)
    assert run(moved) == []


@pytest.mark.parametrize("change", ["parameter", "content", "more files", "unknown outputs"])
def test_other_outputs_are_replaced_only_when_told(scene, change):
    run(scene)
    parameters = {}
    if change == "parameter":
        parameters = {"points": [(1.0, 2.0)]}
    elif change == "content":
        (scene / "images/b.jpg").write_bytes(b"another photo")
    elif change == "more files":
        (scene / "images/z.jpg").write_bytes(b"z")
    else:
        (scene / "spinnerf/manifest.json").unlink()
    before = (scene / "spinnerf/masks_2d/cam/a.png").stat().st_mtime_ns
    with pytest.raises(SpinnerfError, match="masks_2d: exists already.*--overwrite"):
        run(scene, **parameters)
    assert (scene / "spinnerf/masks_2d/cam/a.png").stat().st_mtime_ns == before
    assert run(scene, overwrite=True, **parameters) == PHOTOS
    assert run(scene, **parameters) == []
    assert hidden(Workspace.open(scene)) == []


def test_missing_inputs_and_unwritten_outputs_are_errors(scene):
    workspace = Workspace.open(scene)
    with pytest.raises(SpinnerfError, match="nothing.jpg: missing"):
        workspace.stage("segment", {}, [scene / "nothing.jpg"], [workspace.masks_2d])
    with pytest.raises(SpinnerfError, match="masks_2d: the stage 'segment' ended without writing it"):
        with workspace.stage("segment", {}, [], [workspace.masks_2d]):
            pass
    assert workspace.records("segment") == {} and not workspace.masks_2d.exists()


def test_partial_folders_are_as_deep_as_what_they_become(scene):
    """Datasets name the photos relative to their own folder, and are written before they are moved."""
    workspace, stage = open_stage(scene)
    with stage:
        assert stage.folder(workspace.masks_2d).parent == workspace.root
        assert stage.folder(workspace.masks_2d / "cam").is_dir()
        stage.folder(workspace.prompts_path).touch()
        with pytest.raises(ValueError):
            stage.folder(workspace.masks_3d)


# -------------------------------------------------------------------------------------------------------------- interrupted
def test_an_error_keeps_what_is_done(scene):
    def fail(photo):
        if photo == "cam/d":
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        run(scene, before_photo=fail)
    assert not (scene / "spinnerf/masks_2d").exists()
    assert run(scene) == ["cam/d", "cam/e", "cam/f"]


def test_a_photo_with_another_status_is_done_again(scene):
    workspace, stage = open_stage(scene)
    with pytest.raises(RuntimeError):
        with stage:
            stage.record("cam/a", status="no mask found")
            stage.record("cam/b")
            raise RuntimeError
    _, stage = open_stage(scene)
    assert not stage.done("cam/a") and stage.done("cam/b") and stage.records["cam/a"] == {"status": "no mask found"}


def killed_while_writing(scene, photo_to_die_at):
    def die_at(photo):
        if photo == photo_to_die_at:
            partial = scene / "spinnerf/.partial-segment-masks_2d/cam"
            with atomic_path(partial / f"{photo[-1]}.png") as temporary:
                temporary.write_bytes(b"half a pi")
                with open(scene / "spinnerf/.stage-segment/records.jsonl", "a") as file:
                    file.write('["cam/d", {"stat')  # the line that the kill cut off
                die()

    run(scene, before_photo=die_at)


def test_a_killed_stage_looks_unfinished_and_goes_on(scene):
    killed(killed_while_writing, scene, "cam/d")
    workspace = Workspace.open(scene)
    assert [path for path in workspace.root.iterdir() if not path.name.startswith(".")] == []
    assert not open_stage(scene)[1].fresh
    assert run(scene) == ["cam/d", "cam/e", "cam/f"]
    assert hidden(workspace) == []  # the half-written file has gone, too
    assert set(workspace.records("segment")) == set(PHOTOS)
    assert run(scene) == []


def test_what_another_key_left_is_thrown_away(scene):
    killed(killed_while_writing, scene, "cam/d")
    run(scene, points=[1, 2])
    assert hidden(Workspace.open(scene)) == []
    assert run(scene, overwrite=True) == PHOTOS  # and does not come back with its key


def killed_at_a_rename(scene, number, function, *arguments):
    renames = iter(range(number, -1, -1))
    rename = os.replace

    def counted(*paths):
        if next(renames) == 0:
            die()
        rename(*paths)

    os.replace = counted
    function(*arguments)


def count_renames(monkeypatch, function):
    """How many moves a run makes, each a moment at which it may be killed."""
    calls = []
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append(paths), rename(*paths)))
    function()
    monkeypatch.setattr(os, "replace", rename)
    return len(calls)


@pytest.mark.parametrize("exists", [False, True])
def test_a_kill_at_any_rename(scene, tmp_path, monkeypatch, exists):
    """Afterwards the manifest vouches for all or nothing, and the next run does what is left and no more."""
    if exists:
        run(scene, points=[0])
    template = tmp_path / "template"
    scene.rename(template)
    shutil.copytree(template, scene)
    workspace = Workspace.open(scene)
    total = count_renames(monkeypatch, lambda: run(scene, overwrite=True))
    expected = results(workspace)
    assert total > 1 + len(PHOTOS) + 3  # the key, the photos, and the moves at the end
    for number in range(total):
        shutil.rmtree(scene)
        shutil.copytree(template, scene)
        killed(killed_at_a_rename, scene, number, run, scene, True)
        entry = workspace.read_manifest()["stages"].get("segment", {})
        if entry.get("parameters") == {"tracker": "flow"}:
            assert_complete(workspace)
        run(scene, overwrite=True)
        assert results(workspace) == expected, number
        assert_complete(workspace)
        assert run(scene) == [] and hidden(workspace) == []


def test_a_kill_costs_no_photo_that_was_done(scene):
    for number, photo in enumerate(PHOTOS):
        killed(run, scene, True, lambda now, last=photo: die() if now == last else None)
        assert run(scene, overwrite=True) == PHOTOS[number:]
        shutil.rmtree(scene / "spinnerf")


def test_a_kill_at_any_rename_of_a_repair(scene, tmp_path, monkeypatch):
    """Where a photo was painted, one was lost and one emptied: the same in the end as without the kill."""
    run(scene)
    folder = Workspace.open(scene).masks_2d
    save_object_mask(folder / "cam/a.png", np.ones((4, 4), dtype=bool))
    (folder / "cam/b.png").write_bytes(b"")
    Workspace.open(scene).prompts_path.unlink()
    template = tmp_path / "template"
    scene.rename(template)
    shutil.copytree(template, scene)
    workspace = Workspace.open(scene)
    total = count_renames(monkeypatch, lambda: run(scene))
    expected = results(workspace)
    for number in range(total):
        shutil.rmtree(scene)
        shutil.copytree(template, scene)
        killed(killed_at_a_rename, scene, number, run, scene)
        run(scene)
        assert results(workspace) == expected, number
        assert run(scene) == [] and hidden(workspace) == []


def results(workspace: Workspace) -> tuple[dict, dict]:
    """All files but the manifest, and what it says of them; not when they were written."""
    files = {path: path.read_bytes() for path in workspace.root.rglob("*") if path.is_file() and path != workspace.manifest_path}
    stage = workspace.read_manifest()["stages"]["segment"]
    outputs = {name: {file: record[0] for file, record in content.items()} for name, content in stage["outputs"].items()}
    return files, {**stage, "outputs": outputs}


def assert_complete(workspace: Workspace) -> None:
    assert len(list(workspace.masks_2d.rglob("[!.]*.png"))) == len(PHOTOS)
    assert workspace.prompts_path.read_text() == "{}"
