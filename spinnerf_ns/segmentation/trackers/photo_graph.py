"""Which photo to track next, and from which: photos that show the object alike, not only neighbours on the path.

People walk back and forth: a photo may lie far along the path and yet look like the source. Small flow between thumbnails,
there and back, tells how much of the object two photos share; masks then spread over the most similar pairs first (Prim's
algorithm), so that they pass through as few and as good photos as possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.segmentation.trackers.object_motion import DenseFlow

THUMBNAIL = 160
"""Longest side of a thumbnail in pixels."""
CUT_FACTOR = 0.7
"""Worth of a photo in which the frame cuts the object: its mask says nothing about the rest."""
STEP_FACTOR = 0.97
"""Worth of a tracked mask against the one that it was tracked from, at best."""


class PhotoGraph:
    """Similarities between tracked photos and the others.

    Args:
        count: number of photos.
        read: index -> (H, W, 3) uint8 RGB.
        reach: tracked photos are compared with so many of their neighbours on the path; sources with all photos.
    """

    def __init__(self, count: int, read: Callable[[int], Image], reach: int) -> None:
        self.count, self.reach = count, reach
        self._read = read
        self._thumbnails: dict[int, NDArray[np.uint8]] = {}
        self._worth: dict[int, float] = {}
        self._similarity: dict[tuple[int, int], float] = {}
        self._sources: list[int] = []
        self._best: dict[int, tuple[tuple[float, int], int]] = {}
        """Photo -> rank and index of its best tracked photo: finding it anew for every waiting photo would take cubic time."""

    def add_source(self, index: int, object_mask: BoolMask) -> None:
        """A photo whose mask is known for sure; the mask is (H, W) and not empty."""
        self._sources.append(index)
        self._worth[index] = 1.0
        self._spread(index, object_mask, range(self.count))

    def add_tracked(self, index: int, object_mask: BoolMask, references: Iterable[int], support: float) -> None:
        """A photo that was tracked from others; the mask is (H, W) and not empty, support in [0, 1]."""
        best = max(self._worth[other] for other in references)
        self._worth[index] = best * STEP_FACTOR * min(1.0, support + 0.2)
        if _is_cut(object_mask):
            self._worth[index] *= CUT_FACTOR
        near = sorted((other for other in range(self.count) if other != index), key=lambda other: abs(other - index))
        self._spread(index, object_mask, near[: self.reach])

    def next(self, waiting: Iterable[int]) -> int:
        """The waiting photo that is most like a tracked one; among equals, the nearest on the path."""
        return min(waiting, key=lambda index: (*self._best[index][0], index))

    def references(self, index: int, count: int) -> list[int]:
        """The `count` best tracked photos for a photo, best first, and the best source photo; empty without any."""
        ranked = sorted(self._worth, key=lambda other: self._rank(other, index))
        chosen = [other for other in ranked if other != index][:count]
        return chosen + [other for other in ranked if other in self._sources and other not in chosen][:1]

    def worth(self, index: int) -> float:
        """How far a tracked photo's mask is to be trusted, in (0, 1]; 1 for sources."""
        return self._worth[index]

    def _rank(self, reference: int, index: int) -> tuple[float, int]:
        similarity = self._similarity.get((reference, index), 0.0)
        return -round(similarity * self._worth[reference], 3), abs(reference - index)

    def _thumbnail(self, index: int) -> NDArray[np.uint8]:
        if index not in self._thumbnails:
            gray = cv2.cvtColor(self._read(index), cv2.COLOR_RGB2GRAY)
            scale = THUMBNAIL / max(gray.shape)
            size = (max(1, round(gray.shape[1] * scale)), max(1, round(gray.shape[0] * scale)))
            canvas = np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)  # photos of different sizes can be compared
            canvas[: size[1], : size[0]] = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
            self._thumbnails[index] = canvas
        return self._thumbnails[index]

    def _spread(self, reference: int, object_mask: BoolMask, others: Iterable[int]) -> None:
        scale = THUMBNAIL / max(object_mask.shape)
        size = (max(1, round(object_mask.shape[1] * scale)), max(1, round(object_mask.shape[0] * scale)))
        small = np.zeros((THUMBNAIL, THUMBNAIL), np.float32)
        small[: size[1], : size[0]] = cv2.resize(object_mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        inside = small >= min(0.5, float(small.max()))
        for index in others:
            if index == reference or index in self._worth:
                continue
            _, agrees = DenseFlow(finest_scale=1)(self._thumbnail(reference), self._thumbnail(index))
            self._similarity[reference, index] = float(agrees[inside].mean())
        for index in range(self.count):
            if index != reference:
                rank = self._rank(reference, index)
                if index not in self._best or rank < self._best[index][0]:
                    self._best[index] = rank, reference


def _is_cut(object_mask: BoolMask) -> bool:
    """Whether the object touches the photo's edge with more than a corner of its extent."""
    edge = max(object_mask[0].sum(), object_mask[-1].sum(), object_mask[:, 0].sum(), object_mask[:, -1].sum())
    return bool(edge > 0.1 * np.sqrt(object_mask.sum()))
