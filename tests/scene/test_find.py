"""One way in: what a folder is, and that every layout gives the same capture."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene.capture import Capture, load_capture
from spinnerf_ns.scene.find import best_colmap_model, find_dataparser, kind_of
from tests.scene.captures import read_meta
from tests.scene.inputs import as_colmap, as_instant_ngp, as_llff, change


def same_views(found: Capture, expected: Capture, atol: float = 1e-5) -> None:
    """Same photos, cameras and poses, up to the rounding of a parser's float32."""
    assert [view.path.name for view in found.views] == [view.path.name for view in expected.views]
    for ours, theirs in zip(found.views, expected.views, strict=True):
        np.testing.assert_allclose(ours.c2w, theirs.c2w, atol=atol)
        np.testing.assert_allclose([ours.fx, ours.fy, ours.cx, ours.cy], [theirs.fx, theirs.fy, theirs.cx, theirs.cy], rtol=1e-6)
        assert (ours.width, ours.height) == (theirs.width, theirs.height)


@pytest.mark.parametrize("binary", [False, True])
def test_colmap_in_text_and_binary_is_the_same_capture(clean_twin, tmp_path, binary):
    folder = as_colmap(clean_twin, tmp_path / "colmap", binary=binary)
    assert kind_of(folder) == "colmap"
    same_views(load_capture(folder), load_capture(clean_twin))


def test_the_largest_of_several_colmap_models_is_taken(clean_twin, tmp_path):
    """COLMAP numbers the models that it could not join; 0 need not be the largest."""
    folder = as_colmap(clean_twin, tmp_path / "colmap", photos=3)
    as_colmap(clean_twin, folder, "sparse/1")
    assert best_colmap_model(folder) == folder / "sparse/1"
    assert len(load_capture(folder).views) == 12


def test_large_colmap_photos_without_smaller_copies_ask_nothing(clean_twin, tmp_path, monkeypatch):
    monkeypatch.setattr("rich.prompt.Confirm.ask", lambda *args, **kwargs: pytest.fail("asked"))
    folder = as_colmap(clean_twin, tmp_path / "colmap")
    for path in (folder / "images").iterdir():
        Image.new("RGB", (2560, 1920)).save(path)
    camera = folder / "sparse/0/cameras.txt"
    camera.write_text(camera.read_text().replace(" 128 96 ", " 2560 1920 "))
    assert {(view.width, view.height) for view in load_capture(folder).views} == {(2560, 1920)}
    (folder / "images_2").mkdir()
    for path in (folder / "images").iterdir():
        Image.new("RGB", (1280, 960)).save(folder / "images_2" / path.name)
    assert {(view.width, view.height, view.path.parent.name) for view in load_capture(folder).views} == {(1280, 960, "images_2")}


@pytest.mark.parametrize("suffixes", [True, False])
def test_transforms_train_with_and_without_suffixes(twin, clean_twin, suffixes):
    capture = load_capture(as_instant_ngp(twin, suffixes))
    same_views(capture, load_capture(clean_twin))
    assert len(capture.split("train")) == 9 and len(capture.split("val")) == len(capture.split("test")) == 3


def test_llff_is_read_where_it_lies(twin, clean_twin):
    capture = load_capture(as_llff(twin))
    same_views(capture, load_capture(clean_twin))
    assert len(capture.bounds) == 12


def test_llffs_points_alone_are_read_without_a_model_around_them(twin):
    from spinnerf_ns.scene.points import read_points

    as_llff(twin)
    (twin / "sparse/0").mkdir(parents=True)
    rows = [f"{index} {index} 2 3 10 20 30 0.5 1 {index}" for index in range(1, 151)]
    (twin / "sparse/0/points3D.txt").write_text("\n".join(rows) + "\n")
    points = read_points(load_capture(twin))
    assert points is not None and points.seen is None and points.positions[149].tolist() == [150, 2, 3]


def test_a_spin_nerf_scene_must_say_which_photos_are_truth(twin):
    (twin / "images").rename(twin / "few")
    (twin / "images/label").mkdir(parents=True)
    photo = next((twin / "few").iterdir())
    for index in range(100):
        shutil.copy(photo, twin / f"images/x{index:03d}.png")
    shutil.copy(photo, twin / "images/label/x050.png")
    np.save(twin / "poses_bounds.npy", np.tile(np.load(as_llff(twin) / "poses_bounds.npy")[:1], (100, 1)))
    with pytest.raises(SpinnerfError, match="ns-spinnerf convert-llff --data .* --split spin-nerf"):
        load_capture(twin)


@pytest.mark.parametrize("kind", ["no suffix", "another suffix", "angle", "per frame", "left out"])
def test_what_nerfstudios_parser_stumbles_over_gives_the_same_capture(twin, clean_twin, kind):
    expected = load_capture(clean_twin)
    skipped = ()
    if kind == "no suffix":
        change(twin, lambda meta: [f.update(file_path=f["file_path"][:-4]) for f in meta["frames"]])
    elif kind == "another suffix":
        change(twin, lambda meta: [f.update(file_path=f["file_path"][:-4] + ".jpg") for f in meta["frames"]])
    elif kind == "angle":
        change(twin, lambda meta: meta.update(camera_angle_x=2 * np.arctan(0.5 * meta["w"] / meta["fl_x"])))
        change(twin, lambda meta: [meta.pop(name) for name in ("fl_x", "fl_y", "cx", "cy", "w", "h")])
    elif kind == "per frame":
        change(twin, lambda meta: [f.update(camera_model="OPENCV_FISHEYE") for f in meta["frames"]])
    else:
        skipped = [frame["file_path"] for frame in read_meta(twin)["frames"][::4]]
        for name in skipped:
            (twin / name).unlink()
    capture = load_capture(twin, skipped=skipped)
    if kind == "per frame":
        assert {view.camera_model for view in capture.views} == {"OPENCV_FISHEYE"}
        assert set(capture.cameras(capture.views).camera_type.flatten().tolist()) == {2}
        return
    if kind == "left out":
        assert len(capture.views) == 9 and not {view.path for view in capture.views} & {twin / name for name in skipped}
        for view in capture.views:
            assert np.array_equal(view.c2w, expected.view(view.photo).c2w)
        return
    same_views(capture, expected)
    assert np.allclose(capture.world_to_training, expected.world_to_training, atol=1e-6)


def test_positions_in_a_maps_metres_are_trained_near_the_origin_and_kept_on_disk(twin, clean_twin):
    """UTM: float32 holds half a metre there, and nerfstudio's parser makes float32 of them first."""
    offset = np.array([4.5e5, 5.2e6, 300.0])

    def move(meta):
        for frame in meta["frames"]:
            pose = np.array(frame["transform_matrix"])
            pose[:3, 3] += offset
            frame["transform_matrix"] = pose.tolist()

    capture, expected = load_capture(change(twin, move)), load_capture(clean_twin)
    found = capture.cameras(capture.views).camera_to_worlds
    np.testing.assert_allclose(found, expected.cameras(expected.views).camera_to_worlds, atol=1e-5)
    for view in capture.views:
        np.testing.assert_allclose(view.c2w[:, 3] - offset, expected.view(view.photo).c2w[:, 3], atol=1e-8)
        np.testing.assert_allclose(
            capture.world_to_training @ [*view.c2w[:, 3], 1], [*found[capture.photos.index(view.photo), :, 3], 1], atol=1e-5
        )


def test_ns_train_reads_what_segment_reads(clean_twin, tmp_path):
    """--data alone: the data manager takes the parser that was found; another sub-command's stays."""
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    from spinnerf_ns.nerf.data.datamanager import SpinnerfDataManagerConfig
    from spinnerf_ns.scene.capture import capture_from_dataparser

    folder = as_colmap(clean_twin, tmp_path / "colmap")
    config = SpinnerfDataManagerConfig(data=folder, dataparser=NerfstudioDataParserConfig(orientation_method="none"))
    manager = config.setup(device="cpu")
    assert isinstance(manager.config.dataparser, ColmapDataParserConfig)
    assert manager.config.dataparser.orientation_method == "none"
    assert (
        manager.capture.digest
        == load_capture(folder, find_dataparser(folder, given=NerfstudioDataParserConfig(orientation_method="none"))).digest
    )
    given = ColmapDataParserConfig(data=folder, colmap_path=folder / "sparse/0", eval_mode="all")
    manager = SpinnerfDataManagerConfig(dataparser=given).setup(device="cpu")
    assert len(manager.train_dataset) == 12 == len(capture_from_dataparser(manager.dataparser).views)
