"""What photos say of each other's depth: the confidence, and a depth that several photos agree on.

A depth that a photo finds alone may be right or not: repeated patterns, noise and reflections match well in a wrong place. But
wrong depths of two photos hardly ever describe the same point. So a pixel is believed where several neighbours, asked at the place
where they show its point, have found that same point on their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.stereo.rig import Floats, Pinhole, relative_pose

TOLERANCE = 0.005
"""Two photos agree when their depths of a point differ by less than this part."""

NEEDED = 3
"""So many neighbours must agree before a depth is believed; one less where fewer than `FEW` have the point in their frame."""

FEW = 5

JUMP = 0.03
"""A pixel beside another whose inverse depth differs by more than this part is not believed: near an edge of depth a window
shows both sides, in all photos alike."""

CONFIDENT = 0.5
"""Confidence from here on: measured, and confirmed by neighbours."""

BRIDGED = 0.25
"""Confidence of exactly this: not measured; a plane through the surroundings was put across an even surface."""

WEAK = 0.2
"""Confidence up to here: measured, and confirmed by too few neighbours or by none."""


@dataclass(frozen=True, eq=False)
class Agreement:
    """What neighbours say of a photo's depth."""

    inverse: Floats
    """(H, W) inverse depth: the median of the photo's own and of the neighbours' that agree."""
    agreeing: npt.NDArray[np.int32]
    """(H, W) how many neighbours agree."""
    contradicting: npt.NDArray[np.int32]
    """(H, W) how many neighbours look through the point at something farther."""
    seen: npt.NDArray[np.int32]
    """(H, W) how many neighbours have it in their frame."""


def cross_check(
    camera: Pinhole, planes: Floats, others: Sequence[tuple[Pinhole, Floats]], tolerance: float = TOLERANCE
) -> Agreement:
    """Compares a photo's depth with its neighbours'.

    Args:
        camera: the photo's.
        planes: (H, W, 3) its inverse depth and slopes.
        others: the neighbours' cameras and planes.
        tolerance: relative depth within which two agree.
    """
    height, width = planes.shape[:2]
    y, x = np.indices((height, width), dtype=np.float32)
    w = planes[..., 0]
    said = np.full((len(others) + 1, height, width), np.nan, np.float32)
    said[0] = w
    contradicting, seen = (np.zeros((height, width), np.int32) for _ in range(2))
    for number, (other, their) in enumerate(others, start=1):
        pose = relative_pose(camera, other).astype(np.float32)
        rays = [pose[3 * i] * x + pose[3 * i + 1] * y + pose[3 * i + 2] for i in range(3)]
        h = [ray + w * b for ray, b in zip(rays, pose[9:], strict=True)]
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = h[0] / h[2], h[1] / h[2]
            inside = (h[2] > 1e-6) & (w > 0) & (u > -0.5) & (v > -0.5) & (u < other.width - 0.5) & (v < other.height - 0.5)
        rows, columns = (np.where(inside, a, 0).round().astype(np.int32) for a in (v, u))
        theirs = their[rows, columns]
        # Their plane in homogeneous pixels (u, v, 1): inverse depth is n . (u, v, 1); the photo's ray meets it at w.
        gx, gy = theirs[..., 1], theirs[..., 2]
        at_zero = theirs[..., 0] - gx * columns - gy * rows
        with np.errstate(divide="ignore", invalid="ignore"):
            meets = (gx * rays[0] + gy * rays[1] + at_zero * rays[2]) / (1 - gx * pose[9] - gy * pose[10] - at_zero * pose[11])
            ratio = np.where(inside & (theirs[..., 0] > 0), meets / w, np.nan)
            said[number] = np.where(np.abs(ratio - 1) < tolerance, meets, np.nan)
            contradicting += ratio < 1 - 3 * tolerance
        seen += inside
    agreeing = np.isfinite(said[1:]).sum(axis=0, dtype=np.int32)
    order = np.sort(said, axis=0)  # NaN last
    count = agreeing + 1
    low, high = ((count - 1) // 2)[None], (count // 2)[None]
    inverse = 0.5 * (np.take_along_axis(order, low, 0) + np.take_along_axis(order, high, 0))[0]
    return Agreement(np.where(w > 0, inverse, 0).astype(np.float32), agreeing, contradicting, seen)


def believed(agreement: Agreement) -> Floats:
    """(H, W) confidence in [0, 1]: `CONFIDENT` and more where enough neighbours agree, up to 1 where twice as many do."""
    w = agreement.inverse
    square = np.ones((3, 3), np.uint8)
    with np.errstate(divide="ignore", invalid="ignore"):
        jump = (cv2.dilate(w, square) - cv2.erode(w, square)) / w > JUMP
    agreeing = agreement.agreeing
    needed = np.where(agreement.seen >= FEW, NEEDED, NEEDED - 1)
    sure = (agreeing >= needed) & (agreeing > agreement.contradicting) & ~jump & (w > 0)
    grade = np.minimum(agreeing / needed, 2.0)
    return np.where(sure, CONFIDENT * grade, np.where(w > 0, WEAK * np.minimum(grade, 1.0), 0)).astype(np.float32)
