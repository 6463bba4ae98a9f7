"""How well masks of one object agree across photos, and where it is in space: from the masks and the cameras alone.

The object is carved from a block of cells: a cell stays if most of the photos that show it have it in their mask (a visual hull
that forgives a wrong mask here and there; Laurentini 1994). Seen from a photo again, it should cover that photo's mask and
no more. No sparse points, no trained field and no tracker is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.scene.cameras import project

if TYPE_CHECKING:
    from spinnerf_ns.scene.view import View

COARSE, FINE = 24, 56
"""Cells along a side of the block: first around the cameras' common view, then around what was found there."""
KEPT = 0.8
"""Part of the photos that show a cell which must have it in their mask."""
KEPT_LEAST = 0.5
"""Where nothing is in so many, this part is tried."""
SMALL = 192
"""Longest side to which masks are shrunk for the comparison."""
LEAST_VIEWS = 3
"""Photos with a mask below which nothing is carved."""

Floats = npt.NDArray[np.float64]


@dataclass
class Solid:
    """The object in space."""

    points: Floats
    """(N, 3) centres of its cells, source frame; empty where the masks have nothing in common."""
    cell: float
    """Side of a cell."""
    surface: BoolMask
    """(N,) whether a cell has a neighbour that is none of the object's."""


def carve(views: Sequence[View], masks: Sequence[BoolMask]) -> Solid:
    """The object from its masks.

    Args:
        views: photos with a mask of it.
        masks: per photo (H, W) bool.

    Returns:
        Its cells.
    """
    nothing = Solid(np.zeros((0, 3)), 1.0, np.zeros(0, bool))
    shown = [(view, mask) for view, mask in zip(views, masks, strict=True) if mask.any()]
    if len(shown) < LEAST_VIEWS:
        return nothing
    views, masks = [view for view, _ in shown], [mask for _, mask in shown]
    low, high = _block(views, masks)
    for cells in (COARSE, COARSE, FINE):
        cell = float((high - low).max()) / cells
        if not np.isfinite(cell) or cell <= 0:
            return nothing
        shape = tuple(int(n) for n in np.maximum(1, np.ceil((high - low) / cell)))
        index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).reshape(-1, 3)
        centres = low + (index + 0.5) * cell
        part = _part_inside(views, masks, centres)
        kept = part >= KEPT
        if kept.sum() < 2:
            kept = part >= max(KEPT_LEAST, float(part.max()) - 0.05)
        if not kept.any() or part.max() < KEPT_LEAST:
            return nothing
        found = centres[kept]
        low, high = found.min(axis=0) - 1.5 * cell, found.max(axis=0) + 1.5 * cell
    solid = np.zeros(np.array(shape) + 2, bool)
    solid[tuple(index[kept].T + 1)] = True
    inner = np.ones_like(solid)
    for axis in range(3):
        for step in (1, -1):
            inner &= np.roll(solid, step, axis)
    return Solid(found, cell, ~inner[tuple(index[kept].T + 1)])


def agreement(views: Sequence[View], masks: Mapping[str, BoolMask | None]) -> tuple[dict[str, float], Solid]:
    """How well each photo's mask fits the object that all of them make together.

    Args:
        views: the photos.
        masks: photo -> (H, W) bool; photos without one, or with None, are measured by nobody.

    Returns:
        Photo -> intersection over union, in [0, 1], of its mask and the object as the photo should show it; empty where
        nothing could be carved. And the object.
    """
    known = [view for view in views if masks.get(view.photo) is not None]
    solid = carve(known, [masks[view.photo] for view in known])
    if not len(solid.points):
        return {}, solid
    return {view.photo: _overlap(view, masks[view.photo], solid) for view in known}, solid


def _overlap(view: View, object_mask: BoolMask, solid: Solid) -> float:
    """IoU of a mask and the cells drawn into its photo, both shrunk; the cells' steps are smoothed away."""
    scale = min(1.0, SMALL / max(view.width, view.height))
    size = (max(1, round(view.width * scale)), max(1, round(view.height * scale)))
    mask = cv2.resize(object_mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    xy, z = project(view, solid.points[solid.surface])
    shown = np.isfinite(xy).all(axis=1) & (z > 0)
    drawn = np.zeros((size[1], size[0]), np.uint8)
    if shown.any():
        radius = max(1, round(0.75 * solid.cell * view.fx * scale / float(np.median(z[shown]))))
        for x, y in np.round(xy[shown] * scale - 0.5).astype(int):
            if -radius <= x < size[0] + radius and -radius <= y < size[1] + radius:
                cv2.circle(drawn, (int(x), int(y)), radius, 1, cv2.FILLED)
    both, either = (mask & (drawn > 0)).sum(), (mask | (drawn > 0)).sum()
    return float(both / either) if either else 1.0


def _part_inside(views: Sequence[View], masks: Sequence[BoolMask], points: Floats) -> Floats:
    """(N,) part of the photos that show a point which have it in their mask; 0 where too few show it."""
    inside, seen = np.zeros(len(points)), np.zeros(len(points))
    for view, mask in zip(views, masks, strict=True):
        xy, z = project(view, points)
        with np.errstate(invalid="ignore"):
            shown = (z > 0) & (xy[:, 0] >= 0) & (xy[:, 0] < view.width) & (xy[:, 1] >= 0) & (xy[:, 1] < view.height)
        which = np.flatnonzero(shown)
        inside[which] += mask[xy[which, 1].astype(np.int64), xy[which, 0].astype(np.int64)]
        seen[which] += 1
    return np.where(seen >= min(LEAST_VIEWS, len(views)), inside / np.maximum(seen, 1), 0)


def _block(views: Sequence[View], masks: Sequence[BoolMask]) -> tuple[Floats, Floats]:
    """A block that holds the object: around the point nearest to all rays through the masks' middles."""
    origins, directions, widths = [], [], []
    for view, mask in zip(views, masks, strict=True):
        rows, columns = np.nonzero(mask)
        x, y = (np.median(columns) + 0.5 - view.cx) / view.fx, (np.median(rows) + 0.5 - view.cy) / view.fy
        ray = view.c2w[:, :3] @ np.array([x, -y, -1.0])
        origins.append(view.c2w[:, 3])
        directions.append(ray / np.linalg.norm(ray))
        widths.append(max(np.ptp(columns) + 1, np.ptp(rows) + 1) / view.fx)
    origins, directions = np.array(origins), np.array(directions)
    weight = np.ones(len(origins))
    for _ in range(5):  # a few masks may be of something else: they count less and less
        across = weight[:, None, None] * (np.eye(3) - directions[:, :, None] * directions[:, None, :])
        middle = np.linalg.lstsq(across.sum(axis=0), (across @ origins[:, :, None]).sum(axis=0)[:, 0], rcond=None)[0]
        away = middle - origins
        along = (away * directions).sum(axis=1)
        miss = np.linalg.norm(away - along[:, None] * directions, axis=1)
        weight = 1 / (1 + (miss / max(float(np.median(miss)), 1e-9)) ** 2)
    distance = float(np.median(np.abs(along)))
    half = max(2.0 * float(np.median(widths)) * distance, 2 * float(np.median(miss)), 1e-6)
    return middle - half, middle + half
