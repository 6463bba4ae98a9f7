"""Sparse points of a capture: what it brings (COLMAP's with tracks, or a .ply file), whether they are of its frame, and which
photo shows which.

Nerfstudio's datasets keep the points, but not which photo saw which. Where no track says it, a point is taken to be seen in a
photo when no other point lies clearly before it nearby, and when the photo shows the point's colour there.

Points in another frame than the poses are common: a .ply file left from before a rotation, a scan beside the photos. Nothing
fails then, every depth is wrong. They are found out by their colours: where a point projects, the photo has its colour, and a
little beside it has not.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spinnerf_ns.files import write_ply_table
from spinnerf_ns.scene.cameras import project
from spinnerf_ns.scene.source import MEASURED_POINTS

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.view import View

OCCLUSION_CELL = 0.02
"""Side of the neighbourhood that is searched for nearer points, as a part of the photo's width."""

OCCLUSION_MARGIN = 0.05
"""Relative depth by which a nearby point must be nearer to hide another."""

COLOR_TOLERANCE = 30.0
"""Largest mean difference (of 255) between a point's colour and the photo's there."""

MAX_POINTS = 100_000
"""More points than this are thinned: every pixel near one says the same."""


CHECK_PHOTOS = 12
"""Photos, evenly spread, in which points' colours are compared."""

CHECK_POINTS = 3000
"""Points compared per photo."""

CHECK_STEP = 0.03
"""How far beside a point its colour is compared with, as a part of the photo's width."""

LARGEST_COLOR_RATIO = 0.6
"""Median difference of colour at the points by that beside them: up to 0.47 for the right frame on six captures, from 0.62
for axes swapped or mirrored, points shuffled, scaled by 1.1 or moved by a tenth of the scene."""

LARGEST_MEAN_RATIO = 0.78
"""The same of the means, up to 0.72 where the frame is right; what is symmetrical may pass the first."""

LEAST_POINTS = 100
"""Fewer points say neither where the content is nor whether they are of this frame."""


@dataclass(frozen=True)
class Observations:
    """Which photos show which points, as whoever made the points found it out (tracks)."""

    photos: tuple[str, ...]
    """Photos' keys."""
    point: npt.NDArray[np.int64]
    """(T,) the point of each observation."""
    photo: npt.NDArray[np.int64]
    """(T,) its photo: a place in `photos`."""
    xy: npt.NDArray[np.float64]
    """(T, 2) where the photo shows it, pixels of the view."""

    def of(self, photo: str) -> npt.NDArray[np.int64]:
        """(K,) the points that a photo shows, sorted."""
        if photo not in self.photos:
            return np.zeros(0, np.int64)
        return np.unique(self.point[self.photo == self.photos.index(photo)])

    def kept(self, points: npt.NDArray[np.int64], number: int) -> Observations:
        """Those of chosen points, numbered in the order given, out of `number` points."""
        renumbered = np.full(number, -1)
        renumbered[points] = np.arange(len(points))
        stay = renumbered[self.point] >= 0
        return Observations(self.photos, renumbered[self.point[stay]], self.photo[stay], self.xy[stay])


@dataclass(frozen=True)
class SparsePoints:
    """Sparse points in a capture's source frame."""

    positions: npt.NDArray[np.float64]
    """(P, 3)."""
    colors: npt.NDArray[np.float64]
    """(P, 3) in [0, 255]."""
    seen: Observations | None = None
    """Their tracks; None where nobody kept them (a .ply file)."""

    @classmethod
    def none(cls) -> SparsePoints:
        """No points at all."""
        return cls(np.zeros((0, 3)), np.zeros((0, 3)))

    def thinned(self, most: int = 0) -> SparsePoints:
        """At most so many of the points (`MAX_POINTS` by default), drawn at random, always the same ones."""
        most = most or MAX_POINTS
        if len(self.positions) <= most:
            return self
        chosen = np.sort(np.random.default_rng(0).choice(len(self.positions), most, replace=False))
        seen = None if self.seen is None else self.seen.kept(chosen, len(self.positions))
        return SparsePoints(self.positions[chosen], self.colors[chosen], seen)


def read_points(capture: Capture) -> SparsePoints | None:
    """The points that a capture brings: its COLMAP model's, with tracks, or those of its .ply file.

    Returns:
        None if it has none, or none with colours (points are a help, not a need).
    """
    from spinnerf_ns.scene.colmap_points import read_colmap_points

    measured = capture.source_meta.get(MEASURED_POINTS)
    if measured is not None:  # an object-free capture: its model also holds points that no photo showed
        return read_ply(capture.source_meta.get("ply_file_path"), measured)
    tracked = read_colmap_points(capture)
    return tracked if tracked is not None else read_ply(capture.source_meta.get("ply_file_path"))


def read_ply(path: Path | str | None, first: int | None = None) -> SparsePoints | None:
    """The coloured points of a .ply file, or the first of them; None without a file, without colours, or for a file that
    cannot be read."""
    if path is None or not Path(path).is_file():
        return None
    import trimesh

    try:
        cloud = trimesh.load(path, process=False)
        positions = np.asarray(cloud.vertices, dtype=np.float64)
        colors = np.asarray(cloud.colors if hasattr(cloud, "colors") else cloud.visual.vertex_colors, dtype=np.float64)
        positions, colors = positions[:first], colors[:first]
    except (ValueError, AttributeError, KeyError, IndexError, OSError, NotImplementedError, TypeError, EOFError, struct.error):
        return None
    if len(positions) == 0 or len(colors) != len(positions):
        return None
    finite = np.isfinite(positions).all(axis=1)
    return SparsePoints(positions[finite], colors[finite, :3]).thinned()


def write_ply(path: Path, points: npt.NDArray[np.floating], colors: npt.NDArray[np.uint8]) -> None:
    """Writes a binary .ply of (P, 3) positions and (P, 3) RGB colors, atomically."""
    properties = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    table = np.empty(len(points), properties)
    for column, name in enumerate("xyz"):
        table[name] = points[:, column]
    for column, name in enumerate(("red", "green", "blue")):
        table[name] = colors[:, column]
    write_ply_table(path, table)


@dataclass(frozen=True)
class FrameCheck:
    """Whether points are of the frame of the poses."""

    fits: bool
    ratio: float
    """Median difference between points' colours and the photos' where they project, by that a little beside; 1 for points
    that have nothing to do with the photos, infinite where too few appear in them."""
    mean_ratio: float
    """The same of the means."""
    compared: int
    """Points compared, over all photos."""


def check_frame(views: Sequence[View], points: SparsePoints) -> FrameCheck:
    """Compares points' colours with what the photos show where they project, and a little beside.

    Args:
        views: the capture's photos; some of them are read.
        points: in the frame of `View.c2w`, or not.

    Raises:
        SpinnerfError: a photo cannot be read.
    """
    angles = np.arange(8) * np.pi / 4
    at, beside = [np.zeros(0)], [np.zeros(0)]
    chosen = np.unique(np.linspace(0, len(views) - 1, min(CHECK_PHOTOS, len(views))).round().astype(int))
    for index in chosen:
        view = views[index]
        which, xy, _ = _unhidden(view, points)
        if len(which) > CHECK_POINTS:
            kept = np.random.default_rng(0).choice(len(which), CHECK_POINTS, replace=False)
            which, xy = which[kept], xy[kept]
        if not len(which):
            continue
        image, colors = view.read_image(), points.colors[which]
        around = CHECK_STEP * view.width * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        at.append(_color_difference(image, xy, colors))
        beside.append(np.mean([_color_difference(image, xy + step, colors) for step in around], axis=0))
    here, there = np.concatenate(at), np.concatenate(beside)
    if len(here) < LEAST_POINTS or not np.median(there) > 0:
        return FrameCheck(False, np.inf, np.inf, len(here))
    ratio, mean_ratio = float(np.median(here) / np.median(there)), float(here.mean() / there.mean())
    return FrameCheck(ratio <= LARGEST_COLOR_RATIO and mean_ratio <= LARGEST_MEAN_RATIO, ratio, mean_ratio, len(here))


def _color_difference(image: npt.NDArray[np.uint8], xy: npt.NDArray, colors: npt.NDArray) -> npt.NDArray[np.float64]:
    """(K,) mean absolute difference (of 255) between a photo's colour at pixels, moved into it, and given ones."""
    pixels = np.clip(np.floor(xy).astype(np.int64), 0, [image.shape[1] - 1, image.shape[0] - 1])
    return np.abs(image[pixels[:, 1], pixels[:, 0]].astype(np.float64) - colors).mean(axis=1)


def visible_depths(
    view: View, image: npt.NDArray[np.uint8], points: SparsePoints
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The pixels of a photo in which a point is taken to be seen, and their depth.

    Args:
        view: the photo's camera.
        image: (H, W, 3) the photo.
        points: the capture's points.

    Returns:
        (K, 2) row and column, and (K,) planar depth in world units.
    """
    return visible_points(view, image, points)[1:]


def visible_points(
    view: View, image: npt.NDArray[np.uint8], points: SparsePoints
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """As `visible_depths`, and before it (K,) which points they are."""
    which, xy, z = _unhidden(view, points)
    seen = _color_difference(image, xy, points.colors[which]) <= COLOR_TOLERANCE
    if points.seen is not None:  # a track knows better; but it names few of the photos that show a point
        tracked = np.zeros(len(points.positions), dtype=bool)
        tracked[points.seen.of(view.photo)] = True
        seen |= tracked[which]
    return which[seen], np.floor(xy[seen][:, ::-1]).astype(np.int64), z[seen].astype(np.float32)


def _unhidden(view: View, points: SparsePoints) -> tuple[npt.NDArray[np.int64], npt.NDArray, npt.NDArray]:
    """Which points project into a photo with no other clearly before them nearby, where (K, 2), and their depth (K,)."""
    xy, z = project(view, points.positions)
    with np.errstate(invalid="ignore"):
        inside = np.isfinite(xy).all(axis=1) & (z > 0)
        inside &= (xy[:, 0] >= 0) & (xy[:, 0] < view.width) & (xy[:, 1] >= 0) & (xy[:, 1] < view.height)
    which, xy, z = np.flatnonzero(inside), xy[inside], z[inside]
    if len(which) == 0:
        return which, xy, z
    seen = z <= (1.0 + OCCLUSION_MARGIN) * _nearest_nearby(xy, z, view)
    return which[seen], xy[seen], z[seen]


def _nearest_nearby(xy: npt.NDArray, z: npt.NDArray, view: View) -> npt.NDArray[np.float64]:
    """(K,) the least depth of any point in a point's cell and the eight around it."""
    cell = max(1.0, OCCLUSION_CELL * view.width)
    rows, columns = (xy[:, 1] // cell).astype(int), (xy[:, 0] // cell).astype(int)
    nearest = np.full((rows.max() + 3, columns.max() + 3), np.inf)
    np.minimum.at(nearest, (rows + 1, columns + 1), z)
    around = np.min([nearest[rows + i, columns + j] for i in range(3) for j in range(3)], axis=0)
    return around
