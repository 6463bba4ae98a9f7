"""Dense depth from photos with known poses, against made-up scenes whose depth is exact."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from spinnerf_ns.accel.kernels import KernelUnavailable
from spinnerf_ns.accel.native import VARIABLE
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import write_png
from spinnerf_ns.scene.cameras import project, ray_directions
from spinnerf_ns.scene.capture import Capture, load_capture
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.stereo import maps, matching, plane_sweep
from spinnerf_ns.stereo.consistency import CONFIDENT, WEAK, believed, cross_check
from spinnerf_ns.stereo.dense import StereoOptions
from spinnerf_ns.stereo.maps import has_stereo, load_stereo, stereo_of
from spinnerf_ns.stereo.neighbours import axes_depth, choose_neighbours
from spinnerf_ns.stereo.rig import pinhole, read_grey, relative_pose, to_photo
from tests.scene.captures import look_at
from tests.stereo.test_sparse import CAMERA, SIZE, render, texture

OPTIONS = StereoOptions(planes=48)


def true_depth(view) -> np.ndarray:
    """(H, W) planar depth of `render`'s floor and wall."""
    rows, columns = np.mgrid[: view.height, : view.width]
    rays = ray_directions(view, np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1))
    origin = view.c2w[:, 3]
    to_floor, to_wall = -origin[2] / rays[:, 2], (2 - origin[1]) / rays[:, 1]
    depth = np.minimum(np.where(to_floor > 0, to_floor, np.inf), np.where(to_wall > 0, to_wall, np.inf))
    return depth.reshape(view.height, view.width)


def make_capture(root, count: int, **camera) -> Capture:
    poses = [
        look_at((0.22 * i - 0.22 * count / 2, -2.2, 1.2 + 0.15 * (i % 3)), target=(0.1 * i - 0.3, 1, 0.3)) for i in range(count)
    ]
    frames = [{"file_path": f"images/p{i}.png", "transform_matrix": pose.tolist()} for i, pose in enumerate(poses)]
    (root / "images").mkdir()
    (root / "transforms.json").write_text(json.dumps({"camera_model": "OPENCV", **CAMERA, **camera, "frames": frames}))
    for frame in frames:
        write_png(root / frame["file_path"], np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    capture = load_capture(root)
    textures = [texture(1), texture(2)]
    for number, view in enumerate(capture.views):
        image = render(view, textures) * (1 - 0.05 * (number % 3))  # exposure differs
        write_png(view.path, np.clip(image, 0, 255).astype(np.uint8))
    return capture


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Capture, Workspace]:
    """Six photos by a lens that bends lines, and their depth."""
    capture = make_capture(tmp_path_factory.mktemp("capture"), 6, k1=-0.05, k2=0.01, p1=0.001, p2=-0.001)
    workspace = Workspace.open(capture.data)
    assert stereo_of(capture, workspace, OPTIONS)
    return capture, workspace


def test_depth_is_right_where_it_is_confident(measured):
    capture, workspace = measured
    shares = []
    for view in capture.views:
        z, confidence = load_stereo(workspace, view.photo, (view.height, view.width))
        sure = confidence >= CONFIDENT
        error = np.abs(z[sure] / true_depth(view)[sure] - 1)
        assert (error < 0.01).mean() > 0.97, view.photo
        shares.append(sure.mean())
    assert np.mean(shares) > 0.6
    assert all(record["confident"] > 0.4 for record in workspace.records(maps.STAGE).values())


def test_what_is_done_is_not_done_again_and_a_killed_run_goes_on(tmp_path, monkeypatch):
    capture = make_capture(tmp_path, 4)
    workspace = Workspace.open(capture.data)
    options = StereoOptions(width=64, planes=32, rounds=(0.5,))
    measure, calls = maps.Sweeper.measure, []

    def killed(self, index):
        calls.append(index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, index)

    monkeypatch.setattr(maps.Sweeper, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        stereo_of(capture, workspace, options)
    assert not workspace.stereo.exists() and not has_stereo(workspace)
    assert stereo_of(capture, workspace, options)
    assert calls == [0, 1, 2, 2, 3]
    assert stereo_of(capture, workspace, options) and len(calls) == 5
    assert not (workspace.stereo / maps.RAW).exists()
    stereo_of(capture, workspace, StereoOptions(width=64, planes=33, rounds=(0.5,)))
    assert len(calls) == 9, "other options, other depth"


def test_photos_without_the_object_take_no_part(tmp_path):
    capture = make_capture(tmp_path, 5)
    workspace = Workspace.open(capture.data)
    workspace.set_object_free([capture.views[2].photo])
    assert stereo_of(capture, workspace, StereoOptions(width=64, planes=32, rounds=()))
    assert capture.views[2].photo not in workspace.records(maps.STAGE)
    with pytest.raises(SpinnerfError, match="missing"):
        load_stereo(workspace, capture.views[2].photo)


def test_two_photos_have_nobody_to_confirm_them(tmp_path):
    capture = make_capture(tmp_path, 2)
    assert not stereo_of(capture, Workspace.open(capture.data), OPTIONS)


def test_photos_that_share_nothing_have_no_depth(tmp_path):
    capture = make_capture(tmp_path, 4)
    meta = json.loads((tmp_path / "transforms.json").read_text())
    for frame, a in zip(meta["frames"], (0, 1.5, 3, 4.5)):
        frame["transform_matrix"] = look_at((np.cos(a), np.sin(a), 1), target=(2 * np.cos(a), 2 * np.sin(a), 1)).tolist()
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    workspace = Workspace.open(capture.data)
    assert not stereo_of(load_capture(tmp_path), workspace, OPTIONS)
    z, confidence = load_stereo(workspace, capture.views[0].photo)
    assert not z.any() and not confidence.any()


# ------------------------------------------------------------------------------------------------------------ the kernel
@pytest.fixture
def both(request):
    """The kernel's functions beside torch's; skipped where the kernel can't be had."""
    try:
        plane_sweep.KERNEL.library()
    except KernelUnavailable as error:
        pytest.skip(str(error))


def test_kernel_and_torch_agree(both):
    photos, samples, inverses = plane_sweep.example()
    volume = matching.sweep(photos, inverses, 2)
    torch.testing.assert_close(plane_sweep._native_sweep(photos, inverses, 2), volume, atol=1e-3, rtol=0)
    for ours, theirs in zip(
        plane_sweep._native_aggregate(volume, photos.reference, 0.03, 0.4, 8.0),
        matching.aggregate(volume, photos.reference, 0.03, 0.4, 8.0),
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    planes = torch.full((*photos.reference.shape, 3), 0.45) * torch.tensor([1, 0.01, -0.01])
    planes[::3, ::2, 0] = 0.3
    rest = (planes, planes[..., 0], ((0, 1), (-2, 0)), 0.02, 0.005, 0.02, 0.1)
    ours, theirs = plane_sweep._native_refine(photos, samples, *rest), matching.refine(photos, samples, *rest)
    same = ((ours[0] - theirs[0]).abs() < 1e-4).all(dim=2)
    assert same.float().mean() > 0.99  # rounding may choose another of two planes that cost the same
    torch.testing.assert_close(ours[1][same], theirs[1][same], atol=1e-3, rtol=0)
    assert plane_sweep._agrees()


def test_threads_change_nothing(both):
    photos, samples, inverses = plane_sweep.example()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            volume = plane_sweep._native_sweep(photos, inverses, 2)
            results.append([volume, *plane_sweep._native_aggregate(volume, photos.reference, 0.03, 0.4, 8.0)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results))


def test_an_unknown_implementation_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "cuda")
    photos, _, inverses = plane_sweep.example()
    with pytest.raises(SpinnerfError, match="SPINNERF_KERNELS=cuda"):
        plane_sweep.sweep(photos, inverses, 2)


# -------------------------------------------------------------------------------------------------------------- geometry
def exact_planes(view, camera) -> np.ndarray:
    """(H, W, 3) inverse depth of the pinhole camera and its slopes, by differences."""
    x, y = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = camera.rays(np.stack([x.ravel(), y.ravel()], axis=1))
    origin = camera.center
    to_floor, to_wall = -origin[2] / rays[:, 2], (2 - origin[1]) / rays[:, 1]
    depth = np.minimum(np.where(to_floor > 0, to_floor, np.inf), np.where(to_wall > 0, to_wall, np.inf))
    inverse = (1 / depth).reshape(camera.height, camera.width)
    return np.stack([inverse, np.gradient(inverse, axis=1), np.gradient(inverse, axis=0)], axis=2).astype(np.float32)


def test_right_depths_confirm_each_other_and_wrong_ones_do_not(measured):
    views = measured[0].views
    cameras = [pinhole(view, 96) for view in views]
    planes = [exact_planes(view, camera) for view, camera in zip(views, cameras)]
    others = [(cameras[i], planes[i]) for i in (1, 2, 4, 5)]
    right = cross_check(cameras[3], planes[3], others)
    everywhere = right.seen == 4
    assert (right.agreeing[everywhere] >= 3).mean() > 0.95 and not right.contradicting[everywhere].mean() > 0.02
    np.testing.assert_allclose(right.inverse[everywhere], planes[3][..., 0][everywhere], rtol=0.01)
    nearer = cross_check(cameras[3], planes[3] * np.float32(1.05), others)
    assert (nearer.agreeing[nearer.seen == 4] == 0).mean() > 0.99
    assert (nearer.contradicting[nearer.seen == 4] >= 3).mean() > 0.9
    assert believed(nearer).max() <= WEAK
    # A neighbour's noise does not carry over: the median of all.
    off = [(camera, plane * np.float32(1 + 0.003 * (number == 0))) for number, (camera, plane) in enumerate(others)]
    fused = cross_check(cameras[3], planes[3], off)
    np.testing.assert_allclose(fused.inverse[everywhere], planes[3][..., 0][everywhere], rtol=0.004)


def test_a_neighbour_shows_a_pixel_where_the_pose_says(measured):
    first, second = measured[0].views[:2]
    here, there = pinhole(first, 96), pinhole(second, 96)
    xy, z = np.array([[10.0, 20.0], [70.5, 40.0]]), np.array([2.0, 3.0])
    expected, _ = there.project(here.center + here.rays(xy) * z[:, None])
    pose = relative_pose(here, there)
    h = np.column_stack([xy, [1, 1]]) @ pose[:9].reshape(3, 3).T + pose[9:] / z[:, None]
    np.testing.assert_allclose(h[:, :2] / h[:, 2:], expected, atol=1e-9)


def test_a_bent_photo_is_straightened_and_depth_bent_back(measured):
    view = measured[0].views[0]
    camera = pinhole(view, view.width)
    depth = true_depth(view)
    z = (1 / exact_planes(view, camera)[..., 0]).astype(np.float32)
    back, ones = to_photo(view, camera, z, np.ones_like(z))
    inside = ones > 0
    assert inside.mean() > 0.9
    np.testing.assert_allclose(back[inside], depth[inside], rtol=0.04)  # the nearest pixel's
    assert np.median(np.abs(back[inside] / depth[inside] - 1)) < 0.005
    grey, _ = read_grey(view, camera)
    pixels = np.random.default_rng(0).integers([10, 10], [camera.width - 10, camera.height - 10], (50, 2))
    xy, _ = project(view, camera.center + camera.rays(pixels) * 2)
    photo = cv2.cvtColor(view.read_image(), cv2.COLOR_RGB2GRAY).astype(np.float32)
    shown = cv2.remap(photo, *np.float32(xy.T[..., None] - 0.5), cv2.INTER_LINEAR)
    assert np.abs(shown[:, 0] - grey[pixels[:, 1], pixels[:, 0]]).max() < 2


def test_depth_that_would_take_too_long_is_left_out(tmp_path, capsys):
    capture = make_capture(tmp_path, 6)
    workspace = Workspace.open(capture.data)
    assert not stereo_of(capture, workspace, OPTIONS, most_seconds=0)
    assert "6 photos would take" in capsys.readouterr().out
    assert not has_stereo(workspace) and stereo_of(capture, workspace, OPTIONS, most_seconds=1000), "it goes on where it was"


def test_neighbours_lie_on_different_sides_and_at_an_angle(measured):
    cameras = [pinhole(view, 96) for view in measured[0].views]
    chosen = choose_neighbours(cameras, 3, 4.0, 2)
    assert min(chosen) < 3 < max(chosen)
    assert 3 not in choose_neighbours(cameras, 3, 4.0, 10)
    ring = [look_at((3 * np.cos(a), 3 * np.sin(a), 0.5)) for a in np.linspace(0, 2 * np.pi, 24, endpoint=False)]
    around = []
    for pose in ring:
        camera = pinhole(measured[0].views[0], 96)
        around.append(type(camera)(96, 72, camera.matrix, pose[:3, :3].T * np.array([1, -1, -1.0])[:, None], pose[:3, 3]))
    assert all(min((i - 5) % 24, (5 - i) % 24) <= 2 for i in choose_neighbours(around, 5, 3.0, 4)), "around a circle: by angle"
    assert abs(axes_depth(around) - 3) < 0.3


def test_depth_that_stands_is_taken_at_the_width_at_which_it_was_measured(measured):
    """Whoever does not care finds it done; whoever asks for another width has it measured again."""
    capture, workspace = measured
    narrow = Workspace.open(capture.data, workspace.root.with_name("narrow"))
    assert stereo_of(capture, narrow, StereoOptions(width=64))
    written = {path: path.stat().st_mtime_ns for path in narrow.stereo.rglob("*.npy")}
    assert maps.standing_options(narrow) == StereoOptions(width=64) and maps.stereo_if_possible(capture, narrow)
    assert {path: path.stat().st_mtime_ns for path in narrow.stereo.rglob("*.npy")} == written
    assert load_stereo(narrow, capture.views[0].photo).z.shape[1] == 64
    assert maps.standing_options(Workspace.open(capture.data, workspace.root.with_name("none"))) is None


def test_one_photos_time_is_taken_at_several_widths_and_nothing_is_kept(measured):
    capture, _ = measured
    empty = Workspace.open(capture.data, capture.data / "empty")
    ticks = iter([0.0, 9.0, 10.0, 11.0, 20.0, 24.0])  # the first time does not count
    samples = maps.sample_seconds(capture, empty, (64, 96), lambda: next(ticks))
    assert [seconds for _, seconds in samples] == [1.0, 4.0]
    assert samples[0][0] < samples[1][0] <= 96 * 96 / 1e6
    assert not empty.root.exists()


def test_a_width_at_which_nothing_is_seen_is_refused(tmp_path):
    from spinnerf_ns.cli.segment import Pointing

    with pytest.raises(SpinnerfError, match="--stereo-width 8: 64 or more"):
        Pointing(tmp_path, stereo_width=8).stereo_options()
    assert Pointing(tmp_path).stereo_options() is None
