"""The COLMAP model of an object-free capture, as pycolmap, nerfstudio's parser and splatfacto's data manager read it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene import colmap_out
from spinnerf_ns.scene.cameras import project
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.colmap_out import frame_from_colmap, shared_camera_model
from tests.scene.captures import make_capture, read_meta, write_transforms
from tests.scene.test_removed import write_removed

TURNED = [[0.0, 0.0, 1.0, 0.5], [1.0, 0.0, 0.0, -2.0], [0.0, 1.0, 0.0, 0.25]]
LENSES = {
    "PINHOLE": {"k1": 0, "p1": 0},
    "SIMPLE_RADIAL": {"fl_y": 35.0, "p1": 0},
    "RADIAL": {"fl_y": 35.0, "k2": -0.02, "p1": 0},
    "OPENCV": {"k2": -0.02, "p2": -0.002},
    "FULL_OPENCV": {"k2": -0.02, "k3": 0.01},
    "OPENCV_FISHEYE": {"k2": -0.02, "k3": 0.01, "k4": 0.002, "p1": 0},
}
"""The model that is expected, and what differs from `CAMERA`."""


def removed_capture(folder: Path, lens: str = "OPENCV", name: str = "p", **meta) -> tuple:
    """A capture of noise in three folders, whose last photo is object-free, and its `removed/`."""
    names = [f"images/{'left' if i % 2 else 'right'}/{name}{i}.png" for i in range(6)]
    model = lens if lens in ("OPENCV_FISHEYE", "PINHOLE") else "OPENCV"
    capture = load_capture(make_capture(folder, names, camera_model=model, **LENSES[lens], **meta))
    return capture, write_removed(capture, folder / "spinnerf/removed", [capture.photos[-1]])


@pytest.mark.parametrize("lens, suffix", [*((lens, ".bin") for lens in LENSES), ("OPENCV", ".txt"), ("FULL_OPENCV", ".txt")])
def test_pycolmap_projects_as_we_do(tmp_path, lens, suffix):
    pycolmap = pytest.importorskip("pycolmap")
    frame = {"applied_transform": TURNED, "applied_scale": 0.5} if lens == "OPENCV" else {}
    capture, removed = removed_capture(tmp_path, lens, **frame)
    model = removed / "colmap/sparse/0"
    for path in model.glob("*"):
        if path.suffix != suffix:
            path.unlink()
    found = pycolmap.Reconstruction(str(model))
    scale, rotation, shift = frame_from_colmap(capture.source_meta)
    assert {camera.model.name for camera in found.cameras.values()} == {lens}
    names = {image.name: image for image in found.images.values()}
    assert set(names) == {f"{photo}.png" for photo in capture.photos[:-1]}
    numbers = sorted(found.points3D)
    points = np.array([found.points3D[number].xyz for number in numbers])
    source = scale * points @ rotation.T + shift
    assert len(points) > 1000
    observations = 0
    for view in capture.views[:-1]:
        image = names[f"{view.photo}.png"]
        camera = found.cameras[image.camera_id]
        assert (camera.width, camera.height) == (view.width, view.height)
        xy, z = project(view, source)
        shown = (z > 0) & np.isfinite(xy).all(axis=1) & (np.abs(xy - [20, 15]) < [20, 15]).all(axis=1)
        assert shown.sum() > 100
        in_camera = image.cam_from_world() * points[shown]
        np.testing.assert_allclose(camera.img_from_cam(in_camera), xy[shown], atol=1e-3)
        for observation in image.points2D:
            observations += 1
            track = found.points3D[observation.point3D_id].track.elements
            assert image.image_id in {element.image_id for element in track}
            np.testing.assert_allclose(observation.xy, xy[numbers.index(observation.point3D_id)], atol=1e-3)
    assert observations > 1000


def test_poses_go_to_colmaps_world_and_back(tmp_path):
    """The model that a capture came from has its numbers back: read by COLMAP's parser, removed/ is the source."""
    capture, removed = removed_capture(tmp_path, applied_transform=TURNED, applied_scale=0.5)
    for images_path, data, model in (("images", removed, "colmap/sparse/0"), ("images", removed / "colmap", "sparse/0")):
        config = ColmapDataParserConfig(
            data=data, colmap_path=Path(model), images_path=Path(images_path), load_3D_points=True, eval_mode="all",
            orientation_method="none", center_method="none", auto_scale_poses=False, downscale_factor=1,
            assume_colmap_world_coordinate_convention=False,
        )  # fmt: skip
        parsed = config.setup().get_dataparser_outputs("train")
        assert [path.resolve() for path in parsed.image_filenames] == [
            (removed / f"images/{photo}.png").resolve() for photo in capture.photos[:-1]
        ]
        for pose, view in zip(parsed.cameras.camera_to_worlds.double().numpy(), capture.views):
            applied = np.array(TURNED)
            np.testing.assert_allclose(applied[:, :3] @ pose[:, :3], view.c2w[:, :3], atol=1e-5)
            np.testing.assert_allclose(0.5 * (applied[:, :3] @ pose[:, 3] + applied[:, 3]), view.c2w[:, 3], atol=1e-5)
        assert len(parsed.metadata["points3D_xyz"]) > 1000


def test_nerfstudios_two_parsers_agree(tmp_path):
    """`colmap --data removed` with default options places cameras and points to each other as `--data removed` does."""
    capture, removed = removed_capture(tmp_path)
    ours = NerfstudioDataParserConfig(data=removed, load_3D_points=True).setup().get_dataparser_outputs("train")
    colmap = ColmapDataParserConfig(data=removed, eval_mode="all", downscale_factor=1).setup().get_dataparser_outputs("train")
    names = [path.name for path in ours.image_filenames]
    order = [[path.name for path in colmap.image_filenames].index(name) for name in names]
    distances = []
    for outputs, chosen in ((ours, range(len(names))), (colmap, order)):
        centers = outputs.cameras.camera_to_worlds[list(chosen)][:, :, 3]
        points = outputs.metadata["points3D_xyz"]
        distances.append(torch.cdist(centers, points) / outputs.dataparser_scale)
    torch.testing.assert_close(*distances, atol=1e-4, rtol=0)
    for name in ("fx", "fy", "cx", "cy", "width", "height", "distortion_params"):
        torch.testing.assert_close(getattr(ours.cameras, name), getattr(colmap.cameras, name)[order])


def test_the_model_in_removed_leaves_nerfstudios_transform_alone(tmp_path):
    """Nerfstudio takes a folder with colmap/sparse/0 for an old one of its own and turns what it says of the world."""
    capture, removed = removed_capture(tmp_path)
    source = NerfstudioDataParserConfig(data=tmp_path).setup().get_dataparser_outputs("train")
    parsed = NerfstudioDataParserConfig(data=removed).setup().get_dataparser_outputs("train")
    torch.testing.assert_close(parsed.dataparser_transform, source.dataparser_transform, atol=1e-6, rtol=0)


def test_splatfactos_data_manager_reads_removed(tmp_path):
    from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig

    capture, removed = removed_capture(tmp_path)
    # "gpu" is the device that is asked for; "cpu" pins memory, which needs a driver.
    config = FullImageDatamanagerConfig(
        dataparser=NerfstudioDataParserConfig(data=removed, load_3D_points=True), cache_images="gpu"
    )
    manager: FullImageDatamanager = config.setup(device="cpu", test_mode="val", world_size=1, local_rank=0)
    names = {path.relative_to(removed / "images").with_suffix("").as_posix() for path in manager.train_dataset.image_filenames}
    assert names == {view.photo for view in capture.split("train")} - {capture.photos[-1]}
    points = manager.train_dataset.metadata["points3D_xyz"]
    assert points.shape == manager.train_dataset.metadata["points3D_rgb"].shape and len(points) > 1000
    camera, batch = manager.next_train(0)
    assert camera.shape == (1,) and batch["image"].shape[2] == 3 and "mask" not in batch


def test_names_with_spaces_have_the_binary_model_alone(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    capture, removed = removed_capture(tmp_path, name="Größe 1 p")
    model = removed / "colmap/sparse/0"
    assert sorted(path.name for path in model.iterdir()) == ["cameras.bin", "images.bin", "points3D.bin"]
    names = {image.name for image in pycolmap.Reconstruction(str(model)).images.values()}
    assert names == {f"{photo}.png" for photo in capture.photos[:-1]}
    parsed = ColmapDataParserConfig(data=removed, eval_mode="all", downscale_factor=1).setup().get_dataparser_outputs("train")
    assert all(path.is_file() for path in parsed.image_filenames)


def test_photos_are_linked_and_masks_say_use_all(tmp_path, monkeypatch):
    capture, removed = removed_capture(tmp_path)
    link = removed / "colmap/images"
    assert link.is_symlink() and not Path(link.readlink()).is_absolute()
    from spinnerf_ns.files import load_object_mask

    masks = sorted((removed / "colmap/masks").rglob("*.png"))
    assert [path.relative_to(removed / "colmap/masks").as_posix() for path in masks] == [
        f"{photo}.png" for photo in capture.photos[:-1]
    ]
    assert all(load_object_mask(path).all() for path in masks)

    def refused(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refused)
    names = [path.relative_to(removed / "images").as_posix() for path in (removed / "images").rglob("*.png")]
    colmap_out._link_photos(link, removed / "images", names)
    assert not link.is_symlink() and all((link / name).samefile(removed / "images" / name) for name in names)
    monkeypatch.setattr(colmap_out.os, "link", refused)
    colmap_out._link_photos(link, removed / "images", names)
    assert all((link / name).read_bytes() == (removed / "images" / name).read_bytes() for name in names)


def test_long_tracks_are_thinned_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(colmap_out, "MAX_TRACK", 2)
    _, removed = removed_capture(tmp_path)
    lines = (removed / "colmap/sparse/0/points3D.txt").read_text().splitlines()[1:]
    assert max(len(line.split()) - 8 for line in lines) == 2 * 2


@pytest.mark.parametrize(
    "lens, reason",
    [({"k4": 0.1}, "k4"), ({"camera_model": "OPENCV_FISHEYE"}, "tangential")],
)
def test_a_lens_without_a_colmap_model_is_named(tmp_path, lens, reason):
    capture = load_capture(make_capture(tmp_path, 3, **lens))
    with pytest.raises(SpinnerfError, match=reason):
        shared_camera_model(capture.views)


def test_a_mirrored_applied_transform_counts_as_none():
    scale, rotation, shift = frame_from_colmap({"applied_transform": np.diag([1.0, 1.0, -1.0, 1.0])[:3].tolist()})
    assert scale == 1 and np.array_equal(rotation, np.eye(3)) and not shift.any()


def test_a_capture_without_points_has_them_from_depth(tmp_path):
    _, removed = removed_capture(tmp_path)
    meta = json.loads((removed / "transforms.json").read_text())
    assert meta["ply_file_path"] == "sparse_pc.ply" and meta["measured_points"] == 0
    assert read_meta(tmp_path).get("ply_file_path") is None
    write_transforms(tmp_path, read_meta(tmp_path))  # the source's own file is untouched and writable
