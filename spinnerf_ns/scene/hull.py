"""Where the object may have stood: the points that every photo sees inside its region (Laurentini 1994).

No photo shows what is in there, so nothing keeps a field from leaving fog in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.scene.cameras import project
from spinnerf_ns.scene.view import View

CELLS = 96
"""Cells along the box's longest side."""
MARGIN = 0.75
"""The box is the object's, grown on each side by this part of its diagonal."""
DOUBT = 0.05
"""Part of the photos that may see a point outside their region all the same: a mask here or there is wrong."""


@dataclass
class VisualHull:
    """A box of cells, world frame."""

    origin: npt.NDArray[np.float64]
    """(3,) the box's least corner."""
    cell: float
    """Side of a cell."""
    inside: npt.NDArray[np.bool_]
    """(X, Y, Z) whether a cell is in the hull."""


def visual_hull(
    views: Sequence[View],
    regions: Iterable[BoolMask],
    surface: npt.NDArray[np.float64],
    without: Sequence[tuple[View, BoolMask]] = (),
) -> VisualHull:
    """The cells around the object that (nearly) all photos see inside their regions.

    Args:
        views: the photos that show the object.
        regions: per photo (H, W) bool.
        surface: (P, 3) points of the object's visible surface, a few wrong ones among them.
        without: photos that were taken without the object, and (H, W) bool what may be used of them: they show what is in there,
            so what they see is no part of the hull.

    Returns:
        The hull; empty where there are no points.
    """
    if len(surface) == 0:
        return VisualHull(np.zeros(3), 1.0, np.zeros((1, 1, 1), bool))
    low, high = np.percentile(surface, [2, 98], axis=0)
    grown = MARGIN * max(float(np.linalg.norm(high - low)), 1e-9)
    low, high = low - grown, high + grown
    cell = float((high - low).max()) / CELLS
    shape = tuple(int(n) for n in np.ceil((high - low) / cell))
    points = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).reshape(-1, 3)
    points = low + (points + 0.5) * cell
    outside, seen = np.zeros(len(points), np.int32), np.zeros(len(points), np.int32)
    for view, region in zip(views, regions, strict=True):
        xy, which = _shown(view, points)
        in_region = region[xy[which, 1].astype(np.int64), xy[which, 0].astype(np.int64)]
        seen[which] += 1
        outside[which] += ~in_region
    inside = (seen >= 2) & (outside <= DOUBT * seen)
    for view, valid in without:
        xy, which = _shown(view, points)
        inside[which] &= ~valid[xy[which, 1].astype(np.int64), xy[which, 0].astype(np.int64)]
    return VisualHull(low, cell, inside.reshape(shape))


def _shown(view: View, points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Where (N, 2) points project into a photo, and which of them fall into it."""
    xy, z = project(view, points)
    with np.errstate(invalid="ignore"):
        shown = (z > 0) & (xy[:, 0] >= 0) & (xy[:, 0] < view.width) & (xy[:, 1] >= 0) & (xy[:, 1] < view.height)
    return xy, np.flatnonzero(shown)
