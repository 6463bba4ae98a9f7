"""A fill made at a lower resolution, brought back to the photo's with its surroundings' detail. Pure functions.

A network that fills a gap at a part of the resolution gives structure without detail. The lost detail is the photo minus
the photo reduced and enlarged again; it is known outside the gap. Each patch of the small fill looks for the known small
patch that is most like it, and that one's detail is copied (contextual residual aggregation, Yi et al., CVPR 2020, by patch
search in place of attention). Outside the gap the photo itself is kept, and so is all its detail.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.accel.cpu import nearest_tree
from spinnerf_ns.conventions import BoolMask

PATCH = 8
"""Side of a patch in pixels of the small picture."""

MAX_SOURCES = 6000
"""Known patches that are compared; a fixed draw of them where there are more."""

FEATURES = 24
"""Dimensions that patches are compared in, after a principal component analysis of the known ones."""

Floats = npt.NDArray[np.float32]


def reduce_known(picture: Floats, to_fill: BoolMask, scale: float) -> tuple[Floats, BoolMask]:
    """Reduces a picture so that nothing of the gap leaks into what is known.

    Args:
        picture: (H, W, C) float32.
        to_fill: (H, W) bool.
        scale: < 1.

    Returns:
        (h, w, C) float32 means of the known pixels, and (h, w) bool: True where any pixel of the gap was.
    """
    size = tuple(max(1, int(side * scale)) for side in to_fill.shape[::-1])
    share = cv2.resize((~to_fill).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    means = cv2.resize(np.where(to_fill[..., None], np.float32(0), picture), size, interpolation=cv2.INTER_AREA)
    means = means.reshape(*share.shape, -1) / np.maximum(share, 1e-6)[..., None]
    return means.astype(np.float32), share < 1 - 1e-3


def guided_upsample(small: Floats, small_to_fill: BoolMask, picture: Floats, to_fill: BoolMask, detail: bool = True) -> Floats:
    """Enlarges a filled small picture into the gap of a large one.

    Args:
        small: (h, w, 3) float32 in [0, 1], filled.
        small_to_fill: (h, w) bool: what was filled there.
        picture: (H, W, 3) float32 in [0, 1], known outside the gap.
        to_fill: (H, W) bool.
        detail: whether the surroundings' detail is put into the fill.

    Returns:
        (H, W, 3) float32 in [0, 1], identical to `picture` outside the gap.
    """
    height, width = to_fill.shape
    enlarged = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    if detail:
        enlarged = enlarged + _detail(small, small_to_fill, picture - enlarged, to_fill)
    return np.where(to_fill[..., None], np.clip(enlarged, 0, 1), picture).astype(np.float32)


def _detail(small: Floats, small_to_fill: BoolMask, residual: Floats, to_fill: BoolMask) -> Floats:
    """(H, W, 3) detail for the gap's pixels, copied from where the small picture looks alike; 0 elsewhere."""
    rows, columns = small_to_fill.shape
    answer, weight = np.zeros_like(residual), np.zeros((*to_fill.shape, 1), np.float32)
    if min(rows, columns) < 2 * PATCH:
        return answer
    # A known patch's detail must be whole, the pixels that the gap's edge spoiled left out.
    spoiled = cv2.dilate(small_to_fill.astype(np.uint8), np.ones((3, 3), np.uint8))
    clean = cv2.boxFilter(spoiled.astype(np.float32), -1, (PATCH, PATCH), anchor=(0, 0), normalize=False) < 0.5
    clean[rows - PATCH + 1 :], clean[:, columns - PATCH + 1 :] = False, False
    sources = np.argwhere(clean)
    if len(sources) < FEATURES:
        return answer
    if len(sources) > MAX_SOURCES:
        sources = sources[np.sort(np.random.default_rng(0).choice(len(sources), MAX_SOURCES, replace=False))]
    touched = cv2.dilate(small_to_fill.astype(np.uint8), np.ones((PATCH, PATCH), np.uint8)) > 0
    step = PATCH // 2
    targets = np.argwhere(touched)
    targets = targets[(targets % step == 0).all(axis=1) & (targets <= (rows - PATCH, columns - PATCH)).all(axis=1)]
    if len(targets) == 0:
        return answer
    known, wanted = _patches(small, sources), _patches(small, targets)
    mean = known.mean(axis=0)
    axes = _axes(known - mean)
    nearest = nearest_tree((known - mean) @ axes).query((wanted - mean) @ axes)[1]
    scale = np.array(to_fill.shape) / np.array(small_to_fill.shape)
    side = np.minimum(np.round(PATCH * scale).astype(int), to_fill.shape)
    window = np.outer(*(np.hanning(length + 2)[1:-1] ** 2 for length in side)).astype(np.float32)[..., None]
    last = np.array(to_fill.shape) - side
    for target, source in zip(targets, sources[nearest], strict=True):
        (to_y, to_x), (from_y, from_x) = (np.minimum(np.round(at * scale).astype(int), last) for at in (target, source))
        place = slice(to_y, to_y + side[0]), slice(to_x, to_x + side[1])
        answer[place] += window * residual[from_y : from_y + side[0], from_x : from_x + side[1]]
        weight[place] += window
    return np.where(to_fill[..., None], answer / np.maximum(weight, 1e-6), 0).astype(np.float32)


def _patches(small: Floats, corners: npt.NDArray[np.int64]) -> Floats:
    """(N, PATCH * PATCH * 3) the patches with these top left corners."""
    windows = np.lib.stride_tricks.sliding_window_view(small, (PATCH, PATCH), axis=(0, 1))  # type: ignore[call-overload]
    return windows[corners[:, 0], corners[:, 1]].reshape(len(corners), -1)


def _axes(centred: Floats) -> Floats:
    """The principal axes by the covariance, which many patches make no larger."""
    return np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :FEATURES]
