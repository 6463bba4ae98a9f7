"""A smooth membrane spanned over the unknown pixels of an array. Pure functions.

Solves Laplace's equation by a pyramid: averages of the known pixels are pulled to ever coarser levels, pushed back, and
relaxed on every level, so that the answer is found in a few cheap passes whatever the gap's size.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask

RELAXATIONS = 12
"""Passes on each level: the level below gave the answer up to what one pixel of it cannot show."""

_CROSS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float64) / 4


def span_membrane(values: npt.NDArray[np.floating], known: BoolMask) -> npt.NDArray[np.float64]:
    """Continues the known values harmonically into all other pixels; the array's border lets nothing through.

    Args:
        values: (H, W) or (H, W, C); what stands where `known` is False does not matter.
        known: (H, W) bool.

    Returns:
        float64 of the shape of `values`: equal to it where known, zero everywhere if nothing is known.
    """
    stack = np.where(known[..., None], values.reshape(*known.shape, -1), 0.0).astype(np.float64)
    levels = [(stack, known.astype(np.float64))]
    while levels[-1][1].min() == 0 and max(levels[-1][1].shape) > 1:
        levels.append(_coarser(*levels[-1]))
    answer = levels[-1][0]
    for stack, weight in reversed(levels[:-1]):
        answer = _resize(answer, weight.shape)
        fixed = (weight > 0)[..., None]
        answer = np.where(fixed, stack, answer)
        for _ in range(RELAXATIONS):
            relaxed = cv2.filter2D(answer, -1, _CROSS, borderType=cv2.BORDER_REPLICATE).reshape(answer.shape)
            answer = np.where(fixed, stack, relaxed)
    return answer.reshape(values.shape)


def _coarser(stack: npt.NDArray, weight: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray]:
    """Half the size: means of the known pixels of each 2 x 2 block, and how many there were (at most 1)."""
    height, width = weight.shape
    pad = ((0, height % 2), (0, width % 2))
    weight = np.pad(weight, pad)
    stack = np.pad(stack, (*pad, (0, 0)))
    known = (weight > 0).astype(np.float64)
    count = known.reshape(weight.shape[0] // 2, 2, -1, 2).sum(axis=(1, 3))
    total = (stack * known[..., None]).reshape(*count.shape[:1], 2, -1, 2, stack.shape[2]).sum(axis=(1, 3))
    return total / np.maximum(count, 1)[..., None], (count > 0).astype(np.float64)


def _resize(stack: npt.NDArray, shape: tuple[int, ...]) -> npt.NDArray:
    resized = cv2.resize(stack, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(*shape, stack.shape[2])
