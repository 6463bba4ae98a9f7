"""Captures as views: against transforms.json's own numbers and nerfstudio's own parsers and rays."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from PIL import Image

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene.capture import capture_from_dataparser, load_capture, order_along_path, project, unproject
from spinnerf_ns.scene.view import View
from tests.scene.captures import look_at, make_capture, orbit, read_meta, save_photo, write_transforms


# ------------------------------------------------------------------------------------------------------- nerfstudio folders
@pytest.mark.parametrize("scene, count", [("lund_door", 12), ("snowmiku", 97)])
def test_real_capture_has_the_files_numbers(real_data, scene, count):
    capture = load_capture(real_data / scene)
    meta = read_meta(real_data / scene)
    assert len(capture.views) == count and list(capture.photos) == sorted(capture.photos)
    for frame in meta["frames"]:
        view = capture.view(frame["file_path"])
        assert np.array_equal(view.c2w, np.array(frame["transform_matrix"])[:3])
        assert view.path == real_data / scene / frame["file_path"]
        assert (view.width, view.height) == (meta["w"], meta["h"])
        assert view.fx == np.float32(meta["fl_x"]) and view.distortion[0] == np.float32(meta["k1"])
    assert capture.views[0].read_image().shape == (meta["h"], meta["w"], 3)
    assert capture.source_meta["ply_file_path"] == real_data / scene / "sparse_pc.ply"
    parser = NerfstudioDataParserConfig(data=real_data / scene).setup()
    for split in ("train", "val", "test"):
        outputs = parser.get_dataparser_outputs(split)
        views = [capture.view(path) for path in outputs.image_filenames]
        assert {view.photo for view in views} == {view.photo for view in capture.split(split)}
        same_cameras(capture.cameras(views), outputs.cameras)


def same_cameras(found: Cameras, expected: Cameras, atol: float = 0) -> None:
    for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height", "distortion_params", "camera_type"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=atol, rtol=0, msg=name)


def test_world_scale_relates_the_two_frames(tmp_path):
    """Distances between cameras, training over source, also where the capture has a scale of its own."""
    for number, meta in enumerate(({}, {"applied_scale": 0.25, "applied_transform": np.eye(4)[:3].tolist()})):
        capture = load_capture(make_capture(tmp_path / str(number), **meta))
        training = capture.cameras(capture.views).camera_to_worlds[:, :, 3].numpy()
        source = np.stack([view.c2w[:, 3] for view in capture.views])
        apart = np.linalg.norm(training[0] - training[1:], axis=1) / np.linalg.norm(source[0] - source[1:], axis=1)
        np.testing.assert_allclose(apart, capture.world_scale, rtol=1e-5)


def test_a_json_file_is_a_capture_too(tmp_path):
    folder = make_capture(tmp_path)
    shutil.move(folder / "transforms.json", folder / "other.json")
    capture = load_capture(folder / "other.json")
    assert capture.photos == tuple(f"p{i:02d}" for i in range(6))


def test_the_given_parser_and_configuration_stay_as_they_are(tmp_path, monkeypatch):
    folder = make_capture(tmp_path, ply_file_path="points.ply")
    monkeypatch.setattr(Nerfstudio, "_load_3D_points", lambda *_: pytest.fail("sparse points were loaded"))
    config = NerfstudioDataParserConfig(data=tmp_path / "elsewhere", load_3D_points=True, eval_mode="interval")
    config.eval_interval = 3
    before = copy.deepcopy(config)
    capture = load_capture(folder, config)
    assert config == before
    assert [view.photo for view in capture.split("val")] == ["p00", "p03"]
    parser = NerfstudioDataParserConfig(data=folder, load_3D_points=True).setup()
    state, config_before = dict(vars(parser)), copy.deepcopy(parser.config)
    capture_from_dataparser(parser)
    assert vars(parser) == state and parser.config == config_before


def test_a_photo_in_no_split_has_its_pose_and_camera(tmp_path):
    """The parser leaves it out of its outputs, but it counts when poses are centred and scaled."""
    folder = make_capture(tmp_path, applied_scale=2.0)
    names = [frame["file_path"] for frame in read_meta(folder)["frames"]]
    everything = load_capture(folder, NerfstudioDataParserConfig(eval_mode="all"))
    write_transforms(folder, {**read_meta(folder), "train_filenames": names[:3], "val_filenames": names[3:4]})
    capture = load_capture(folder)
    assert [sorted(view.splits) for view in capture.views] == [["train"]] * 3 + [["val"], [], []]
    assert capture.world_scale == pytest.approx(everything.world_scale)
    same_cameras(capture.cameras(capture.views), everything.cameras(everything.views), atol=1e-6)
    assert np.array_equal(capture.views[5].c2w, everything.views[5].c2w)
    assert capture.views[5].fx == everything.views[5].fx


def test_downscaled_photos_are_used_with_their_intrinsics(tmp_path):
    names = ["images/a.png", "images/b.png"]
    folder = make_capture(tmp_path, names, w=2001, h=40, fl_x=1000.0, cx=1000.5)
    for name in ("a.png", "b.png"):
        save_photo(folder / "images" / name, 1, (2001, 40))
        save_photo(folder / "images_2" / name, 1, (1001, 20))  # rounded up, nerfstudio rounds down: the file is right
    capture = load_capture(folder)
    view = capture.view("images/a.png")
    assert view.path == folder / "images_2/a.png"
    assert (view.width, view.height, view.fx, view.cx) == (1001, 20, 500.0, 500.25)
    assert view.read_image().shape == (20, 1001, 3)
    assert int(capture.cameras([view]).width) == 1001


# -------------------------------------------------------------------------------------------------------------------- names
def test_keys_are_paths_below_the_common_folder(tmp_path):
    capture = load_capture(make_capture(tmp_path, ["images/cam0/x.png", "images/cam1/x.png", "images/cam1/v1.5.png"]))
    assert capture.photos == ("cam0/x", "cam1/v1.5", "cam1/x")
    assert capture.view("cam1/x.png").photo == capture.view("images/cam1/x.png").photo == "cam1/x"
    assert capture.view("v1.5").photo == "cam1/v1.5"
    assert capture.view(capture.views[0].path).photo == "cam0/x"
    with pytest.raises(SpinnerfError, match="cam0/x, cam1/x"):
        capture.view("x.png")


def test_suffixes_stay_where_names_would_be_the_same(tmp_path):
    capture = load_capture(make_capture(tmp_path, ["images/x.png", "images/x.bmp", "images/y.png"]))
    assert capture.photos == ("x.bmp", "x.png", "y.png")
    assert capture.view("images/x.bmp").path.name == "x.bmp"
    assert capture.view("y.png").photo == "y.png"


def test_an_unknown_photo_lists_near_names(tmp_path):
    with pytest.raises(SpinnerfError, match="'p3.jpg'.*p03"):
        load_capture(make_capture(tmp_path)).view("p3.jpg")


# ----------------------------------------------------------------------------------------------------------- other sources
def write_colmap(folder, poses):
    """A COLMAP text model from (4, 4) OpenGL camera-to-world matrices."""
    from scipy.spatial.transform import Rotation

    model = folder / "sparse/0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("1 OPENCV 40 30 35 34 20.5 14.5 0.05 0 0.001 0\n")
    lines = []
    for index, pose in enumerate(poses):
        save_photo(folder / f"images/p{index}.png", index)
        w2c = np.linalg.inv(pose @ np.diag([1, -1, -1, 1]))
        x, y, z, w = Rotation.from_matrix(w2c[:3, :3]).as_quat()
        lines.append(f"{index + 1} {w} {x} {y} {z} {w2c[0, 3]} {w2c[1, 3]} {w2c[2, 3]} 1 p{index}.png\n\n")
    (model / "images.txt").write_text("".join(lines))


def test_colmap_folder(tmp_path):
    turned = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])  # COLMAP's world: y points down
    poses = orbit(9)
    write_colmap(tmp_path, [turned @ pose for pose in poses])
    capture = load_capture(tmp_path)
    applied = np.concatenate([capture.source_meta["applied_transform"], [[0, 0, 0, 1]]])
    for view, pose in zip(capture.views, poses):
        np.testing.assert_allclose(view.c2w, (applied @ turned @ pose)[:3], atol=2e-6)
        assert view.camera_model == "OPENCV" and view.distortion[4] == np.float32(0.001)
    assert [view.photo for view in capture.split("val")] == ["p0", "p8"]  # the parser's: every eighth
    parser = ColmapDataParserConfig(data=tmp_path, colmap_path=tmp_path / "sparse/0", load_3D_points=False).setup()
    same_cameras(capture.cameras(capture.split("train")), parser.get_dataparser_outputs("train").cameras)


def test_blender_folder(tmp_path):
    rgba = np.zeros((30, 40, 4), dtype=np.uint8)
    rgba[:, 20:] = (200, 100, 50, 255)
    for split, poses in (("train", orbit(3)), ("val", orbit(2, 4)), ("test", orbit(2, 5))):
        (tmp_path / split).mkdir()
        frames = []
        for index, pose in enumerate(poses):
            Image.fromarray(rgba).save(tmp_path / split / f"r_{index}.png")
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": pose.tolist()})
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.8, "frames": frames}))
    capture = load_capture(tmp_path, BlenderDataParserConfig(scale_factor=0.5))
    assert capture.photos == ("test/r_0", "test/r_1", "train/r_0", "train/r_1", "train/r_2", "val/r_0", "val/r_1")
    assert [view.photo for view in capture.split("test")] == ["test/r_0", "test/r_1"]
    np.testing.assert_allclose(capture.view("train/r_1").c2w, orbit(3)[1][:3], atol=1e-6)
    assert capture.world_scale == 0.5
    image = capture.views[0].read_image()
    assert image[0, 0].tolist() == [255, 255, 255] and image[0, 39].tolist() == [200, 100, 50]  # laid over white
    assert load_capture(tmp_path).photos == capture.photos  # found by what is on disk


# --------------------------------------------------------------------------------------------------------------- bad input
def test_folders_without_poses_say_what_was_found(tmp_path):
    with pytest.raises(SpinnerfError, match="no such folder"):
        load_capture(tmp_path / "nowhere")
    for index in range(3):
        save_photo(tmp_path / f"photos/{index}.jpg", index)
    with pytest.raises(SpinnerfError, match=r"3 photos in photos; .*ns-process-data images --data \S+photos --output-dir"):
        load_capture(tmp_path)


def test_missing_photos_are_named(tmp_path):
    folder = make_capture(tmp_path)
    (folder / "images/p02.png").unlink()
    (folder / "images/p04.png").unlink()
    with pytest.raises(SpinnerfError, match=r"2 of its 6 photos are missing.*p02\.png, .*p04\.png"):
        load_capture(folder)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda meta: "{", "no valid JSON"),
        (lambda meta: json.dumps({**meta, "frames": []}), "a list of `frames` was expected"),
        (lambda meta: json.dumps({**meta, "frames": [{"file_path": "images/p00.png"}]}), "p00.png has no `transform_mat"),
        (lambda meta: json.dumps({**meta, "frames": meta["frames"] + meta["frames"][:1]}), "p00.png has two frames"),
        (lambda meta: json.dumps({k: v for k, v in meta.items() if k not in ("fl_x", "fl_y")}), "no focal length"),
        (lambda meta: json.dumps({**meta, "w": 80, "h": 60}), "the photo is 40x30, .* says 80x60"),
        (lambda meta: json.dumps({**meta, "train_filenames": ["images/none.png"]}), "images/none.png"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, damage, message):
    folder = make_capture(tmp_path)
    (folder / "transforms.json").write_text(damage(read_meta(folder)))
    with pytest.raises(SpinnerfError, match=message) as raised:
        load_capture(folder)
    assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)


# --------------------------------------------------------------------------------------------------------------- projection
def synthetic_view(model="OPENCV", distortion=(0.06, -0.02, 0.004, 0.001, 0.002, -0.003), **changes):
    pose = look_at((1.0, -2.0, 0.7), (0.1, 0.2, 0.3))[:3]
    values = dict(
        photo="x", path=None, width=400, height=300, fx=310.0, fy=300.0, cx=204.5, cy=147.25,
        distortion=np.array(distortion, dtype=float), camera_model=model, c2w=pose, splits=frozenset(),
    )  # fmt: skip
    return View(**{**values, **changes})


@pytest.mark.parametrize("model, camera_type", [("OPENCV", CameraType.PERSPECTIVE), ("OPENCV_FISHEYE", CameraType.FISHEYE)])
@pytest.mark.parametrize("distortion", [(0.08, 0, 0, 0, 0, 0), (0.06, -0.02, 0.004, 0.001, 0.002, -0.003), (0,) * 6])
def test_projection_agrees_with_nerfstudios_rays(model, camera_type, distortion):
    view = synthetic_view(model, distortion)
    cameras = Cameras(
        camera_to_worlds=torch.tensor(view.c2w)[None].float(), fx=view.fx, fy=view.fy, cx=view.cx, cy=view.cy,
        width=view.width, height=view.height, camera_type=camera_type,
        distortion_params=torch.tensor(view.distortion).float()[None],
    )  # fmt: skip
    rays = cameras.generate_rays(0)[::7, ::11].flatten()
    coords = cameras.get_image_coords()[::7, ::11].reshape(-1, 2).flip(-1).numpy()  # (y, x) -> (x, y)
    norm = rays.metadata["directions_norm"].numpy().astype(float)
    z = np.random.default_rng(0).uniform(0.5, 4, len(coords))
    points = rays.origins.numpy().astype(float) + rays.directions.numpy().astype(float) * norm * z[:, None]
    xy, found_z = project(view, points)
    assert np.abs(xy - coords).max() < 1e-4
    np.testing.assert_allclose(found_z, z, rtol=1e-6)
    np.testing.assert_allclose(unproject(view, coords, z), points, atol=2e-6)


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_projection_inverts_unprojection(model):
    view = synthetic_view(model)
    xy = np.random.default_rng(0).uniform((0, 0), (400, 300), (500, 2))
    z = np.linspace(0.1, 10, 500)
    found, found_z = project(view, unproject(view, xy, z))
    np.testing.assert_allclose(found, xy, atol=1e-9)
    np.testing.assert_allclose(found_z, z, rtol=1e-12)


def test_what_a_camera_cannot_see_has_no_pixel():
    view = synthetic_view(distortion=(-0.2, 0, 0, 0, 0, 0))
    forwards, right = -view.c2w[:, 2], view.c2w[:, 0]
    points = view.c2w[:, 3] + np.stack([forwards, -forwards, forwards + 2 * right])
    xy, z = project(view, points)
    assert np.isfinite(xy[0]).all() and np.isnan(xy[1:]).all()  # before, behind, and where -0.2 folds back into the photo
    np.testing.assert_allclose(z, [1, -1, 1])


def test_other_camera_models_are_refused():
    with pytest.raises(SpinnerfError, match="EQUIRECTANGULAR"):
        project(synthetic_view("EQUIRECTANGULAR"), np.zeros((1, 3)))


# --------------------------------------------------------------------------------------------------------------------- path
def views_of(poses):
    return [synthetic_view(photo=str(i), c2w=pose[:3]) for i, pose in enumerate(poses)]


@pytest.mark.parametrize("count", [2, 7, 25])
def test_shuffled_poses_come_back_in_order(count):
    shuffled = np.random.default_rng(count).permutation(count)
    poses = orbit(count)
    order = order_along_path(views_of([poses[i] for i in shuffled]))
    path = shuffled[order]
    assert sorted(order) == list(range(count))
    assert np.array_equal(path, np.arange(count)) or np.array_equal(path, np.arange(count)[::-1])


def test_viewing_direction_counts_where_the_camera_only_turns():
    angles = [0.0, 0.6, 0.2, 0.8, 0.4]
    order = order_along_path(views_of([look_at((0, 0, 0), (np.cos(a), np.sin(a), 0)) for a in angles]))
    assert [angles[i] for i in order] == sorted(angles)


def test_many_shuffled_photos_come_back_in_order_without_a_table_of_all_pairs():
    import tracemalloc

    count = 1000
    shuffled = np.random.default_rng(0).permutation(count)
    poses = [look_at((np.cos(a), np.sin(a), 0.0), (0, 0, 0)) for a in np.linspace(0, 5, count)]
    views = views_of([poses[i] for i in shuffled])
    order_along_path(views[:3])  # what is imported then is not counted
    tracemalloc.start()
    order = order_along_path(views)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path = shuffled[order]
    assert np.array_equal(path, np.arange(count)) or np.array_equal(path, np.arange(count)[::-1])
    assert peak < 8 * count**2  # bytes of that table


def test_equal_poses_and_few_views_have_an_order():
    pose = look_at((1, 0, 0), (0, 0, 0))
    for count in (1, 2, 3, 40):
        assert sorted(order_along_path(views_of([pose] * count))) == list(range(count))


def test_real_paths(real_data):
    views = load_capture(real_data / "lund_door").views
    assert order_along_path(views) == list(range(12))  # photographed from left to right
    views = load_capture(real_data / "snowmiku").views
    order = order_along_path(views)
    assert order == order_along_path(views) and sorted(order) == list(range(97))

    def turned(path):
        directions = np.stack([views[i].c2w[:, 2] for i in path])
        return np.arccos((directions[1:] * directions[:-1]).sum(axis=1)).sum()

    def moved(path):
        return np.linalg.norm(np.diff([views[i].c2w[:, 3] for i in path], axis=0), axis=1).sum()

    assert turned(order) < 0.6 * turned(range(97)) and moved(order) < 0.85 * moved(range(97))


# --------------------------------------------------------------------------------------------------- the two frames, the digest
SWAPPED = [[0.0, 0.0, 1.0, 0.2], [1.0, 0.0, 0.0, -0.1], [0.0, 1.0, 0.0, 0.3]]


@pytest.mark.parametrize("meta", [{}, {"applied_transform": SWAPPED, "applied_scale": 0.25}])
@pytest.mark.parametrize("config", [{}, {"orientation_method": "vertical", "center_method": "focus", "scale_factor": 0.3}])
def test_world_to_training_takes_the_files_poses_to_the_parsers(tmp_path, meta, config):
    folder = make_capture(tmp_path, 12, **meta)
    capture = load_capture(folder, NerfstudioDataParserConfig(**config))
    outputs = NerfstudioDataParserConfig(data=folder, **config).setup().get_dataparser_outputs("train")
    rotation = capture.world_to_training[:3, :3] / capture.world_scale
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    for path, expected in zip(outputs.image_filenames, outputs.cameras.camera_to_worlds.numpy(), strict=True):
        pose = capture.view(path).c2w
        np.testing.assert_allclose(capture.world_to_training @ [*pose[:, 3], 1], [*expected[:, 3], 1], atol=1e-5)
        np.testing.assert_allclose(rotation @ pose[:, :3], expected[:, :3], atol=1e-5)


def test_a_parser_that_bends_the_poses_is_refused(tmp_path):
    """Nerfstudio 1.1.5's `pca` turns two cameras about instead of two axes where the mean camera is upside down."""
    folder = make_capture(tmp_path, 12)
    with pytest.raises(SpinnerfError, match="not all cameras alike.*--orientation-method up"):
        load_capture(folder, NerfstudioDataParserConfig(orientation_method="pca"))


def test_digest_changes_with_what_it_stands_for_and_not_with_the_place(tmp_path):
    folder = make_capture(tmp_path / "a", ply_file_path="points.ply")
    (folder / "points.ply").write_bytes(b"ply")
    digest, meta = load_capture(folder).digest, read_meta(folder)
    shutil.copytree(folder, tmp_path / "b")
    other = tmp_path / "b"
    assert load_capture(other).digest == digest and len(digest) == 64
    moved = [{**frame, "transform_matrix": [*frame["transform_matrix"]]} for frame in meta["frames"]]
    moved[2]["transform_matrix"][0] = [value + 1e-6 for value in moved[2]["transform_matrix"][0]]
    names = [frame["file_path"] for frame in meta["frames"]]
    changes = [{"fl_x": 35.01}, {"cy": 14.6}, {"k1": 0.051}, {"frames": moved}, {"camera_model": "OPENCV_FISHEYE"}]
    changes += [{"train_filenames": names[:5], "val_filenames": names[5:], "test_filenames": names[5:]}]
    digests = []
    for change in changes:
        write_transforms(other, {**meta, **change})
        digests.append(load_capture(other).digest)
    write_transforms(other, meta)
    (other / "points.ply").write_bytes(b"plyy")
    digests.append(load_capture(other).digest)
    assert len({digest, *digests}) == len(digests) + 1
