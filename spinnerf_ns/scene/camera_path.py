"""The order in which a camera went from photo to photo, from the poses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spinnerf_ns.accel.cpu import nearest_tree

if TYPE_CHECKING:
    from spinnerf_ns.scene.view import View

NEIGHBOURS = 16
"""Views that may follow a view: its nearest ones. A path through the poses leaves them only where it has been to all."""
MOVES_PER_VIEW = 50
"""Moves of 2-opt at most; paths settle after a few."""
NOWHERE = -1
"""Stands before the path's first view and behind its last one; as near to any view as can be."""

END_COSTS = 4.0
"""A view at an end of the path is the reference view only if its unseen part is e^4 times as large as in the middle."""


def order_along_path(views: Sequence[View]) -> list[int]:
    """Orders views so that neighbours see nearly the same: a short open path through the poses.

    The distance of two views is that of their positions, as a part of the capture's extent, plus the angle between their
    viewing directions in radians. Candidates are the order given (often the order of capture) and chains of nearest
    neighbours from two views far apart, each improved by 2-opt among each view's `NEIGHBOURS`; the shortest is taken. Time
    and memory grow little faster than the number of views.

    Args:
        views: any number of views.

    Returns:
        A permutation of range(len(views)); deterministic. Of its two directions, the one that starts with the smaller index.
    """
    count = len(views)
    if count < 3:
        return list(range(count))
    poses = _Poses.of(views)
    candidates = [np.arange(count), *(_chain(poses, end) for end in poses.ends())]
    improved = [_two_opt(path, poses) for path in candidates]
    lengths = [float(poses.apart(path[:-1], path[1:]).sum()) for path in improved]
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


@dataclass(frozen=True)
class _Poses:
    """Where N views are, and which are near each other."""

    positions: npt.NDArray[np.float64]
    """(N, 3), as a part of the capture's extent."""
    directions: npt.NDArray[np.float64]
    """(N, 3), of length 1."""
    neighbours: npt.NDArray[np.int64]
    """(N, K), nearest first."""
    near: npt.NDArray[np.float64]
    """(N, K), how far they are."""

    @classmethod
    def of(cls, views: Sequence[View]) -> _Poses:
        """At least two views'."""
        poses = np.stack([view.c2w for view in views])
        positions, directions = poses[:, :, 3], -poses[:, :, 2]
        directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        extent = _farthest(lambda one: np.linalg.norm(positions - positions[one], axis=1))[2]
        positions = (positions - positions.mean(axis=0)) / (extent if extent > 0 else 1)
        count = min(NEIGHBOURS + 1, len(views))
        features = np.concatenate([positions, directions], axis=1)
        found = nearest_tree(features).query(features, count)[1]
        # A view is not its own neighbour; among equal poses it may not be the first that is found.
        own = found == np.arange(len(views))[:, None]
        own[~own.any(axis=1), -1] = True
        found = found[~own].reshape(len(views), count - 1)
        alone = cls(positions, directions, found, np.zeros(found.shape))
        near = alone.apart(np.arange(len(views))[:, None], found)
        order = np.argsort(near, axis=1, kind="stable")
        return replace(alone, neighbours=np.take_along_axis(found, order, 1), near=np.take_along_axis(near, order, 1))

    def apart(self, one: npt.NDArray[np.int64] | int, other: npt.NDArray[np.int64] | int) -> npt.NDArray[np.float64]:
        """Distances of views, by index; 0 where one is `NOWHERE`."""
        moved = self.positions[one] - self.positions[other]
        cosine = np.einsum("...i,...i", self.directions[one], self.directions[other])
        distances = np.sqrt(np.einsum("...i,...i", moved, moved)) + np.arccos(np.minimum(np.maximum(cosine, -1.0), 1.0))
        return distances * ((one != NOWHERE) & (other != NOWHERE) & (one != other))

    def ends(self) -> tuple[int, int]:
        """Two views far apart."""
        everyone = np.arange(len(self.positions))
        return _farthest(lambda one: self.apart(one, everyone))[:2]


def _farthest(distances: Callable[[int], npt.NDArray[np.float64]]) -> tuple[int, int, float]:
    """Two that are far apart, in the order of their indices, and how far: from the first one on to the farthest, four times."""
    best, one = (0, 0, 0.0), 0
    for _ in range(4):
        found = distances(one)
        other = int(np.argmax(found))
        if found[other] > best[2]:
            best = (min(one, other), max(one, other), float(found[other]))
        one = other
    return best


def _chain(poses: _Poses, start: int) -> npt.NDArray[np.int64]:
    """From `start`, always on to the nearest view not yet visited."""
    left = np.ones(len(poses.positions), dtype=bool)
    path = [start]
    left[start] = False
    for _ in range(len(left) - 1):
        near = poses.neighbours[path[-1]]
        near = near[left[near]]
        if len(near) == 0:  # a dead end, which few views are
            near = np.flatnonzero(left)
            near = near[np.argsort(poses.apart(path[-1], near), kind="stable")]
        path.append(int(near[0]))
        left[path[-1]] = False
    return np.array(path)


def _two_opt(path: npt.NDArray[np.int64], poses: _Poses) -> npt.NDArray[np.int64]:
    """Reverses stretches of an open path while that shortens it, each time to go on from a view to a nearer neighbour."""
    count = len(path)
    path = np.concatenate([[NOWHERE], path, [NOWHERE]])  # at 0 and count + 1
    place = np.empty(count, dtype=np.int64)
    place[path[1:-1]] = np.arange(1, count + 1)
    waiting = deque(path[1:-1].tolist())
    queued = np.ones(count, dtype=bool)
    moves = MOVES_PER_VIEW * count
    while waiting and moves > 0:
        view = waiting.popleft()
        queued[view] = False
        for step in (1, -1):
            after = path[place[view] + step]
            length = float(poses.apart(view, after))
            nearer = poses.near[view] < length
            others, near = poses.neighbours[view][nearer], poses.near[view][nearer]
            if len(others) == 0:
                continue
            # The edges (view, after) and (other, behind) become (view, other) and (after, behind).
            behind = path[place[others] + step]
            gain = length + poses.apart(others, behind) - near - poses.apart(after, behind)
            best = int(np.argmax(gain))
            if gain[best] <= 1e-9:
                continue
            first, last = sorted((place[view] + max(step, 0), place[others[best]] + max(step, 0)))
            path[first:last] = path[first:last][::-1]
            place[path[first:last]] = np.arange(first, last)
            moves -= 1
            for changed in (view, int(after), int(others[best]), int(behind[best])):
                if changed != NOWHERE and not queued[changed]:
                    queued[changed] = True
                    waiting.append(changed)
            break
    return path[1:-1]
