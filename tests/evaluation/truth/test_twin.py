"""The twin's truth is exact, its two versions differ by the object alone, and its difficulty is that of a real scene."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.twin import TwinConfig, TwinScene, build_cameras, load_twin, prompt_from_mask, write_twin
from spinnerf_ns.evaluation.truth.twin_render import Box, Pinhole, Revolved, nearest
from spinnerf_ns.evaluation.truth.twin_room import TARGET_CENTER, build_room
from spinnerf_ns.files import load_object_mask, read_image

SMALL = dict(width=96, height=72)


@pytest.fixture(scope="module", params=["forward", "orbit"])
def twin(request, tmp_path_factory) -> TwinScene:
    return write_twin(tmp_path_factory.mktemp(request.param) / "twin", TwinConfig(layout=request.param, **SMALL))


def _camera(twin: TwinScene, photo: str) -> Pinhole:
    """The camera as transforms.json states it."""
    meta = json.loads((twin.root / "transforms.json").read_text())
    frame = next(frame for frame in meta["frames"] if frame["file_path"] == photo)
    assert (meta["cx"], meta["cy"], meta["fl_x"]) == (meta["w"] / 2, meta["h"] / 2, meta["fl_y"])
    return Pinhole(np.array(frame["transform_matrix"]), meta["fl_x"], meta["w"], meta["h"])


def _depth(twin: TwinScene, photo: str, kind: str) -> np.ndarray:
    return np.load(twin.truth(photo, kind)).astype(np.float64)


def _world(camera: Pinhole, z: np.ndarray) -> np.ndarray:
    """(H, W, 3) world points of the pixel centres; written out without the renderer's own rays."""
    y, x = np.mgrid[: camera.height, : camera.width] + 0.5
    in_camera = np.stack([(x - camera.width / 2) * z, -(y - camera.height / 2) * z, -camera.focal * z], -1) / camera.focal
    return in_camera @ camera.camera_to_world[:3, :3].T + camera.camera_to_world[:3, 3]


def _project(camera: Pinhole, world: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y in pixels and z-depth of world points (N, 3)."""
    in_camera = (world - camera.camera_to_world[:3, 3]) @ camera.camera_to_world[:3, :3]
    z = -in_camera[:, 2]
    return (
        camera.focal * in_camera[:, 0] / z + camera.width / 2,
        -camera.focal * in_camera[:, 1] / z + camera.height / 2,
        z,
    )


def _shown_in(camera: Pinhole, room, world: np.ndarray, with_object: bool) -> np.ndarray:
    """Which world points (N, 3) a camera really sees: a ray to each must not be stopped before it."""
    x, y, z = _project(camera, world)
    origin = camera.camera_to_world[:3, 3:]
    directions = ((world - origin.T) / z[:, None]).T
    things = room.stays + (room.target if with_object else ())
    first, _ = nearest(things, origin, directions)
    return (z > 0) & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height) & (first > z - 1e-4)


def _sampled(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear samples at x, y (N,) in pixels; cv2.remap would round them to 1/32 pixel."""
    height, width = image.shape[:2]
    x, y = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    across, down = ((v.reshape(-1, *[1] * (image.ndim - 2))) for v in (x - left, y - top))
    upper = image[top, left] * (1 - across) + image[top, left + 1] * across
    lower = image[top + 1, left] * (1 - across) + image[top + 1, left + 1] * across
    return upper * (1 - down) + lower * down


def test_files_and_splits(twin: TwinScene) -> None:
    assert len(twin.photos) == 38 and twin.object_free == twin.photos[30:] and len(twin.train_photos) == 30
    assert twin.photos == sorted(twin.photos)
    for photo in twin.photos:
        for kind in ("images", "images_with_object", "object_masks", "depths", "depths_with_object"):
            assert twin.truth(photo, kind).is_file()
        shown = "images" if photo in twin.object_free else "images_with_object"
        assert filecmp.cmp(twin.root / photo, twin.truth(photo, shown), shallow=False)
    assert load_twin(twin.root) == twin


def test_equal_bytes_for_a_seed_and_other_bytes_for_another(tmp_path: Path) -> None:
    config = dict(width=32, height=24, num_train=3, num_test=2)
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_twin(tmp_path / name, TwinConfig(seed=seed, **config))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 5 * 6 + 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    first = "images/frame_0001.png"
    assert (tmp_path / "a" / first).read_bytes() != (tmp_path / "c" / first).read_bytes()


def test_versions_differ_by_the_object_alone(twin: TwinScene) -> None:
    for photo in twin.photos:
        object_mask = load_object_mask(twin.truth(photo, "object_masks"))
        free, full = read_image(twin.truth(photo, "images")), read_image(twin.truth(photo, "images_with_object"))
        rim = cv2.dilate(object_mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert np.array_equal(free[~rim], full[~rim])
        inside = cv2.erode(object_mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        difference = np.abs(free[inside].astype(int) - full[inside]).max(axis=-1)
        assert np.mean(difference > 12) > 0.9, "the object must be told from what is behind it"


def test_object_mask_is_where_the_depths_differ(twin: TwinScene) -> None:
    for photo in twin.photos:
        z_free, z_full = _depth(twin, photo, "depths"), _depth(twin, photo, "depths_with_object")
        object_mask = load_object_mask(twin.truth(photo, "object_masks"))
        assert np.array_equal(object_mask, z_free != z_full)
        assert np.all(z_full <= z_free) and np.isfinite(z_free).all() and z_full.min() > 0.2
        assert 0.04 <= object_mask.mean() <= 0.09, f"{photo}: the object covers {object_mask.mean():.1%}"


def test_depth_and_colour_agree_between_two_photos(twin: TwinScene) -> None:
    """A point seen by two cameras has one depth and one colour in both: poses, depth and photos fit together."""
    first, second = twin.train_photos[3], twin.train_photos[20]
    room = build_room(np.random.default_rng([twin.config.seed, 0]))
    for with_object, kind, photos in ((False, "depths", "images"), (True, "depths_with_object", "images_with_object")):
        camera, other = _camera(twin, first), _camera(twin, second)
        world = _world(camera, _depth(twin, first, kind)).reshape(-1, 3)
        shown = _shown_in(other, room, world, with_object)
        assert shown.mean() > 0.2
        x, y, z = (values[shown] for values in _project(other, world))
        disparity = _sampled(1 / _depth(twin, second, kind), x, y)  # linear across a plane, so that sampling is exact there
        on_planes = np.abs(1 / disparity - z) / z < 1e-5  # the rest: curved things, and pixels beside an edge
        assert on_planes.mean() > 0.65
        here = read_image(twin.truth(first, photos)).reshape(-1, 3)[shown].astype(float)
        there = _sampled(read_image(twin.truth(second, photos)), x, y)
        assert np.median(np.abs(here - there)) < 4
        shifted = _sampled(np.roll(read_image(twin.truth(second, photos)), 3, axis=1), x, y)
        assert np.abs(here - there).mean() < 0.6 * np.abs(here - shifted).mean()


def test_part_of_what_is_behind_the_object_is_never_seen(twin: TwinScene) -> None:
    room = build_room(np.random.default_rng([twin.config.seed, 0]))
    camera = _camera(twin, twin.prompt_view)
    object_mask = load_object_mask(twin.truth(twin.prompt_view, "object_masks"))
    behind = _world(camera, _depth(twin, twin.prompt_view, "depths"))[object_mask]
    counts = sum(_shown_in(_camera(twin, photo), room, behind, True).astype(int) for photo in twin.train_photos)
    never, well = np.mean(counts == 0), np.mean(counts >= 2)
    print(f"{twin.config.layout}: of the background behind the object {never:.1%} is never seen, {well:.1%} twice or more")
    assert 0.08 < never < 0.6
    assert well > 0.3


def test_poses_are_rigid_and_the_layouts_are_what_they_say() -> None:
    for layout in ("forward", "orbit"):
        train, test = build_cameras(TwinConfig(layout=layout))
        for camera in train + test:
            rotation = camera.camera_to_world[:3, :3]
            assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12) and np.linalg.det(rotation) > 0
            assert rotation[2, 1] > 0.7 and np.all(camera.camera_to_world[:3, 3] > 0.1)
        axes = np.array([-camera.camera_to_world[:3, 2] for camera in train])
        angles = np.rad2deg(np.arccos(np.clip(axes @ axes.T, -1, 1)))
        steps = np.linalg.norm(np.diff([camera.camera_to_world[:3, 3] for camera in train], axis=0), axis=1)
        assert steps.max() < 0.75, "neighbours in the list must stand near each other"
        offsets = np.array([camera.camera_to_world[:3, 3] for camera in train])[:, :2] - TARGET_CENTER[:2]
        azimuths = np.rad2deg(np.arctan2(offsets[:, 1], offsets[:, 0]))
        if layout == "forward":
            assert angles.max() < 40
        else:
            assert 100 < np.ptp(azimuths) < 180


def test_stock_parser_loads_it(twin: TwinScene) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    parser = NerfstudioDataParserConfig(data=twin.root).setup()
    for split, photos in (("train", twin.train_photos), ("val", twin.object_free), ("test", twin.object_free)):
        outputs = parser.get_dataparser_outputs(split=split)
        assert [path.relative_to(twin.root).as_posix() for path in outputs.image_filenames] == photos
        assert outputs.mask_filenames is None and len(outputs.cameras) == len(photos)
        assert int(outputs.cameras.width[0]) == twin.config.width


def test_sparse_points_are_what_training_cameras_see(twin: TwinScene) -> None:
    trimesh = pytest.importorskip("trimesh")  # nerfstudio brings it; open3d, its own reader, wants system libraries
    cloud = trimesh.load(twin.root / "sparse_pc.ply")
    points, colours = np.asarray(cloud.vertices, np.float64), np.asarray(cloud.colors)[:, :3]
    assert 2000 <= len(points) < 2100 and np.ptp(colours, axis=0).min() > 100
    room = build_room(np.random.default_rng([twin.config.seed, 0]))
    shown = np.any([_shown_in(_camera(twin, photo), room, points, True) for photo in twin.train_photos], axis=0)
    assert shown.all()
    assert 0.03 < np.mean(np.abs(points[:, :2] - TARGET_CENTER[:2]).max(axis=1) < 0.221) < 0.12, "the object is in the cloud"


def test_prompt_points_at_the_object(twin: TwinScene) -> None:
    assert twin.prompt_view in twin.train_photos
    object_mask = load_object_mask(twin.truth(twin.prompt_view, "object_masks"))
    labels = [int(object_mask[int(y), int(x)]) for x, y, _ in twin.prompt_points]
    assert labels == [label for _, _, label in twin.prompt_points] == [1, 1, 0]
    x0, y0, x1, y1 = (int(edge) for edge in twin.prompt_box)
    assert object_mask[y0:y1, x0:x1].sum() == object_mask.sum()
    assert object_mask.sum() > 0.4 * (x1 - x0) * (y1 - y0)


def test_prompt_of_a_mask_that_touches_the_photos_edge() -> None:
    object_mask = np.zeros((20, 40), bool)
    object_mask[5:, :9] = True
    box, points = prompt_from_mask(object_mask)
    assert box == (0.0, 4.0, 10.0, 20.0)
    assert [object_mask[int(y), int(x)] for x, y, _ in points] == [True, True, False]


def test_contact_shadow_darkens_the_floor_only(tmp_path: Path) -> None:
    twin = write_twin(tmp_path / "twin", TwinConfig(num_train=2, num_test=1, contact_shadow=True, **SMALL))
    photo = twin.photos[0]
    outside = cv2.dilate(load_object_mask(twin.truth(photo, "object_masks")).astype(np.uint8), np.ones((3, 3))) == 0
    free, full = read_image(twin.truth(photo, "images")).astype(int), read_image(twin.truth(photo, "images_with_object"))
    change = (free - full)[outside]
    assert change.min() >= 0 and change.max() > 15
    on_floor = _world(_camera(twin, photo), _depth(twin, photo, "depths"))[..., 2] < 0.02
    changed = (free != full).any(axis=-1) & outside
    assert np.mean(on_floor[changed]) > 0.97


@pytest.mark.parametrize(
    "shape",
    [
        Box((0.3, 0.2, 0.5), (0.2, 0.3, 0.1), 0.7),
        Revolved((0.1, 0.2, 0.3), 0.3, -0.5, (-0.2, 0.25)),
        Revolved((0.1, 0.2, 0.3), 0.2, 0.0, (-0.2, 0.25)),
        Revolved((0.1, 0.2, 0.3), 0.1, 1.5, (-0.2, 0.15)),
    ],
)
def test_shapes_against_marching(shape) -> None:
    """Closed-form hits against small steps along the ray, with the solid's inside written out again."""

    def inside(points: np.ndarray) -> np.ndarray:
        local = points - np.array(shape.center)[:, None]
        if isinstance(shape, Box):
            x = np.cos(shape.yaw) * local[0] + np.sin(shape.yaw) * local[1]
            y = np.cos(shape.yaw) * local[1] - np.sin(shape.yaw) * local[0]
            return (abs(x) < shape.half[0]) & (abs(y) < shape.half[1]) & (abs(local[2]) < shape.half[2])
        ring = local[0] ** 2 + local[1] ** 2 < shape.curvature * local[2] ** 2 + shape.radius**2
        return ring & (local[2] > shape.z_range[0]) & (local[2] < shape.z_range[1])

    rng = np.random.default_rng(0)
    origin = np.array([[1.8], [1.2], [1.0]])
    directions = rng.normal(size=(3, 400)) * 0.2 + (np.array([[0.2], [0.2], [0.4]]) - origin)
    hit = shape.intersect(origin, directions)
    steps = np.arange(0, 2, 1e-3)
    marched = np.full(400, np.inf)
    for index in range(400):
        found = np.flatnonzero(inside(origin + steps * directions[:, index : index + 1]))
        if found.size:
            marched[index] = steps[found[0]]
    both = np.isfinite(hit) & np.isfinite(marched)
    assert both.sum() > 60 and np.mean(np.isfinite(hit) == np.isfinite(marched)) > 0.98  # a step may miss a sliver
    assert np.quantile(np.abs(hit[both] - marched[both]), 0.97) < 1.1e-3
    # At the hit the normal faces the camera and has unit length.
    local = shape.to_local(origin + hit[both] * directions[:, both], True)
    normals = shape.to_world(shape.normals(local))
    assert np.allclose(np.linalg.norm(normals, axis=0), 1) and ((normals * directions[:, both]).sum(axis=0) < 1e-6).all()


def test_errors_name_the_file_and_leave_nothing(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "photo.jpg").write_bytes(b"x")
    with pytest.raises(SpinnerfError, match="not an empty folder"):
        write_twin(full, TwinConfig(num_train=2, num_test=1, **SMALL))
    assert [path.name for path in tmp_path.iterdir()] == ["full"] and [path.name for path in full.iterdir()] == ["photo.jpg"]
    with pytest.raises(SpinnerfError, match="twin.json: missing"):
        load_twin(full)
    (full / "twin.json").write_text('{"version": 1}')
    with pytest.raises(SpinnerfError, match="not a twin's description"):
        load_twin(full)
    with pytest.raises(SpinnerfError, match="layout is 'inside'"):
        TwinConfig(layout="inside")
    with pytest.raises(SpinnerfError, match="num_test is 0"):
        TwinConfig(num_test=0)
