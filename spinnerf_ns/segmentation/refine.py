"""Pulling a rough object mask onto the photo's edges: local colour models and a random walker. Pure functions.

Two of the classics, because each mends the other's weakness. *Local* colour models (a histogram per neighbourhood, as in Bai
et al., "Video SnapCut", SIGGRAPH 2009) tell a dark statue from a dark bush where one global model cannot. A random walker
with priors (Grady, "Multilabel random walker image segmentation using prior models", CVPR 2005) then finds the
probabilities that follow these models where they are sure and the photo's edges where they are not; it is a sparse linear
system with one solution, so that the result does not depend on a start or on luck.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray

from spinnerf_ns.conventions import BoolMask, Image

Floats = NDArray[np.float32]

PALETTE_BITS = 5
"""Bits per Lab channel with which a colour looks up its cluster."""
HISTOGRAM_CELL = 4
"""Pixels along a side of a local histogram's cell: the histograms are smoothed over far more."""
PROBABILITY_FLOOR = 0.02
"""No single cue may say more than this before the cues are combined."""


def to_lab(image: Image) -> Image:
    """(H, W, 3) uint8 RGB -> (H, W, 3) uint8 CIE Lab as OpenCV scales it."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2LAB)


def build_palette(lab: Image, clusters: int, samples: int = 8000) -> NDArray[np.int64]:
    """Splits a photo's colours into clusters.

    Args:
        lab: (H, W, 3) uint8 Lab.
        clusters: how many, at most.
        samples: k-means sees at most about so many pixels.

    Returns:
        (2**PALETTE_BITS,) * 3 table: quantised Lab -> cluster. The same input gives the same table.
    """
    pixels = lab.reshape(-1, 3)
    pixels = pixels[:: max(1, len(pixels) // samples)].astype(np.float32)
    clusters = min(clusters, len(pixels))
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 10, 1.0)
    _, _, centers = cv2.kmeans(pixels, clusters, None, stop, 1, cv2.KMEANS_PP_CENTERS)
    levels = 1 << PALETTE_BITS
    step = 256 / levels
    axis = (np.arange(levels, dtype=np.float32) + 0.5) * step
    colours = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    # ||a - b||^2 without the term that is the same for all clusters
    distances = (centers**2).sum(axis=1)[None] - 2 * colours @ centers.T
    return distances.argmin(axis=1).reshape(levels, levels, levels)


def apply_palette(lab: Image, palette: NDArray[np.int64]) -> NDArray[np.int64]:
    """(H, W, 3) uint8 Lab -> (H, W) cluster of each pixel."""
    quantised = lab >> (8 - PALETTE_BITS)
    return palette[quantised[..., 0], quantised[..., 1], quantised[..., 2]]


def local_colour_probability(
    clusters: NDArray[np.int64],
    evidence: Sequence[tuple[NDArray[np.int64], Floats, Floats]],
    sigma: float,
) -> tuple[Floats, Floats]:
    """The probability of object given a pixel's colour, from labelled pixels in its neighbourhood.

    Args:
        clusters: (H, W) colour cluster of the pixels in question.
        evidence: labelled photos aligned with them: (clusters, probability of object, weight), each (H, W); weight 0 where
            nothing is known.
        sigma: the neighbourhood's Gaussian radius in pixels.

    Returns:
        (H, W) probability, 0.5 where nothing is known, and (H, W) amount of evidence in pixels (per Gaussian of unit sum).
    """
    height, width = clusters.shape
    count = max(int(c.max()) for c in [clusters, *(item[0] for item in evidence)]) + 1
    rows = np.arange(height)[:, None] // HISTOGRAM_CELL
    columns = np.arange(width)[None, :] // HISTOGRAM_CELL
    shape = (int(rows.max()) + 1, int(columns.max()) + 1, count)
    cell = (rows * shape[1] + columns) * count
    inside = np.zeros(shape, np.float32)
    total = np.zeros(shape, np.float32)
    for other, probability, weight in evidence:
        bins = (cell + other).ravel()
        size = int(np.prod(shape))
        inside += np.bincount(bins, (weight * probability).ravel(), size).reshape(shape).astype(np.float32)
        total += np.bincount(bins, weight.ravel(), size).reshape(shape).astype(np.float32)
    radius = sigma / HISTOGRAM_CELL
    inside, total = _blur_channels(inside, radius), _blur_channels(total, radius)
    found = np.take(inside.ravel(), cell + clusters) / HISTOGRAM_CELL**2
    seen = np.take(total.ravel(), cell + clusters) / HISTOGRAM_CELL**2
    unknown = 1e-3
    return ((found + 0.5 * unknown) / (seen + unknown)).astype(np.float32), seen


def _blur_channels(volume: Floats, sigma: float) -> Floats:
    # Borders are zero: outside the photo there is no evidence.
    padded = [
        cv2.GaussianBlur(volume[..., start : start + 4], (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        for start in range(0, volume.shape[-1], 4)
    ]
    return np.concatenate([part if part.ndim == 3 else part[..., None] for part in padded], axis=-1)


def log_odds(probability: Floats) -> Floats:
    """log(p / (1 - p)), with p kept `PROBABILITY_FLOOR` away from 0 and 1."""
    clipped = np.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return np.log(clipped / (1 - clipped))


def sigmoid(values: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow for the odds that occur here."""
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))


def random_walk(
    lab: Image,
    prior: Floats,
    confidence: Floats,
    surely_object: BoolMask,
    surely_background: BoolMask,
    smoothness: float,
) -> Floats:
    """Object probabilities that follow a prior where it is sure and the photo's edges elsewhere.

    Minimises sum confidence (p - prior)^2 + sum over neighbours of w (p_i - p_j)^2 over the pixels that are not sure, with
    w = smoothness * (exp(-beta * colour difference^2) + a little), beta from the mean difference in the photo.

    Args:
        lab: (H, W, 3) uint8 Lab.
        prior: (H, W) probability of object.
        confidence: (H, W) >= 0.
        surely_object, surely_background: (H, W), disjoint: kept at 1 and 0.
        smoothness: weight of the photo's flat areas against the prior.

    Returns:
        (H, W) float32 probability.
    """
    fixed = surely_object | surely_background
    free = ~fixed
    count = int(free.sum())
    result = surely_object.astype(np.float32)
    if count == 0:
        return result
    index = np.full(lab.shape[:2], -1, np.int64)
    index[free] = np.arange(count)
    colours = lab.astype(np.float32)
    right = ((colours[:, 1:] - colours[:, :-1]) ** 2).sum(axis=-1)
    below = ((colours[1:] - colours[:-1]) ** 2).sum(axis=-1)
    mean = float((right.sum() + below.sum()) / max(1, right.size + below.size))
    beta = 1 / (2 * mean + 1e-6)

    diagonal = confidence[free].astype(np.float64) + 1e-6
    target = (confidence * prior)[free].astype(np.float64)
    rows, columns, values = [], [], []
    neighbours = (
        (right, (slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        (below, (slice(None, -1), slice(None)), (slice(1, None), slice(None))),
    )
    for difference, first, second in neighbours:
        weight = smoothness * (np.exp(-beta * difference.astype(np.float64)) + 0.005)
        for here, there in ((first, second), (second, first)):
            at = index[here]
            is_free = at >= 0
            diagonal += np.bincount(at[is_free], weight[is_free], count)
            held = is_free & surely_object[there]
            target += np.bincount(at[held], weight[held], count)
            both = is_free & (index[there] >= 0)
            rows.append(at[both])
            columns.append(index[there][both])
            values.append(-weight[both])
    system = scipy.sparse.coo_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(count, count)
    ).tocsr() + scipy.sparse.diags(diagonal)
    solution = _conjugate_gradient(system, target, prior[free].astype(np.float64), 1 / diagonal)
    result[free] = solution
    return result


def _conjugate_gradient(system, target, start, preconditioner, tolerance: float = 1e-3, steps: int = 300):
    """Jacobi-preconditioned; written out because scipy renamed its tolerance between the versions in use."""
    x = start.copy()
    residual = target - system @ x
    z = preconditioner * residual
    direction = z.copy()
    rho = residual @ z
    enough = tolerance * max(float(np.linalg.norm(target)), 1e-12)
    for _ in range(steps):
        if np.linalg.norm(residual) <= enough:
            break
        product = system @ direction
        alpha = rho / (direction @ product)
        x += alpha * direction
        residual -= alpha * product
        z = preconditioner * residual
        rho, previous = residual @ z, rho
        direction = z + (rho / previous) * direction
    return x


def clean_components(object_mask: BoolMask, least_part: float = 0.05, largest_hole: float = 0.01) -> BoolMask:
    """Drops specks and fills pinholes.

    Args:
        object_mask: (H, W).
        least_part: parts smaller than this fraction of the largest are dropped.
        largest_hole: holes smaller than this fraction of the mask, and not at the photo's edge, are filled.

    Returns:
        (H, W) bool.
    """
    if not object_mask.any():
        return object_mask.copy()
    _, labels, stats, _ = cv2.connectedComponentsWithStats(object_mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    cleaned = (areas >= least_part * areas.max())[labels] & object_mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~cleaned).astype(np.uint8), connectivity=4)
    height, width = object_mask.shape
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    inner = (left > 0) & (top > 0)
    inner &= (left + stats[:, cv2.CC_STAT_WIDTH] < width) & (top + stats[:, cv2.CC_STAT_HEIGHT] < height)
    hole = inner & (stats[:, cv2.CC_STAT_AREA] < largest_hole * cleaned.sum())
    hole[0] = False
    return cleaned | hole[labels]


def signed_distance(object_mask: BoolMask) -> Floats:
    """(H, W) pixels to the contour, positive inside; without a contour, the photo's longer side with the mask's sign."""
    far = float(max(object_mask.shape))
    if object_mask.all() or not object_mask.any():
        return np.full(object_mask.shape, far if object_mask.any() else -far, np.float32)
    inside = cv2.distanceTransform(object_mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    outside = cv2.distanceTransform((~object_mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    return inside - outside
