"""Exemplar-based inpainting: the gap is composed of patches of the same photo. No network, no weights.

Coarse to fine, the fill is the one whose every patch looks like some patch of the known photo (Wexler, Shechtman, Irani
2007): find each patch's nearest neighbour (PatchMatch: Barnes et al. 2009, here with whole fields of candidates at a time),
let the neighbours vote on the pixels, repeat. Unlike OpenCV's methods it continues texture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image, scale_pixels
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.disparity.membrane import span_membrane
from spinnerf_ns.removal.inpainters.base import PhotoInpainter, check_photo
from spinnerf_ns.removal.inpainters.patch_field import Level, whole_patches
from spinnerf_ns.removal.inpainters.patch_kernel import field_class

COARSEST = 8.0
"""The pyramid ends where no pixel of the gap lies farther inside than this."""
LEAST_SOURCES = 32
"""With fewer whole patches outside the gap there is nothing to compose from."""
SMALL_PER_1000 = 2.0
"""Pieces that reach no farther in than this (pixels of a 1000-pixel-wide photo) are left to OpenCV: no texture fits in."""


@dataclass
class PatchMatchInpainter(PhotoInpainter):
    """Composes the gap of patches of the same photo, coarse to fine; deterministic by its seed."""

    name: ClassVar[str] = "patchmatch"
    by_surface: ClassVar[bool] = True
    one_core: ClassVar[bool] = True

    patch: int = 7
    """Side of a patch in pixels, odd."""
    seed: int = 0
    """Draws the candidates; the same seed gives the same fill."""
    surroundings: float = 0.8
    """How far around a gap patches are taken from, in sides of its bounding box."""
    max_gap: int = 120_000
    """Gaps of more pixels are composed at a coarser scale, and only the last votes are cast at full resolution."""

    def __post_init__(self) -> None:
        if self.patch < 3 or self.patch % 2 == 0:
            raise SpinnerfError(f"inpainter 'patchmatch': patch is {self.patch}, expected an odd number of at least 3")
        if not self.surroundings > 0:
            raise SpinnerfError(f"inpainter 'patchmatch': surroundings is {self.surroundings}, expected more than 0")

    def fill(self, image: Image, to_fill: BoolMask, photo: str) -> Image:
        return self._filled(image, to_fill, ~to_fill)

    def inpaint_from(self, image: Image, to_fill: BoolMask, donors: BoolMask, photo: str = "photo") -> Image:
        check_photo(image, ~donors, photo)
        return np.where(to_fill[..., None], self._filled(image, to_fill, donors), image)

    def _filled(self, image: Image, to_fill: BoolMask, known: BoolMask) -> Image:
        filled = image.copy()
        small = scale_pixels(SMALL_PER_1000, image.shape[1])
        for window, piece in _pieces(to_fill, known, self.surroundings, self.patch):
            crop, crop_known = filled[window], known[window]
            depth_inside = cv2.distanceTransform(np.pad(piece, 1).astype(np.uint8), cv2.DIST_L2, 5).max()
            if depth_inside <= small or not _enough_sources(crop_known, self.patch):
                crop[piece] = _smooth(crop, crop_known, piece)
            else:
                crop[piece] = _compose(crop, crop_known, piece, self.patch, self.max_gap, np.random.default_rng(self.seed))
            # The other pieces are still gaps, but this one may be looked at: it is as good as it gets.
        return filled


def _pieces(to_fill: BoolMask, known: BoolMask, surroundings: float, patch: int) -> Iterator[tuple[tuple[slice, slice], BoolMask]]:
    """Connected parts of the gap, each in a window with its surroundings, largest first."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(to_fill.astype(np.uint8), connectivity=8)
    for label in sorted(range(1, count), key=lambda label: -statistics[label, cv2.CC_STAT_AREA]):
        x, y, width, height, _ = statistics[label]
        margin = max(4 * patch, round(surroundings * max(width, height)))
        while True:
            window = slice(max(0, y - margin), y + height + margin), slice(max(0, x - margin), x + width + margin)
            # What may be drawn from does not always lie around the gap.
            if margin > max(to_fill.shape) or _enough_sources(known[window], patch):
                break
            margin *= 2
        yield window, labels[window] == label


def _enough_sources(known: BoolMask, patch: int) -> bool:
    return whole_patches(known, patch).sum() >= LEAST_SOURCES


def _smooth(image: Image, known: BoolMask, piece: BoolMask) -> npt.NDArray[np.uint8]:
    return np.clip(np.round(span_membrane(image.astype(np.float64), known)[piece]), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------- pyramid
def _compose(
    image: Image, known: BoolMask, piece: BoolMask, patch: int, max_gap: int, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """(N, 3) colours for the pixels of `piece`."""
    field_type, levels = field_class(), [Level(image.astype(np.float32), known, piece)]
    while levels[-1].depth_inside > COARSEST:
        coarser = levels[-1].halved()
        if not _enough_sources(coarser.known, patch):
            break
        levels.append(coarser)
    field = None
    for number, level in reversed(list(enumerate(levels))):
        start = field
        field = field_type(level, patch, generator)
        if start is None:
            level.image[~level.known] = span_membrane(level.image, level.known)[~level.known]
            field.scatter()
            rounds, sweeps, radius = 14, 3, max(level.known.shape)
        else:
            field.refine(start)
            field.vote(sharpness=1.0)
            rounds, sweeps, radius = min(3 + 3 * number, 10), 1, 12
        if level.piece.sum() > max_gap:
            rounds = 0
        for _ in range(rounds):
            field.search(sweeps, radius)
            field.vote(sharpness=1.0)
    field.vote(sharpness=4.0)
    field.close_seam()
    return np.clip(np.round(levels[0].image[piece]), 0, 255).astype(np.uint8)
