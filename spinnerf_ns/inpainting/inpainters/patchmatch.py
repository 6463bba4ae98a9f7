"""Exemplar-based inpainting: the hole is composed of patches of the same photo. No network, no weights.

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
from spinnerf_ns.inpainting.inpainters.base import PhotoInpainter
from spinnerf_ns.inpainting.membrane import span_membrane

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

COARSEST = 8.0
"""The pyramid ends where no pixel of the hole lies farther inside than this."""
LEAST_SOURCES = 32
"""With fewer whole patches outside the hole there is nothing to compose from."""
CONFIDENCE_DECAY = 0.8
"""A hole's pixel counts less by this factor for each pixel of its distance from the rim: structure grows inwards."""
NEARBY = 0.5
"""Penalty for a source a diagonal away, as a fraction of the photo's colour variance: perspective and light change."""
VERTICAL = 4.0
"""How much more vertical distance counts there: what lies higher in a photo is mostly another thing, or farther away."""
SMALL_PER_1000 = 2.0
"""Pieces that reach no farther in than this (pixels of a 1000-pixel-wide photo) are left to OpenCV: no texture fits in."""
SEAM = 16.0
"""Largest shift of colour, in 8-bit levels, that makes the fill meet the rim."""
CHUNK = 16384
"""Patches compared at a time."""


@dataclass
class PatchMatchInpainter(PhotoInpainter):
    """Composes the hole of patches of the same photo, coarse to fine; deterministic by its seed."""

    name: ClassVar[str] = "patchmatch"
    by_surface: ClassVar[bool] = True

    patch: int = 7
    """Side of a patch in pixels, odd."""
    seed: int = 0
    """Draws the candidates; the same seed gives the same fill."""
    surroundings: float = 0.8
    """How far around a hole patches are taken from, in sides of its bounding box."""
    max_hole: int = 120_000
    """Holes of more pixels are composed at a coarser scale, and only the last votes are cast at full resolution."""

    def __post_init__(self) -> None:
        if self.patch < 3 or self.patch % 2 == 0:
            raise SpinnerfError(f"inpainter 'patchmatch': patch is {self.patch}, expected an odd number of at least 3")
        if not self.surroundings > 0:
            raise SpinnerfError(f"inpainter 'patchmatch': surroundings is {self.surroundings}, expected more than 0")

    def fill(self, image: Image, hole: BoolMask, photo: str) -> Image:
        filled, known = image.copy(), ~hole
        small = scale_pixels(SMALL_PER_1000, image.shape[1])
        for window, piece in _pieces(hole, self.surroundings, 4 * self.patch):
            crop, crop_known = filled[window], known[window]
            depth_inside = cv2.distanceTransform(np.pad(piece, 1).astype(np.uint8), cv2.DIST_L2, 5).max()
            if depth_inside <= small or not _enough_sources(crop_known, self.patch):
                crop[piece] = _smooth(crop, crop_known, piece)
            else:
                crop[piece] = _compose(crop, crop_known, piece, self.patch, self.max_hole, np.random.default_rng(self.seed))
            # The other pieces are still holes, but this one may be looked at: it is as good as it gets.
        return filled


def _pieces(hole: BoolMask, surroundings: float, least: int) -> Iterator[tuple[tuple[slice, slice], BoolMask]]:
    """Connected parts of the hole, each in a window with its surroundings, largest first."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(hole.astype(np.uint8), connectivity=8)
    for label in sorted(range(1, count), key=lambda label: -statistics[label, cv2.CC_STAT_AREA]):
        x, y, width, height, _ = statistics[label]
        margin = max(least, round(surroundings * max(width, height)))
        window = slice(max(0, y - margin), y + height + margin), slice(max(0, x - margin), x + width + margin)
        yield window, labels[window] == label


def _enough_sources(known: BoolMask, patch: int) -> bool:
    return _whole_patches(known, patch).sum() >= LEAST_SOURCES


def _whole_patches(known: BoolMask, patch: int) -> BoolMask:
    """(H, W): centres of patches that lie in the photo and show nothing unknown."""
    square = np.ones((patch, patch), np.uint8)
    return cv2.erode(known.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def _smooth(image: Image, known: BoolMask, piece: BoolMask) -> npt.NDArray[np.uint8]:
    return np.clip(np.round(span_membrane(image.astype(np.float64), known)[piece]), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------- pyramid
def _compose(
    image: Image, known: BoolMask, piece: BoolMask, patch: int, max_hole: int, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """(N, 3) colours for the pixels of `piece`."""
    levels = [_Level(image.astype(np.float32), known, piece)]
    while levels[-1].depth_inside > COARSEST:
        coarser = levels[-1].halved()
        if not _enough_sources(coarser.known, patch):
            break
        levels.append(coarser)
    field = None
    for number, level in reversed(list(enumerate(levels))):
        start = field
        field = _Field(level, patch, generator)
        if start is None:
            level.image[~level.known] = span_membrane(level.image, level.known)[~level.known]
            field.scatter()
            rounds, sweeps, radius = 14, 3, max(level.known.shape)
        else:
            field.refine(start)
            field.vote(sharpness=1.0)
            rounds, sweeps, radius = min(3 + 3 * number, 10), 1, 12
        if level.piece.sum() > max_hole:
            rounds = 0
        for _ in range(rounds):
            field.search(sweeps, radius)
            field.vote(sharpness=1.0)
    field.vote(sharpness=4.0)
    field.close_seam()
    return np.clip(np.round(levels[0].image[piece]), 0, 255).astype(np.uint8)


class _Level:
    """One scale: `image` (H, W, 3) float32, filled as it goes; `known` and `piece` (H, W) bool."""

    def __init__(self, image: Floats, known: BoolMask, piece: BoolMask) -> None:
        self.image, self.known, self.piece = image, known, piece
        self.distance = cv2.distanceTransform(np.pad(piece, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        self.depth_inside = float(self.distance.max())
        self.confidence = np.where(piece, CONFIDENCE_DECAY**self.distance, known).astype(np.float32)

    def halved(self) -> _Level:
        """Half the size: means of the known pixels; a pixel that covers part of the hole belongs to it."""
        size = (-(-self.known.shape[1] // 2), -(-self.known.shape[0] // 2))
        pad = ((0, self.known.shape[0] % 2), (0, self.known.shape[1] % 2))

        def shrink(values: npt.NDArray) -> Floats:
            return cv2.resize(np.ascontiguousarray(values, np.float32), size, interpolation=cv2.INTER_AREA)

        image, known = np.pad(self.image, (*pad, (0, 0)), mode="edge"), np.pad(self.known, pad, mode="edge")
        piece = np.pad(self.piece, pad, mode="edge")
        share = shrink(known)
        means = shrink(image * known[..., None]) / np.maximum(share, 1e-6)[..., None]
        return _Level(means, share > 0.999, shrink(piece) > 0)


# ------------------------------------------------------------------------------------------------- nearest-neighbour field
class _Field:
    """For every patch that touches the hole (a target), the known patch that looks most like it (its source)."""

    def __init__(self, level: _Level, patch: int, generator: np.random.Generator) -> None:
        self.level, self.patch, self.generator = level, patch, generator
        self.height, self.width = level.known.shape
        half = patch // 2
        self.valid = _whole_patches(level.known, patch)
        touches = cv2.dilate(level.piece.astype(np.uint8), np.ones((patch, patch), np.uint8)) > 0
        inside = np.zeros_like(touches)
        inside[half : self.height - half, half : self.width - half] = True
        self.rows, self.columns = np.nonzero(touches & inside)
        self.number = np.full(level.known.shape, -1, np.int64)
        self.number[self.rows, self.columns] = np.arange(self.rows.size)
        down, right = np.mgrid[-half : half + 1, -half : half + 1]
        self.down, self.right = down.ravel(), right.ravel()
        self.steps = self.down * self.width + self.right  # from a centre to its patch's pixels, in the flat image
        self.sources = np.flatnonzero(self.valid.ravel())
        colours = level.image.reshape(-1, 3)[level.known.ravel()]
        self.variance = float(colours.var(axis=0).sum()) + 1.0
        self.source_rows, self.source_columns = self.rows.copy(), self.columns.copy()
        self.cost = np.full(self.rows.size, np.inf, np.float32)

    def scatter(self) -> None:
        """Sources drawn anywhere."""
        drawn = self.generator.choice(self.sources, self.rows.size)
        self.source_rows, self.source_columns = np.divmod(drawn, self.width)

    def refine(self, coarse: _Field) -> None:
        """Sources from the field of half the size; where that gives none, drawn anywhere."""
        self.scatter()
        parents = coarse.number[
            np.clip(self.rows // 2, 0, coarse.height - 1), np.clip(self.columns // 2, 0, coarse.width - 1)
        ]
        rows = 2 * coarse.source_rows[parents] + self.rows % 2
        columns = 2 * coarse.source_columns[parents] + self.columns % 2
        usable = (parents >= 0) & self._is_source(rows, columns)
        self.source_rows[usable], self.source_columns[usable] = rows[usable], columns[usable]

    def search(self, sweeps: int, radius: float) -> None:
        """Propagates good sources to the neighbours and tries random ones around them, at ever smaller distances."""
        flat = self.level.image.reshape(-1, 3)
        centres = self.rows * self.width + self.columns
        self.wanted = flat[centres[:, None] + self.steps]
        self.weights = self.level.confidence.ravel()[centres[:, None] + self.steps]
        self.weights /= np.maximum(self.weights.sum(axis=1, keepdims=True), 1e-6)
        everyone = np.arange(self.rows.size)
        self.cost[:] = np.inf
        self._try(everyone, self.source_rows.copy(), self.source_columns.copy())
        for _ in range(sweeps):
            for reach in (4, 1):
                for down, right in ((0, reach), (reach, 0), (0, -reach), (-reach, 0)):
                    self._propagate(down, right)
            around = radius
            while around >= 1:
                drawn = self.generator.uniform(-around, around, (2, everyone.size))
                self._try(
                    everyone,
                    self.source_rows + np.round(drawn[0]).astype(np.int64),
                    self.source_columns + np.round(drawn[1]).astype(np.int64),
                )
                around /= 2

    def _propagate(self, down: int, right: int) -> None:
        rows, columns = self.rows + down, self.columns + right
        inside = (rows >= 0) & (rows < self.height) & (columns >= 0) & (columns < self.width)
        neighbour = np.where(inside, self.number[np.where(inside, rows, 0), np.where(inside, columns, 0)], -1)
        which = np.flatnonzero(neighbour >= 0)
        neighbour = neighbour[which]
        self._try(which, self.source_rows[neighbour] - down, self.source_columns[neighbour] - right)

    def _is_source(self, rows: Indices, columns: Indices) -> BoolMask:
        inside = (rows >= 0) & (rows < self.height) & (columns >= 0) & (columns < self.width)
        return inside & self.valid[np.where(inside, rows, 0), np.where(inside, columns, 0)]

    def _try(self, which: Indices, rows: Indices, columns: Indices) -> None:
        """Takes these sources for the targets `which` where they cost less than the present ones."""
        moved = (rows != self.source_rows[which]) | (columns != self.source_columns[which]) | np.isinf(self.cost[which])
        fit = np.flatnonzero(moved & self._is_source(rows, columns))
        flat = self.level.image.reshape(-1, 3)
        for part in np.array_split(fit, max(1, -(-fit.size // CHUNK))):
            targets, part_rows, part_columns = which[part], rows[part], columns[part]
            apart = flat[(part_rows * self.width + part_columns)[:, None] + self.steps]
            apart -= self.wanted[targets]
            cost = np.einsum("npc,npc,np->n", apart, apart, self.weights[targets])
            far = VERTICAL * (part_rows - self.rows[targets]) ** 2 + (part_columns - self.columns[targets]) ** 2
            cost += NEARBY * self.variance * far / (self.height**2 + self.width**2)
            better = cost < self.cost[targets]
            chosen = targets[better]
            self.cost[chosen] = cost[better]
            self.source_rows[chosen], self.source_columns[chosen] = part_rows[better], part_columns[better]

    def vote(self, sharpness: float) -> None:
        """Sets the hole's pixels to what the sources show there; see `voted`."""
        self.level.image[self.level.piece] = self.voted(*np.nonzero(self.level.piece), sharpness)

    def voted(self, rows: Indices, columns: Indices, sharpness: float) -> Floats:
        """(N, 3): for each of N pixels the mean of what the sources of the patches around it show there.

        Args:
            sharpness: how much more a patch that fits well counts; large values copy the best one.
        """
        finite = np.where(np.isfinite(self.cost), self.cost, 0)
        spread = float(np.quantile(finite, 0.75)) / sharpness + 1.0
        trust = np.exp(-finite / (2 * spread)).astype(np.float32)
        # A patch that reaches far into the hole knows less about what belongs there.
        trust *= (CONFIDENCE_DECAY ** self.level.distance[self.rows, self.columns]).astype(np.float32)
        flat = self.level.image.reshape(-1, 3)
        source = self.source_rows * self.width + self.source_columns
        padded = np.pad(self.number, self.patch // 2, constant_values=-1)
        answer = np.empty((rows.size, 3), np.float32)
        for part in np.array_split(np.arange(rows.size), max(1, -(-rows.size // CHUNK))):
            centre_rows = rows[part][:, None] - self.down + self.patch // 2
            centre_columns = columns[part][:, None] - self.right + self.patch // 2
            targets = padded[centre_rows, centre_columns]
            votes = flat[np.where(targets >= 0, source[targets] + self.steps, 0)]
            weights = np.where(targets >= 0, trust[targets] + 1e-12, 0)
            answer[part] = np.einsum("npc,np->nc", votes, weights) / weights.sum(axis=1, keepdims=True)
        return answer

    def close_seam(self) -> None:
        """Shifts the fill's colours smoothly so that it meets the rim: what the sources miss there, continued inwards."""
        piece, image = self.level.piece, self.level.image
        ring = (cv2.dilate(piece.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & self.level.known
        missed = np.zeros_like(image)
        missed[ring] = np.clip(image[ring] - self.voted(*np.nonzero(ring), sharpness=4.0), -SEAM, SEAM)
        weight = cv2.GaussianBlur(ring.astype(np.float32), (0, 0), 2.0)[..., None]
        missed = cv2.GaussianBlur(missed, (0, 0), 2.0) / np.maximum(weight, 1e-6)
        image[piece] += span_membrane(missed, ring)[piece].astype(np.float32)
