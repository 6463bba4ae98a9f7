"""A fill made at a lower resolution, brought back to the photo's with its surroundings' detail. Pure functions.

A network that fills a hole at a part of the resolution gives structure without detail. The lost detail is the photo minus
the photo reduced and enlarged again; it is known outside the hole. Each patch of the small fill looks for the known small
patch that is most like it, and that one's detail is copied (contextual residual aggregation, Yi et al., CVPR 2020, by patch
search in place of attention). Outside the hole the photo itself is kept, and so is all its detail.
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


def reduce_known(picture: Floats, hole: BoolMask, scale: float) -> tuple[Floats, BoolMask]:
    """Reduces a picture so that nothing of the hole leaks into what is known.

    Args:
        picture: (H, W, C) float32.
        hole: (H, W) bool.
        scale: < 1.

    Returns:
        (h, w, C) float32 means of the known pixels, and (h, w) bool: True where any pixel of the hole was.
    """
    size = tuple(max(1, int(side * scale)) for side in hole.shape[::-1])
    share = cv2.resize((~hole).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    means = cv2.resize(np.where(hole[..., None], np.float32(0), picture), size, interpolation=cv2.INTER_AREA)
    means = means.reshape(*share.shape, -1) / np.maximum(share, 1e-6)[..., None]
    return means.astype(np.float32), share < 1 - 1e-3


def guided_upsample(small: Floats, small_hole: BoolMask, picture: Floats, hole: BoolMask, detail: bool = True) -> Floats:
    """Enlarges a filled small picture into the hole of a large one.

    Args:
        small: (h, w, 3) float32 in [0, 1], filled.
        small_hole: (h, w) bool: what was filled there.
        picture: (H, W, 3) float32 in [0, 1], known outside the hole.
        hole: (H, W) bool.
        detail: whether the surroundings' detail is put into the fill.

    Returns:
        (H, W, 3) float32 in [0, 1], identical to `picture` outside the hole.
    """
    height, width = hole.shape
    enlarged = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    if detail:
        enlarged = enlarged + _detail(small, small_hole, picture - enlarged, hole)
    return np.where(hole[..., None], np.clip(enlarged, 0, 1), picture).astype(np.float32)


def _detail(small: Floats, small_hole: BoolMask, residual: Floats, hole: BoolMask) -> Floats:
    """(H, W, 3) detail for the hole's pixels, copied from where the small picture looks alike; 0 elsewhere."""
    rows, columns = small_hole.shape
    answer, weight = np.zeros_like(residual), np.zeros((*hole.shape, 1), np.float32)
    if min(rows, columns) < 2 * PATCH:
        return answer
    # A known patch's detail must be whole, the pixels that the hole's edge spoiled left out.
    spoiled = cv2.dilate(small_hole.astype(np.uint8), np.ones((3, 3), np.uint8))
    clean = cv2.boxFilter(spoiled.astype(np.float32), -1, (PATCH, PATCH), anchor=(0, 0), normalize=False) < 0.5
    clean[rows - PATCH + 1 :], clean[:, columns - PATCH + 1 :] = False, False
    sources = np.argwhere(clean)
    if len(sources) < FEATURES:
        return answer
    if len(sources) > MAX_SOURCES:
        sources = sources[np.sort(np.random.default_rng(0).choice(len(sources), MAX_SOURCES, replace=False))]
    touched = cv2.dilate(small_hole.astype(np.uint8), np.ones((PATCH, PATCH), np.uint8)) > 0
    step = PATCH // 2
    targets = np.argwhere(touched)
    targets = targets[(targets % step == 0).all(axis=1) & (targets <= (rows - PATCH, columns - PATCH)).all(axis=1)]
    if len(targets) == 0:
        return answer
    known, wanted = _patches(small, sources), _patches(small, targets)
    mean = known.mean(axis=0)
    axes = _axes(known - mean)
    nearest = nearest_tree((known - mean) @ axes).query((wanted - mean) @ axes)[1]
    scale = np.array(hole.shape) / np.array(small_hole.shape)
    side = np.minimum(np.round(PATCH * scale).astype(int), hole.shape)
    window = np.outer(*(np.hanning(length + 2)[1:-1] ** 2 for length in side)).astype(np.float32)[..., None]
    last = np.array(hole.shape) - side
    for target, source in zip(targets, sources[nearest], strict=True):
        (to_y, to_x), (from_y, from_x) = (np.minimum(np.round(at * scale).astype(int), last) for at in (target, source))
        place = slice(to_y, to_y + side[0]), slice(to_x, to_x + side[1])
        answer[place] += window * residual[from_y : from_y + side[0], from_x : from_x + side[1]]
        weight[place] += window
    return np.where(hole[..., None], answer / np.maximum(weight, 1e-6), 0).astype(np.float32)


def _patches(small: Floats, corners: npt.NDArray[np.int64]) -> Floats:
    """(N, PATCH * PATCH * 3) the patches with these top left corners."""
    windows = np.lib.stride_tricks.sliding_window_view(small, (PATCH, PATCH), axis=(0, 1))
    return windows[corners[:, 0], corners[:, 1]].reshape(len(corners), -1)


def _axes(centred: Floats) -> Floats:
    """The principal axes by the covariance, which many patches make no larger."""
    return np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :FEATURES]
