"""Depth of some pixels from a capture's sparse points (SPIn-NeRF's COLMAP depth), for captures without point tracks.

Nerfstudio's datasets keep the points, but not which photo saw which. A point is taken to be seen in a photo when no other
point lies clearly before it nearby, and when the photo shows the point's colour there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spinnerf_ns.scene.cameras import project

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


@dataclass(frozen=True)
class ColoredPoints:
    """Sparse points in a capture's world frame."""

    positions: npt.NDArray[np.float64]
    """(P, 3)."""
    colors: npt.NDArray[np.float64]
    """(P, 3) in [0, 255]."""


def read_colored_points(capture: Capture) -> ColoredPoints | None:
    """The capture's sparse points; None if it has none, or none with colours (points are a help, not a need)."""
    path = capture.source_meta.get("ply_file_path")
    if path is None or not Path(path).is_file():
        return None
    import trimesh

    try:
        cloud = trimesh.load(path, process=False)
        positions = np.asarray(cloud.vertices, dtype=np.float64)
        colors = np.asarray(cloud.colors if hasattr(cloud, "colors") else cloud.visual.vertex_colors, dtype=np.float64)
    except (ValueError, AttributeError, KeyError, OSError):
        return None
    if len(positions) == 0 or len(colors) != len(positions):
        return None
    if len(positions) > MAX_POINTS:
        chosen = np.random.default_rng(0).choice(len(positions), MAX_POINTS, replace=False)
        positions, colors = positions[chosen], colors[chosen]
    return ColoredPoints(positions, colors[:, :3])


def visible_depths(
    view: View, image: npt.NDArray[np.uint8], points: ColoredPoints
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
    view: View, image: npt.NDArray[np.uint8], points: ColoredPoints
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """As `visible_depths`, and before it (K,) which points they are."""
    xy, z = project(view, points.positions)
    with np.errstate(invalid="ignore"):
        inside = np.isfinite(xy).all(axis=1) & (z > 0)
        inside &= (xy[:, 0] >= 0) & (xy[:, 0] < view.width) & (xy[:, 1] >= 0) & (xy[:, 1] < view.height)
    xy, z, colors = xy[inside], z[inside], points.colors[inside]
    if len(z) == 0:
        return np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    pixels = np.floor(xy[:, ::-1]).astype(np.int64)
    seen = z <= (1.0 + OCCLUSION_MARGIN) * _nearest_nearby(xy, z, view)
    shown = image[pixels[:, 0], pixels[:, 1]].astype(np.float64)
    seen &= np.abs(shown - colors).mean(axis=1) <= COLOR_TOLERANCE
    return np.flatnonzero(inside)[seen], pixels[seen], z[seen].astype(np.float32)


def _nearest_nearby(xy: npt.NDArray, z: npt.NDArray, view: View) -> npt.NDArray[np.float64]:
    """(K,) the least depth of any point in a point's cell and the eight around it."""
    cell = max(1.0, OCCLUSION_CELL * view.width)
    rows, columns = (xy[:, 1] // cell).astype(int), (xy[:, 0] // cell).astype(int)
    nearest = np.full((rows.max() + 3, columns.max() + 3), np.inf)
    np.minimum.at(nearest, (rows + 1, columns + 1), z)
    around = np.min([nearest[rows + i, columns + j] for i in range(3) for j in range(3)], axis=0)
    return around
