"""One scale of a picture with a gap, and for every patch that touches the gap the known patch that looks most like it.

What `patchmatch` composes gaps of. `Field` is numpy, and says what is right; `patch_kernel` has the same in C++.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.removal.disparity.membrane import span_membrane

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

CONFIDENCE_DECAY = 0.8
"""A gap's pixel counts less by this factor for each pixel of its distance from the rim: structure grows inwards."""
NEARBY = 0.5
"""Penalty for a source a diagonal away, as a fraction of the photo's colour variance: perspective and light change."""
VERTICAL = 4.0
"""How much more vertical distance counts there: what lies higher in a photo is mostly another thing, or farther away."""
SEAM = 16.0
"""Largest shift of colour, in 8-bit levels, that makes the fill meet the rim."""
CHUNK = 16384
"""Patches compared at a time."""


def whole_patches(known: BoolMask, patch: int) -> BoolMask:
    """(H, W): centres of patches of side `patch` that lie in the photo and show nothing unknown."""
    square = np.ones((patch, patch), np.uint8)
    return cv2.erode(known.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


class Level:
    """One scale of a picture: `image` (H, W, 3) float32 in 8-bit levels, filled as it goes.

    Attributes:
        known: (H, W) bool, what the photo shows.
        piece: (H, W) bool, what is to be composed; other pixels that are not known stay as they are.
        distance: (H, W) float32, how far a pixel of the piece lies from its rim, in pixels; 0 outside.
        depth_inside: the largest of these.
        confidence: (H, W) float32, how much a pixel counts in comparisons: 1 where known, 0 where neither known nor composed.
    """

    def __init__(self, image: Floats, known: BoolMask, piece: BoolMask) -> None:
        self.image, self.known, self.piece = image, known, piece
        self.distance = cv2.distanceTransform(np.pad(piece, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        self.depth_inside = float(self.distance.max())
        self.confidence = np.where(piece, CONFIDENCE_DECAY**self.distance, known).astype(np.float32)

    def halved(self) -> Level:
        """Half the size: means of the known pixels; a pixel that covers part of the gap belongs to it."""
        size = (-(-self.known.shape[1] // 2), -(-self.known.shape[0] // 2))
        pad = ((0, self.known.shape[0] % 2), (0, self.known.shape[1] % 2))

        def shrink(values: npt.NDArray) -> Floats:
            return cv2.resize(np.ascontiguousarray(values, np.float32), size, interpolation=cv2.INTER_AREA)

        image, known = np.pad(self.image, (*pad, (0, 0)), mode="edge"), np.pad(self.known, pad, mode="edge")
        piece = np.pad(self.piece, pad, mode="edge")
        share = shrink(known)
        means = shrink(image * known[..., None]) / np.maximum(share, 1e-6)[..., None]
        return Level(means, share > 0.999, shrink(piece) > 0)


class Field:
    """For every patch that touches the gap (a target), the known patch that looks most like it (its source).

    Attributes:
        rows, columns: (N,) centres of the targets, which lie wholly in the picture.
        number: (H, W) the target whose centre a pixel is, -1 where there is none.
        valid: (H, W) bool, the centres of possible sources.
        source_rows, source_columns: (N,) centres of the sources.
        cost: (N,) float32, what the sources cost in the last search: mean squared difference and `NEARBY`'s penalty.
    """

    def __init__(self, level: Level, patch: int, generator: np.random.Generator) -> None:
        self.level, self.patch, self.generator = level, patch, generator
        self.height, self.width = level.known.shape
        half = patch // 2
        self.valid = whole_patches(level.known, patch)
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
        self.weights: Floats | None = None

    def scatter(self) -> None:
        """Sources drawn anywhere."""
        drawn = self.generator.choice(self.sources, self.rows.size)
        self.source_rows, self.source_columns = np.divmod(drawn, self.width)

    def refine(self, coarse: Field) -> None:
        """Sources from the field of half the size; where that gives none, drawn anywhere."""
        self.scatter()
        parents = coarse.number[np.clip(self.rows // 2, 0, coarse.height - 1), np.clip(self.columns // 2, 0, coarse.width - 1)]
        rows = 2 * coarse.source_rows[parents] + self.rows % 2
        columns = 2 * coarse.source_columns[parents] + self.columns % 2
        usable = (parents >= 0) & self._is_source(rows, columns)
        self.source_rows[usable], self.source_columns[usable] = rows[usable], columns[usable]

    def search(self, sweeps: int, radius: float) -> None:
        """Propagates good sources to the neighbours and tries random ones around them, at ever smaller distances.

        Args:
            sweeps: how many times.
            radius: largest distance of the random ones, in pixels.
        """
        self._look()
        self.cost[:] = np.inf
        self._propagate(0, 0)  # what the present sources cost
        for _ in range(sweeps):
            for reach in (4, 1):
                for down, right in ((0, reach), (reach, 0), (0, -reach), (-reach, 0)):
                    self._propagate(down, right)
            around = radius
            while around >= 1:
                self._try_around(self.generator.uniform(-around, around, (2, self.rows.size)))
                around /= 2

    def _look(self) -> None:
        """Takes in the picture as it is before a search."""
        self.wanted = self.level.image.reshape(-1, 3)[self._patches()]
        if self.weights is None:
            self.weights = self._weights()

    def _patches(self) -> Indices:
        """(N, patch * patch): the targets' pixels in the flat picture."""
        return (self.rows * self.width + self.columns)[:, None] + self.steps

    def _weights(self) -> Floats:
        """(N, patch * patch): how much each pixel of a target counts; they sum to 1."""
        weights = self.level.confidence.ravel()[self._patches()]
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-6)
        return weights

    def _try_around(self, drawn: npt.NDArray[np.float64]) -> None:
        """Tries what lies (2, N) pixels down and to the right of the sources."""
        rows, columns = np.round(drawn).astype(np.int64)
        self._try(np.arange(self.rows.size), self.source_rows + rows, self.source_columns + columns)

    def _propagate(self, down: int, right: int) -> None:
        """Tries what lies beside the source of the target that lies so far down and to the right."""
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
        """Sets the gap's pixels to what the sources show there; see `voted`."""
        self.level.image[self.level.piece] = self.voted(*np.nonzero(self.level.piece), sharpness)  # type: ignore[call-arg]

    def voted(self, rows: Indices, columns: Indices, sharpness: float) -> Floats:
        """(K, 3): for each of K pixels the mean of what the sources of the patches around it show there.

        Args:
            rows, columns: (K,) the pixels; the patch around each touches the gap.
            sharpness: how much more a patch that fits well counts; large values copy the best one.
        """
        finite = np.where(np.isfinite(self.cost), self.cost, 0)
        spread = float(np.quantile(finite, 0.75)) / sharpness + 1.0
        trust = np.exp(-finite / (2 * spread)).astype(np.float32)
        # A patch that reaches far into the gap knows less about what belongs there.
        trust *= (CONFIDENCE_DECAY ** self.level.distance[self.rows, self.columns]).astype(np.float32)
        return self._mean_of_votes(rows, columns, trust)

    def _mean_of_votes(self, rows: Indices, columns: Indices, trust: Floats) -> Floats:
        """(K, 3): the mean of what the sources show at K pixels; `trust` (N,) is how much each target's vote counts."""
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
