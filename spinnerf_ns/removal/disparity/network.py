"""Disparity filled by a network made for pictures, as the paper does it, but in floats and at the rim's scale."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.disparity.membrane import span_membrane

HEADROOM = 0.1
"""Part of [0, 1] left free at each end: the fill may lie beyond what is known."""

Floats = npt.NDArray[np.float32]


def inpaint_as_picture(disparity: Floats, to_fill: BoolMask, fill: Callable[[Floats, BoolMask], Floats]) -> Floats:
    """Fills disparity as a grey picture and shifts the fill so that it meets the rim.

    Args:
        disparity: (H, W), 1 / planar depth, any unit; 0 or not finite = unknown.
        to_fill: (H, W) bool, True = to be filled.
        fill: (H, W, 3) float32 in [0, 1] and (H, W) bool -> (H, W, 3) float32 in [0, 1]; only the gap is taken from it.

    Returns:
        (H, W) float32, positive inside the gap, identical to `disparity` outside it (unknown pixels stay unknown).

    Raises:
        SpinnerfError: the shapes differ, or there is a gap and not one known pixel around it.
    """
    if to_fill.shape != disparity.shape or to_fill.dtype != bool:
        raise SpinnerfError(
            f"disparity of shape {disparity.shape} has a gap of {to_fill.dtype} {to_fill.shape}; make it bool, of that size"
        )
    completed = np.array(disparity, dtype=np.float32)
    if not to_fill.any():
        return completed
    known = ~to_fill & np.isfinite(disparity) & (disparity > 0)
    if not known.any():
        raise SpinnerfError("the gap leaves no known disparity to continue from; mend the object mask or the depth")
    low, high = float(disparity[known].min()), float(disparity[known].max())
    span = max(high - low, 1e-6 * high)
    grey = np.where(known, (disparity - low) / span * (1 - 2 * HEADROOM) + HEADROOM, 0).astype(np.float32)
    # Pixels of unknown disparity outside the gap are gaps to the network, too.
    answer = fill(np.repeat(grey[..., None], 3, axis=2), ~known).mean(axis=2)
    filled = (answer.astype(np.float64) - HEADROOM) / (1 - 2 * HEADROOM) * span + low
    filled += _missed(disparity.astype(np.float64), filled, to_fill, known)
    completed[to_fill] = np.clip(filled[to_fill], 0.3 * low, 2 * high)
    return completed


def _missed(disparity: npt.NDArray, filled: npt.NDArray, to_fill: BoolMask, known: BoolMask) -> npt.NDArray[np.float64]:
    """(H, W) what the fill misses at the rim, continued over the gap: no step, and the rim's scale is kept."""
    square = np.ones((3, 3), np.uint8)
    ring = known & (cv2.dilate(to_fill.astype(np.uint8), square) > 0)
    if not ring.any():
        return np.zeros_like(filled)
    count = cv2.filter2D(to_fill.astype(np.float64), -1, square.astype(np.float64))
    inside = cv2.filter2D(np.where(to_fill, filled, 0), -1, square.astype(np.float64)) / np.maximum(count, 1)
    return span_membrane(np.where(ring, disparity - inside, 0), ring)
