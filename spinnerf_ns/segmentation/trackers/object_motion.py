"""How an object moves from one photo to another: dense optical flow, reduced to what the object itself does.

Raw flow drags the background along at an object's rim: what comes out from behind it has no counterpart in the other photo,
and the flow there takes the nearest thing, which is the object. So flow is only believed where it lands inside the object
and where forward and backward flow agree; from these pixels a smooth motion is fitted and carried over the rim.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.conventions import BoolMask

Floats = NDArray[np.floating]
Gray = NDArray[np.uint8]

LEAST_MATCHES = 30
"""Fewer agreeing pixels than this carry no affine motion: only a shift is fitted."""
LEAST_FEATURES = 6
"""Fewer matching features than this may be chance."""


def pixel_grid(shape: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W, 2) of (column, row)."""
    columns, rows = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    return np.stack([columns, rows], axis=-1)


@dataclass(frozen=True)
class DenseFlow:
    """Dense inverse search (Kroeger et al., ECCV 2016), forwards and backwards."""

    finest_scale: int
    """0: to full resolution; 1: to half of it, four times as fast."""

    def __call__(self, first: Gray, second: Gray) -> tuple[NDArray[np.float32], BoolMask]:
        """Flow from the first photo to the second.

        Args:
            first, second: (H, W) uint8 grey.

        Returns:
            (H, W, 2) flow in pixels: first(x) looks like second(x + flow(x)); (H, W) True where going there and back ends
            where it began (Sundaram et al., ECCV 2010) and inside the photo.
        """
        first, second, (height, width) = _at_least(first), _at_least(second), first.shape
        search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        search.setFinestScale(self.finest_scale)
        forward = search.calc(first, second, None)
        backward = search.calc(second, first, None)
        back = cv2.remap(
            backward,
            pixel_grid(first.shape) + forward,
            None,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(1e4, 1e4),
        )
        error = np.linalg.norm(forward + back, axis=-1)
        agrees = error < 1.0 + 0.02 * np.linalg.norm(forward, axis=-1)
        return forward[:height, :width], agrees[:height, :width]


def _at_least(image: Gray, least: int = 32) -> Gray:
    """Dense inverse search needs some pixels for its pyramid: tiny photos are padded."""
    below, right = max(0, least - image.shape[0]), max(0, least - image.shape[1])
    if below == 0 and right == 0:
        return image
    return cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)


def fit_affine(flow: NDArray[np.float32], agrees: BoolMask, object_mask: BoolMask) -> NDArray[np.float64]:
    """The affine motion of the object between two photos.

    Args:
        flow: (H, W, 2) from the photo with the mask to the other.
        agrees: (H, W) where the flow can be believed.
        object_mask: (H, W) the object in the photo where the flow starts.

    Returns:
        (2, 3) from pixels of the first photo to pixels of the second; a mere shift where too little can be believed.
    """
    rows, columns = np.nonzero(agrees & object_mask)
    if len(rows) < LEAST_MATCHES:
        rows, columns = np.nonzero(object_mask)
        shift = np.median(flow[rows, columns], axis=0) if len(rows) else np.zeros(2)
        return np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float64)
    keep = slice(None, None, max(1, len(rows) // 2000))
    start = np.stack([columns, rows], axis=1)[keep].astype(np.float32)
    moved = start + flow[rows[keep], columns[keep]]
    cv2.setRNGSeed(0)
    affine, _ = cv2.estimateAffine2D(
        np.ascontiguousarray(start), np.ascontiguousarray(moved), ransacReprojThreshold=2.5, maxIters=500
    )
    if affine is None or not _is_plausible(affine):  # collinear or absurd
        shift = np.median(moved - start, axis=0)
        affine = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float64)
    return affine


def match_affine(first: Gray, second: Gray, object_mask: BoolMask) -> NDArray[np.float64] | None:
    """The affine motion of the object by matching SIFT features (Lowe, IJCV 2004): for steps too long for flow.

    Args:
        first, second: (H, W) uint8 grey.
        object_mask: (H, W) the object in the first.

    Returns:
        (2, 3) from pixels of the first photo to pixels of the second, or None where too few features match.
    """
    sift = cv2.SIFT_create(contrastThreshold=0.02)
    points, features = sift.detectAndCompute(first, object_mask.astype(np.uint8))
    others, other_features = sift.detectAndCompute(second, None)
    if features is None or other_features is None or len(points) < LEAST_FEATURES or len(others) < 2:
        return None
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(features, other_features, k=2)
    good = [pair[0] for pair in pairs if len(pair) == 2 and pair[0].distance < 0.8 * pair[1].distance]
    if len(good) < LEAST_FEATURES:
        return None
    start = np.array([points[match.queryIdx].pt for match in good], np.float32)
    moved = np.array([others[match.trainIdx].pt for match in good], np.float32)
    cv2.setRNGSeed(0)
    affine, inliers = cv2.estimateAffine2D(start, moved, ransacReprojThreshold=4.0, maxIters=2000)
    if affine is None or int(inliers.sum()) < LEAST_FEATURES or not _is_plausible(affine):
        return None
    return affine


def _is_plausible(affine: NDArray[np.float64]) -> bool:
    """No mirror, no change of size or shape that two photos of one path would not show."""
    sizes = np.linalg.svd(affine[:, :2], compute_uv=False)
    return bool(np.linalg.det(affine[:, :2]) > 0 and sizes[1] > 0.4 and sizes[0] < 2.5 and sizes[0] < 2 * sizes[1])


def compose(second: NDArray[np.float64], first: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 3): first, then second."""
    return np.c_[second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]]


def rescaled(affine: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """(2, 3) between indices of pixels of photos scaled by `scale`: both scales share the outer corner, not the pixel."""
    half = (affine[:, :2] - np.eye(2)) @ [0.5, 0.5]
    return np.c_[affine[:, :2], (affine[:, 2] + half) * scale - half]


@dataclass(frozen=True)
class ObjectMotion:
    """The object's motion in a window, from the photo in question to one where its mask is known."""

    flow: NDArray[np.float32]
    """(H, W, 2) smooth motion of the object, also where the object is not."""
    support: float
    """Fraction of the object whose flow agrees there and back and with the fitted motion, in [0, 1]."""


def fit_object_motion(
    flow: NDArray[np.float32], agrees: BoolMask, known_mask: NDArray[np.float32], smoothing: float
) -> ObjectMotion:
    """The object's own motion: a quadratic fitted to the flow inside it, plus what is smooth in the rest.

    Args:
        flow: (H, W, 2) from the photo in question to the one where the mask is known.
        agrees: (H, W) where the flow can be believed.
        known_mask: (H, W) in [0, 1], the object in the known photo.
        smoothing: Gaussian radius in pixels of the part that is no quadratic.

    Returns:
        The motion; no motion and support 0 where next to nothing can be believed.
    """
    height, width = agrees.shape
    grid = pixel_grid((height, width))
    # A rim's width less than the object: flow there may belong to the background.
    core = cv2.erode((known_mask > 0.5).astype(np.uint8), np.ones((5, 5), np.uint8))
    if not core.any():
        core = (known_mask > 0.5).astype(np.uint8)
    lands = cv2.remap(core, grid + flow, None, cv2.INTER_NEAREST) > 0
    believed = np.flatnonzero(lands & agrees)
    if len(believed) < LEAST_MATCHES:
        return ObjectMotion(np.zeros_like(flow), 0.0)
    size = max(height, width)
    u, v = (grid[..., 0] - width / 2) / size, (grid[..., 1] - height / 2) / size
    terms = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=-1).reshape(-1, 6).astype(np.float64)
    some = believed[:: max(1, len(believed) // 4000)]
    wanted = flow.reshape(-1, 2)[some].astype(np.float64)
    # Robust least squares: Geman-McClure weights, from the median's neighbourhood outwards.
    weight = 1 / (1 + (np.linalg.norm(wanted - np.median(wanted, axis=0), axis=1) / 3) ** 2)
    scale = 1.0
    for _ in range(15):
        weighted = terms[some] * weight[:, None]
        solution = np.linalg.solve(terms[some].T @ weighted + 1e-3 * np.eye(6), weighted.T @ wanted)
        error = np.linalg.norm(wanted - terms[some] @ solution, axis=1)
        scale = max(0.3, 1.5 * float(np.median(error)))
        weight = 1 / (1 + (error / scale) ** 2) ** 2
    smooth = (terms @ solution).reshape(flow.shape).astype(np.float32)
    rest = flow - smooth
    error = np.linalg.norm(rest, axis=-1)
    trust = (lands & agrees) / (1 + (error / (2 * scale)) ** 2) ** 2
    trust = trust.astype(np.float32)
    blurred = cv2.GaussianBlur(rest * trust[..., None], (0, 0), smoothing)
    amount = cv2.GaussianBlur(trust, (0, 0), smoothing)
    agreeing = float((lands & agrees & (error < max(2.0, 2 * scale))).sum())
    support = min(1.0, agreeing / max(1.0, float(core.sum())))
    return ObjectMotion(smooth + blurred / (amount[..., None] + 0.05), support)
