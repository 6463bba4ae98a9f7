"""The order in which a camera went from photo to photo, from the poses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from spinnerf_ns.scene.view import View

MAX_ROUNDS = 50
"""Rounds of 2-opt at most; paths settle after a few."""

END_COSTS = 4.0
"""A view at an end of the path is the reference view only if its hole is e^4 times as large as that of the middle."""


def order_along_path(views: Sequence[View]) -> list[int]:
    """Orders views so that neighbours see nearly the same: a short open path through the poses.

    The distance of two views is that of their positions, as a part of the capture's extent, plus the angle between their
    viewing directions in radians. Candidates are the order given (often the order of capture) and chains of nearest
    neighbours from the two views farthest apart, each improved by 2-opt; the shortest is taken.

    Args:
        views: any number of views.

    Returns:
        A permutation of range(len(views)); deterministic. Of its two directions, the one that starts with the smaller index.
    """
    count = len(views)
    if count < 3:
        return list(range(count))
    distances = _distances(views)
    ends = np.unravel_index(int(np.argmax(distances)), distances.shape)
    candidates = [np.arange(count), *(_chain(distances, int(end)) for end in ends)]
    improved = [_two_opt(path, distances) for path in candidates]
    lengths = [float(distances[path[:-1], path[1:]].sum()) for path in improved]
    best = improved[int(np.argmin(np.round(lengths, 9)))]  # rounded: equal paths must not be chosen by their last digit
    return [int(i) for i in (best if best[0] < best[-1] else best[::-1])]


def most_unseen_near_middle(views: Sequence[View], areas: Sequence[float]) -> int:
    """The view with the largest area, where areas count less the farther a view lies from the middle of the camera path.

    Args:
        views: at least one.
        areas: per view the area that no photo shows, in any unit.

    Returns:
        Its index. If no view has any, that of the middle.
    """
    place = np.empty(len(views))
    place[order_along_path(views)] = np.linspace(-1, 1, len(views)) if len(views) > 1 else 0
    weight = np.exp(-END_COSTS * place**2)
    areas = np.asarray(areas, dtype=np.float64)
    return int(np.argmax(areas * weight if areas.any() else weight))


def _distances(views: Sequence[View]) -> npt.NDArray[np.float64]:
    """(N, N), symmetric."""
    poses = np.stack([view.c2w for view in views])
    positions, directions = poses[:, :, 3], -poses[:, :, 2]
    squares = (positions**2).sum(axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * positions @ positions.T, 0))
    extent = apart.max()
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    angles = np.arccos(np.clip(directions @ directions.T, -1, 1))
    distances = angles + (apart / extent if extent > 0 else 0)
    np.fill_diagonal(distances, 0)
    return distances


def _chain(distances: npt.NDArray[np.float64], start: int) -> npt.NDArray[np.int64]:
    """From `start`, always on to the nearest view not yet visited."""
    left = np.ones(len(distances), dtype=bool)
    path = [start]
    left[start] = False
    while left.any():
        step = np.where(left, distances[path[-1]], np.inf)
        path.append(int(np.argmin(step)))
        left[path[-1]] = False
    return np.array(path)


def _two_opt(path: npt.NDArray[np.int64], distances: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Reverses stretches of an open path while that shortens it; per start of a stretch the best end is taken."""
    path = path.copy()
    count = len(path)
    for _ in range(MAX_ROUNDS):
        changed = False
        for i in range(count - 1):
            ends = np.arange(i + 1, count)  # reverse path[i..j]: edges (i-1, i) and (j, j+1) become (i-1, j) and (i, j+1)
            gain = np.zeros(len(ends))
            if i > 0:
                gain += distances[path[i - 1], path[i]] - distances[path[i - 1], path[ends]]
            inner = ends < count - 1
            after = path[ends[inner] + 1]
            gain[inner] += distances[path[ends[inner]], after] - distances[path[i], after]
            best = int(np.argmax(gain))
            if gain[best] > 1e-9:
                end = int(ends[best])
                path[i : end + 1] = path[i : end + 1][::-1]
                changed = True
        if not changed:
            break
    return path
