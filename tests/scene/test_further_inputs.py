"""Further captures as people have them; the public reports are named in docs/captures.md."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.check import check_capture
from spinnerf_ns.scene.find import settled_dataparser
from tests.scene.captures import read_meta
from tests.scene.inputs import as_colmap, change
from tests.scene.test_other_programs import error_of, load_default, same_poses


def rename(folder: Path, name, write=None) -> Path:
    """Renames each photo: `name` gets its number; `write` writes it anew."""

    def edit(meta):
        for index, frame in enumerate(meta["frames"]):
            old, new = folder / frame["file_path"], folder / name(index)
            new.parent.mkdir(exist_ok=True)
            if write is None:
                old.rename(new)
            else:
                write(Image.open(old).convert("RGB"), new)
                old.unlink()
            frame["file_path"] = name(index)

    return change(folder, edit)


def trains(folder: Path) -> int:
    """How many photos the parser that training takes has."""
    parser = settled_dataparser(load_default(), folder).setup()
    return len(parser.get_dataparser_outputs("train").image_filenames)


# -------------------------------------------------------------------------------------------------------------- read as meant
@pytest.mark.parametrize(
    "name", ["images/shot #{} (1)&;$x'.png", "images/shot.{}.0.png", "images/IMG_{}.JPG", "images/{}.webp", "images/{}.tiff"]
)
def test_names_and_formats(twin, clean_twin, name):
    save = None if name.endswith("png") else lambda photo, path: photo.save(path, quality=95)
    capture = check_capture(rename(twin, lambda index: name.format(f"{index:02}"), save)).capture
    assert same_poses(capture, load_capture(clean_twin)) and trains(twin) > 8


@pytest.mark.parametrize("on_disk", ["NFD", "NFC"])
def test_accents_that_macos_parts_from_their_letters(twin, clean_twin, on_disk):
    rename(twin, lambda index: unicodedata.normalize(on_disk, f"images/Küchentür {index:02}.png"))
    other = "NFC" if on_disk == "NFD" else "NFD"
    change(twin, lambda meta: [f.update(file_path=unicodedata.normalize(other, f["file_path"])) for f in meta["frames"]])
    assert same_poses(load_capture(twin), load_capture(clean_twin)) and trains(twin) > 8


def test_names_of_another_case(twin, clean_twin):
    rename(twin, lambda index: f"images/DSC_{index:02}.JPG", lambda photo, path: photo.save(path, quality=95))
    change(twin, lambda meta: [f.update(file_path=f["file_path"].lower()) for f in meta["frames"]])
    assert same_poses(load_capture(twin), load_capture(clean_twin))


def test_heic_is_converted_as_printed_and_then_read(twin, clean_twin):
    heic = lambda photo, path: (photo.save(path.with_suffix(".jpg")), path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99)))  # noqa: E731
    rename(twin, lambda index: f"images/IMG_{index:02}.heic", heic)
    later = {path: path.rename(twin / path.name) for path in list((twin / "images").glob("*.jpg"))}
    line = error_of(twin)
    assert "IMG_00.heic" in line and f"mogrify -format jpg {twin}/images/*.heic" in line and "left out" not in line
    for path, kept in later.items():  # what the command does
        kept.rename(path)
    assert same_poses(load_capture(twin), load_capture(clean_twin)) and load_capture(twin).views[0].path.suffix == ".jpg"


def test_portrait_and_landscape_in_one_capture(twin, clean_twin):
    """Each photo has its own size and lens; those that are turned have turned poses."""
    turned = np.array([[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])

    def edit(meta):
        shared = {name: meta.pop(name) for name in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
        for index, frame in enumerate(meta["frames"]):
            frame.update(shared)
            if index % 3 == 0:
                path = twin / frame["file_path"]
                Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
                frame.update(w=shared["h"], h=shared["w"], fl_x=shared["fl_y"], fl_y=shared["fl_x"])
                frame.update(cx=shared["cy"], cy=shared["w"] - shared["cx"])
                frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ turned).tolist()

    check = check_capture(change(twin, edit))
    assert {(view.width, view.height) for view in check.capture.views} == {(128, 96), (96, 128)}
    points = next(finding for finding in check.findings if finding.subject == "points")
    assert "of the poses' frame" in points.text  # their colours are the photos': every camera is where it should be
    assert trains(twin) > 8


@pytest.mark.parametrize("factor", [1e-4, 1e5])
def test_scenes_in_other_units(twin, clean_twin, factor):
    def edit(meta):
        meta.pop("ply_file_path", None)
        for frame in meta["frames"]:
            for row in frame["transform_matrix"][:3]:
                row[3] *= factor

    check = check_capture(change(twin, edit))
    assert not check.of("error") and not check.of("warning")
    training = [
        np.stack([c.numpy() for c in found.cameras(found.views).camera_to_worlds])
        for found in (check.capture, load_capture(clean_twin))
    ]
    assert np.allclose(*training, atol=1e-5)


def test_smaller_copies_of_some_photos_only(twin):
    """ns-process-data's downscaling ends at the first photo with another suffix."""

    def edit(meta):
        (twin / "images_2").mkdir()
        meta.update(w=1700, h=20, cx=850, cy=10)
        for index, frame in enumerate(meta["frames"]):
            Image.new("RGB", (1700, 20), (index, 0, 0)).save(twin / frame["file_path"])
            if index < 5:
                Image.new("RGB", (850, 10)).save(twin / "images_2" / Path(frame["file_path"]).name)

    check = check_capture(change(twin, edit))
    assert {view.width for view in check.capture.views} == {1700}
    assert any("images_2/ lacks 7 of 12 photos" in finding.text for finding in check.of("ok"))
    assert trains(twin) > 8


def test_instant_ngps_word_for_a_fisheye(twin):
    change(twin, lambda meta: (meta.pop("camera_model", None), meta.update(is_fisheye=True)))
    assert {view.camera_model for view in load_capture(twin).views} == {"OPENCV_FISHEYE"}
    change(twin, lambda meta: meta.update(is_fisheye=False))
    assert {view.camera_model for view in load_capture(twin).views} == {"OPENCV"}


def test_a_camera_model_in_small_letters_and_a_last_row_of_zeros(twin, clean_twin):
    change(
        twin,
        lambda meta: [
            meta.update(camera_model="pinhole"),
            *(f["transform_matrix"].__setitem__(3, [0] * 4) for f in meta["frames"]),
        ],
    )
    assert same_poses(load_capture(twin), load_capture(clean_twin)) and trains(twin) > 8


def test_links_to_folders_elsewhere(twin, clean_twin, tmp_path):
    (twin / "images").rename(tmp_path / "photos elsewhere")
    (twin / "images").symlink_to(tmp_path / "photos elsewhere")
    assert same_poses(check_capture(twin).capture, load_capture(clean_twin))


# -------------------------------------------------------------------------------------------------------------------- COLMAP
@pytest.mark.parametrize("ends", [b"\r\n", b"\n"])
def test_text_of_windows_or_without_its_last_line(clean_twin, tmp_path, ends):
    folder = as_colmap(clean_twin, tmp_path / "colmap")
    expected = load_capture(folder)
    for path in (folder / "sparse/0").glob("*.txt"):
        path.write_bytes(path.read_bytes().rstrip().replace(b"\n", ends))
    assert same_poses(load_capture(folder), expected)


def test_lines_of_points_that_nobody_wrote_are_added_as_printed(clean_twin, tmp_path):
    """Poses written by hand: the format wants a line of points after each photo's."""
    folder = as_colmap(clean_twin, tmp_path / "my scene")
    expected, images = load_capture(folder), folder / "sparse/0/images.txt"
    images.write_text(images.read_text().replace("\n\n", "\n"))
    line = error_of(folder)
    subprocess.run(shlex.split(line[line.index("sed ") :]), check=True)
    assert same_poses(load_capture(folder), expected)


def test_photos_in_input_are_linked_as_printed(clean_twin, tmp_path):
    """What 3DGS's convert.py starts from."""
    folder = as_colmap(clean_twin, tmp_path / "my scene")
    (folder / "images").rename(folder / "input")
    line = error_of(folder)
    subprocess.run(shlex.split(line[line.index("ln ") :]), check=True)
    assert len(load_capture(folder).views) == 12


def test_the_smaller_copies_alone(clean_twin, tmp_path):
    """Of a large data set people keep images_4/ and the model."""
    folder = as_colmap(clean_twin, tmp_path / "colmap")
    (folder / "images").rename(folder / "images_4")
    cameras = folder / "sparse/0/cameras.txt"
    focal = [4 * float(word) for word in cameras.read_text().split()[4:]]
    cameras.write_text(f"1 PINHOLE 512 384 {' '.join(map(str, focal))}\n")
    capture, whole = load_capture(folder), load_capture(clean_twin)
    assert {view.width for view in capture.views} == {128} and capture.views[0].fx == pytest.approx(whole.views[0].fx)
    assert trains(folder) > 8


# -------------------------------------------------------------------------------------------------------------------- points
def write_points(folder: Path, how: str) -> None:
    plyfile = pytest.importorskip("plyfile")
    import trimesh

    path = folder / read_meta(folder)["ply_file_path"]
    cloud = trimesh.load(path, process=False)
    names = [] if how == "no colours" else ["red", "green", "blue"]
    kind, scale = ("f4", 1 / 255) if how == "floats" else ("u1", 1)
    table = np.empty(len(cloud.vertices), [(n, "f8") for n in "xyz"] + [(n, kind) for n in names])
    for column, name in enumerate("xyz"):
        table[name] = np.asarray(cloud.vertices)[:, column]
    for column, name in enumerate(names):
        table[name] = np.asarray(cloud.colors)[:, column] * scale
    element = plyfile.PlyElement.describe(table, "vertex")
    plyfile.PlyData([element], text=how == "text", byte_order=">" if how == "big-endian" else "<").write(str(path))


@pytest.mark.parametrize("how", ["big-endian", "text", "floats"])
def test_points_of_any_ply(twin, how):
    write_points(twin, how)
    assert any(f.subject == "points" and "of the poses' frame" in f.text for f in check_capture(twin).of("ok"))


@pytest.mark.parametrize("how", ["no colours", "empty", "las"])
def test_points_that_cannot_be_used_are_told(twin, how):
    path = twin / read_meta(twin)["ply_file_path"]
    if how == "no colours":
        write_points(twin, how)
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path = path.rename(path.with_suffix(".las"))
        change(twin, lambda meta: meta.update(ply_file_path=path.name))
    (told,) = [finding for finding in check_capture(twin).of("warning") if finding.subject == "points"]
    assert f"none with colours can be read from {path}" in told.text


# ------------------------------------------------------------------------------------------------------------------- refused
SAID = {
    "k1 NaN": ({"k1": float("nan")}, "k1 is nan, which no lens has"),
    "k1 of another unit": ({"k1": 1e6}, "k1 is 1e\\+06, which no lens has"),
    "p1 NaN": ({"p1": float("nan")}, "numbers were expected"),
    "applied_scale 0": ({"applied_scale": 0}, "applied_scale is 0, a positive number"),
    "applied_transform 2x2": ({"applied_transform": [[1, 2], [3, 4]]}, "applied_transform is .*3 rows of 4 numbers"),
    "orientation_override": ({"orientation_override": "sideways"}, "one of pca, up, vertical, none"),
    "a list that is a word": ({"train_filenames": "images/frame_0000.png"}, "train_filenames is .*, a list of photos"),
    "no pixels": ({"w": 0, "h": 0}, "w is 0, the photos' size in pixels"),
    "a crop that is a word": ({"fisheye_crop_radius": "big"}, "fisheye_crop_radius is .*, a positive number"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_is_said_of_all_photos_and_cannot_be(twin, name):
    values, expected = SAID[name]
    line = error_of(change(twin, lambda meta: meta.update(values)))
    assert "transforms.json" in line and re.search(expected, line), line


def test_a_pose_whose_last_row_scales_it(twin):
    change(twin, lambda meta: meta["frames"][3]["transform_matrix"].__setitem__(3, [0, 0, 0, 2]))
    assert "frame_0004.png: transform_matrix ends with 0 0 0 2, where 0 0 0 1 was expected" in error_of(twin)


# ------------------------------------------------------------------------------------------------------------------ workspaces
def test_a_workspace_of_another_capture(twin, tmp_path):
    """Copied from a scene of other photos: its masks name none of these."""
    from spinnerf_ns.scene.workspace import Workspace

    other = Path(shutil.copytree(twin, tmp_path / "other"))
    Workspace.open(other).set_skipped({"images/not here.png": "absent"})
    shutil.copytree(other / "spinnerf", twin / "spinnerf")
    assert len(check_capture(twin).capture.views) == 12
    assert os.path.exists(Workspace.open(twin).manifest_path)
