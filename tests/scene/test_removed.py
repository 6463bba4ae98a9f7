"""The object-free dataset, as nerfstudio's stock parser and depth dataset read it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.datasets.depth_dataset import DepthDataset
from PIL import Image

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_depth, load_object_mask, read_image
from spinnerf_ns.scene.capture import Capture, load_capture
from spinnerf_ns.scene.removed import RemovedView, RemovedWriter, read_removed
from tests.scene.captures import make_capture, orbit, read_meta, save_photo, write_transforms
from tests.scene.test_capture import same_cameras, write_colmap


def z_of(view) -> np.ndarray:
    """(H, W) some depth, different for each photo; the top left is unknown."""
    rows, columns = np.mgrid[: view.height, : view.width]
    z = (2 + len(view.photo) + np.sin(rows / 7) + columns / view.width + 3 * view.c2w[0, 3] % 1).astype(np.float32)
    z[:2, :2] = 0
    return z


def removed_view(view, object_free=False) -> RemovedView:
    """A disc is removed and painted red; half of it is unseen."""
    rows, columns = np.mgrid[: view.height, : view.width]
    disc = np.hypot(rows - view.height / 2, columns - view.width / 2) < view.height / 4
    if object_free:
        disc[:] = False
    image = np.where(disc[..., None], np.array([255, 0, 0]), view.read_image()).astype(np.uint8)
    return RemovedView(view.photo, image, disc, disc & (rows > view.height / 2), z_of(view))


def write_removed(capture: Capture, folder: Path, object_free=()) -> Path:
    writer = RemovedWriter(capture, folder, object_free)
    for view in capture.views:
        if view.photo not in object_free:  # those, finish() writes
            writer.write(removed_view(view))
    writer.finish()
    return folder


def parse(data: Path, split: str, **options):
    return NerfstudioDataParserConfig(data=data, **options).setup().get_dataparser_outputs(split)


def assert_parses_alike(capture: Capture, removed: Path, object_free=(), atol: float = 1e-6) -> None:
    """Stock parser with default options: same photos, cameras and transform as the capture, for every split."""
    for name in ("transforms.json", "transforms_masked.json"):
        for split in ("train", "val", "test"):
            outputs = parse(removed / name, split)
            views = [view for view in capture.split(split) if split != "train" or view.photo not in object_free]
            assert [path.stem for path in outputs.image_filenames] == [Path(view.photo).name for view in views]
            same_cameras(outputs.cameras, capture.cameras(views), atol=atol)
            assert all(path.is_file() for path in outputs.image_filenames)


# --------------------------------------------------------------------------------------------------------------- real photos
@pytest.fixture(scope="module")
def door(real_data, tmp_path_factory) -> tuple[Capture, Path]:
    """A real capture and its `removed/`, two photos of which are object-free."""
    scene = tmp_path_factory.mktemp("scene")
    shutil.copytree(real_data / "lund_door", scene, dirs_exist_ok=True)
    capture = load_capture(scene)
    return capture, write_removed(capture, scene / "spinnerf/removed", OBJECT_FREE)


OBJECT_FREE = ("DSC_0004", "DSC_0012")


def test_provenance_says_where_each_pixel_comes_from(tmp_path):
    capture = load_capture(make_capture(tmp_path / "scene"))
    writer = RemovedWriter(capture, tmp_path / "removed", [])
    written = removed_view(capture.views[0])
    writer.write(written)
    with Image.open(tmp_path / "removed" / "provenance" / f"{written.photo}.png") as stored:
        expected = np.where(written.unseen_mask, 255, np.where(written.object_mask, 128, 0))
        np.testing.assert_array_equal(np.array(stored), expected)


def test_the_stock_parser_gives_the_sources_cameras(door):
    capture, removed = door
    assert_parses_alike(capture, removed, OBJECT_FREE)
    source, found = parse(capture.data, "train"), parse(removed, "train")
    assert found.dataparser_scale == pytest.approx(source.dataparser_scale, rel=1e-6)
    torch.testing.assert_close(found.dataparser_transform, source.dataparser_transform, atol=1e-6, rtol=0)
    assert found.mask_filenames is None
    assert not {"DSC_0004", "DSC_0012"} & {path.stem for path in found.image_filenames}


def test_poses_stay_the_sources(door):
    capture, removed = door
    for name in ("transforms.json", "transforms_masked.json"):
        frames = json.loads((removed / name).read_text())["frames"]
        assert len(frames) == 12
        for frame in frames:
            assert np.array_equal(np.array(frame["transform_matrix"])[:3], capture.view(Path(frame["file_path"]).name).c2w)


def test_pixels_outside_the_mask_are_identical(door):
    capture, removed = door
    files = read_removed(removed)
    assert tuple(files) == capture.photos
    for photo in ("DSC_0003", "DSC_0004"):
        original, found = capture.view(photo).read_image(), read_image(files[photo].image)
        object_mask = load_object_mask(files[photo].object_mask)
        assert np.array_equal(found[~object_mask], original[~object_mask])
        assert np.array_equal(load_object_mask(files[photo].valid_mask), ~object_mask)
        assert object_mask.any() == (photo == "DSC_0003")
        if object_mask.any():
            assert (found[object_mask] == (255, 0, 0)).all()
            unseen = load_object_mask(files[photo].unseen_mask)
            assert 0.4 < (unseen & object_mask).sum() / object_mask.sum() < 0.6 and not (unseen & ~object_mask).any()


def test_the_stock_depth_dataset_reads_depth_in_the_training_frame(door):
    capture, removed = door
    outputs = parse(removed, "train")
    dataset = DepthDataset(outputs)
    for index in (0, len(dataset) - 1):
        view = capture.view(outputs.image_filenames[index].name)
        expected = z_of(view) * capture.world_scale
        found = dataset[index]["depth_image"][..., 0].numpy()
        assert (found[:2, :2] == 0).all()
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (load_depth(read_removed(removed)["DSC_0012"].depth) == 0).all()


def test_the_masked_baseline_is_the_originals_with_valid_masks(door):
    capture, removed = door
    dataset = InputDataset(parse(removed / "transforms_masked.json", "train"))
    item = dataset[1]
    view = capture.view(dataset.image_filenames[1].name)
    assert dataset.image_filenames[1].resolve() == view.path.resolve()
    assert np.array_equal((item["image"] * 255).round().numpy().astype(np.uint8), view.read_image())
    assert np.array_equal(item["mask"][..., 0].numpy(), ~removed_view(view).object_mask)


@pytest.mark.parametrize("kind", ["P", "CMYK", "LA", "RGBA", "I;16"])
def test_stock_methods_see_the_same_originals_whatever_their_format(tmp_path, kind):
    """nerfstudio would take a palette's numbers for colours, and more channels than three."""
    names = ["images/a.png", "images/b.jpg" if kind == "CMYK" else "images/b.png", *(f"images/c{i}.png" for i in range(4))]
    scene = make_capture(tmp_path / "scene", names)
    photo = Image.open(scene / names[1]).convert("RGB")
    alpha = Image.fromarray(np.tile(np.uint8([0, 255]), (30, 20)))
    odd = {
        "P": lambda: photo.quantize(16), "CMYK": lambda: photo.convert("CMYK"),
        "LA": lambda: Image.merge("LA", [photo.convert("L"), alpha]), "RGBA": lambda: Image.merge("RGBA", [*photo.split(), alpha]),
        "I;16": lambda: Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257),
    }[kind]()  # fmt: skip
    odd.save(scene / names[1])
    capture = load_capture(scene)
    removed = write_removed(capture, scene / "spinnerf/removed")
    for split in ("train", "val"):
        dataset = InputDataset(parse(removed / "transforms_masked.json", split))
        for index, path in enumerate(dataset.image_filenames):
            view, item = capture.view(path.stem), dataset[index]
            assert np.array_equal((item["image"] * 255).round().numpy().astype(np.uint8), view.read_image())
            assert np.array_equal(item["mask"][..., 0].numpy(), ~removed_view(view).object_mask & view.valid_mask())
    assert load_capture(removed / "transforms_masked.json").photos == capture.photos


def test_the_points_are_its_own(door):
    """In test_removed_points: which they are."""
    _, removed = door
    for name in ("transforms.json", "transforms_masked.json"):
        path = removed / json.loads((removed / name).read_text())["ply_file_path"]
        assert path.is_file() and path.parent == removed
        assert not Path(json.loads((removed / name).read_text())["ply_file_path"]).is_absolute()


# ------------------------------------------------------------------------------------------------------------ other sources
def test_the_sources_transform_scale_and_orientation_are_repeated(tmp_path):
    applied = [[0, 1, 0, 0.5], [1, 0, 0, 0], [0, 0, -1, 0]]
    meta = {"applied_transform": applied, "applied_scale": 0.5, "orientation_override": "vertical", "ply_file_path": "p.ply"}
    capture = load_capture(make_capture(tmp_path, 12, **meta))
    removed = write_removed(capture, tmp_path / "spinnerf/removed")
    written = json.loads((removed / "transforms.json").read_text())
    assert {key: written[key] for key in meta} == {**meta, "ply_file_path": "sparse_pc.ply"}
    assert_parses_alike(capture, removed)
    source, found = parse(tmp_path, "val"), parse(removed, "val")
    torch.testing.assert_close(found.dataparser_transform, source.dataparser_transform, atol=1e-6, rtol=0)
    assert found.dataparser_scale == pytest.approx(source.dataparser_scale)
    # nerfstudio scales stored depth by dataparser_scale, which holds applied_scale, but poses by the rest alone
    depth = DepthDataset(found)[0]["depth_image"][..., 0].numpy()
    view = capture.view(found.image_filenames[0].name)
    np.testing.assert_allclose(depth, z_of(view) * capture.world_scale, rtol=1e-4)


def test_another_orientation_is_written_down(tmp_path):
    capture = load_capture(make_capture(tmp_path), NerfstudioDataParserConfig(orientation_method="none"))
    assert_parses_alike(capture, write_removed(capture, tmp_path / "spinnerf/removed"))


@pytest.mark.parametrize("listed", [("train", "val", "test"), ("train", "test"), ("train", "val")])
def test_explicit_splits(tmp_path, listed):
    """A source without val or test file names fails in nerfstudio when that split is asked for; what we write must not."""
    folder = make_capture(tmp_path, 7)
    names = [frame["file_path"] for frame in read_meta(folder)["frames"]]
    parts = {"train": names[:3], "val": names[3:5], "test": names[5:6]}
    write_transforms(folder, {**read_meta(folder), **{f"{split}_filenames": parts[split] for split in listed}})
    capture = load_capture(folder)
    removed = write_removed(capture, folder / "spinnerf/removed", object_free=["p01", "p06"])
    written = json.loads((removed / "transforms.json").read_text())
    assert len(written["frames"]) == 7
    assert written["train_filenames"] == ["images/p00.png", "images/p02.png"]
    other = "test" if "val" not in listed else "val"
    for split in ("val", "test"):
        expected = parts[split if split in listed else other]
        assert [path.name for path in parse(removed, split).image_filenames] == [Path(name).name for name in expected]
    assert capture.world_scale == pytest.approx(parse(removed, "train").dataparser_scale, rel=1e-6)


def test_intrinsics_per_photo_and_sub_folders(tmp_path):
    names = [f"images/cam{i % 2}/{i // 2}.png" for i in range(8)]
    folder = make_capture(tmp_path, names)
    meta = read_meta(folder)
    for name in ("w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"):
        value = meta.pop(name)
        for index, frame in enumerate(meta["frames"]):
            frame[name] = value + (index if name in ("fl_x", "cx", "w") else 0)
    for index, name in enumerate(names):
        save_photo(folder / name, index, (40 + index, 30))
    write_transforms(folder, {**meta, "camera_model": "OPENCV_FISHEYE", "fisheye_crop_radius": 14})
    capture = load_capture(folder)
    removed = write_removed(capture, tmp_path / "spinnerf/removed")
    assert (removed / "images/cam1/3.png").is_file() and (removed / "depths/cam1/3.npy").is_file()
    assert_parses_alike(capture, removed)
    assert "cam1/3" in read_removed(removed)
    found = parse(removed, "train").cameras
    assert found.metadata == parse(folder, "train").cameras.metadata == {"fisheye_crop_radius": 14}
    assert capture.cameras(capture.views).metadata == {"fisheye_crop_radius": 14}


def test_downscaled_photos_are_not_downscaled_again(tmp_path):
    names = [f"images/{letter}.png" for letter in "abcd"]
    folder = make_capture(tmp_path, names, w=3300, h=24, fl_x=3000.0, cx=1650.5)
    for seed, name in enumerate(names):
        save_photo(folder / name, seed, (3300, 24))
        save_photo(folder / name.replace("images", "images_2"), seed, (1650, 12))  # still above nerfstudio's 1600
        save_photo(folder / name.replace("images", "images_4"), seed, (825, 6))
    capture = load_capture(folder, NerfstudioDataParserConfig(downscale_factor=2))
    removed = write_removed(capture, folder / "spinnerf/removed")
    assert_parses_alike(capture, removed)
    outputs = parse(removed / "transforms_masked.json", "train")
    assert {path.parent.resolve().name for path in outputs.image_filenames} == {"images_2"}
    assert int(outputs.cameras.width[0]) == 1650 and float(outputs.cameras.fx[0]) == 1500.0


def test_a_colmap_capture_keeps_its_frame(tmp_path):
    turned = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    write_colmap(tmp_path, [turned @ pose for pose in orbit(9)])
    capture = load_capture(tmp_path)
    assert_parses_alike(capture, write_removed(capture, tmp_path / "spinnerf/removed"), atol=1e-5)


def test_a_workspace_elsewhere_and_behind_a_link(tmp_path):
    capture = load_capture(make_capture(tmp_path / "a/scene"))
    (tmp_path / "far/away/real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/away/real")
    removed = write_removed(capture, tmp_path / "link/removed")
    assert_parses_alike(capture, removed)


# ----------------------------------------------------------------------------------------------------------------- bad input
def test_what_does_not_fit_is_refused(tmp_path):
    capture = load_capture(make_capture(tmp_path))
    writer = RemovedWriter(capture, tmp_path / "spinnerf/removed", ["p01"])
    good = removed_view(capture.views[0])
    with pytest.raises(SpinnerfError, match=r"object_mask has the shape \(15, 20\), the photo is 40x30"):
        writer.write(RemovedView("p00", good.image, good.object_mask[::2, ::2], good.unseen_mask, good.z))
    with pytest.raises(SpinnerfError, match="p01.png: named object-free, but"):
        writer.write(removed_view(capture.views[1]))
    with pytest.raises(SpinnerfError, match="no photo is called 'p9'"):
        RemovedWriter(capture, tmp_path, ["p9"])
    assert not (tmp_path / "spinnerf").exists()
    writer.write(good)
    with pytest.raises(SpinnerfError, match=r"p02.png: missing \(20 files in all\)"):
        writer.finish()
    assert not list(tmp_path.rglob("spinnerf/removed/*.json"))


def test_whatever_lies_outside_the_mask_is_not_taken(tmp_path):
    """A folder of photos inpainted elsewhere may have been re-encoded; depth may be infinite or negative."""
    capture = load_capture(make_capture(tmp_path))
    view, writer = capture.views[0], RemovedWriter(capture, tmp_path / "removed", [])
    given = removed_view(view)
    given.image = np.clip(given.image.astype(int) + 3, 0, 255).astype(np.uint8)
    given.unseen_mask = np.ones_like(given.object_mask)
    given.z[5, :4] = np.inf, np.nan, -1, 2
    writer.write(given)
    found = read_image(tmp_path / "removed/images/p00.png")
    assert np.array_equal(found[~given.object_mask], view.read_image()[~given.object_mask])
    assert np.array_equal(found[given.object_mask], given.image[given.object_mask])
    assert np.array_equal(load_object_mask(tmp_path / "removed/unseen_masks/p00.png"), given.object_mask)
    assert load_depth(tmp_path / "removed/depths/p00.npy")[5, :4].tolist() == [0, 0, 0, 2]


def test_an_unfinished_export_is_no_dataset(tmp_path):
    with pytest.raises(SpinnerfError, match="no object-free capture"):
        read_removed(tmp_path)
    capture = load_capture(make_capture(tmp_path))
    removed = write_removed(capture, tmp_path / "spinnerf/removed")
    (removed / "depths/p03.npy").unlink()
    with pytest.raises(SpinnerfError, match="p03.npy: missing"):
        read_removed(removed)
    with pytest.raises(SpinnerfError, match="every training photo is named object-free"):
        RemovedWriter(capture, removed, capture.photos).finish()
