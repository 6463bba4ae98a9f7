"""The colours that other photos offer for a region's pixels, and how many photos speak for and against each pixel's depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image, scale_pixels
from spinnerf_ns.removal.views.photos import LOOSE, POINTS, Numbers, Photos, Points, Seen, corner, look
from spinnerf_ns.scene.cameras import unproject_pixels

if TYPE_CHECKING:
    from spinnerf_ns.removal.layers import ViewLayers

ENOUGH = 8
"""A pixel that this many photos show asks no further ones."""
ALIKE = 24.0
"""Colours within this many 8-bit levels of each other agree."""
LIT = 8
"""Levels nearer than this to black or to white may be clipped, and show no exposure."""
GAIN_LIMIT = 1.25
"""Exposure gains beyond this (or below its inverse) are cut: then it is not exposure that differs."""

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int32]


class Exposure:
    """Factors that make other photos as bright as this one, from the points around the region that both show.

    Args:
        layer: this photo.
        photos: the others.
        tolerance: relative, of depth.
    """

    def __init__(self, layer: ViewLayers, photos: Photos, tolerance: float) -> None:
        self._photos, self._tolerance = photos, tolerance
        self._rim = _rim(layer)
        self._gains = np.ones((len(photos), 3), np.float32)
        self._known = np.full(len(photos), self._rim is None)

    def gains(self, numbers: Numbers | Counts) -> Floats:
        """(M, 3) factors of the photos with these numbers."""
        missing = np.unique(numbers[~self._known[numbers]])
        for start in range(0, len(missing), ENOUGH):
            some = missing[start : start + ENOUGH]
            points, colours = self._rim
            seen = look(self._photos[some], points, self._tolerance)
            seen = seen[(seen.deviation <= LOOSE * self._tolerance) & ~seen.edge]
            for index, number in enumerate(some):
                own = seen[seen.photo == index]
                self._gains[number] = _gain(own, self._photos.image(int(number)), colours)
        self._known[missing] = True
        return self._gains[numbers]


def _rim(layer: ViewLayers) -> tuple[Points, Floats] | None:
    """Up to 1500 points (3, N) of what the photo shows around its region, and their colours."""
    reach = 2 * scale_pixels(25, layer.view.width) + 1
    around = cv2.dilate(layer.region.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    rows, columns = np.nonzero(around & ~layer.region & (layer.z_visible > 0))
    if rows.size < 50:
        return None
    chosen = np.linspace(0, rows.size - 1, min(rows.size, 1500)).astype(np.int64)
    rows, columns = rows[chosen], columns[chosen]
    points = unproject_pixels(layer.view, rows, columns, layer.z_visible)
    return np.ascontiguousarray(points.T), layer.image[rows, columns].astype(np.float32)


def _gain(seen: Seen, image: Image, colours: Floats) -> Floats:
    """(3,) factor of a photo that sees these points of the rim; 1 if they are too few."""
    if len(seen.point) < 50:
        return np.ones(3, np.float32)
    theirs, ours = colours_at(lambda _: image, 1, np.zeros_like(seen.photo), seen.x, seen.y), colours[seen.point]
    lit = ((theirs > LIT) & (theirs < 255 - LIT) & (ours > LIT) & (ours < 255 - LIT)).all(axis=1)  # clipped colours show no gain
    if lit.sum() < 50:
        return np.ones(3, np.float32)
    gain = np.exp(np.median(np.log(ours[lit] / theirs[lit]), axis=0))
    return np.clip(gain, 1 / GAIN_LIMIT, GAIN_LIMIT).astype(np.float32)


@dataclass
class Offers:
    """Colours that photos have for pixels: (M,) pairs of a photo and a pixel, by photo, then by pixel.

    What is kept of `Seen` until it is known which pixels are taken, for up to `ENOUGH` photos per pixel of a region.
    """

    photo: Counts
    """Number of the photo."""
    point: Counts
    """Number of the pixel."""
    place: npt.NDArray[np.uint8]
    """The colour's place among the pixel's, below `ENOUGH`."""
    x: Points
    """Pixel coordinate in the photo; so is y."""
    y: Points
    """Pixel coordinate."""
    deviation: Points
    """As of `Seen`; so is edge."""
    edge: BoolMask
    """As of `Seen`."""

    def __getitem__(self, which: BoolMask) -> Offers:
        return Offers(*(values[which] for values in vars(self).values()))


@dataclass
class Asked:
    """What the others say of N pixels at some depth, and where to fetch the colours that they show."""

    points: Points
    """(3, N) the pixels' points."""
    tolerance: float
    """Relative, of depth."""
    used: Counts = field(init=False)
    """(N,) how many photos show the point, or nearly so: their colours count, of the first `ENOUGH` of them."""
    supports: Counts = field(init=False)
    """(N,) how many photos show the point."""
    conflicts: Counts = field(init=False)
    """(N,) how many look through it."""
    ratios: Points = field(init=False)
    """(N,) sum of the `Seen.ratio` of those that show it."""
    found: list[tuple[slice, list[Offers]]] = field(init=False, default_factory=list)
    """Blocks of pixels, and the colours of theirs that count."""

    def __post_init__(self) -> None:
        count = self.points.shape[1]
        self.used, self.supports, self.conflicts = np.zeros((3, count), np.int32)
        self.ratios = np.zeros(count)

    @property
    def correction(self) -> Points:
        """(N,) factor that moves each depth onto the surface that the photos show near it."""
        return self.supports / np.maximum(np.where(self.supports > 0, self.ratios, 1), 1e-12) + (self.supports == 0)

    def ask(self, photos: Photos) -> None:
        """Asks all of them, the first ones first, until every pixel has enough colours."""
        for start in range(0, self.points.shape[1], POINTS):
            pixels, first = np.arange(start, min(start + POINTS, self.points.shape[1])), 0
            offers: list[Offers] = []
            self.found.append((slice(start, start + POINTS), offers))
            while first < len(photos):
                pixels = pixels[self.used[pixels] < ENOUGH]
                if not pixels.size:
                    break
                # No pixel has enough before the eighth; a few pixels may as well ask more at a time.
                last = min(first + max(ENOUGH, POINTS // pixels.size), len(photos))
                seen = look(photos[first:last], self.points[:, pixels], self.tolerance)
                offers.append(self._count(seen, pixels, first, last))
                first = last

    def _count(self, seen: Seen, pixels: Numbers, first: int, last: int) -> Offers:
        """Counts what photos `first` to `last` say of these pixels; the colours that they have for them."""
        shows = seen.deviation <= LOOSE * self.tolerance
        colours = np.zeros((last - first, pixels.size), np.int8)
        colours[seen.photo[shows], seen.point[shows]] = 1
        earlier = colours.cumsum(axis=0) - colours
        place = self.used[pixels[seen.point]] + earlier[seen.photo, seen.point]
        asked = place < ENOUGH  # the pixel had not enough when the photo's turn came
        seen, place, shows = seen[asked], place[asked], shows[asked]
        exact = seen.deviation <= self.tolerance
        for counts, which in ((self.used, shows), (self.supports, exact), (self.conflicts, seen.through)):
            counts[pixels] += np.bincount(seen.point[which], minlength=pixels.size).astype(np.int32)
        np.add.at(self.ratios, pixels[seen.point[exact]], seen.ratio[exact])
        photo, point = (seen.photo + first).astype(np.int32), pixels[seen.point].astype(np.int32)
        return Offers(photo, point, place.astype(np.uint8), seen.x, seen.y, seen.deviation, seen.edge)[shows]

    def colours(self, taken: BoolMask, layer: ViewLayers, photos: Photos, exposure: Exposure | None) -> npt.NDArray[np.uint8]:
        """(M, 3): the colours of those of the photo's pixels that are taken; `photos` were asked."""
        blocks = [self._block_colours(offers, taken, block, layer, photos, exposure) for block, offers in self.found]
        return np.concatenate([np.zeros((0, 3), np.uint8), *blocks])

    def _block_colours(
        self, offers: list[Offers], taken: BoolMask, block: slice, layer: ViewLayers, photos: Photos, exposure: Exposure | None
    ) -> npt.NDArray[np.uint8]:
        """(M, 3): the colours of a block's pixels that are taken."""
        number = np.cumsum(taken[block]) - 1
        rgb = np.zeros((np.count_nonzero(taken[block]), ENOUGH, 3), np.float32)
        weight = np.zeros(rgb.shape[:2], np.float32)
        for each in offers:
            each = each[taken[each.point]]
            colour = colours_at(photos.image, len(photos), each.photo, each.x, each.y)
            if exposure is not None:
                colour = colour * exposure.gains(each.photo)
            at = number[each.point - block.start]
            rgb[at, each.place] = colour
            weight[at, each.place] = _weight(layer, photos, self.points, each, self.tolerance)
        return _agreed(rgb, weight)


def colours_at(image_of: Callable[[int], Image], count: int, photo: Numbers | Counts, x: Points, y: Points) -> Floats:
    """(M, 3) colours of the images with these numbers, which are ordered and below `count`, at these places."""
    corners = np.empty((4, len(x), 3), np.uint8)
    parts = np.empty((2, len(x), 1))
    starts = np.searchsorted(photo, np.arange(count + 1))
    for number, (start, end) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        if start == end:
            continue
        image = image_of(number)
        height, width = image.shape[:2]
        column, row, *parts[:, start:end, 0] = corner(x[start:end], y[start:end], width, height)
        pixel = row * width + column
        corners[:, start:end] = image.reshape(-1, 3)[np.stack([pixel, pixel + 1, pixel + width, pixel + width + 1])]
    part_x, part_y = parts
    top = corners[0] * (1 - part_x) + corners[1] * part_x
    bottom = corners[2] * (1 - part_x) + corners[3] * part_x
    return (top * (1 - part_y) + bottom * part_y).astype(np.float32)


def _weight(layer: ViewLayers, photos: Photos, points: Points, seen: Offers, tolerance: float) -> Floats:
    """(M,) trust in a photo's colour: it should look from nearly the same direction, from as near, and not on an edge."""
    points = points[:, seen.point]
    here, there = points - layer.view.c2w[:, 3:], points - photos.cameras.center[seen.photo, :, 0].T
    here_norm, there_norm = np.sqrt((here * here).sum(axis=0)), np.sqrt((there * there).sum(axis=0))
    cosine = np.clip((here * there).sum(axis=0) / np.maximum(here_norm * there_norm, 1e-12), -1, 1)
    nearness = 1 / (np.arccos(cosine) + 0.02) ** 2
    focal = photos.focal[seen.photo]
    detail = np.minimum(1, (focal / there_norm) / (layer.view.fx / here_norm))
    exact = np.exp(-((seen.deviation / tolerance) ** 2) / 2)
    return (nearness * detail**2 * exact * np.where(seen.edge, 0.02, 1) + 1e-6).astype(np.float32)


def _agreed(rgb: Floats, weight: Floats) -> npt.NDArray[np.uint8]:
    """(M, 3): the mean of what agrees with the colour that most weight agrees with; never a mean of different things."""
    red, green, blue = (np.abs(channel[:, :, None] - channel[:, None]) < ALIKE for channel in np.moveaxis(rgb, 2, 0))
    alike = red & green & blue
    votes = (alike * weight[:, None, :]).sum(axis=2) * (weight > 0)
    agree = np.take_along_axis(alike, votes.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    share = agree * weight
    mean = (share[..., None] * rgb).sum(axis=1) / np.maximum(share.sum(axis=1), 1e-12)[:, None]
    return np.clip(np.round(mean), 0, 255).astype(np.uint8)
