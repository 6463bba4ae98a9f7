"""LLFF folders: poses against a slow reference, any factor, splits, what is missing, and a real scene's points."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene.llff import convert_llff, read_poses_bounds

WIDTH, HEIGHT, FOCAL = 90, 60, 75.0


def random_poses(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """World-to-camera rotations and translations in COLMAP's convention (x right, y down, z forwards)."""
    random = np.random.default_rng(0)
    poses = []
    for _ in range(count):
        rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
        rotation *= np.sign(np.linalg.det(rotation))
        poses.append((rotation, random.normal(size=3)))
    return poses


def llff_row(rotation: np.ndarray, translation: np.ndarray) -> list[float]:
    """One row of poses_bounds.npy, written out slowly from COLMAP's world-to-camera pose."""
    right, down, forwards = rotation[0], rotation[1], rotation[2]  # the camera's axes in the world
    position = [-sum(rotation[k][i] * translation[k] for k in range(3)) for i in range(3)]
    row = []
    for i in range(3):
        row += [down[i], right[i], -forwards[i], position[i], (HEIGHT, WIDTH, FOCAL)[i]]
    return row + [2.0, 9.0]


def write_scene(folder: Path, names: list[str], factor: int = 4, labels: dict[str, np.ndarray] | None = None) -> Path:
    """An LLFF folder: photos of 1/factor (rounded down, as mogrify does) and random poses."""
    images = folder / f"images_{factor}"
    images.mkdir(parents=True)
    size = (HEIGHT // factor, WIDTH // factor, 3)
    for i, name in enumerate(names):
        cv2.imwrite(str(images / name), np.full(size, i, np.uint8))
    for name, label in (labels or {}).items():
        (images / "label").mkdir(exist_ok=True)
        cv2.imwrite(str(images / "label" / name), label)
    np.save(folder / "poses_bounds.npy", [llff_row(*pose) for pose in random_poses(len(names))])
    return folder


def read(output: Path) -> dict:
    return json.loads((output / "transforms.json").read_text())


def names_of(count: int) -> list[str]:
    return [f"photo_{i:03d}.png" for i in range(count)]


def test_poses_project_as_colmap_does(tmp_path):
    names = names_of(5)
    output = convert_llff(write_scene(tmp_path / "scene", names), tmp_path / "out")
    meta = read(output)
    point = np.array([0.3, -0.2, 0.9])
    for frame, (rotation, translation) in zip(meta["frames"], random_poses(5), strict=True):
        x, y, z = rotation @ point + translation  # COLMAP
        c2w = np.array(frame["transform_matrix"])
        assert np.abs(c2w[3] - [0, 0, 0, 1]).max() == 0
        in_camera = c2w[:3, :3].T @ (point - c2w[:3, 3])  # OpenGL
        np.testing.assert_allclose(in_camera, [x, -y, -z], atol=1e-9)
        assert frame["bounds"] == [2.0, 9.0]


def test_focal_follows_the_size_on_disk(tmp_path):
    # 90x60 at factor 4 is 22x15: the width was rounded down, so fx and fy differ a little.
    meta = read(convert_llff(write_scene(tmp_path / "scene", names_of(3)), tmp_path / "out"))
    assert (meta["w"], meta["h"]) == (22, 15)
    assert meta["fl_x"] == pytest.approx(FOCAL * 22 / 90) and meta["fl_y"] == pytest.approx(FOCAL * 15 / 60)
    assert (meta["cx"], meta["cy"]) == (11, 7.5)


def test_lowest_factor_by_default_and_any_by_option(tmp_path):
    scene = write_scene(tmp_path / "scene", names_of(3), factor=6)
    for folder, shape in (("images_3", (20, 30, 3)), ("images_2.5", (24, 36, 3)), ("images", (HEIGHT, WIDTH, 3))):
        (scene / folder).mkdir()
        for name in names_of(3):
            cv2.imwrite(str(scene / folder / name), np.zeros(shape, np.uint8))
    assert read(convert_llff(scene, tmp_path / "auto"))["w"] == 36
    assert read(convert_llff(scene, tmp_path / "six", factor=6))["w"] == 15
    assert read(convert_llff(scene, tmp_path / "one", factor=1))["w"] == 90
    shrunk = convert_llff(scene, tmp_path / "nine", factor=9)  # no images_9: made from images/
    assert (read(shrunk)["w"], read(shrunk)["h"]) == (10, 7)
    assert cv2.imread(str(shrunk / "images/photo_001.png")).shape == (7, 10, 3)


def test_unknown_factor_lists_the_known(tmp_path):
    with pytest.raises(SpinnerfError, match="images_8.*--factor 4"):
        convert_llff(write_scene(tmp_path / "scene", names_of(3)), tmp_path / "out", factor=8)
    assert not (tmp_path / "out").exists()


def test_stock_parser_reads_it(tmp_path):
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    output = convert_llff(write_scene(tmp_path / "scene", names_of(12)), tmp_path / "out", split="spin-nerf", num_test=5)
    parser = NerfstudioDataParserConfig(data=output).setup()
    files = {split: parser.get_dataparser_outputs(split).image_filenames for split in ("train", "val", "test")}
    found = {split: [path.stem for path in paths] for split, paths in files.items()}
    stems = [Path(name).stem for name in names_of(12)]
    assert found == {"train": stems[5:], "val": stems[:5], "test": stems[:5]}


def test_spin_nerf_split_of_a_hundred(tmp_path):
    from spinnerf_ns.scene.workspace import Workspace

    output = convert_llff(write_scene(tmp_path / "scene", names_of(100)), tmp_path / "out", split="spin-nerf")
    meta = read(output)
    assert meta["test_filenames"] == meta["val_filenames"] == [f"images/{name}" for name in names_of(100)[:40]]
    assert meta["train_filenames"] == [f"images/{name}" for name in names_of(100)[40:]]
    assert list(Workspace.open(output).object_free) == [Path(name).stem for name in names_of(100)[:40]]
    convert_llff(tmp_path / "scene", output, overwrite=True)  # another split takes the list away again
    assert list(Workspace.open(output).object_free) == []
    assert "test_filenames" not in read(output)


def test_interval_split(tmp_path):
    meta = read(convert_llff(write_scene(tmp_path / "scene", names_of(10)), tmp_path / "out", split="interval"))
    assert meta["test_filenames"] == ["images/photo_000.png", "images/photo_008.png"]
    assert len(meta["train_filenames"]) == 8


@pytest.mark.parametrize("num_test", [None, 0, 12, 40])
def test_wrong_split_sizes_are_named(tmp_path, num_test):
    with pytest.raises(SpinnerfError, match="12.*(--num-test N|at least 1)"):
        convert_llff(write_scene(tmp_path / "scene", names_of(12)), tmp_path / "out", split="spin-nerf", num_test=num_test)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene"]


def test_labels_any_values_missing_and_empty(tmp_path, capsys):
    one = np.zeros((15, 22), np.uint8)
    one[3:6, 4:9] = 1
    labels = {"photo_000.png": one, "photo_001.png": one * 255, "photo_002.png": one * 0, "stray.png": one}
    output = convert_llff(write_scene(tmp_path / "scene", names_of(4), labels=labels), tmp_path / "out")
    assert sorted(path.name for path in (output / "labels").iterdir()) == [f"photo_00{i}.png" for i in range(3)]
    for i, expected in enumerate((one * 255, one * 255, one * 0)):
        np.testing.assert_array_equal(cv2.imread(str(output / f"labels/photo_00{i}.png"), cv2.IMREAD_UNCHANGED), expected)
    said = capsys.readouterr().out
    assert "1 of 4 photos without a label: photo_003" in said and "1 of 4 photos with an empty label: photo_002" in said
    assert not any("mask_path" in frame for frame in read(output)["frames"])


def test_masks_of_test_photos_with_names_of_their_own_are_paired_in_order(tmp_path, capsys):
    """SPIn-NeRF's images_4/test_label: other names than the photos."""
    scene = write_scene(tmp_path / "scene", names_of(14), labels={"photo_012.png": np.zeros((15, 22), np.uint8)})
    folder = scene / "images_4/test_label"
    folder.mkdir()
    for index in range(12):  # in order of numbers, not of letters: out2.png is before out10.png
        label = np.zeros((15, 22), np.uint8)
        label[:, : index + 1] = 255
        cv2.imwrite(str(folder / f"out{index + 1}.png"), label)
    output = convert_llff(scene, tmp_path / "out", split="spin-nerf", num_test=12)
    covered = [cv2.imread(str(output / f"labels/photo_{index:03d}.png"), -1).mean() for index in range(12)]
    assert covered == sorted(covered) and len(set(covered)) == 12
    assert not cv2.imread(str(output / "labels/photo_012.png"), -1).any() and not (output / "labels/photo_013.png").exists()
    assert "the 12 masks of test_label/ have other names" in " ".join(capsys.readouterr().out.split())


def test_a_label_of_two_things_is_refused_and_nothing_is_written(tmp_path):
    """Which one is the object nobody can tell; both together are another mask."""
    two = np.zeros((15, 22), np.uint8)
    two[2:9, 2:9], two[2:9, 12:20] = 1, 2
    scene = write_scene(tmp_path / "scene", names_of(4), labels={"photo_001.png": two})
    with pytest.raises(SpinnerfError, match="photo_001.png: holds several things.*black and white"):
        convert_llff(scene, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene"]


def test_label_of_another_shape_is_refused(tmp_path):
    scene = write_scene(tmp_path / "scene", names_of(2), labels={"photo_000.png": np.zeros((22, 15), np.uint8)})
    with pytest.raises(SpinnerfError, match="photo_000.png is 15x22.*22x15"):
        convert_llff(scene, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene"]


def test_count_mismatch_is_answered_by_names_or_refused(tmp_path):
    scene = write_scene(tmp_path / "scene", names_of(6))
    (scene / "images_4/photo_002.png").unlink()
    with pytest.raises(SpinnerfError, match="5 photos.*6 poses"):
        convert_llff(scene, tmp_path / "out")
    (scene / "images").mkdir()  # the full-size photos are complete and say which one is missing
    for name in names_of(6):
        cv2.imwrite(str(scene / "images" / name).replace(".png", ".jpg"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    meta = read(convert_llff(scene, tmp_path / "out"))
    rows = [0, 1, 3, 4, 5]
    assert [frame["file_path"] for frame in meta["frames"]] == [f"images/photo_{row:03d}.png" for row in rows]
    expected = read_poses_bounds(scene / "poses_bounds.npy").c2w[rows]
    np.testing.assert_array_equal([np.array(frame["transform_matrix"])[:3] for frame in meta["frames"]], expected)


def test_odd_names(tmp_path):
    names = ["a b.png", "a.b.png", "ümlaut.png", "Z.PNG"]
    scene = write_scene(tmp_path / "scene", sorted(names))
    for junk in ("._a b.png", ".DS_Store", "Thumbs.db", "notes.txt"):
        (scene / "images_4" / junk).write_bytes(b"junk")
    meta = read(convert_llff(scene, tmp_path / "out"))
    assert [Path(frame["file_path"]).name for frame in meta["frames"]] == sorted(names)


def test_two_photos_of_one_stem_keep_their_labels_apart(tmp_path):
    label = np.ones((15, 22), np.uint8)
    scene = write_scene(tmp_path / "scene", ["a.jpg", "a.png"], labels={"a.jpg.png": label, "a.png.png": label * 0})
    output = convert_llff(scene, tmp_path / "out")
    assert cv2.imread(str(output / "labels/a.jpg.png"), -1).max() == 255
    assert cv2.imread(str(output / "labels/a.png.png"), -1).max() == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table[:, :15], "N x 17"),
        (lambda table: np.where(np.arange(17) == 3, np.nan, table), "row 0 holds values that are no numbers"),
        (lambda table: np.where(np.arange(17) == 0, 3.0, table), "row 0 holds no rotation"),
        (lambda table: np.where(np.arange(17) == 16, 1.0, table), "row 0 has no bounds"),
        (lambda table: np.where(np.arange(17) == 4, 2 * HEIGHT, table), "another shape"),
    ],
)
def test_bad_poses_are_refused(tmp_path, spoil, message):
    scene = write_scene(tmp_path / "scene", names_of(3))
    np.save(scene / "poses_bounds.npy", spoil(np.load(scene / "poses_bounds.npy")))
    with pytest.raises(SpinnerfError, match=message):
        convert_llff(scene, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene"]


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(SpinnerfError, match="poses_bounds.npy is missing"):
        convert_llff(tmp_path / "nowhere", tmp_path / "out")
    scene = write_scene(tmp_path / "scene", names_of(3))
    (scene / "images_4/photo_001.png").write_bytes(b"no picture")
    with pytest.raises(SpinnerfError, match="photo_001.png cannot be read as a photo"):
        convert_llff(scene, tmp_path / "out")
    (scene / "sparse/0").mkdir(parents=True)
    (scene / "sparse/0/points3D.bin").write_bytes(b"\x05" + b"\0" * 7 + b"short")
    cv2.imwrite(str(scene / "images_4/photo_001.png"), np.zeros((15, 22, 3), np.uint8))
    with pytest.raises(SpinnerfError, match="points3D.bin cannot be read"):
        convert_llff(scene, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene"]


def test_nothing_is_overwritten_unasked(tmp_path):
    scene = write_scene(tmp_path / "scene", names_of(3))
    output = convert_llff(scene, tmp_path / "out")
    (output / "spinnerf").mkdir()
    (output / "spinnerf/prompts.json").write_text("{}")
    with pytest.raises(SpinnerfError, match="--overwrite"):
        convert_llff(scene, output)
    (output / "images/photo_000.png").unlink()
    convert_llff(scene, output, overwrite=True)
    assert (output / "images/photo_000.png").is_file() and (output / "spinnerf/prompts.json").is_file()
    for taken in (scene, tmp_path):
        with pytest.raises(SpinnerfError, match="another --output"):
            convert_llff(scene, taken, overwrite=True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.txt").write_text("")
    with pytest.raises(SpinnerfError, match="was not written by convert-llff"):
        convert_llff(scene, tmp_path / "foreign", overwrite=True)


def test_a_killed_overwrite_is_resumed(tmp_path):
    from spinnerf_ns.scene.llff import REPLACED

    scene = write_scene(tmp_path / "scene", names_of(3))
    output = convert_llff(scene, tmp_path / "out")
    os.replace(output / "transforms.json", output / REPLACED)  # as a kill in the middle of --overwrite leaves it
    convert_llff(scene, output, overwrite=True)
    assert len(read(output)["frames"]) == 3 and not (output / REPLACED).exists()


def test_links_are_relative_and_right_in_place(tmp_path):
    output = convert_llff(write_scene(tmp_path / "scene", names_of(2)), tmp_path / "deep/out", link=True)
    photo = output / "images/photo_001.png"
    assert photo.is_symlink() and not os.path.isabs(os.readlink(photo))
    assert photo.resolve() == (tmp_path / "scene/images_4/photo_001.png").resolve()


# -------------------------------------------------------------------------------------------------------------- a real scene
@pytest.fixture(scope="module")
def statue(statue_folder, tmp_path_factory) -> Path:
    return convert_llff(statue_folder, tmp_path_factory.mktemp("statue") / "out")


def test_statue_points_show_their_colours_in_every_photo(statue, statue_folder):
    """Poses, intrinsics, pairing and points agree: points land on pixels of their colour, and a pixel beside they do not."""
    from nerfstudio.data.utils.colmap_parsing_utils import read_points3D_binary

    meta = read(statue)
    points = list(read_points3D_binary(statue_folder / "sparse/0/points3D.bin").values())
    assert (statue / "sparse_pc.ply").read_text().splitlines()[2] == f"element vertex {len(points)}"

    def error(shift: float, rows: int = 0) -> float:
        differences = []
        for i, frame in enumerate(meta["frames"]):
            if i % 5:
                continue
            seen = [point for point in points if i + 1 in point.image_ids]  # COLMAP numbered the photos by name here
            c2w = np.array(frame["transform_matrix"])
            x, y, z = ((np.array([point.xyz for point in seen]) - c2w[:3, 3]) @ c2w[:3, :3]).T
            assert (z < 0).all()  # before the camera
            near, far = np.percentile(-z, [0.1, 99.9])  # how LLFF chose its bounds
            np.testing.assert_allclose(frame["bounds"], [near, far], rtol=1e-6)
            u = (meta["fl_x"] * x / -z + meta["cx"] + shift - 0.5).astype(np.float32)[None]
            v = (meta["fl_y"] * -y / -z + meta["cy"] - 0.5).astype(np.float32)[None]
            photo = cv2.imread(str(statue / meta["frames"][(i + rows) % 29]["file_path"]))[..., ::-1].astype(np.float32)
            colours = cv2.remap(photo, u, v, cv2.INTER_LINEAR)[0]
            differences.append(np.abs(colours - [point.rgb for point in seen]).mean(axis=1))
        return float(np.median(np.concatenate(differences)))

    best = error(0.0)
    assert best < 10  # measured: 7.7 of 255; 15 a pixel beside, 33 with the photos off by one row
    assert min(error(-1.0), error(1.0)) > 1.5 * best
    assert error(0.0, rows=1) > 3 * best


def test_statue_labels_and_size(statue, statue_folder):
    from spinnerf_ns.files import load_object_mask

    meta = read(statue)
    assert (meta["w"], meta["h"], len(meta["frames"])) == (504, 378, 29)
    for frame in meta["frames"]:
        name = Path(frame["file_path"]).name
        label = load_object_mask(statue / "labels" / name, (378, 504))
        assert 0.02 < label.mean() < 0.5
        assert (statue / "images" / name).read_bytes() == (statue_folder / "images_2" / name).read_bytes()
