"""Rehearsal: beside the removed region, where everything is known, the scene says which way of completing suits it.

A region of the same shape is planted next to the real one, filled in every way that is at hand, and compared with what the
photo shows there. The way with the least error is taken, and so are the plain ways where they win: nothing is believed to be
better than inpainting photo by photo because it is clever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.removal.layers import Layers, ViewLayers

MOST_PHOTOS = 4
"""Photos in which regions are planted, evenly along the list."""
MOST_PLACES = 2
"""Places in a photo."""
LEAST_INSIDE = 0.8
"""Part of a planted region that must lie in the photo, be usable, and have a known depth."""
CLEAR = 1.1
"""How far a region is moved, in its own sizes."""
BLUR = 1.5
"""Pixels (standard deviation) by which errors are smoothed: grain in other places than the photo's is no fault."""
CLEARLY = 0.9
"""A later candidate must have less than this part of the error of the one before it to be preferred. Drawn by surface, what nobody
shows is 2.3 dB better on the twin, where a rehearsal has that behind by 6 %, and at most 0.3 dB worse in three captures, where it
is level or ahead."""
LEAST_ALIKE = 0.2
"""Part of a planted region that must show surfaces of the region itself for these pixels alone to be compared."""
DIRECTIONS = ((1, 0), (-1, 0), (0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7), (0, 1), (0, -1))
"""(x, y), sideways first: things stand on what goes on beside them."""

Fill = Callable[[int, ViewLayers], Image]
"""(photo's number, the photo with a planted region) -> (H, W, 3) uint8 with the region filled."""
Alike = Callable[[BoolMask], BoolMask]
"""(H, W) bool, a planted region -> those of its pixels that show what the region itself shows."""


@dataclass(frozen=True)
class Rehearsed:
    """How a candidate did."""

    name: str
    """The candidate."""
    error: float
    """Root mean square of smoothed colour errors in the planted regions, 8-bit levels."""


@dataclass
class Rehearsal:
    """Which candidate to take, and why."""

    winner: str
    """Name of the candidate with the least error; the first one where nothing could be planted."""
    table: list[Rehearsed]
    """All candidates, in the order given; empty where nothing could be planted."""
    places: int
    """Planted regions that were compared."""

    def __str__(self) -> str:
        """One line for people."""
        if not self.table:
            return f"Rehearsal: no place beside the removed region is known well enough; taken: {self.winner}"
        errors = ", ".join(f"{each.name} {each.error:.1f}" for each in self.table)
        return f"Rehearsal at {self.places} places beside the removed region, colour error of 255: {errors}; taken: {self.winner}"


@dataclass
class Tried:
    """What came out of one photo."""

    squares: list[float]
    """Per candidate, in their order: squared errors summed over the planted regions' pixels."""
    pixels: int
    """Of the planted regions."""
    places: int
    """Planted regions."""


def rehearse(layers: Sequence[ViewLayers], candidates: Mapping[str, Fill], with_region: Sequence[int] | None = None) -> Rehearsal:
    """Tries the candidates where the truth is known.

    Args:
        layers: all photos; `z_visible` without the object.
        candidates: name -> fill, the preferred ones first.
        with_region: numbers of the photos that show the object, where they are known.

    Returns:
        The winner and the table. Deterministic, so that an export that was interrupted decides alike when it goes on.
    """
    if with_region is None:
        with_region = [number for number, layer in enumerate(layers) if layer.region.any()]
    numbers = photos_to_try(Layers.of(layers).is_source, with_region)
    return decide(list(candidates), [try_photo(number, layers[number], candidates) for number in numbers])


def photos_to_try(is_source: Sequence[bool], with_region: Sequence[int]) -> list[int]:
    """Numbers of the photos in which regions are planted: some of those `with_region` that may be used, evenly."""
    able = [number for number in with_region if is_source[number]]
    return [able[int(place)] for place in np.linspace(0, len(able) - 1, min(MOST_PHOTOS, len(able)))]


def try_photo(number: int, layer: ViewLayers, candidates: Mapping[str, Fill], alike: Alike | None = None) -> Tried:
    """Tries the candidates in one photo, the `number`th; with `alike`, they are compared at such pixels, if there are enough."""
    tried = Tried([0.0] * len(candidates), 0, 0)
    for planted in planted_regions(layer):
        compared = planted if alike is None else alike(planted)
        if compared.sum() < LEAST_ALIKE * planted.sum():
            compared = planted
        hidden = replace(layer, image=_blanked(layer.image, planted), region=planted | layer.region)
        for place, fill in enumerate(candidates.values()):
            error = fill(number, hidden).astype(np.float32) - layer.image
            error = np.where(planted[..., None], error, 0)
            weight = np.maximum(cv2.GaussianBlur(planted.astype(np.float32), (0, 0), BLUR), 1e-6)[..., None]
            smooth = cv2.GaussianBlur(error, (0, 0), BLUR) / weight
            tried.squares[place] += float(np.square(smooth[compared]).mean(axis=1).sum())
        tried.pixels += int(compared.sum())
        tried.places += 1
    return tried


def decide(names: Sequence[str], tried: Sequence[Tried]) -> Rehearsal:
    """The winner among the candidates, from what came out of the photos."""
    pixels = sum(each.pixels for each in tried)
    if not pixels:
        return Rehearsal(names[0], [], 0)
    squares = np.sum([each.squares for each in tried], axis=0)
    table = [Rehearsed(name, float(np.sqrt(square / pixels))) for name, square in zip(names, squares, strict=True)]
    winner = table[0]
    for each in table[1:]:
        if each.error < CLEARLY * winner.error:
            winner = each
    return Rehearsal(winner.name, table, sum(each.places for each in tried))


def planted_regions(layer: ViewLayers) -> list[BoolMask]:
    """The photo's region moved beside itself, to up to `MOST_PLACES` places where everything is known.

    Returns:
        (H, W) bool each; none overlaps the region itself.
    """
    if not layer.region.any():
        return []
    usable = ~layer.region & (layer.z_visible > 0)
    if layer.valid_mask is not None:
        usable &= layer.valid_mask
    _, _, width, height = cv2.boundingRect(layer.region.astype(np.uint8))
    found: list[BoolMask] = []
    for right, down in DIRECTIONS:
        planted = _moved(layer.region, round(CLEAR * width * right), round(CLEAR * height * down))
        taken = any((planted & other).any() for other in found)
        if not taken and (planted & usable).sum() >= LEAST_INSIDE * layer.region.sum():
            found.append(planted & usable)
        if len(found) == MOST_PLACES:
            break
    return found


def _moved(mask: BoolMask, right: int, down: int) -> BoolMask:
    shift = np.array([[1, 0, right], [0, 1, down]], np.float32)
    return cv2.warpAffine(mask.astype(np.uint8), shift, mask.shape[::-1], flags=cv2.INTER_NEAREST) > 0


def _blanked(image: Image, planted: BoolMask) -> Image:
    """The photo without what is asked for: nobody may peep."""
    blanked = image.copy()
    blanked[planted] = 128
    return blanked
