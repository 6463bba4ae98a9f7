"""Points from photos with known poses, against a made-up scene whose depth is exact."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spinnerf_ns.files import write_png
from spinnerf_ns.scene.bounds import scene_bounds
from spinnerf_ns.scene.cameras import project, ray_directions
from spinnerf_ns.scene.capture import Capture, load_capture
from spinnerf_ns.scene.points import SparsePoints, check_frame, visible_points
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.stereo import points as stage
from spinnerf_ns.stereo import sparse

SIZE = (192, 144)
CAMERA = {"w": SIZE[0], "h": SIZE[1], "fl_x": 180.0, "fl_y": 178.0, "cx": 97.0, "cy": 71.0}


def texture(seed: int) -> np.ndarray:
    """Blots of several sizes."""
    import cv2

    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.random((n, n, 3)).astype(np.float32), (512, 512)) for n in (12, 40, 110)]
    return np.clip(255 * np.mean(layers, axis=0) * 1.6 - 80, 0, 255).astype(np.uint8)


def render(view, textures) -> np.ndarray:
    """A floor at z = 0 and a wall at y = 2, each (-4 .. 4) squared, seen from above the floor."""
    rows, columns = np.mgrid[: view.height, : view.width]
    rays = ray_directions(view, np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1))
    origin = view.c2w[:, 3]
    to_floor, to_wall = -origin[2] / rays[:, 2], (2 - origin[1]) / rays[:, 1]
    floor = np.where(to_floor > 0, to_floor, np.inf) < np.where(to_wall > 0, to_wall, np.inf)
    hit = origin + rays * np.where(floor, to_floor, to_wall)[:, None]
    place = np.where(floor[:, None], hit[:, [0, 1]], hit[:, [0, 2]])
    import cv2

    at = ((place + 4) / 8 * 511).astype(np.float32).reshape(view.height, view.width, 2)
    shown = [cv2.remap(t, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT) for t in textures]
    return np.where(floor.reshape(view.height, view.width, 1), *shown)


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Capture:
    """Ten photos by a hand that moves along and up, without points; the lens bends lines."""
    from tests.scene.captures import look_at

    root = tmp_path_factory.mktemp("capture")
    poses = [look_at((0.22 * i - 1, -2.2, 1.2 + 0.15 * (i % 3)), target=(0.1 * i - 0.5, 1, 0.3)) for i in range(10)]
    frames = [{"file_path": f"images/p{i}.png", "transform_matrix": pose.tolist()} for i, pose in enumerate(poses)]
    meta = {"camera_model": "OPENCV", **CAMERA, "k1": -0.05, "k2": 0.01, "p1": 0.001, "p2": -0.001, "frames": frames}
    (root / "transforms.json").write_text(json.dumps(meta))
    (root / "images").mkdir()
    for frame in frames:
        write_png(root / frame["file_path"], np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    textures = [texture(0), texture(1)]
    for view in load_capture(root).views:
        write_png(view.path, render(view, textures))
    return load_capture(root)


@pytest.fixture(scope="module")
def points(capture) -> SparsePoints:
    return sparse.sparse_points(capture.views)


def test_points_lie_on_the_surfaces_and_where_the_photos_show_them(capture, points):
    assert len(points.positions) > 300
    off = np.minimum(np.abs(points.positions[:, 2]), np.abs(points.positions[:, 1] - 2))
    assert np.mean(off < 0.03) > 0.95  # a hundredth of their distance
    for index, view in enumerate(capture.views):
        own = points.seen.photo == points.seen.photos.index(view.photo)
        assert own.sum() > 50, f"photo {index}"
        xy, z = project(view, points.positions[points.seen.point[own]])
        assert np.linalg.norm(xy - points.seen.xy[own], axis=1).max() <= 1.1 and (z > 0).all()
    assert np.bincount(points.seen.point).min() >= 3


def test_wrong_poses_give_hardly_any_points(capture, points):
    """A third photo has to agree: chance matches along epipolar lines do not make points."""
    views = list(capture.views)
    mixed = [load_view(views[i], views[(i * 3 + 1) % len(views)].c2w) for i in range(len(views))]
    assert len(sparse.sparse_points(mixed).positions) < 0.4 * len(points.positions)


def load_view(view, c2w):
    from dataclasses import replace

    return replace(view, c2w=c2w)


def test_pairs_are_linear_in_the_photos_and_turned_away_ones_are_none(capture):
    from tests.scene.captures import orbit

    def turning(count):
        return [load_view(capture.views[0], pose[:3]) for pose in orbit(count)]

    counts = [len(sparse.pairs(turning(n))) for n in (120, 240)]
    assert counts[1] <= 2.2 * counts[0] and counts[0] <= 120 * len(sparse.RANKS)
    views = turning(24)
    for i, j in sparse.pairs(views):
        assert np.degrees(np.arccos(views[i].c2w[:, 2] @ views[j].c2w[:, 2])) < sparse.LARGEST_TURN


def test_a_wrong_match_does_not_join_two_tracks():
    """Features 0 and 1 of four photos are two points; one pair confuses them, no third photo agrees."""
    both = np.array([[0, 0], [1, 1]])
    matches = {(i, j): both for i in range(4) for j in range(i + 1, 4)}
    matches[0, 1] = np.array([[0, 0], [1, 1], [0, 1]])
    photo, track, feature = sparse.join(matches, [2, 2, 2, 2])
    assert len(np.unique(track)) == 2 and len(photo) == 8
    for number in range(2):
        assert len(set(feature[track == number])) == 1


def test_nothing_in_the_photos_gives_no_points(capture):
    found = sparse.sparse_points(capture.views, lambda view: np.full((view.height, view.width, 3), 90, np.uint8))
    assert len(found.positions) == 0 and found.seen.of(capture.views[0].photo).size == 0


# ------------------------------------------------------------------------------------------------------------ which points
def test_points_of_another_frame_are_found_out(capture, points):
    positions, rng = points.positions, np.random.default_rng(0)
    assert check_frame(capture.views, points).fits
    for what, moved in {
        "axes swapped": positions[:, [1, 2, 0]],
        "shuffled": positions[rng.permutation(len(positions))],
        "mirrored": positions * [-1, 1, 1],
        "scaled": positions * 1.3,
        "nowhere near": positions + 100,
    }.items():
        assert not check_frame(capture.views, SparsePoints(moved, points.colors)).fits, what


def test_made_points_are_kept_and_made_again_for_other_poses(capture, tmp_path, monkeypatch):
    workspace = Workspace.open(capture.data, tmp_path / "work")
    first = stage.points_of(capture, workspace)
    assert first is not None and (workspace.points / "sparse_pc.ply").is_file()
    assert set(workspace.records(stage.STAGE)) == {view.photo for view in capture.split("train")}
    monkeypatch.setattr(sparse, "sparse_points", lambda *a, **k: pytest.fail("made again"))
    again = stage.points_of(capture, workspace)
    assert np.array_equal(first.positions, again.positions) and np.array_equal(first.colors, again.colors)
    assert np.array_equal(first.seen.point, again.seen.point)
    monkeypatch.undo()
    moved = [load_view(view, view.c2w + np.eye(3, 4) * 0) for view in capture.views]
    moved[0] = load_view(moved[0], moved[0].c2w + 1e-3)
    assert stage._parameters(moved) != stage._parameters(list(capture.views))
    (workspace.points / "points.npz").write_bytes(b"damaged")
    assert len(stage.own_points(capture, workspace).positions) == len(first.positions)


def test_points_of_another_frame_are_said_and_replaced(capture, points, tmp_path, capsys):
    from spinnerf_ns.scene.points import write_ply

    wrong = tmp_path / "wrong.ply"
    write_ply(wrong, points.positions[:, [1, 2, 0]], points.colors.astype(np.uint8))
    bad = Capture(capture.data, capture.views, capture._training, capture.world_scale, {"ply_file_path": wrong})
    workspace = Workspace.open(capture.data, tmp_path / "work")
    made = stage.points_of(bad, workspace)
    said = capsys.readouterr().out
    assert str(wrong) in said.replace("\n", "") and "not in the frame" in said
    assert made is not None and made.seen is not None
    right = tmp_path / "right.ply"
    write_ply(right, points.positions, points.colors.astype(np.uint8))
    good = Capture(capture.data, capture.views, capture._training, capture.world_scale, {"ply_file_path": right})
    taken = stage.points_of(good, workspace)
    assert taken.seen is None and len(taken.positions) == len(points.positions) and not capsys.readouterr().out


def test_tracked_points_are_shown_whatever_their_colour(capture, points):
    view = capture.views[4]
    other = np.full((view.height, view.width, 3), (255, 0, 255), np.uint8)
    which, pixels, z = visible_points(view, other, points)
    assert 0 < len(which) and set(which) <= set(points.seen.of(view.photo)) and (z > 0).all()
    more = visible_points(view, view.read_image(), points)[0]
    assert len(more) > len(which)


def test_bounds_come_from_points_or_from_stated_depths(capture, points):
    found = scene_bounds(capture, points)
    assert scene_bounds(capture, None) is None
    low, high = np.array(found.center) - found.radius, np.array(found.center) + found.radius
    cameras = capture.cameras(capture.views).camera_to_worlds[:, :, 3].numpy()
    assert (cameras >= low - 1e-6).all() and (cameras <= high + 1e-6).all()
    depths = np.concatenate([project(view, points.positions)[1] for view in capture.views]) * capture.world_scale
    assert found.near < np.percentile(depths[depths > 0], 1)
    stating = Capture(
        capture.data, capture.views, capture._training, capture.world_scale, {},
        bounds={photo: (1.5, 5.0) for photo in capture.photos},
    )  # fmt: skip
    stated = scene_bounds(stating, None)
    assert 0 < stated.near < 1.5 * capture.world_scale
    assert 0.5 < stated.radius / found.radius < 2


def test_nothing_is_found_where_the_capture_says_not_to_look(capture, tmp_path) -> None:
    from dataclasses import replace

    view = capture.views[0]
    image = render(view, [texture(1), texture(2)])
    half = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    half[:, : SIZE[0] // 2] = 255
    write_png(tmp_path / "half.png", half)
    masked = sparse.find_features(replace(view, mask_path=tmp_path / "half.png"), image)
    assert len(masked.xy) > 20 and masked.xy[:, 0].max() <= SIZE[0] // 2 + 1
    assert sparse.find_features(view, image).xy[:, 0].max() > 0.7 * SIZE[0]
