"""Captures as people have them: each is read right, or refused in one line before anything works on it.

The public reports that these come from are named in docs/captures.md.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spinnerf_ns.cli import main
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.check import check_capture, require_depth
from spinnerf_ns.scene.workspace import Workspace
from tests.scene.captures import read_meta, write_transforms
from tests.scene.inputs import as_colmap, change


def frames(folder: Path) -> list[dict]:
    return read_meta(folder)["frames"]


def keep(folder: Path, count: int) -> Path:
    return change(folder, lambda meta: meta.update(frames=meta["frames"][:count]))


def pose(folder: Path, edit, which: int = 2) -> Path:
    """Edits a frame's pose, a (4, 4) array, in place."""

    def change_one(meta):
        matrix = np.array(meta["frames"][which]["transform_matrix"])
        edit(matrix)
        meta["frames"][which]["transform_matrix"] = matrix.tolist()

    return change(folder, change_one)


def scale_rotation(factor):
    def edit(matrix):
        matrix[:3, :3] = matrix[:3, :3] * factor

    return edit


def at_one_place(meta):
    for frame in meta["frames"]:
        for row in frame["transform_matrix"][:3]:
            row[3] = 0.25


def repeated(meta):
    """Every photo has the pose of the first or the second."""
    for index, frame in enumerate(meta["frames"]):
        frame["transform_matrix"] = meta["frames"][index % 2]["transform_matrix"]


def every_frame(**values):
    return lambda meta: [frame.update(values) for frame in meta["frames"]]


def whole(**values):
    return lambda meta: meta.update(values)


def same_photo_twice(meta):
    meta["frames"][1]["file_path"] = meta["frames"][0]["file_path"][:-4]


def turned_photo(folder):
    Image.new("RGB", (96, 128)).save(folder / "images/frame_0003.png")
    return folder


def heic(folder):
    (folder / "images/frame_0003.png").write_bytes(b"\0\0\0\x18ftypheic")
    return folder


# ------------------------------------------------------------------------------------------- refused, in one line, at once
EDITED = {
    "one place": (at_one_place, "at one place.*ns-process-data"),
    "identical poses": (repeated, "10 are copies of others.*ns-process-data"),
    "fl_x NaN": (whole(fl_x=float("nan")), "fl_x is nan"),
    "fl_x 0": (whole(fl_x=0), "fl_x is 0"),
    "fl_x negative": (whole(fl_x=-90), "fl_x is -90"),
    "fl_x a word": (whole(fl_x="auto"), "intrinsics are no numbers.*auto"),
    "cx far outside": (whole(cx=1e4), "cx is 10000, far outside.*about 64"),
    "panoramas": (whole(camera_model="EQUIRECTANGULAR"), "ns-process-data images .*--camera-type equirectangular"),
    "FISHEYE624": (whole(camera_model="FISHEYE624"), "FISHEYE624.*undistort"),
    "FULL_OPENCV": (whole(camera_model="FULL_OPENCV"), "FULL_OPENCV.*undistort"),
    "panoramas per frame": (every_frame(camera_model="EQUIRECTANGULAR"), "EQUIRECTANGULAR.*equirectangular"),
    "two lenses": (lambda meta: meta["frames"][0].update(camera_model="OPENCV_FISHEYE"), "several lenses.*OPENCV, OPENCV_FISHEYE"),
    "a split of no frame": (whole(train_filenames=["images/gone.png"]), "images/gone.png, which is no frame"),
    "masks of some frames": (lambda meta: meta["frames"][0].update(mask_path="m.png"), "frames have no `mask_path`"),
    "one photo twice": (same_photo_twice, "several frames mean"),
}
POSED = {
    "a rotation of zeros": (scale_rotation(0), "frame_.*zeros in place of a rotation"),
    "a scaled rotation": (scale_rotation(2.5), "frame_.*scaled by 2.5"),
    "a mirrored rotation": (scale_rotation([[-1, 1, 1]]), "frame_.*mirrored"),
    "a sheared rotation": (scale_rotation([[1, 2, 1]]), "frame_.*right angles"),
    "NaN in a pose": (lambda matrix: matrix.__setitem__((0, 3), np.nan), "frame_.*finite numbers"),
    "a pose at 1e9": (lambda matrix: matrix.__setitem__((0, 3), 1e9), "frame_.*1e\\+09 from the rest.*remove the frame"),
}
REFUSED = {
    "one photo": (lambda folder: keep(folder, 1), "1 is too few.*ns-process-data"),
    "two photos": (lambda folder: keep(folder, 2), "2 are too few.*ns-process-data"),
    "a photo of another size": (turned_photo, "frame_0003.png: the photo is 96x128"),
    "HEIC": (heic, "frame_0003.png: cannot be decoded"),
    **{name: (lambda folder, edit=edit: change(folder, edit), text) for name, (edit, text) in EDITED.items()},
    **{name: (lambda folder, edit=edit: pose(folder, edit), text) for name, (edit, text) in POSED.items()},
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_one_line_that_names_what_is_wrong(twin, name, capsys):
    spoil, expected = REFUSED[name]
    with pytest.raises(SystemExit) as ended:
        main(["check", "--data", str(spoil(twin))])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error")]
    assert ended.value.code == 1 and len(lines) == 1
    assert re.search(expected, lines[0]), lines[0]
    assert not (twin / "spinnerf").exists()


def test_segment_and_training_refuse_it_too(twin, capsys):
    keep(twin, 2)
    with pytest.raises(SystemExit):
        main(["segment", "--data", str(twin), "--view", "frame_0000", "--points", "5,5"])
    assert "2 are too few" in capsys.readouterr().err
    with pytest.raises(SpinnerfError, match="2 are too few"):
        require_depth(load_capture(twin))


# ------------------------------------------------------------------------------------------------------------ read as meant
def test_folders_and_names_with_spaces_brackets_and_unicode(twin, tmp_path):
    folder = tmp_path / "Küche [alt] 100%"
    shutil.move(twin, folder)

    def rename(meta):
        for frame in meta["frames"]:
            path = folder / frame["file_path"]
            frame["file_path"] = f"images/Bild {path.stem} [ü].png"
            path.rename(folder / frame["file_path"])

    capture = check_capture(change(folder, rename)).capture
    assert capture is not None and capture.view("Bild frame_0003 [ü].png").photo == "Bild frame_0003 [ü]"


def test_names_written_on_windows_or_on_another_machine(twin, clean_twin):
    expected = load_capture(clean_twin)
    change(twin, lambda meta: [f.update(file_path=f["file_path"].replace("/", "\\")) for f in meta["frames"]])
    assert load_capture(twin).photos == expected.photos
    change(twin, lambda meta: [f.update(file_path="/home/someone/scene/images/" + f["file_path"][7:]) for f in meta["frames"]])
    capture = load_capture(twin)
    assert capture.photos == expected.photos and all(twin in view.path.parents for view in capture.views)


def test_a_byte_order_mark_and_poses_of_three_rows(twin, clean_twin):
    change(twin, lambda meta: [f.update(transform_matrix=f["transform_matrix"][:3]) for f in meta["frames"]])
    text = (twin / "transforms.json").read_text()
    (twin / "transforms.json").write_text("\ufeff" + text, encoding="utf-8")
    capture, expected = load_capture(twin), load_capture(clean_twin)
    assert all(np.array_equal(a.c2w, b.c2w) for a, b in zip(capture.views, expected.views, strict=True))


def test_equal_names_in_sub_folders_with_a_flat_folder_of_smaller_copies(twin):
    """ns-process-data writes images_2/ flat: two cameras' photos of one name become one file there."""

    def two_cameras(meta):
        meta.update(w=1700, h=20, cx=850, cy=10)
        for index, frame in enumerate(meta["frames"]):
            frame["file_path"] = f"images/cam{index % 2}/{index // 2}.png"
            path = twin / frame["file_path"]
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (1700, 20), (index, 0, 0)).save(path)
            (twin / "images_2").mkdir(exist_ok=True)
            Image.new("RGB", (850, 10)).save(twin / "images_2" / path.name)

    capture = load_capture(change(twin, two_cameras))
    assert len(capture.views) == 12 and len({view.path for view in capture.views}) == 12
    assert {int(view.read_image()[0, 0, 0]) for view in capture.views} == set(range(12))
    for frame in frames(twin):
        copy = twin / frame["file_path"].replace("images", "images_2")
        copy.parent.mkdir(exist_ok=True)
        Image.new("RGB", (850, 10), tuple(Image.open(twin / frame["file_path"]).getpixel((0, 0)))).save(copy)
    capture = load_capture(twin)
    assert {view.width for view in capture.views} == {850}
    assert {int(view.read_image()[0, 0, 0]) for view in capture.views} == set(range(12))


def test_mixed_sizes_and_a_number_as_text(twin):
    def mixed(meta):
        shared = {name: meta.pop(name) for name in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
        for index, frame in enumerate(meta["frames"]):
            half = 2 if index % 3 == 0 else 1
            frame.update({name: value // half if name in "wh" else str(value / half) for name, value in shared.items()})
            if half == 2:
                path = twin / frame["file_path"]
                Image.open(path).resize((64, 48)).save(path)

    capture = check_capture(change(twin, mixed)).capture
    assert capture is not None and sorted({view.width for view in capture.views}) == [64, 128]
    assert {round(view.fx / view.width, 6) for view in capture.views} == {round(capture.views[0].fx / capture.views[0].width, 6)}


@pytest.mark.parametrize("count", [3, 5, 9])
def test_three_to_nine_photos_are_read_and_warned_of(twin, count):
    check = check_capture(keep(twin, count))
    assert not check.of("error") and any(f"only {count}" in finding.text for finding in check.of("warning"))
    assert check.capture is not None and len(check.capture.views) == count


@pytest.mark.parametrize("listed", [("train", "test"), ("train", "val"), ("train",)])
def test_lists_of_some_splits_train_and_evaluate(twin, listed):
    from spinnerf_ns.nerf.data.datamanager import SpinnerfDataManagerConfig

    names = [frame["file_path"] for frame in frames(twin)]
    lists = dict(zip(listed, (names[:9], names[9:]), strict=False))
    change(twin, lambda meta: meta.update({f"{split}_filenames": files for split, files in lists.items()}))
    manager = SpinnerfDataManagerConfig(data=twin, sparse_num_rays=0).setup(device="cpu")
    assert len(manager.train_dataset) == 9 and len(manager.eval_dataset) == (3 if len(listed) == 2 else 9)


def test_depths_of_some_frames_only(twin):
    """nerfstudio wants depth of every frame or of none."""
    change(twin, lambda meta: [f.update(depth_file_path="d.npy") for f in meta["frames"][::2]])
    assert len(load_capture(twin).views) == 12


def test_an_applied_transform_of_four_rows_and_points_that_are_gone(twin):
    change(twin, lambda meta: meta.update(applied_transform=np.eye(4).tolist(), ply_file_path="gone.ply"))
    check = check_capture(twin)
    assert not check.of("error") and check.capture is not None
    assert np.array_equal(check.capture.source_meta["applied_transform"], np.eye(4)[:3])


@pytest.mark.parametrize("way", ["absolute", "relative", "trailing slash", "file", "link"])
def test_a_folder_however_it_is_named(twin, way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(twin)
    named = {"absolute": twin, "relative": "scene", "trailing slash": f"{twin}/", "file": twin / "transforms.json", "link": "link"}
    assert load_capture(named[way]).digest == load_capture(twin).digest


@pytest.mark.parametrize("layout", ["sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse/0/models/4"])
def test_colmap_models_wherever_programs_put_them(clean_twin, tmp_path, layout):
    folder = as_colmap(clean_twin, tmp_path / "colmap", layout)
    assert len(load_capture(folder).views) == 12


def test_colmap_with_lists_and_photos_in_sub_folders(clean_twin, tmp_path):
    folder = as_colmap(clean_twin, tmp_path / "colmap")
    images = folder / "sparse/0/images.txt"
    images.write_text(images.read_text().replace("frame_", "left/frame_"))
    (folder / "images").rename(folder / "left")
    (folder / "images").mkdir()
    (folder / "left").rename(folder / "images/left")
    names = sorted(path.name for path in (folder / "images/left").iterdir())
    (folder / "test_list.txt").write_text("\n".join(f"left/{name}" for name in names[:2]) + "\n")
    capture = load_capture(folder)
    assert len(capture.split("train")) == 10 and len(capture.split("test")) == len(capture.split("val")) == 2
    assert all(view.path.parent.name == "left" for view in capture.views)


# ----------------------------------------------------------------------------------------------------- absent, broken, others
def test_absent_and_broken_photos_are_left_out_by_the_command_that_is_printed(twin, capsys):
    """instant-ngp's fox has 67 frames and 50 files."""
    from spinnerf_ns.nerf.data.datamanager import SpinnerfDataManagerConfig

    names = [frame["file_path"] for frame in frames(twin)]
    (twin / names[4]).unlink()
    whole = (twin / names[6]).read_bytes()
    (twin / names[6]).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit):
        main(["check", "--data", str(twin)])
    printed = capsys.readouterr().out
    assert Path(names[4]).name in printed
    command = shlex.split(printed[printed.index("ns-spinnerf ") :].splitlines()[0])
    main(command[1:])
    assert "2 are left out" in capsys.readouterr().out
    workspace = Workspace.open(twin)
    assert set(workspace.skipped) == {names[4], names[6]}
    assert len(load_capture(twin, skipped=workspace.skipped).views) == 10
    manager = SpinnerfDataManagerConfig(data=twin, sparse_num_rays=0).setup(device="cpu")
    assert len(manager.capture.views) == 10


def test_a_photo_that_is_no_picture_can_be_left_out(twin, capsys):
    with pytest.raises(SystemExit):
        main(["check", "--data", str(heic(twin))])
    printed = capsys.readouterr().out
    main(shlex.split(printed[printed.index("ns-spinnerf ") :].splitlines()[0])[1:])
    assert list(Workspace.open(twin).skipped.values()) == ["no picture"]


@pytest.mark.parametrize("cut", [0, 4, 100, -20])
def test_a_damaged_colmap_model_is_one_line(clean_twin, tmp_path, cut):
    folder = as_colmap(clean_twin, tmp_path / "colmap", binary=True)
    images = folder / "sparse/0/images.bin"
    images.write_bytes(images.read_bytes()[:cut])
    errors = check_capture(folder).of("error")
    assert len(errors) == 1 and "sparse/0" in errors[0].text and "ns-process-data" in errors[0].text


def test_a_colmap_pose_that_is_no_rotation_and_a_lens_that_is_not_known(clean_twin, tmp_path):
    folder = as_colmap(clean_twin, tmp_path / "colmap")
    images, cameras = folder / "sparse/0/images.txt", folder / "sparse/0/cameras.txt"
    text = images.read_text()
    second = text.splitlines()[3]
    images.write_text(text.replace(second, " ".join([second.split()[0], "1 1 0 0", *second.split()[5:]])))
    assert "no rotation" in check_capture(folder).of("error")[0].text
    images.write_text(text)
    cameras.write_text("1 THIN_PRISM_FISHEYE 128 96 100 100 64 48 0 0 0 0 0 0 0 0\n")
    assert "colmap image_undistorter --image_path" in check_capture(folder).of("error")[0].text


def test_photos_without_a_pose_and_masks_beside_them_are_told(twin):
    shutil.copy(twin / "images/frame_0003.png", twin / "images/zzz.png")
    (twin / "masks").mkdir()
    told = " ".join(finding.line() for finding in check_capture(twin).of("warning"))
    assert "1 of 13 in images/ have no pose (zzz.png)" in told and "--masks" in told


def test_a_photo_cut_short_is_named_before_anything_works_on_it(twin):
    path = twin / frames(twin)[6]["file_path"]
    path.write_bytes(path.read_bytes()[:2000])
    errors = check_capture(twin).of("error")
    assert (
        len(errors) == 1 and "frame_" in errors[0].text and "cut short" in errors[0].text and "--skip-missing" in errors[0].command
    )


def test_a_place_that_cannot_be_written_is_told(twin, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert [f.subject for f in check_capture(twin).of("error")] == ["workspace"]
    assert "--workspace" in check_capture(twin).of("error")[0].text


def test_a_full_disk_is_told(twin, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    assert [f.subject for f in check_capture(twin).of("error")] == ["disk"]


def test_points_of_another_frame_are_told(twin):
    meta = read_meta(twin)
    write_transforms(twin, meta)
    if "ply_file_path" not in meta:
        pytest.skip("the twin has no points")
    import trimesh

    cloud = trimesh.load(twin / meta["ply_file_path"], process=False)
    cloud.vertices = np.asarray(cloud.vertices)[:, [2, 0, 1]]
    cloud.export(twin / meta["ply_file_path"])
    assert any(f.subject == "points" and "another frame" in f.text for f in check_capture(twin).of("warning"))


def test_findings_as_json(twin, capsys):
    import json

    main(["check", "--data", str(twin), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {"capture", "photos", "lens", "poses", "points", "disk", "machine"} <= {finding["subject"] for finding in found}
    assert not (twin / "spinnerf").exists()
