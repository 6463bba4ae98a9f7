"""Mask refinement by views: masked pixels whose background other photos really show are filled from them.

SPIn-NeRF does this before inpainting, one view against the others, pixel by pixel; here all pairs, vectorised. The smaller
region that is left, `unseen_mask`, is the only thing that needs invention. A masked pixel is accepted when
  * its background point, unprojected from `z_background`, falls on a pixel of another photo that is outside that photo's
    region and whose visible depth is the point's depth there, within the tolerance;
  * not more photos look through the point than show it (then it hangs in the air: nothing was ever seen there);
  * its neighbours are accepted at about the same depth.
Where `z_background` is noisy or missing, the depth of the neighbours is continued, moved onto the surface that the other
photos show there, and must pass the same test. A pixel's colour comes from the photos that see it from nearly the same
direction and agree with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image, scale_pixels, window_around
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.layers import Layers, ViewLayers, kept_photos
from spinnerf_ns.removal.views.offers import Asked, Exposure
from spinnerf_ns.removal.views.photos import EDGE, LOOSE, Photos
from spinnerf_ns.scene.camera_path import order_along_path
from spinnerf_ns.scene.cameras import ray_directions
from spinnerf_ns.scene.view import View

Floats = npt.NDArray[np.float32]

MOST_SOURCES = 72
"""Photos that are asked about each photo: the nearest ones, and for a third of them photos that are spread over all."""
LEAST_SOURCES = 24
"""So many of photos that are large."""
SOURCE_PIXELS = 400_000_000
"""What large means: more photos than make up so many pixels are not asked, for their depth is in memory (4 bytes each)."""
GROWTH = 24
"""Rounds, of two pixels each, in which accepted regions grow into pixels whose `z_background` is noisy or unknown."""
SPECK_PER_1000 = 6.0
"""Accepted islands smaller than a square of this side (pixels of a 1000-pixel-wide photo) are noise."""


@dataclass
class Filled:
    """A photo after the other photos gave what they show."""

    image: Image
    """(H, W, 3) uint8: the photo; inside the region, what other photos show. Unseen pixels are as they were."""
    unseen_mask: BoolMask
    """(H, W) bool: the region's pixels that no photo shows."""
    z: Floats
    """(H, W) float32: `z_visible` outside the region, `z_background` where filled, 0 where unseen."""


def fill_from_views(
    layers: Sequence[ViewLayers],
    relative_tolerance: float = 0.01,
    progress: Callable[[int], None] | None = None,
    max_sources: int | None = None,
    match_exposure: bool = True,
) -> list[Filled]:
    """Fills every photo's region from other photos that may be sources.

    Args:
        layers: the photos; all depths in the units of the views' poses.
        relative_tolerance: depths agree when they differ by no more than this fraction.
        progress: called with a photo's number when it is done.
        max_sources: ask only this many photos, nearest by pose first; None: as `Sources` (pixels stop asking when enough answer).
        match_exposure: scale another photo's colours by what both photos show around the region.

    Returns:
        One `Filled` per photo. Pixels outside the regions are identical to the photo.

    Raises:
        SpinnerfError: a layer's shape differs from its photo's.
    """
    for layer in layers:
        _check(layer)
    sources, filled = Sources(layers), []
    for number, layer in enumerate(layers):
        filled.append(fill_photo(layer, sources.of(number, layer, max_sources), relative_tolerance, match_exposure))
        if progress is not None:
            progress(number)
    return filled


def fill_photo(layer: ViewLayers, others: Photos, tolerance: float = 0.01, match_exposure: bool = True) -> Filled:
    """Fills one photo's region from others, the first ones first; arguments as of `fill_from_views`."""
    return _fill(layer, others, tolerance, match_exposure)


def most_sources(views: Sequence[View]) -> int:
    """How many photos are asked about each of the views' photos at most."""
    return min(MOST_SOURCES, max(LEAST_SOURCES, kept_photos(views, SOURCE_PIXELS)))


class Sources:
    """Which photos are asked about a photo, and in which order.

    Those that look from nearest by, and some more that are spread over all: what hides behind the object from nearby shows from
    elsewhere. Photos that hardly anybody needs would be asked by every photo, otherwise, and time would grow with the square
    of their number.

    Args:
        layers: all photos.
        clean: numbers of those that show the place without the object: they are asked wherever they stand, the nearest of them
            where they are many.
    """

    def __init__(self, layers: Sequence[ViewLayers], clean: Sequence[int] = ()) -> None:
        self.layers, self._clean = Layers.of(layers), frozenset(clean)
        views = self.layers.views
        able = [number for number in order_along_path(views) if self.layers.is_source[number]]
        self.count = most_sources(views)
        """Photos that are asked about each photo at most."""
        spread = min(self.count // 3, len(able))
        self._spread = {able[place] for place in np.linspace(0, len(able) - 1, spread).round().astype(int)} if able else set()
        self._able = np.array(sorted(able), np.int64)
        self._poses = np.stack([view.c2w for view in views]) if views else np.zeros((0, 3, 4))
        # With room for more than are asked at once, what neighbours ask, too, need not be read again.
        self.photos = Photos(self.layers, min(len(views), max(self.count, min(2 * self.count, kept_photos(views, SOURCE_PIXELS)))))

    def of(self, number: int, layer: ViewLayers, most: int | None = None) -> Photos:
        """The photos that are asked about one, nearest by pose first.

        Args:
            number: the photo's.
            layer: what is known of it.
            most: ask only so many.
        """
        nearest = self._nearest_first(number, layer)
        if most is None and len(nearest) > self.count:
            clean = set([other for other in nearest if other in self._clean][: self.count // 3])
            near = self.count - len(self._spread) - len(clean)
            nearest = [*nearest[:near], *(other for other in nearest[near:] if other in self._spread or other in clean)]
        return self.photos[np.array(nearest[:most], np.int64)]

    def _nearest_first(self, number: int, layer: ViewLayers) -> list[int]:
        """By distance between the cameras, and by the angle between their axes: a right angle counts as the scene's depth."""
        known = layer.z_visible[layer.z_visible > 0]
        depth = float(np.median(known)) if known.size else 1.0
        others = self._able[self._able != number]
        poses = self._poses[others]
        apart = np.linalg.norm(poses[:, :, 3] - layer.view.c2w[:, 3], axis=1) / depth
        apart = apart + 1 - poses[:, :, 2] @ layer.view.c2w[:, 2]
        return [int(other) for other in others[np.argsort(apart, kind="stable")]]


def _check(layer: ViewLayers) -> None:
    shape = (layer.view.height, layer.view.width)
    for name in ("image", "region", "z_visible", "z_background"):
        found = getattr(layer, name).shape[:2]
        if found != shape:
            raise SpinnerfError(
                f"{layer.view.photo}: {name} is {found[1]}x{found[0]}, the photo at the resolution used is "
                f"{shape[1]}x{shape[0]}; render or scale it to that size"
            )


def _fill(layer: ViewLayers, others: Photos, tolerance: float, match_exposure: bool) -> Filled:
    image, z = layer.image.copy(), np.where(layer.region, 0, layer.z_visible).astype(np.float32)
    if not layer.region.any() or not len(others):
        return Filled(image, layer.region.copy(), z)
    filling = _Filling(layer, others, tolerance, match_exposure, image, z)
    filling.take_background()
    filling.grow()
    accepted = np.zeros_like(layer.region)
    accepted[filling.window] = filling.accepted
    unseen = layer.region & ~_without_specks(accepted, layer.view.width)
    image[unseen], z[unseen] = layer.image[unseen], 0
    return Filled(image, unseen, z)


class _Filling:
    """A region that is being filled. Its masks and depths are those of a window around it: most of a photo has no part in it.

    Args:
        image, z: what is filled, in place; the photo and its depth, 0 in the region.
    """

    def __init__(self, layer: ViewLayers, others: Photos, tolerance: float, match_exposure: bool, image: Image, z: Floats) -> None:
        self._layer, self._others, self._tolerance = layer, others, tolerance
        self._exposure = Exposure(layer, others, tolerance) if match_exposure else None
        self.window = window_around(layer.region, 3)  # the largest window of a filter reaches two pixels
        self._region, self._background = layer.region[self.window], layer.z_background[self.window]
        self._image, self._z = image[self.window], z[self.window]
        self.accepted = np.zeros_like(self._region)
        """The pixels that are filled."""
        rows, columns = np.nonzero(self._region)
        centers = np.stack([columns + self.window[1].start + 0.5, rows + self.window[0].start + 0.5], axis=1)
        self._rays = np.ascontiguousarray(ray_directions(layer.view, centers).T)

    def take_background(self) -> None:
        """Accepts pixels at their `z_background`."""
        wanted = self._region & self._known
        if wanted.any():
            asked = self._ask(wanted, self._background, self._tolerance)
            strong = _spread(wanted, asked.supports > asked.conflicts)
            loose = _spread(wanted, asked.used > asked.conflicts)
            width = self._layer.view.width
            self._accept(_coherent(strong, loose, self._background, self._tolerance, width), wanted, self._background, asked)

    def grow(self) -> None:
        """Accepts pixels next to what is known at the depth that goes on from there."""
        news = ~self._region | self.accepted
        for _ in range(GROWTH):
            wanted = self._region & ~self.accepted & (cv2.dilate(news.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0)
            z = _continued(self._z)
            # A thing that no photo shows may stand before a wall that others do: a known depth is not overruled, only mended.
            wanted &= (z > 0) & (~self._known | (np.abs(z - self._background) <= EDGE * self._tolerance * z))
            if not wanted.any():
                break
            z[wanted] *= self._ask(wanted, z, LOOSE * self._tolerance).correction
            asked = self._ask(wanted, z, self._tolerance)
            news = _spread(wanted, asked.supports > asked.conflicts)
            known = _agreeing_neighbours((self._z > 0) | news, np.where(news, z, self._z), EDGE * self._tolerance)
            news &= known >= 3
            self._accept(news, wanted, z, asked)

    @property
    def _known(self) -> BoolMask:
        return np.isfinite(self._background) & (self._background > 0)

    def _ask(self, pixels: BoolMask, z: Floats, tolerance: float) -> Asked:
        """Asks the others about the pixels' points at depth `z`."""
        points = self._layer.view.c2w[:, 3:] + self._rays[:, pixels[self._region]] * z[pixels].astype(np.float64)
        asked = Asked(points, tolerance)
        asked.ask(self._others)
        return asked

    def _accept(self, pixels: BoolMask, wanted: BoolMask, z: Floats, asked: Asked) -> None:
        self._image[pixels] = asked.colours(pixels[wanted], self._layer, self._others, self._exposure)
        self._z[pixels] = z[pixels]
        self.accepted[pixels] = True


def _spread(pixels: BoolMask, values: BoolMask) -> BoolMask:
    """(N,) values of the pixels as a mask."""
    mask = np.zeros_like(pixels)
    mask[pixels] = values
    return mask


def _continued(z: Floats) -> Floats:
    """(H, W): mean disparity of the known pixels in each 5 x 5 neighbourhood, as a depth; 0 where there are none."""
    known = (z > 0).astype(np.float32)
    disparity = np.where(z > 0, 1 / np.where(z > 0, z, 1), 0).astype(np.float32)
    count = cv2.boxFilter(known, -1, (5, 5), normalize=False, borderType=cv2.BORDER_CONSTANT)
    total = cv2.boxFilter(disparity, -1, (5, 5), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.where(count > 0.5, count / np.maximum(total, 1e-12), 0).astype(np.float32)


# -------------------------------------------------------------------------------------------------------------- coherence
def _coherent(strong: BoolMask, loose: BoolMask, z: Floats, tolerance: float, width: int) -> BoolMask:
    """Accepted pixels whose neighbours are accepted at about their depth: hysteresis, then no lone pixels, no specks."""
    neighbours = np.ones((3, 3), np.uint8)
    agreeing = _agreeing_neighbours(strong, z, EDGE * tolerance)
    accepted = strong & (agreeing >= 3)
    accepted |= loose & (cv2.dilate(accepted.astype(np.uint8), neighbours) > 0)
    return _without_specks(accepted, width)


def _without_specks(accepted: BoolMask, width: int) -> BoolMask:
    least = scale_pixels(SPECK_PER_1000, width) ** 2
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(accepted.astype(np.uint8), connectivity=8)
    return accepted & (statistics[:, cv2.CC_STAT_AREA] >= least)[labels]


def _agreeing_neighbours(accepted: BoolMask, z: Floats, tolerance: float) -> npt.NDArray[np.int64]:
    """(H, W): how many of the 8 neighbours are accepted and differ by no more than the tolerance, relative."""
    height, width = z.shape
    depth = np.pad(np.where(accepted, z, np.inf), 1, constant_values=np.inf)
    count = np.zeros(z.shape, np.int64)
    for down in range(3):
        for right in range(3):
            if (down, right) != (1, 1):
                neighbour = depth[down : down + height, right : right + width]
                count += np.isfinite(neighbour) & (np.abs(neighbour - z) <= tolerance * z)
    return count
