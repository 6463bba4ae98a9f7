"""What no photo shows is invented once: in a few reference photos, from which depth carries it into all others.

An inpainter that draws every photo's remainder on its own draws as many different things as there are photos, and the field
blurs them. Here one photo is completed, colour and depth; what it now shows is carried into the others' open pixels and
blended in at their rim; what is still open is completed in the next reference, the photo that opens most. So a full circle
gets several references and a forward-facing capture one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from nerfstudio.utils.rich_utils import CONSOLE

from spinnerf_ns.conventions import BoolMask, Image, window_around
from spinnerf_ns.removal.disparity.membrane import span_membrane
from spinnerf_ns.removal.views.photos import corner
from spinnerf_ns.scene.cameras import project, unproject_pixels
from spinnerf_ns.scene.view import View

MOST_REFERENCES = 8
"""Photos that are completed as references; what they leave open is small, and each photo's own matter."""
MOST_CANDIDATES = 24
"""Photos that are looked at for the next reference, evenly along the list: neighbours open nearly the same."""
SAMPLES = 256
"""Open pixels of a photo that stand for all of them when the next reference is chosen."""
LEAST_OPENS = 0.05
"""A reference that would open less than this part of what is open is not worth it."""
RIM = 3
"""Pixels beyond an open region at which the carried colours are compared with the photo's own."""
MOST_BLEND = 32.0
"""8-bit levels by which blending may move a carried colour: more is no exposure, but another thing on the rim."""
STEEPEST = 4.0
"""A reference's pixel that would cover more than this many of another photo's pixels per side is seen too flat to be carried."""
LEFT_OUT = 128
"""8-bit grey of pixels that are not invented."""

Floats = npt.NDArray[np.float32]
Draw = Callable[[int, Image, BoolMask], Image]
"""(photo's number, (H, W, 3) image, (H, W) to_fill) -> the image with `to_fill` drawn."""


@dataclass
class Open:
    """A photo with pixels that no photo shows."""

    view: View
    """Its camera."""
    image: Image
    """(H, W, 3) uint8 RGB; what other photos show is filled in already."""
    to_fill: BoolMask
    """(H, W) bool: the pixels that are to be invented."""
    z: Floats
    """(H, W) planar depth without the object, completed in `to_fill` too; 0 = unknown."""
    is_source: bool = True
    """Whether it may be a reference; a held-out photo may not."""


@dataclass
class Invented:
    """A photo after its open pixels were invented."""

    image: Image
    """(H, W, 3) uint8."""
    z: Floats
    """(H, W) planar depth; where colours were carried, the reference's surface."""
    source: npt.NDArray[np.uint8]
    """(H, W): 1 + the place of the reference that a pixel was carried from; 0 = not carried."""


@dataclass
class Reference:
    """A photo that was completed for all."""

    number: int
    """The photo's number."""
    photo: Open
    """The photo before."""
    image: Image
    """(H, W, 3) uint8: completed."""
    z: Floats
    """(H, W) planar depth: completed."""


def choose_references(
    photos: Sequence[Open], first: int, draw: Draw, mended: Image | None = None, carry: bool = True
) -> list[Reference]:
    """Chooses the reference photos and completes them one after another.

    Args:
        photos: all photos; those without open pixels take no part.
        first: number of the first reference.
        draw: the 2-D inpainter, for what a reference has to complete by itself.
        mended: the first reference as a person mended it, (H, W, 3) uint8.
        carry: off: only the first one is completed, since nothing will be carried.

    Returns:
        The references in the order in which they were completed; none if the first one has no open pixels.
    """
    references: list[Reference] = []
    samples = [_Sample.of(photo) for photo in photos] if carry else []
    number: int | None = first if photos[first].to_fill.any() else None
    while number is not None:
        photo = photos[number]
        filled = carried(references, photo)
        left = photo.to_fill & (filled.source == 0)
        if mended is not None and number == first:
            filled.image[left] = mended[left]
        elif left.any():
            filled.image[left] = draw(number, filled.image, left)[left]
        references.append(Reference(number, photo, filled.image, filled.z))
        number = None
        if carry and len(references) < MOST_REFERENCES:
            for sample in samples:
                sample.still &= ~_shown_in(photo, sample.points)
            number = _next(photos, samples, [reference.number for reference in references])
    return references


def carried(references: Sequence[Reference], photo: Open) -> Invented:
    """What the completed references show of a photo's open pixels, the first reference first.

    Returns:
        The photo with these filled in, blended at the rim of what was open; the others are as they were, `source` 0.
    """
    result = Invented(photo.image.copy(), photo.z.copy(), np.zeros(photo.to_fill.shape, np.uint8))
    for place, reference in enumerate(references):
        left = photo.to_fill & (result.source == 0)
        if reference.photo.view.photo == photo.view.photo or not left.any():
            continue
        taken, z, colours = _shown_by(reference, photo, left)
        if taken.any():
            image = colours + _blending(reference, photo, result, taken)
            result.image[taken] = np.clip(np.round(image[taken]), 0, 255).astype(np.uint8)
            result.z[taken] = z[taken]
            result.source[taken] = place + 1
    return result


def completed(references: Sequence[Reference], index: int, photo: Open, draw: Draw, carry: bool = True) -> Invented:
    """A photo without open pixels: as a reference was completed, or carried from the references and the rest drawn.

    Args:
        references: from `choose_references`.
        index: the photo's number.
        photo: the photo.
        draw: the 2-D inpainter.
        carry: off: all is drawn.
    """
    for reference in references:
        if reference.number == index:
            return Invented(reference.image, reference.z, np.zeros(photo.to_fill.shape, np.uint8))
    result = carried(references if carry else (), photo)
    left = photo.to_fill & (result.source == 0)
    if left.any():
        result.image[left] = draw(index, result.image, left)[left]
    return result


def left_out(photo: Open) -> Invented:
    """A photo whose open pixels are no part of any training: grey, and without a depth."""
    image, z = photo.image.copy(), photo.z.copy()
    image[photo.to_fill], z[photo.to_fill] = LEFT_OUT, 0
    return Invented(image, z, np.zeros(photo.to_fill.shape, np.uint8))


def say_provenance(region: int, unseen: int, invention: bool = True) -> None:
    """Says how much of what is removed other photos show, before anything is trained on it.

    Args:
        region: pixels that are removed, in all photos.
        unseen: those of them that no photo shows.
        invention: whether these are invented.
    """
    if region:
        share = round(100 * unseen / region)
        what = "invented" if invention else "left out"
        text = f"Of what was removed, {100 - share} % is seen in other photos, {share} % is seen in none and is {what}"
        CONSOLE.print(text, markup=False, highlight=False, soft_wrap=True)


# ------------------------------------------------------------------------------------------------------------- the choice
@dataclass
class _Sample:
    """What stands for a photo's open pixels."""

    points: npt.NDArray[np.float64]
    """(N, 3) up to `SAMPLES` points of them, world frame."""
    still: BoolMask
    """(N,) which no reference shows yet."""
    pixels: int
    """How many they are."""
    is_source: bool
    """As the photo's."""

    @classmethod
    def of(cls, photo: Open) -> _Sample:
        rows, columns = np.nonzero(photo.to_fill & (photo.z > 0))
        chosen = np.linspace(0, rows.size - 1, min(rows.size, SAMPLES)).astype(np.int64)
        points = unproject_pixels(photo.view, rows[chosen], columns[chosen], photo.z)
        return cls(points, np.ones(len(points), bool), int(photo.to_fill.sum()), photo.is_source)


def _shown_in(photo: Open, points: npt.NDArray[np.float64]) -> BoolMask:
    """(N,) whether a point falls on an open pixel of a photo, at about its depth: completing the photo would show it."""
    if not len(points):
        return np.zeros(0, bool)
    xy, z = project(photo.view, points)
    height, width = photo.to_fill.shape
    inside = np.isfinite(xy).all(axis=1) & (z > 0)
    column, row = (np.where(inside, value, -1).astype(np.int64) for value in xy.T)
    inside &= (column >= 0) & (column < width) & (row >= 0) & (row < height)
    column, row = np.where(inside, column, 0), np.where(inside, row, 0)
    # Photos complete their depth each for itself, so it agrees less well than depth that was seen.
    agree = np.abs(photo.z[row, column] / np.where(inside, z, 1) - 1) < 0.1
    return inside & agree & photo.to_fill[row, column]


def _next(photos: Sequence[Open], samples: Sequence[_Sample], taken: Sequence[int]) -> int | None:
    """The photo whose completion would show most of what is still open; None if that is too little to be worth it."""
    total = sum(sample.pixels for sample in samples)
    able = [number for number, sample in enumerate(samples) if sample.is_source and sample.still.any()]
    candidates = [number for number in able if number not in taken]
    if not candidates or not total:
        return None
    if len(candidates) > MOST_CANDIDATES:
        candidates = [candidates[place] for place in np.linspace(0, len(candidates) - 1, MOST_CANDIDATES).astype(int)]
    points = np.concatenate([sample.points[sample.still] for sample in samples])
    # A photo counts by its open pixels, of which each has the same number of samples.
    shares = [np.full(int(each.still.sum()), each.pixels / max(len(each.points), 1)) for each in samples]
    weight = np.concatenate(shares)
    gains = [float(weight[_shown_in(photos[number], points)].sum()) for number in candidates]
    best = int(np.argmax(gains))
    return candidates[best] if gains[best] >= LEAST_OPENS * total else None


# ----------------------------------------------------------------------------------------------------------- the carrying
def _shown_by(reference: Reference, photo: Open, left: BoolMask) -> tuple[BoolMask, Floats, Floats]:
    """Which of the pixels that are `left` the reference's invented part covers, at which depth, in which colours.

    The reference's surface is thrown forward, so that both photos show the same surface whatever this one's own depth said.

    Returns:
        (H, W) bool, (H, W) planar depth, (H, W, 3) float32 colours.
    """
    opened = reference.photo.to_fill & (reference.z > 0)
    around = cv2.dilate(opened.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # so that no seam opens at its rim
    rows, columns = np.nonzero(around & (reference.z > 0))
    xy, depth = project(photo.view, unproject_pixels(reference.photo.view, rows, columns, reference.z))
    height, width = left.shape
    spread = _spread_of(reference, photo)
    z = np.full((height, width), np.inf, np.float32)
    valid = np.isfinite(xy).all(axis=1) & (depth > 0)
    xy, depth = xy[valid], depth[valid].astype(np.float32)
    for down in range(-spread, spread + 1):
        for right in range(-spread, spread + 1):
            column, row = np.floor(xy[:, 0]).astype(np.int64) + right, np.floor(xy[:, 1]).astype(np.int64) + down
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            np.minimum.at(z, (row[inside], column[inside]), depth[inside])
    covered = left & np.isfinite(z)
    colours = np.zeros((height, width, 3), np.float32)
    z = np.where(covered, cv2.medianBlur(np.where(np.isfinite(z), z, 0), 3), 0)
    covered &= z > 0
    rows, columns = np.nonzero(covered)
    colour, inside = _sample(reference, unproject_pixels(photo.view, rows, columns, z), around)
    covered[rows[~inside], columns[~inside]] = False
    colours[rows[inside], columns[inside]] = colour[inside]
    return covered, np.where(covered, z, 0).astype(np.float32), colours


def _spread_of(reference: Reference, photo: Open) -> int:
    """Pixels that a reference's pixel has to cover on each side so that the surface stays closed in a sharper or nearer photo."""
    ratio = photo.view.fx / reference.photo.view.fx
    return int(np.clip(np.ceil(ratio), 1, STEEPEST))


def _sample(reference: Reference, points: npt.NDArray[np.float64], where: BoolMask) -> tuple[Floats, BoolMask]:
    """(N, 3) colours of the reference at points, and whether it shows them there: within `where`, at its depth."""
    xy, z = project(reference.photo.view, points)
    height, width = where.shape
    inside = np.isfinite(xy).all(axis=1) & (z > 0)
    x, y = (np.where(inside, value, 0.5) for value in xy.T)
    inside &= (x >= 0.5) & (x <= width - 0.5) & (y >= 0.5) & (y <= height - 0.5)
    x, y = np.clip(x, 0.5, width - 0.5), np.clip(y, 0.5, height - 0.5)
    at = y.astype(np.int64), x.astype(np.int64)
    shown = reference.z[at]
    inside &= where[at] & (shown > 0) & (np.abs(shown / np.where(z > 0, z, 1) - 1) < 0.05)
    column, row, part_x, part_y = corner(x, y, width, height)
    image = reference.image.astype(np.float32)
    top = image[row, column] * (1 - part_x)[:, None] + image[row, column + 1] * part_x[:, None]
    bottom = image[row + 1, column] * (1 - part_x)[:, None] + image[row + 1, column + 1] * part_x[:, None]
    return (top * (1 - part_y)[:, None] + bottom * part_y[:, None]).astype(np.float32), inside


def _blending(reference: Reference, photo: Open, result: Invented, taken: BoolMask) -> Floats:
    """(H, W, 3) to add to carried colours, so that they meet the photo's own at the rim: the difference there, as a membrane.

    That keeps the carried gradients (Perez et al., Poisson image editing, 2003) and takes exposure and tint from the photo.
    """
    kernel = np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8)
    known = ~photo.to_fill | (result.source > 0)
    rim = (cv2.dilate(taken.astype(np.uint8), kernel) > 0) & known & (result.z > 0)
    rows, columns = np.nonzero(rim)
    answer = np.zeros((*taken.shape, 3), np.float32)
    if not rows.size:
        return answer
    everywhere = np.ones(reference.photo.to_fill.shape, bool)
    colours, inside = _sample(reference, unproject_pixels(photo.view, rows, columns, result.z), everywhere)
    own = result.image[rows, columns].astype(np.float32)
    inside &= (np.abs(own - colours) <= MOST_BLEND).all(axis=1)
    if not inside.any():
        return answer
    window = window_around(taken | rim)
    given = np.zeros(taken.shape, bool)
    given[rows[inside], columns[inside]] = True
    answer[rows[inside], columns[inside]] = (own - colours)[inside]
    answer[window] = span_membrane(answer[window], given[window]).astype(np.float32)
    return answer
