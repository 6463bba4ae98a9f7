"""Depth behind the object, from the photos that look past it.

A photo's rendered depth is good where the photo was trained on: at what it shows. Behind the object nothing holds a field in
place from this photo's side. So the surfaces that the other photos show, with their own good depth, are carried over: every
pixel of theirs outside the object becomes a point, and what falls into this photo's hole is the background there.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import dilate_mask
from spinnerf_ns.removal.layers import ViewLayers
from spinnerf_ns.scene.cameras import project, unproject_pixels

SUPPORT_TOLERANCE = 0.02
"""Carried points of a pixel support each other when their depths agree to this relative difference."""

LEAST_SUPPORT = 2
"""Least number of carried points that must agree."""

HALO_PER_1000 = 20.0
"""Around the hole this far, in pixels of a 1000-pixel-wide photo, rendered depth is drawn towards the object."""

EDGE_TOLERANCE = 0.05
"""A pixel whose neighbours' depths differ by more than this is on an edge of depth, where rendered depth is a mixture."""

BEHIND = 0.98
"""Background lies no nearer than this part of the object's own depth."""

MAX_SOURCES = 16
"""Photos from which points are carried: the nearest ones. More say the same again."""


def background_depths(layers: Sequence[ViewLayers], max_sources: int = MAX_SOURCES) -> list[npt.NDArray[np.float32]]:
    """Depth behind the object in every photo, where other photos show it.

    Args:
        layers: the photos; their z_background is not read.
        max_sources: from how many other photos points are carried into each.

    Returns:
        Per photo (H, W) float32 planar depth in world units inside the hole, 0 where no two points agree.
    """
    clouds = [_visible_points(layer) for layer in layers]
    centers = np.stack([layer.view.c2w[:, 3] for layer in layers])
    results = []
    for index, layer in enumerate(layers):
        distance = np.linalg.norm(centers - centers[index], axis=1)
        nearest = [j for j in np.argsort(distance, kind="stable") if j != index][:max_sources]
        results.append(_carried(layer, [clouds[j] for j in nearest]))
    return results


def _visible_points(layer: ViewLayers) -> npt.NDArray[np.float64]:
    """(P, 3) world points of the pixels outside the hole whose depth is no mixture."""
    z = layer.z_visible
    kernel = np.ones((3, 3), np.uint8)
    smooth = cv2.dilate(z, kernel) <= (1 + EDGE_TOLERANCE) * cv2.erode(z, kernel)
    rows, columns = np.nonzero((z > 0) & smooth & ~dilate_mask(layer.hole, HALO_PER_1000))
    if len(rows) == 0:
        return np.zeros((0, 3))
    points = unproject_pixels(layer.view, rows, columns, z)
    return points[np.isfinite(points).all(axis=1)]


def _carried(layer: ViewLayers, clouds: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float32]:
    """The depth behind the object on which the most carried points agree."""
    height, width = layer.hole.shape
    result = np.zeros((height, width), np.float32)
    if not layer.hole.any() or not clouds:
        return result
    pixels, depths = [], []
    for cloud in clouds:
        xy, z = project(layer.view, cloud)
        with np.errstate(invalid="ignore"):
            inside = (z > 0) & (xy[:, 0] >= 0) & (xy[:, 0] < width) & (xy[:, 1] >= 0) & (xy[:, 1] < height)
        flat = xy[inside, 1].astype(np.int64) * width + xy[inside, 0].astype(np.int64)
        z = z[inside]
        kept = layer.hole.reshape(-1)[flat] & (z >= BEHIND * layer.z_visible.reshape(-1)[flat])
        pixels.append(flat[kept])
        depths.append(z[kept])
    flat, z = np.concatenate(pixels), np.concatenate(depths)
    if len(flat) == 0:
        return result
    order = np.lexsort((z, flat))
    flat, z = flat[order], z[order]
    # One sorted key for pixel and depth: how many points of the same pixel lie within the tolerance behind each.
    log_z = np.log(z) - np.log(z[0])
    span = log_z.max() - log_z.min() + 2 * np.log1p(SUPPORT_TOLERANCE)
    key = flat + (log_z - log_z.min()) / span
    support = np.searchsorted(key, key + np.log1p(SUPPORT_TOLERANCE) / span, side="right") - np.arange(len(key))
    where, start = np.unique(flat, return_index=True)
    most = np.maximum.reduceat(support, start)
    best = np.flatnonzero(support == np.repeat(most, np.diff(np.append(start, len(flat)))))
    _, first = np.unique(flat[best], return_index=True)  # of several equally supported depths the nearest
    chosen = best[first]
    agreed = most >= LEAST_SUPPORT
    result.reshape(-1)[where[agreed]] = z[chosen + support[chosen] // 2][agreed]
    return result
