"""Where the surfaces around a region go on and meet within it.

Depth in the region is known where another photo looks there; elsewhere the field shows whatever it grew. So every surface at the
region's rim is asked for its depth at every pixel, and the other photos are asked about that point: do they show it, or look
through it? Where none can tell, two surfaces meet for the price of the gap between them: for nothing where planes cross, and
along the shortest line where one ends before the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.removal.layers import ViewLayers
from spinnerf_ns.removal.surfaces.label_cut import cut_labels
from spinnerf_ns.removal.surfaces.planes import EDGE, REST, plane_depths, shown_surfaces
from spinnerf_ns.removal.views.photos import POINTS, Photos, look
from spinnerf_ns.scene.cameras import ray_directions

NODES = 6000
"""Pixels of a region whose surfaces are decided one by one; larger regions are decided on a coarser grid."""
PHOTOS_SAY = 100.0
"""What a surface that the photos deny costs, summed over a line across the photo; half of it where none can tell."""
REST_COSTS = 0.2
"""The part of it that it costs besides to lie on no plane."""
MEETING_COSTS = 0.05
"""What a pixel of the line costs along which two surfaces meet without a gap; with a wide one, 1 more."""
WIDE_GAP = 0.1
"""Relative difference of depth that is a wide gap."""
TOLERANCE = 0.02
"""Relative difference of depth within which a photo shows a point."""

LEAST_EDGE = 8
"""Pixels of an edge between two surfaces from which it says whether they touch."""
LEAST_OF_RIM = 0.06
"""Part of the rim that a surface must show to go on in the region."""

Floats = npt.NDArray[np.float64]


def continued(
    layer: ViewLayers, others: Sequence[ViewLayers] | Photos, planes: Floats, labels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Labels whose surfaces go on into the region.

    Args:
        layer: the photo; `z_visible` may hold anything in the region.
        others: the other photos; as `Photos` they need not be prepared again.
        planes: (K, 4) from `surfaces.find_planes`.
        labels: (H, W) from `surfaces.surface_labels`.

    Returns:
        (H, W) uint8: `labels` outside the region; in it no surface that its rim does not show, besides `REST`.
    """
    region = layer.region
    step = max(1, int(np.sqrt(region.sum() / NODES)))
    rows, columns = (np.arange(step // 2, size, step) for size in region.shape)
    coarse_region, coarse = region[np.ix_(rows, columns)], labels[np.ix_(rows, columns)].astype(np.int64)
    rim = (cv2.dilate(coarse_region.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) & ~coarse_region
    at_rim, pixels = np.unique(coarse[rim], return_counts=True)
    # A plane that merely crosses what stands there shows in a few pixels of a line, and is no surface that goes on.
    shown = np.union1d(at_rim[pixels >= LEAST_OF_RIM * pixels.sum()], [REST])
    coarse[rim & ~np.isin(coarse, shown)] = REST
    if not coarse_region.any() or len(shown) == 1:
        return np.where(region, REST, labels).astype(np.uint8)
    nodes = coarse_region | rim
    number = np.full(nodes.shape, -1)
    number[nodes] = np.arange(nodes.sum())
    every_row, every_column = np.broadcast_arrays(rows[:, None], columns[None])
    at = (every_row[nodes], every_column[nodes])
    depths = plane_depths(layer.view, *at, planes)
    rest = shown_surfaces(layer.view, layer.z_visible, region, planes)[at] == REST
    found = np.where(rest, layer.z_visible[at], np.nan)
    depths = np.concatenate([found[:, None], depths], axis=1)[:, shown]
    others = others if isinstance(others, Photos) else Photos(others)
    inside, start = coarse_region[nodes], np.searchsorted(shown, coarse[nodes])
    start = np.where(inside, 0, np.minimum(start, len(shown) - 1))
    unary = np.full(depths.shape, np.inf)
    unary[np.flatnonzero(~inside), start[~inside]] = 0
    unary[inside] = PHOTOS_SAY * step / region.shape[1] * _doubt(layer, others, depths[inside], tuple(x[inside] for x in at))
    unary[inside, 0] += REST_COSTS * PHOTOS_SAY * step / region.shape[1]
    start = np.where(inside, unary.argmin(axis=1), start)
    edges, lengths = _neighbours(number)
    gaps = _gaps(depths)
    gap = np.maximum((gaps[edges[:, 0]] + gaps[edges[:, 1]]) / 2, _ends(layer, planes, labels, shown))
    pairwise = (MEETING_COSTS + gap) * lengths[:, None, None] * (1 - np.eye(len(shown)))
    coarse[nodes] = shown[cut_labels(start, unary, edges, pairwise)]
    votes = [cv2.resize((coarse == label).astype(np.float32), region.shape[::-1]) for label in shown]  # smooth outlines
    return np.where(region, shown[np.argmax(votes, axis=0)], labels).astype(np.uint8)


def _doubt(layer: ViewLayers, others: Photos, depths: Floats, at: tuple[npt.NDArray, npt.NDArray]) -> Floats:
    """(N, K) what the other photos say of (N, K) depths at pixels: 0 they show that point, 1 they deny it, between: unknown."""
    rays = ray_directions(layer.view, np.stack([at[1] + 0.5, at[0] + 0.5], axis=1)).T
    pixel, label = np.nonzero(np.isfinite(depths))
    shows, denies = np.zeros(len(pixel)), np.zeros(len(pixel))
    for start in range(0, len(pixel), POINTS):
        some = slice(start, start + POINTS)
        points = layer.view.c2w[:, 3:] + rays[:, pixel[some]] * depths[pixel[some], label[some]]
        for first in range(0, len(others), 8):
            seen = look(others[first : first + 8], points, TOLERANCE)
            shows[some] += np.bincount(seen.point[seen.deviation <= TOLERANCE], minlength=points.shape[1])
            denies[some] += np.bincount(seen.point[seen.through], minlength=points.shape[1])
    doubt = np.ones(depths.shape)
    doubt[pixel, label] = (1 + denies) / (2 + shows + denies)
    # Photos that look past a thing show what is behind it; here that is hidden.
    nearer = depths[:, :, None] > (1 + EDGE) * depths[:, None]  # False where either is unknown
    return np.maximum(doubt, 1 - np.where(nearer, doubt[:, None], 1).min(axis=2))


def _gaps(depths: Floats) -> Floats:
    """(N, K) depths -> (N, K, K) how far apart they are, from 0 to 1; a metric. What is unknown is far from all."""
    with np.errstate(invalid="ignore"):
        logs = np.log(depths)
        return np.nan_to_num(np.minimum(np.abs(logs[:, :, None] - logs[:, None]) / WIDE_GAP, 1), nan=1.0)


def _ends(layer: ViewLayers, planes: Floats, labels: npt.NDArray[np.uint8], shown: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(K, K) which of the surfaces, where the photo shows them side by side, do not touch: the one ends before the other.

    What ends at an edge on both sides of the region ends there within it too, though the planes would cross further on.
    """
    ends = np.zeros((len(shown), len(shown)), bool)
    outside = np.where(layer.region, REST, labels).astype(np.int64)
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        one, other = outside[first], outside[second]
        rows, columns = np.nonzero((one != other) & np.isin(one, shown[shown != REST]) & np.isin(other, shown[shown != REST]))
        pairs = np.sort(np.stack([one[rows, columns], other[rows, columns]], axis=1), axis=1)
        depths = np.take_along_axis(plane_depths(layer.view, rows, columns, planes), pairs - 1, axis=1)
        gaps = np.abs(np.log(depths[:, 0] / depths[:, 1]))
        for pair in np.unique(pairs, axis=0):
            mine = gaps[(pairs == pair).all(axis=1)]
            if len(mine) >= LEAST_EDGE:
                ends[tuple(np.searchsorted(shown, pair))] |= bool(np.nanmedian(mine) > TOLERANCE)
    return ends | ends.T


def _neighbours(number: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Floats]:
    """(E, 2) pairs of neighbours, diagonal ones too, in a picture of node numbers (-1: none), and their weights (E,)."""
    pairs, weights = [], []
    for first, second, weight in (
        (number[:, :-1], number[:, 1:], 1.0),
        (number[:-1], number[1:], 1.0),
        (number[:-1, :-1], number[1:, 1:], 0.7),
        (number[:-1, 1:], number[1:, :-1], 0.7),
    ):
        both = (first >= 0) & (second >= 0)
        pairs.append(np.stack([first[both], second[both]], axis=1))
        weights.append(np.full(len(pairs[-1]), weight))
    return np.concatenate(pairs), np.concatenate(weights)
