"""What photos with known object masks say of another photo's pixels by depth, and how that is fitted to the photo. Pure.

A pixel with depth is a point in space. A photo that shows the point says what it is by its mask. A photo that shows something else
there says at least this much: a point that lies outside its mask, with nothing before it, is no object; where the mask ends,
the object ends, wherever it is. All photos together carve the visual hull (Laurentini 1994) out of the space around the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.scene.cameras import project, unproject
from spinnerf_ns.scene.view import View
from spinnerf_ns.segmentation.refine import (
    apply_palette,
    build_palette,
    local_colour_probability,
    log_odds,
    random_walk,
    sigmoid,
    signed_distance,
    to_lab,
)
from spinnerf_ns.stereo.consistency import BRIDGED, CONFIDENT

Floats = NDArray[np.float32]

SAME_DEPTH = 0.02
"""Relative depth within which a photo shows a point itself."""
PIXELS_OFF = 1.0
"""Pixels of the depth map by which two photos' depths of a point beside the object may be off, where neither is confident."""
PART_OFF = 0.1
"""At most so much of the object's own inverse depth."""
TRUST_BEHIND = 0.7
"""What the word of two such photos counts: that both are wrong and yet agree is rare."""
SURE_BESIDE = 0.012
"""So far from a mask's contour, as a part of the photo's width, its word counts in full; less towards the contour, which may be
a few pixels off: photos that follow it would hand that on."""
OUTSIDE_VOTE = 0.3
"""What a photo's word counts where it has no depth: outside of its mask a point is hardly object, if nothing hides it."""
FULL_VOTE = 1.5
"""Votes for or against at which a pixel is as sure as carried pixels get."""
VOTES_REACH = 1.0
"""Gaussian radius, in pixels of the depth map, in which a vote counts: on grass and leaves only some pixels have one."""
HULL_ODDS = 1.2
"""Log odds of the object inside the hull, where nobody voted, once many masks have carved it."""
OUT_OF_HULL_ODDS = -3.0
"""The same well outside of it."""
BESIDE_HULL = 0.02
"""What well outside means, as a part of the photo's width."""
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
class Masked:
    """A photo whose object mask is known."""

    view: View
    object_mask: BoolMask
    """(H, W) at the photo's size."""
    worth: float = 1.0
    """How far its mask is to be trusted."""
    is_source: bool = False
    """Whether somebody pointed at it, so that its contour is no guess."""


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
    """As of `Masked`."""
    is_source: bool = False
    """As of `Masked`."""

    @cached_property
    def contour_distance(self) -> Floats:
        """(H, W) pixels to the mask's contour, positive inside."""
        return signed_distance(self.object_mask)

    @cached_property
    def object_inverse(self) -> float:
        """Median inverse depth of the object."""
        inside = cv2.resize(self.object_mask.astype(np.uint8), self.z.shape[::-1], interpolation=cv2.INTER_AREA) > 0
        z = self.z[inside & (self.z > 0)]
        return 1 / float(np.median(z)) if z.size else 0.0


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
            # What lies far behind the object is not measured as finely, nor need it be: pixels and a step of depth beside it do.
            apart = np.where(their > 0, np.abs(1 / depth[at] - 1 / their), np.inf)
        baseline = max(float(np.linalg.norm(one.view.c2w[:, 3] - view.c2w[:, 3])), 1e-9)
        pixel = one.view.width / (one.view.fx * one.z.shape[1] * baseline)
        behind = ~is_object & (their > 0) & (apart < min(PIXELS_OFF * pixel, PART_OFF * one.object_inverse))
        same = (sure & (np.abs(ratio - 1) < SAME_DEPTH)) | behind
        hidden = sure & (ratio > 1 + SAME_DEPTH) & ~same
        beside = np.abs(contour) / (SURE_BESIDE * one.view.width)
        # A source's contour was pointed at. One that was fitted may miss a sliver that came into sight: it must not hand that on.
        beside = 0.1 + 0.9 * np.minimum(beside, 1.0) if one.is_source else np.clip(beside - 1.0, 0.0, 1.0)
        trusted = np.where(behind, np.maximum(trust[at], TRUST_BEHIND), trust[at])
        weight = one.worth * trusted * np.where(is_object, np.maximum(beside, 0.1), beside)
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

    def carve(self, known: Known | Masked) -> None:
        """Takes a photo's word for what is no object."""
        view, object_mask = known.view, known.object_mask
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


class FitOptions(Protocol):
    """How votes are fitted to a photo; lengths in pixels of the window around the object."""

    window_size: int
    band: int
    colours: int
    colour_radius: float
    smoothness: float


class Carried:
    """What known photos and the hull say of a photo, on its depth map's grid.

    Args:
        votes_for, votes_against: (h, w).
        possible: (h, w) the hull's silhouette.
        carved: how far the hull is to be believed, in [0, 1].
    """

    def __init__(self, votes_for: Floats, votes_against: Floats, possible: BoolMask, carved: float) -> None:
        # Many photos' votes are no more than sure, or blurring would carry them over the contour to what nobody has voted on; there
        # a rim would be lost from photo to photo.
        enough = np.minimum(1.0, FULL_VOTE / np.maximum(votes_for + votes_against, 1e-6))
        votes_for, votes_against = votes_for * enough, votes_against * enough
        votes_for, votes_against = (cv2.GaussianBlur(each, (0, 0), VOTES_REACH) for each in (votes_for, votes_against))
        total = votes_for + votes_against
        self.voted = total > 0.25
        self.says = (votes_for - votes_against) / np.maximum(total, 1e-6)
        strength = np.minimum(total / FULL_VOTE, 1.0)
        odds = 3.0 * self.says * strength
        # The hull ends where the masks do, which may be too early: only well outside of it nothing is object.
        beyond = np.minimum(-signed_distance(possible) / (BESIDE_HULL * possible.shape[1]), 1.0)
        unsaid = np.where(possible, HULL_ODDS * carved, OUT_OF_HULL_ODDS * beyond)
        odds = np.where(self.voted, odds, unsaid)
        self.odds = odds.astype(np.float32)
        self.object = self.voted & (self.says > 0)
        self.possible = possible

    def agreement(self, object_mask: BoolMask) -> tuple[float, float]:
        """IoU with what was carried, among voted pixels; and the part of the mask that was voted to be object."""
        small = cv2.resize(object_mask.astype(np.float32), self.odds.shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
        both, either = small & self.object, (small | self.object) & self.voted
        return float(both.sum() / max(1, either.sum())), float(both.sum() / max(1, small.sum()))

    def fitted(self, image: Image, colours: ColourModel, options: FitOptions) -> Floats | None:
        """(H, W) probability of the object that follows the photo's edges; None where there is nothing to fit."""
        window = self._window(image, options.window_size)
        if window is None:
            return None
        affine, size = window
        height, width = image.shape[:2]
        scale = abs(affine[0, 0])
        shown = cv2.GaussianBlur(image, (0, 0), 0.4 / scale) if scale < 0.6 else image
        how = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
        lab = to_lab(cv2.warpAffine(shown, affine, size, **how))
        across, down = self.odds.shape[1] / width, self.odds.shape[0] / height
        to_photo = np.array([[1 / across, 0, 0.5 / across - 0.5], [0, 1 / down, 0.5 / down - 0.5]])
        from_map = np.c_[affine[:, :2] @ to_photo[:, :2], affine[:, :2] @ to_photo[:, 2] + affine[:, 2]]
        odds = cv2.warpAffine(cv2.medianBlur(self.odds, 3), from_map, size, **how)
        voted = cv2.warpAffine(self.voted.astype(np.float32), from_map, size, **how) > 0.5
        probability = _fit(lab, odds, voted, colours.log_ratio(lab), options)
        found = cv2.warpAffine(probability, affine, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        return found

    def _window(self, image: Image, longest: int) -> tuple[NDArray[np.float64], tuple[int, int]] | None:
        """(2, 3) from the photo's pixels to a window around where the object may be, and its (width, height)."""
        # Specks of votes do not widen it.
        core = cv2.morphologyEx(self.object.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
        wanted = core if core.sum() >= 20 else self.possible
        wanted = wanted & cv2.dilate(self.possible.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        rows, columns = np.nonzero(wanted)
        if not len(rows):
            return None
        scale = np.array([image.shape[1] / self.odds.shape[1], image.shape[0] / self.odds.shape[0]])
        low = np.array([columns.min(), rows.min()]) * scale
        high = np.array([columns.max() + 1, rows.max() + 1]) * scale
        margin = 0.4 * float((high - low).max()) + 8
        low, high = np.maximum(low - margin, 0), np.minimum(high + margin, [image.shape[1], image.shape[0]])
        zoom = longest / float((high - low).max())
        affine = np.array([[zoom, 0, 0.5 * zoom - 0.5 - low[0] * zoom], [0, zoom, 0.5 * zoom - 0.5 - low[1] * zoom]])
        return affine, (max(16, round(zoom * (high - low)[0])), max(16, round(zoom * (high - low)[1])))


def _fit(lab: Image, odds: Floats, voted: BoolMask, likely: Floats, options: FitOptions) -> Floats:
    """(H, W) probability of the object: votes, local colours, edges."""
    unsaid = cv2.GaussianBlur(1.0 - voted.astype(np.float32), (0, 0), 2.0)
    carried = cv2.GaussianBlur(odds, (0, 0), 2.0) + likely * unsaid
    distance = signed_distance(carried > 0)
    depth = min(float(options.band), 0.6 * max(1.0, float(distance.max())))
    surely_object = (distance > depth) & (carried > 1.0)
    surely_background = (distance < -options.band) & (carried < -1.0)
    own = apply_palette(lab, build_palette(lab, options.colours))
    said = voted & (np.abs(carried) > 1.0)
    labels = (carried > 0).astype(np.float32)
    evidence = [
        (own, labels, (surely_object | surely_background).astype(np.float32)),
        (own, labels, 0.5 * said.astype(np.float32)),
    ]
    colour, _ = local_colour_probability(own, evidence, options.colour_radius)
    prior = sigmoid(carried + log_odds(colour)).astype(np.float32)
    return random_walk(lab, prior, np.abs(2 * prior - 1), surely_object, surely_background, options.smoothness)
