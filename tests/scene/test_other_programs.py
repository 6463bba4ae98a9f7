"""What other programs write, and what people do to it: read as it is meant, or answered in one line that goes on."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene.capture import Capture, load_capture
from spinnerf_ns.scene.check import check_capture
from spinnerf_ns.scene.find import settled_dataparser
from tests.scene.captures import read_meta, write_transforms
from tests.scene.inputs import as_colmap, change


def without_lists(meta: dict) -> None:
    for split in ("train", "val", "test"):
        meta.pop(f"{split}_filenames", None)


def each_pose(edit):
    return lambda meta: [f.update(transform_matrix=edit(np.array(f["transform_matrix"])).tolist()) for f in meta["frames"]]


def same_poses(capture: Capture, other: Capture) -> bool:
    return all(np.allclose(a.c2w, b.c2w, atol=1e-12) for a, b in zip(capture.views, other.views, strict=True))


def error_of(folder: Path) -> str:
    """The one error of a capture."""
    (error,) = check_capture(folder).of("error")
    assert "\n" not in error.line()
    return error.line()


# --------------------------------------------------------------------------------------------------------------- read as meant
def numbers_as_text(matrix):
    return matrix.astype(str)


WRITTEN_OTHERWISE = {
    "poses in one row": each_pose(np.ravel),
    "twelve numbers": each_pose(lambda matrix: matrix[:3].ravel()),
    "poses by columns": each_pose(np.transpose),
    "numbers as text": each_pose(numbers_as_text),
    "values that are null": lambda meta: [meta.update(k1=None, p2=None), *(f.update(mask_path=None) for f in meta["frames"])],
    "names that begin with ./": lambda meta: [f.update(file_path="./" + f["file_path"]) for f in meta["frames"]],
}


@pytest.mark.parametrize("name", WRITTEN_OTHERWISE)
def test_json_that_says_the_same_in_another_way(twin, clean_twin, name):
    change(change(twin, without_lists), WRITTEN_OTHERWISE[name])
    assert same_poses(load_capture(twin), load_capture(clean_twin))
    parser = settled_dataparser(load_default(), twin)
    assert len(parser.setup().get_dataparser_outputs("train").image_filenames) > 8  # ns-train reads it, too


def load_default():
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    return NerfstudioDataParserConfig()


def test_json_in_utf_16(twin, clean_twin):
    text = (twin / "transforms.json").read_text()
    (twin / "transforms.json").write_text(text, encoding="utf-16")
    assert same_poses(load_capture(twin), load_capture(clean_twin))


def test_the_json_in_a_folder_beside_the_photos(twin, clean_twin):
    change(twin, lambda meta: [without_lists(meta), *(f.update(file_path="../" + f["file_path"]) for f in meta["frames"])])
    (twin / "json").mkdir()
    shutil.move(twin / "transforms.json", twin / "json/transforms.json")
    change(twin / "json", lambda meta: meta.pop("ply_file_path", None))
    assert same_poses(load_capture(twin / "json"), load_capture(clean_twin))


def test_a_phones_file_of_several_pictures(twin):
    """MPO: a JPEG that holds a preview or a depth picture behind the photo."""
    photo = Image.open(twin / "images/frame_0003.png").convert("RGB")
    photo.save(twin / "images/x.mpo", save_all=True, append_images=[photo.resize((32, 24))], quality=95)
    (twin / "images/x.mpo").rename(twin / "images/frame_0003.jpg")
    (twin / "images/frame_0003.png").unlink()
    change(twin, without_lists)
    view = check_capture(twin).capture.view("frame_0003")
    assert view.path.suffix == ".jpg" and abs(view.read_image().astype(int) - np.asarray(photo)).mean() < 4


def test_what_macos_leaves_beside_photos_is_no_photo(twin):
    for path in list((twin / "images").iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    check = check_capture(twin)
    assert not check.of("warning") and not check.of("error") and len(check.capture.views) == 12


# -------------------------------------------------------------------------------------------------------------------- COLMAP
def test_colmap_names_with_blanks(clean_twin, tmp_path):
    """images.txt parts its words by blanks; nerfstudio's reader ends a name at the first."""
    folder = as_colmap(clean_twin, tmp_path / "colmap")
    images = folder / "sparse/0/images.txt"
    images.write_text(images.read_text().replace("frame_", "my photo of "))
    for path in list((folder / "images").iterdir()):
        path.rename(path.with_name(path.name.replace("frame_", "my photo of ")))
    (tmp_path / "plain").mkdir()
    expected = load_capture(as_colmap(clean_twin, tmp_path / "plain/colmap"))
    capture = load_capture(folder)
    assert capture.views[2].photo == "my photo of 0003" and same_poses(capture, expected)


def test_colmap_names_below_the_scene(clean_twin, tmp_path):
    folder = as_colmap(clean_twin, tmp_path / "colmap")
    images = folder / "sparse/0/images.txt"
    images.write_text(images.read_text().replace("frame_", "images/frame_"))
    assert len(load_capture(folder).views) == 12


def test_a_colmap_quaternion_of_zeros(clean_twin, tmp_path):
    """The formula makes it the identity: a camera that looks somewhere else."""
    folder = as_colmap(clean_twin, tmp_path / "colmap")
    images = folder / "sparse/0/images.txt"
    lines = images.read_text().splitlines()
    lines[3] = " ".join([lines[3].split()[0], "0 0 0 0", *lines[3].split()[5:]])
    images.write_text("\n".join(lines) + "\n")
    assert "frame_0002.png: a quaternion of zeros" in error_of(folder) and "ns-process-data" in error_of(folder)


@pytest.mark.parametrize("some", [False, True])
def test_colmaps_masks_by_their_names(clean_twin, tmp_path, some):
    """masks/<photo with suffix>.png, black is left out: what COLMAP's feature extraction takes as --ImageReader.mask_path."""
    from spinnerf_ns.nerf.data.datamanager import SpinnerfDataManagerConfig

    folder = as_colmap(clean_twin, tmp_path / "colmap")
    (folder / "masks").mkdir()
    for path in sorted((folder / "images").iterdir())[:: 2 if some else 1]:
        mask = np.full((96, 128), 255, np.uint8)
        mask[:, :30] = 0
        Image.fromarray(mask).save(folder / f"masks/{path.name}.png")
    check = check_capture(folder)
    masked = [view for view in check.capture.views if not view.valid_mask().all()]
    assert len(masked) == (6 if some else 12)
    assert not masked[0].valid_mask()[:, :30].any() and masked[0].valid_mask()[:, 30:].all()
    assert any("black is left out" in finding.text for finding in check.of("ok"))
    manager = SpinnerfDataManagerConfig(data=folder, sparse_num_rays=0).setup(device="cpu")
    assert int(manager.train_pool.usable.sum()) < manager.train_pool.num_pixels


def test_masks_under_other_names_are_told_and_not_taken(clean_twin, tmp_path):
    folder = as_colmap(clean_twin, tmp_path / "colmap")
    (folder / "masks").mkdir()
    Image.new("L", (128, 96)).save(folder / "masks/frame_0001.png")
    check = check_capture(folder)
    assert all(view.valid_mask().all() for view in check.capture.views)
    assert any("is not used" in finding.text for finding in check.of("warning"))


def test_photos_that_are_left_out_and_a_parser_that_is_named(clean_twin, tmp_path):
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

    folder = as_colmap(clean_twin, tmp_path / "colmap")
    with pytest.raises(SpinnerfError, match="1 photos .*images/frame_0003.png.*name none: ns-train METHOD --data"):
        settled_dataparser(ColmapDataParserConfig(), folder, ["images/frame_0003.png"])


# ------------------------------------------------------------------------------------------------ answered with the way on
def raw_polycam(folder: Path) -> Path:
    (folder / "keyframes").mkdir()
    (folder / "images").rename(folder / "keyframes/corrected_images")
    return folder


def record3d(folder: Path) -> Path:
    (folder / "EXR_RGBD").mkdir()
    (folder / "images").rename(folder / "EXR_RGBD/rgb")
    (folder / "EXR_RGBD/metadata.json").write_text("{}")
    return folder


def reality_capture(folder: Path) -> Path:
    (folder / "my cameras.csv").write_text("#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2\n")
    return folder


def metashape(folder: Path) -> Path:
    (folder / "cameras.xml").write_text('<?xml version="1.0"?>\n<document version="1.5.0"></document>')
    return folder


PROGRAMS = {
    "polycam": (raw_polycam, ["polycam", "--data", "{}"]),
    "record3d": (record3d, ["record3d", "--data", "{}/EXR_RGBD"]),
    "realitycapture": (reality_capture, ["realitycapture", "--data", "{}/images", "--csv", "{}/my cameras.csv"]),
    "metashape": (metashape, ["metashape", "--data", "{}/images", "--xml", "{}/cameras.xml"]),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_export_that_has_to_be_converted(twin, program):
    make, words = PROGRAMS[program]
    os.remove(twin / "transforms.json")
    line = error_of(make(twin))
    command = shlex.split(line[line.index("ns-process-data") :])
    wanted = [word.replace("{}", str(twin)) for word in words]
    assert [word for word in command if word in wanted] == sorted(wanted, key=command.index) and command[1] == program


def test_a_capture_within_a_folder(twin, tmp_path):
    (tmp_path / "unpacked").mkdir()
    shutil.move(twin, tmp_path / "unpacked/my scene")
    line = error_of(tmp_path / "unpacked")
    assert load_capture(shlex.split(line[line.index("--data") :])[1]).views


@pytest.mark.parametrize("values", [{"fl_x": 0.8, "fl_y": 1.1, "cx": 0.5, "cy": 0.5}, {"fl_x": 2.4, "fl_y": 2.4}])
def test_a_focal_length_in_other_units(twin, values):
    assert "in millimetres, or a part of the photo's size" in error_of(change(twin, lambda meta: meta.update(values)))


def test_axes_of_opencv_are_told(twin):
    change(twin, lambda meta: [meta.pop("ply_file_path", None), each_pose(lambda m: m @ np.diag([1, -1, -1, 1.0]))(meta)])
    assert any("look away from where their axes meet" in finding.text for finding in check_capture(twin).of("warning"))


def test_masks_that_leave_nothing(twin):
    Image.new("L", (128, 96)).save(twin / "m.png")
    assert "invert them: white = use" in error_of(change(twin, every_frame_masked))


def every_frame_masked(meta):
    for frame in meta["frames"]:
        frame["mask_path"] = "m.png"


def test_no_photo_to_train_on(twin):
    names = [frame["file_path"] for frame in read_meta(twin)["frames"]]
    write_transforms(twin, {**read_meta(twin), "train_filenames": [], "val_filenames": names, "test_filenames": names})
    assert "train_filenames is empty" in error_of(twin)


@pytest.mark.parametrize("how", ["empty", "a dead link", "a folder"])
def test_a_photo_that_is_none_is_left_out_by_the_command_that_is_printed(twin, how):
    photo = twin / "images/frame_0003.png"
    photo.unlink()
    {"empty": photo.touch, "a dead link": lambda: photo.symlink_to("/nowhere/x.png"), "a folder": photo.mkdir}[how]()
    assert "frame_0003.png" in error_of(twin) and "--skip-missing" in error_of(twin)
    assert len(check_capture(twin, skip_missing=True).capture.views) == 11
