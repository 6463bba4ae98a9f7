"""What photos with known object masks say of another photo's pixels, by depth: the object, the background, or nothing. Pure functions.

A pixel with depth is a point in space. A photo that shows the point says what it is by its mask. A photo that shows something else
there says at least this much: a point that lies outside its mask, with nothing before it, is no object; where the mask ends,
the object ends, wherever it is. All photos together carve the visual hull (Laurentini 1994) out of the space around the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.scene.cameras import project, unproject
from spinnerf_ns.scene.view import View
from spinnerf_ns.segmentation.refine import signed_distance
from spinnerf_ns.stereo.consistency import BRIDGED, CONFIDENT

Floats = NDArray[np.float32]

SAME_DEPTH = 0.02
"""Relative depth within which a photo shows a point itself."""
SURE_BESIDE = 0.012
"""So far from a mask's contour, as a part of the photo's width, its word counts in full; less towards the contour, which may be
a few pixels off: photos that follow it would hand that on."""
OUTSIDE_VOTE = 0.3
"""What a photo's word counts where it has no depth of its own: outside of its mask a point is hardly object, if nothing hides it."""
COLOUR_SHIFT = 4
"""Bits of a Lab channel that the colour model does not look at."""
MOST_COLOUR = 1.5
"""Log odds that a colour may be worth by itself."""
CELLS = 72
"""Cells along the hull's longest side."""
MARGIN = 0.75
"""The hull's box is that of the known surface, grown on each side by this part of its diagonal."""
DOUBT = 0.15
"""Part of the photos that may see a cell outside of their masks all the same."""


@dataclass(eq=False)
class Known:
    """A photo whose object mask is known, and what is known of its depth."""

    view: View
    object_mask: BoolMask
    """(H, W) at the photo's size."""
    z: Floats
    """(h, w) planar depth, 0 = unknown, of the whole photo at any size."""
    confidence: Floats
    """(h, w)."""
    worth: float = 1.0
    """How far its mask is to be trusted."""

    @cached_property
    def contour_distance(self) -> Floats:
        """(H, W) pixels to the mask's contour, positive inside."""
        return signed_distance(self.object_mask)


def pixel_points(view: View, z: Floats, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, 3) world points of pixels of a depth map (h, w) of the whole photo."""
    xy = np.stack([(columns + 0.5) * view.width / z.shape[1], (rows + 0.5) * view.height / z.shape[0]], axis=1)
    return unproject(view, xy, z[rows, columns])


def surface_points(known: Sequence[Known], most: int = 4000) -> NDArray[np.float64]:
    """(P, 3) points of the object's surface that the photos show; a few wrong ones among them."""
    points = []
    for one in known:
        inside = cv2.resize(one.object_mask.astype(np.uint8), one.z.shape[::-1], interpolation=cv2.INTER_AREA) > 0
        inside = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        for least in (CONFIDENT, BRIDGED, 1e-6):
            rows, columns = np.nonzero(inside & (one.confidence >= least) & (one.z > 0))
            if len(rows) >= 30:
                break
        step = max(1, len(rows) // most)
        points.append(pixel_points(one.view, one.z, rows[::step], columns[::step]))
    return np.concatenate(points) if points else np.zeros((0, 3))


def votes(view: View, z: Floats, confidence: Floats, known: Sequence[Known], where: BoolMask) -> tuple[Floats, Floats]:
    """How much known photos say for the object, and for the background.

    Args:
        view: the photo.
        z: (h, w) its depth, 0 = unknown.
        confidence: (h, w).
        known: photos with masks.
        where: (h, w) which pixels are asked about.

    Returns:
        Two (h, w), 0 where nobody says anything.
    """
    votes_for, votes_against = np.zeros(z.shape, np.float32), np.zeros(z.shape, np.float32)
    rows, columns = np.nonzero(where & (z > 0))
    points = pixel_points(view, z, rows, columns)
    confident = confidence[rows, columns] >= CONFIDENT
    trust = np.where(confident, 1.0, 0.3).astype(np.float32)
    for one in known:
        xy, depth = project(one.view, points)
        with np.errstate(invalid="ignore"):
            inside = (depth > 0) & (xy[:, 0] >= 0) & (xy[:, 1] >= 0) & (xy[:, 0] < one.view.width) & (xy[:, 1] < one.view.height)
        at = np.flatnonzero(inside)
        x, y = xy[at].T
        contour = one.contour_distance[y.astype(np.int64), x.astype(np.int64)]
        is_object = contour > 0
        there = (y * one.z.shape[0] / one.view.height).astype(np.int64), (x * one.z.shape[1] / one.view.width).astype(np.int64)
        their, sure = one.z[there], one.confidence[there] >= CONFIDENT
        with np.errstate(divide="ignore"):
            ratio = np.where(their > 0, depth[at] / their, 1.0)
        same = sure & (np.abs(ratio - 1) < SAME_DEPTH)
        hidden = sure & (ratio > 1 + SAME_DEPTH)
        beside = np.minimum(np.abs(contour) / (SURE_BESIDE * one.view.width), 1.0)
        weight = one.worth * trust[at] * (0.1 + 0.9 * beside)
        votes_for[rows[at], columns[at]] += weight * (same & is_object)
        # Hidden behind the object it may be anything; hidden behind something else as well.
        # A depth that nobody confirms says nothing of where the point would be seen: it is wrong more often than not.
        beside_it = np.where(hidden | ~confident[at], 0.0, OUTSIDE_VOTE)
        votes_against[rows[at], columns[at]] += weight * ~is_object * np.where(same, 1.0, beside_it)
    return votes_for, votes_against


class Hull:
    """The cells that photos see inside their masks.

    Args:
        surface: (P, 3) points of the object's surface.
    """

    def __init__(self, surface: NDArray[np.float64]) -> None:
        low, high = np.percentile(surface, [3, 97], axis=0)
        grown = MARGIN * max(float(np.linalg.norm(high - low)), 1e-9)
        self.low, self.high = low - grown, high + grown
        self.cell = float((self.high - self.low).max()) / CELLS
        shape = np.ceil((self.high - self.low) / self.cell).astype(int)
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).reshape(-1, 3)
        self.points = self.low + (grid + 0.5) * self.cell
        self.seen, self.outside = np.zeros(len(grid), np.int32), np.zeros(len(grid), np.int32)

    def carve(self, view: View, object_mask: BoolMask) -> None:
        """Takes a photo's word for what is no object."""
        xy, z = project(view, self.points)
        with np.errstate(invalid="ignore"):
            shown = (z > 0) & (xy[:, 0] >= 0) & (xy[:, 1] >= 0) & (xy[:, 0] < view.width) & (xy[:, 1] < view.height)
        which = np.flatnonzero(shown)
        # A mask is a pixel or two off, and cells are coarse.
        pixels = view.fx * self.cell / max(float(np.median(z[which])), 1e-9) if len(which) else 1.0
        size = 2 * int(np.ceil(pixels / 2)) + 1
        grown = cv2.dilate(object_mask.astype(np.uint8), np.ones((size, size), np.uint8)) > 0
        self.seen[which] += 1
        self.outside[which] += ~grown[xy[which, 1].astype(np.int64), xy[which, 0].astype(np.int64)]

    @property
    def inside(self) -> NDArray[np.float64]:
        """(P, 3) centres of the cells that may be object."""
        return self.points[(self.seen > 0) & (self.outside <= DOUBT * self.seen)]

    def silhouette(self, view: View, shape: tuple[int, int]) -> tuple[BoolMask, float]:
        """Where a photo may show the object: (h, w), and the part of the hull that is in the frame."""
        points = self.inside
        drawn = np.zeros(shape, np.uint8)
        if not len(points):
            return drawn > 0, 0.0
        xy, z = project(view, points)
        with np.errstate(invalid="ignore"):
            shown = (z > 0) & (xy[:, 0] >= 0) & (xy[:, 1] >= 0) & (xy[:, 0] < view.width) & (xy[:, 1] < view.height)
        if not shown.any():
            return drawn > 0, 0.0
        x, y = (xy[shown] * [shape[1] / view.width, shape[0] / view.height]).astype(np.int64).T
        drawn[y, x] = 1
        pixels = view.fx * shape[1] / view.width * self.cell / float(np.median(z[shown]))
        size = 2 * int(np.ceil(pixels / 2)) + 1
        return cv2.dilate(drawn, np.ones((size, size), np.uint8)) > 0, float(shown.mean())


class ColourModel:
    """How much more often the object has a colour than what surrounds it, over all known photos."""

    def __init__(self) -> None:
        bins = 256 >> COLOUR_SHIFT
        self.inside, self.outside = np.zeros((bins,) * 3, np.float32), np.zeros((bins,) * 3, np.float32)

    def learn(self, lab: NDArray[np.uint8], object_mask: BoolMask, weight: float = 1.0) -> None:
        """Takes a photo's colours in and around its mask: lab (H, W, 3) uint8, object_mask (H, W)."""
        rows, columns = np.nonzero(object_mask)
        if not len(rows):
            return
        margin = int(0.5 * max(np.ptp(rows), np.ptp(columns))) + 4
        window = (
            slice(max(0, rows.min() - margin), rows.max() + margin + 1),
            slice(max(0, columns.min() - margin), columns.max() + margin + 1),
        )
        colours, inside = lab[window] >> COLOUR_SHIFT, object_mask[window]
        for histogram, where in ((self.inside, inside), (self.outside, ~inside)):
            np.add.at(histogram, tuple(colours[where].T), weight / max(1, where.sum()))

    def log_ratio(self, lab: NDArray[np.uint8]) -> Floats:
        """(H, W) log of how much more often, within +- `MOST_COLOUR`; 0 for colours that nobody has seen."""
        smooth = [scipy.ndimage.gaussian_filter(histogram, 0.7) for histogram in (self.inside, self.outside)]
        least = 1e-4 * max(float(self.inside.sum()), 1e-9)
        ratio = np.log((smooth[0] + least) / (smooth[1] + least)).clip(-MOST_COLOUR, MOST_COLOUR)
        colours = lab >> COLOUR_SHIFT
        return ratio[colours[..., 0], colours[..., 1], colours[..., 2]].astype(np.float32)
