"""Several of everything: objects, photos that are pointed at, strokes and corrections."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask, save_object_mask
from spinnerf_ns.segmentation import segment_capture
from spinnerf_ns.segmentation.prompts import Prompt, Stroke
from spinnerf_ns.segmentation.prompts_file import load_prompts
from spinnerf_ns.segmentation.segment import views_with_object
from tests.segmentation.conftest import truth
from tests.segmentation.stand_ins import Paints, Shift


def key(photo: str) -> str:
    return photo.removeprefix("images/").removesuffix(".png")


@pytest.fixture
def two_objects(twin, capture, workspace):
    prompts = [
        Prompt(key(twin.train_photos[2]), box=(10, 10, 30, 30), object="vase"),
        Prompt(key(twin.train_photos[6]), box=(12, 10, 32, 30), object="vase"),
        Prompt(key(twin.train_photos[2]), box=(60, 60, 80, 90), object="lamp"),
    ]
    segment_capture(capture, workspace, prompts, segmenter=Paints(), tracker=Shift())
    return prompts


def test_named_objects_are_kept_apart_and_together(twin, capture, workspace, two_objects) -> None:
    assert sorted(path.name for path in (workspace.root / "objects").iterdir()) == ["lamp", "vase"]
    for photo in twin.train_photos:
        vase, lamp = (load_object_mask(workspace.root / "objects" / name / f"{key(photo)}.png") for name in ("vase", "lamp"))
        assert vase.any() and lamp.any() and not (vase & lamp).any()
        assert (load_object_mask(workspace.mask_path("masks_2d", key(photo))) == (vase | lamp)).all()
    records = workspace.records("track")
    assert records[key(twin.train_photos[6])]["objects"]["vase"]["origin"] == "prompt"
    assert records[key(twin.train_photos[6])]["objects"]["lamp"]["origin"] == "tracked"
    assert {one.object for one in load_prompts(workspace.prompts_path)} == {"vase", "lamp"}
    assert len(list((workspace.root / "preview").iterdir())) == 2


def test_a_subset_is_removed_without_tracking_again(twin, capture, workspace, two_objects) -> None:
    tracked = {path: path.stat().st_mtime_ns for path in (workspace.root / "objects").rglob("*.png")}
    with pytest.raises(SpinnerfError, match="--overwrite"):
        segment_capture(capture, workspace, None, segmenter=Paints(), tracker=Shift(), objects=["lamp"])
    segment_capture(capture, workspace, None, segmenter=Paints(), tracker=Shift(), objects=["lamp"], overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in (workspace.root / "objects").rglob("*.png")} == tracked
    for photo in twin.train_photos:
        lamp = load_object_mask(workspace.root / "objects" / "lamp" / f"{key(photo)}.png")
        assert (load_object_mask(workspace.mask_path("masks_2d", key(photo))) == lamp).all()
    with pytest.raises(SpinnerfError, match="no object is called so; there are: vase, lamp"):
        segment_capture(capture, workspace, None, segmenter=Paints(), tracker=Shift(), objects=["cup"])


def test_strokes_have_the_last_word(twin, capture, workspace) -> None:
    brush = (Stroke(((20.0, 20.0),), 4.0, 0), Stroke(((100.0, 100.0), (120.0, 100.0)), 3.0, 1))
    prompt = Prompt(twin.prompt_view, box=(10, 10, 30, 30), brush=brush)
    segment_capture(capture, workspace, prompt, segmenter=Paints(), tracker=Shift())
    mask = load_object_mask(workspace.mask_path("masks_2d", key(twin.prompt_view)))
    assert mask[12, 12] and not mask[20, 20] and not mask[23, 20] and mask[100, 100:120].all() and mask[102, 110]
    assert not mask[105, 110]


def test_points_correct_a_ready_mask_where_they_are(twin, capture, workspace, tmp_path) -> None:
    mine = np.zeros((120, 160), bool)
    mine[10:20, 10:20] = mine[50:60, 50:60] = True
    save_object_mask(tmp_path / "m.png", mine)

    class Says:
        name = "says"

        def segment(self, image, prompt):
            other = np.zeros(image.shape[:2], bool)
            other[10:20, 15:40] = other[80:90, 80:90] = True
            return other

    def made(points, labels):
        prompt = Prompt(twin.prompt_view, points, labels, mask_path=tmp_path / "m.png")
        segment_capture(capture, workspace, prompt, segmenter=Says(), tracker=Shift(), overwrite=True)
        return load_object_mask(workspace.mask_path("masks_2d", key(twin.prompt_view)))

    found = made(((30.5, 15.5),), (1,))  # adds the part that it lies in, nothing else
    assert found[15, 39] and not found[85, 85] and found[55, 55] and found[12, 12] and found.sum() == 200 + 10 * 20
    found = made(((55.0, 55.0), (12.0, 12.0)), (0, 0))
    assert not found[55, 55] and not found[12, 12] and found[15, 17] and found.sum() == 50
    assert (made(((100.0, 20.0),), (0,)) == mine).all()  # it is not on it


def test_anchors_each_photo_follows_its_nearest(twin, capture, workspace) -> None:
    """Told twice what the object is, once half of it and once all of it, photos beside each anchor look like it."""
    first, last = key(twin.train_photos[0]), key(twin.train_photos[-1])
    folder = workspace.root.parent / "given"
    half = truth(twin, twin.train_photos[0])
    rows = np.flatnonzero(half.any(axis=1))
    half[rows[0] : rows[len(rows) // 2]] = False
    save_object_mask(folder / f"{first}.png", half)
    save_object_mask(folder / f"{last}.png", truth(twin, twin.train_photos[-1]))
    segment_capture(capture, workspace, folder, tracker="flow")
    order = [view.photo for view in views_with_object(capture, workspace)]
    order = order if order[0] == first else order[::-1]
    parts = []
    for photo in (order[1], order[-2]):
        true = truth(twin, f"images/{photo}.png")
        parts.append((load_object_mask(workspace.mask_path("masks_2d", photo)) & true).sum() / true.sum())
    assert parts[0] < 0.7 and parts[1] > 0.85


def test_the_command_with_views_objects_and_a_workspace(twin, tmp_path, monkeypatch, capsys) -> None:
    import shlex

    from spinnerf_ns.cli import main
    from spinnerf_ns.segmentation.segmenters import SEGMENTERS
    from spinnerf_ns.segmentation.trackers import TRACKERS

    monkeypatch.setitem(TRACKERS._targets, "shift", Shift)
    monkeypatch.setitem(SEGMENTERS._targets, "paints", Paints)
    root, photos = tmp_path / "a scene", [key(photo) for photo in twin.train_photos]
    shutil.copytree(twin.root, root)
    words = ["segment", "--data", str(root), "--workspace", str(tmp_path / "my work")]
    words += ["--segmenter", "paints", "--tracker", "shift"]
    main([*words, "--object", "vase", "--view", photos[2], "--box", "10,10,30,30", "--view", photos[6], "--box", "12,10,32,30",
          "--object", "lamp", "--view", photos[2], "--points", "70,70"])  # fmt: skip
    out = capsys.readouterr().out
    assert f"photo '{photos[2]}': 160x120" in out
    command = out.split("then: ")[1].strip()
    assert shlex.split(command)[2:] == ["--data", str(root), "--pipeline.datamanager.workspace", str(tmp_path / "my work")]
    main([*words, "--objects", "lamp", "--overwrite"])
    mask = load_object_mask(tmp_path / "my work" / "masks_2d" / f"{photos[2]}.png")
    assert mask[70, 70] and mask.sum() == 100
