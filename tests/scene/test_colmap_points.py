"""COLMAP's own points with tracks, against a model written here by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.scene.bounds import scene_bounds
from spinnerf_ns.scene.cameras import project
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.points import read_points
from tests.scene.captures import orbit, save_photo

POINTS = 300


def write_model(root: Path, shift: float = 0.0) -> tuple[np.ndarray, list[np.ndarray]]:
    """A COLMAP folder of six photos (80x60) as text; returns the points in COLMAP's world, and which each photo shows."""
    from nerfstudio.data.utils.colmap_parsing_utils import rotmat2qvec

    rng = np.random.default_rng(0)
    points = rng.normal(size=(POINTS, 3)) * 0.4
    model = root / "sparse/0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("1 PINHOLE 80 60 70 70 40 30\n")
    lines, shown = [], []
    tracks: list[list[str]] = [[] for _ in range(POINTS)]
    for index, pose in enumerate(orbit(6)):
        save_photo(root / f"images/p{index}.png", index, (80, 60))
        rotation = (pose[:3, :3] * [1, -1, -1]).T
        translation = -rotation @ pose[:3, 3]
        camera = points @ rotation.T + translation
        xy = camera[:, :2] / camera[:, 2:] * 70 + [40, 30]
        seen = np.flatnonzero((xy >= 0).all(axis=1) & (xy < [80, 60]).all(axis=1))
        shown.append(seen)
        lines.append(" ".join(map(str, [index + 1, *rotmat2qvec(rotation), *translation, 1, f"p{index}.png"])))
        lines.append(" ".join(f"{x} {y} {i + 1}" for (x, y), i in zip(xy[seen], seen)))
        for place, point in enumerate(seen):
            tracks[point].append(f"{index + 1} {place}")
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{i + 1} {x + shift} {y} {z} 10 20 30 0.1 {' '.join(tracks[i])}" for i, (x, y, z) in enumerate(points)]
    (model / "points3D.txt").write_text("\n".join(rows) + "\n")
    return points, shown


def test_a_colmap_capture_s_own_points_are_read_with_their_tracks(tmp_path):
    points, shown = write_model(tmp_path / "scene")
    capture = load_capture(tmp_path / "scene")
    found = read_points(capture)
    assert found is not None and found.seen is not None
    in_three = np.flatnonzero(np.bincount(np.concatenate(shown), minlength=POINTS) >= 3)
    assert len(found.positions) == len(in_three)
    z_up = points[in_three][:, [0, 2, 1]] * [1, 1, -1]
    assert np.allclose(found.positions, z_up, atol=1e-4)  # the source frame is turned to z up
    for index, seen in enumerate(shown):
        view = capture.view(f"p{index}")
        own = found.seen.of(view.photo)
        assert set(in_three[own]) == set(seen) & set(in_three)
        xy, _ = project(view, found.positions[own])
        order = np.argsort(found.seen.point[found.seen.photo == found.seen.photos.index(view.photo)])
        there = found.seen.xy[found.seen.photo == found.seen.photos.index(view.photo)][order]
        assert np.abs(xy - there).max() < 0.05
    assert scene_bounds(capture, found) is not None


@pytest.mark.parametrize("shift", [0.5, 5.0])
def test_points_that_do_not_appear_where_their_tracks_say_are_not_used(tmp_path, shift):
    write_model(tmp_path / "scene", shift)
    assert read_points(load_capture(tmp_path / "scene")) is None


def test_a_damaged_model_has_no_points(tmp_path):
    write_model(tmp_path / "scene")
    (tmp_path / "scene/sparse/0/points3D.txt").write_text("1 2 three\n")
    assert read_points(load_capture(tmp_path / "scene")) is None
