"""The stage: what it writes, what it refuses with which words, and that a refusal leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from spinnerf_ns.cli.segment import Segment
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask, save_object_mask
from spinnerf_ns.segmentation import segment_capture
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.prompts_file import load_prompts
from tests.segmentation.conftest import iou, truth
from tests.segmentation.stand_ins import Paints, Shift
from tests.segmentation.test_objects import key


@pytest.fixture
def prompt(twin) -> Prompt:
    return Prompt(twin.prompt_view, box=twin.prompt_box)


def test_from_a_box_to_masks(twin, capture, workspace, prompt) -> None:
    assert segment_capture(capture, workspace, prompt) is workspace
    written = sorted(path.stem for path in workspace.masks_2d.iterdir())
    assert written == sorted(key(photo) for photo in twin.train_photos)  # not the object-free ones
    for photo in twin.train_photos:
        found = load_object_mask(workspace.mask_path("masks_2d", key(photo)), (120, 160))
        assert iou(found, truth(twin, photo)) > 0.8
    assert load_prompts(workspace.prompts_path) == (
        Prompt(key(twin.prompt_view), box=tuple(map(float, twin.prompt_box)), size=(160, 120)),
    )
    assert (workspace.root / "preview" / f"{key(twin.prompt_view)}.png").is_file()
    stage = json.loads(workspace.manifest_path.read_text())["stages"]["segment"]
    assert stage["parameters"]["segmenter"]["name"] == "grabcut"
    assert stage["parameters"]["tracker"]["options"]["references"] == 1
    assert stage["versions"]["opencv-python-headless"]
    source = stage["records"][key(twin.prompt_view)]
    assert source["status"] == "done" and source["origin"] == "prompt" and source["area"] > 100
    others = [record for photo, record in stage["records"].items() if photo != key(twin.prompt_view)]
    assert {record["origin"] for record in others} == {"tracked"} and len(others) == 9


def test_again_changes_nothing_and_another_prompt_asks(capture, workspace, prompt) -> None:
    segment_capture(capture, workspace, prompt, tracker=Shift())
    times = {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")}
    segment_capture(capture, workspace, prompt, tracker=Shift())
    segment_capture(capture, workspace, None, tracker=Shift())  # prompts.json says the same
    assert {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")} == times
    with pytest.raises(SpinnerfError, match="--overwrite"):
        segment_capture(capture, workspace, prompt, tracker=Shift(reach=2))
    assert {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")} == times
    segment_capture(capture, workspace, prompt, tracker=Shift(reach=2), overwrite=True)
    statuses = [record["status"] for record in workspace.records("segment").values()]
    assert 0 < statuses.count("lost") < 9
    assert len(list(workspace.masks_2d.iterdir())) == statuses.count("done")


def test_a_ready_mask(twin, capture, workspace, tmp_path) -> None:
    path = tmp_path / "mine.png"
    save_object_mask(path, truth(twin, twin.prompt_view))
    segment_capture(capture, workspace, Prompt(key(twin.prompt_view), mask_path=path), tracker=Shift())
    written = load_object_mask(workspace.mask_path("masks_2d", key(twin.prompt_view)))
    assert (written == truth(twin, twin.prompt_view)).all()
    assert load_prompts(workspace.prompts_path)[0].mask_path == path


def test_a_folder_of_masks(twin, capture, workspace, tmp_path) -> None:
    folder = tmp_path / "masks"
    for photo in twin.train_photos[:3]:
        save_object_mask(folder / f"{key(photo)}.png", truth(twin, photo))
    save_object_mask(folder / f"{key(twin.train_photos[3])}.png", np.zeros((120, 160), bool))  # may be out of sight in one
    save_object_mask(folder / f"{key(twin.object_free[0])}.png", truth(twin, twin.object_free[0]))  # of no use, no harm
    segment_capture(capture, workspace, folder, tracker=Shift())
    records = workspace.records("segment")
    assert [records[key(photo)]["origin"] for photo in twin.train_photos[:5]] == ["given"] * 4 + ["tracked"]
    assert records[key(twin.train_photos[3])]["area"] == 0
    assert key(twin.object_free[0]) not in records
    with pytest.raises(SpinnerfError, match="name it again"):
        segment_capture(capture, workspace, None)


def test_all_masks_given_needs_no_tracker(twin, capture, workspace, tmp_path) -> None:
    for photo in twin.train_photos:
        save_object_mask(tmp_path / "masks" / f"{key(photo)}.png", truth(twin, photo))
    segment_capture(capture, workspace, tmp_path / "masks", tracker=None)
    for photo in twin.train_photos:
        assert (load_object_mask(workspace.mask_path("masks_2d", key(photo))) == truth(twin, photo)).all()


# --------------------------------------------------------------------------------------------------------------- bad input
@pytest.fixture
def refused(capture, workspace):
    """Runs the stage, which must fail with one line and leave nothing but the manifest that was there."""
    before = sorted(path.name for path in workspace.root.rglob("*"))

    def run(prompt, message: str, **options) -> None:
        with pytest.raises(SpinnerfError, match=message) as error:
            segment_capture(capture, workspace, prompt, **options)
        assert "\n" not in str(error.value)
        assert sorted(path.name for path in workspace.root.rglob("*")) == before

    return run


def test_bad_prompts(twin, refused) -> None:
    view = twin.prompt_view
    refused(None, "no prompt and no masks")
    refused([], "no prompt")
    refused(Prompt(view), "nothing is pointed at")
    refused(Prompt(view, ((160.0, 5.0),), (1,)), "outside the photo")
    refused(Prompt("frame_9", ((5.0, 5.0),), (1,)), "no photo is called 'frame_9'; near names")
    refused(Prompt(twin.object_free[0], ((5.0, 5.0),), (1,)), "object-free")
    refused([Prompt(view, box=twin.prompt_box)] * 2, "two prompts")
    refused(Prompt(view, box=twin.prompt_box), "no tracker is called 'cotracker'", tracker="cotracker")
    refused(Prompt(view, box=twin.prompt_box), "no segmenter is called 'nobody'", segmenter="nobody")
    refused(Prompt(view, box=twin.prompt_box), "--masks FOLDER", segmenter="folder")


def test_bad_ready_masks(twin, refused, tmp_path) -> None:
    path, view = tmp_path / "m.png", twin.prompt_view
    refused(Prompt(view, mask_path=path), "m.png: missing")
    save_object_mask(path, np.zeros((120, 160), bool))
    refused(Prompt(view, mask_path=path), "m.png: the mask is empty")
    save_object_mask(path, np.ones((70, 80), bool))
    refused(Prompt(view, mask_path=path), "m.png: the mask is 80x70, its photo is 160x120")
    path.write_bytes(b"no image")
    refused(Prompt(view, mask_path=path), "cannot be decoded")


def test_a_large_mask_on_demand(twin, capture, workspace, tmp_path) -> None:
    save_object_mask(tmp_path / "m.png", ~truth(twin, twin.prompt_view))
    prompt = Prompt(twin.prompt_view, mask_path=tmp_path / "m.png")
    segment_capture(capture, workspace, prompt, tracker=Shift(), allow_large_mask=True)
    assert workspace.records("segment")[key(twin.prompt_view)]["area"] > 0.5 * 160 * 120


def test_bad_mask_folders(twin, refused, tmp_path) -> None:
    folder = tmp_path / "masks"
    refused(folder, "no such folder")
    folder.mkdir()
    refused(folder, "no mask in it")
    save_object_mask(folder / "other.png", truth(twin, twin.prompt_view))
    refused(folder, "other.png: is no photo's mask")
    (folder / "other.png").rename(folder / f"{key(twin.object_free[0])}.png")
    refused(folder, "object-free photos only")
    save_object_mask(folder / f"{key(twin.prompt_view)}.png", np.zeros((120, 160), bool))
    refused(folder, "all masks are empty")
    save_object_mask(folder / f"{key(twin.prompt_view)}.png", np.ones((120, 160), bool))
    refused(folder, "white everywhere")
    shutil.copy(folder / f"{key(twin.prompt_view)}.png", folder / f"{key(twin.prompt_view)}.bmp")
    refused(folder, "has another mask")


def test_a_segmenter_that_finds_nothing(twin, refused) -> None:
    class Blind:
        name = "blind"

        def segment(self, image, prompt):
            return np.zeros(image.shape[:2], bool)

    prompt = Prompt(twin.prompt_view, box=twin.prompt_box)
    refused(prompt, "by segmenter 'blind': the mask is empty.*add points", segmenter=Blind())


def test_a_tracker_that_fails_leaves_nothing_finished(twin, capture, workspace, prompt) -> None:
    class Broken:
        name = "broken"

        def track(self, images, source_masks, progress=None):
            raise SpinnerfError("out of order")

    with pytest.raises(SpinnerfError, match="out of order"):
        segment_capture(capture, workspace, prompt, tracker=Broken())
    assert not workspace.masks_2d.exists() and not workspace.prompts_path.exists()


# ----------------------------------------------------------------------------------------------------------------- command
def test_the_command_line(twin, tmp_path, monkeypatch, capsys) -> None:
    from spinnerf_ns.cli import main
    from spinnerf_ns.segmentation.trackers import TRACKERS

    monkeypatch.setitem(TRACKERS._targets, "shift", Shift)
    box = ",".join(str(value) for value in twin.prompt_box)
    arguments = ["segment", "--data", str(twin.root), "--view", twin.prompt_view, "--workspace", str(tmp_path / "ws")]
    arguments += ["--segmenter", "grabcut"]
    main([*arguments, "--box", box, "--points", "1,1,0", "2,1,0", "--tracker", "shift"])
    assert len(list((tmp_path / "ws" / "masks_2d").iterdir())) == 12
    assert load_prompts(tmp_path / "ws" / "prompts.json")[0].labels == (0, 0)
    with pytest.raises(SystemExit) as error:
        main([*arguments, "--points", "400,1", "--tracker", "shift", "--overwrite"])
    assert error.value.code == 1
    assert "outside the photo" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        ({"points": ("1,2",)}, "--points was given, but not in which photo"),
        ({"box": "1,2,3,4"}, "--box was given, but not in which photo"),
        ({"masks": "m", "view": "a"}, "--masks and --view"),
        ({"masks": "m", "mask": "a.png", "view": "a"}, "--masks and --mask"),
        ({"view": "a", "points": ("1",)}, "expected X,Y"),
        ({"view": "a", "box": "1,2"}, "expected X0,Y0,X1,Y1"),
    ],
)
def test_contradicting_options(tmp_path, options, message) -> None:
    with pytest.raises(SpinnerfError, match=message):
        Segment(data=tmp_path, **options).request()


def test_the_package_imports_lightly() -> None:
    code = (
        "import sys, spinnerf_ns.segmentation, spinnerf_ns.cli.segment; "
        "print([m for m in ('cv2', 'scipy.sparse', 'torch', 'nerfstudio') if m in sys.modules and m != 'torch'])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_masks_by_their_usual_names(twin, capture, workspace, tmp_path) -> None:
    names = ["{}.png", "{}.jpg.png", "{}_mask.png", "mask_{}.png", "{}-seg.png", "{}.mask.png", "MASK-{}.png"]
    photos = [key(photo) for photo in twin.train_photos[: len(names)]]
    for name, photo in zip(names, photos, strict=True):
        save_object_mask(tmp_path / "m" / name.format(photo), truth(twin, f"images/{photo}.png"))
    segment_capture(capture, workspace, tmp_path / "m", tracker=Shift())
    assert [workspace.records("segment")[photo]["origin"] for photo in photos] == ["given"] * len(names)


def test_lost_everywhere_is_an_error(twin, refused) -> None:
    refused(
        Prompt(twin.prompt_view, box=(10, 10, 30, 30)), "found in none of the other 9 photos.*--view", segmenter=Paints(),
        tracker=Shift(reach=0),
    )  # fmt: skip


def test_lost_in_most_photos_is_said_loudly(twin, tmp_path, monkeypatch, capsys) -> None:
    from spinnerf_ns.cli import main
    from spinnerf_ns.segmentation.segmenters import SEGMENTERS
    from spinnerf_ns.segmentation.trackers import TRACKERS

    @dataclass
    class Short(Shift):
        reach: int = 1

    monkeypatch.setitem(TRACKERS._targets, "short", Short)
    monkeypatch.setitem(SEGMENTERS._targets, "paints", Paints)
    main(["segment", "--data", str(twin.root), "--workspace", str(tmp_path), "--segmenter", "paints", "--tracker", "short",
          "--view", twin.prompt_view, "--box", "10,10,30,30"])  # fmt: skip
    out = capsys.readouterr().out
    assert "WARNING: the object was lost in 9 of 12 photos" in out and "--page" in out and str(tmp_path) in out
