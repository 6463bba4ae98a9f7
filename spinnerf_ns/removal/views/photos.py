"""How many photos at once see the same points.

Photos are asked in batches: a region of a few hundred pixels is over in no time, so calls would cost more than arithmetic. Most
answers are "outside" or "hidden", so only the pairs of a photo and a point are kept of which the photo has something to say.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.removal.layers import Layers
from spinnerf_ns.scene.cameras import CameraStack

if TYPE_CHECKING:
    from spinnerf_ns.removal.layers import ViewLayers

LOOSE = 2.5
"""A pixel next to accepted ones is accepted with this many times the tolerance."""
EDGE = 4.0
"""Pixels around the one looked at must agree within this many times the tolerance, else it lies on an edge."""
POINTS = 4096
"""Points that are asked about at a time: with eight photos the intermediate results stay in the processor's cache."""

Points = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


class Photos:
    """Photos that are asked what they show.

    Args:
        layers: the photos; their z_background is not read.
        most: photos whose depth is in memory at a time; by default all. Of what was chosen (`[...]`), the latest choice can be
            asked.
    """

    def __init__(self, layers: Sequence[ViewLayers], most: int | None = None) -> None:
        self._all = Layers.of(layers)
        self._number = np.arange(len(self._all))
        views = self._all.views
        self.cameras = CameraStack(views)
        self.size = np.array([(view.width, view.height) for view in views], np.int64).reshape(-1, 2)
        """(V, 2) width and height."""
        self.focal = np.array([view.fx for view in views])
        """(V,) focal lengths along x."""
        self._window = _Window(self._all, self.size, len(views) if most is None else most)
        if most is None or most >= len(views):
            self._window.load(self._number)

    @property
    def shown(self) -> npt.NDArray[np.float32]:
        """Photos' pixels in a row: planar depth outside the regions, 0 = unknown or in a region."""
        return self._window.values

    @property
    def start(self) -> Numbers:
        """(V,) where each photo begins in `shown`."""
        return self._window.starts(self._number)

    def image(self, number: int) -> Image:
        """One of the photos, (H, W, 3) uint8."""
        return self._all.image(int(self._number[number]))

    def __len__(self) -> int:
        return len(self._number)

    def __getitem__(self, which: slice | Numbers) -> Photos:
        part = copy.copy(self)
        part._number = self._number[which]
        part.cameras, part.size, part.focal = self.cameras[which], self.size[which], self.focal[which]
        self._window.load(part._number)
        return part

    def all_but(self, number: int) -> Photos:
        """The others of a photo that may be sources; nothing is copied."""
        return self[np.array([i for i, source in enumerate(self._all.is_source) if i != number and source], np.int64)]


class _Window:
    """The depths of the photos that were asked last, in one row of memory."""

    def __init__(self, layers: Layers, size: Numbers, most: int) -> None:
        self._layers, self._size, self._most = layers, size, most
        self._pixels = int(size.prod(axis=1).max(initial=0))
        self.values = np.zeros(most * self._pixels, np.float32)  # memory that nobody writes to is none
        self._slot: OrderedDict[int, int] = OrderedDict()

    def load(self, numbers: Numbers) -> None:
        """Reads the photos that are not there, in place of those that were asked for the longest time ago."""
        if len(numbers) > self._most:
            raise ValueError(f"{len(numbers)} photos were asked at once, there is room for {self._most}")
        wanted = {int(number) for number in numbers}
        for number in wanted & self._slot.keys():
            self._slot.move_to_end(number)
        for number in sorted(wanted - self._slot.keys()):
            full = len(self._slot) == self._most
            slot = self._slot.pop(next(each for each in self._slot if each not in wanted)) if full else len(self._slot)
            layer = self._layers[number]
            z, outside = layer.z_visible.ravel(), ~layer.region.ravel()
            shown = self.values[slot * self._pixels : slot * self._pixels + z.size]
            shown[:] = 0
            np.copyto(shown, z, where=(z > 0) & (z < np.inf) & outside)
            self._slot[number] = slot

    def starts(self, numbers: Numbers) -> Numbers:
        """(V,) where photos begin in `values`.

        Raises:
            KeyError: one of them made way for a later choice.
        """
        return np.array([self._slot[int(number)] for number in numbers], np.int64) * self._pixels


@dataclass
class Seen:
    """What photos say of points: (M,) pairs of a photo and a point, by photo, then by point.

    Of all other pairs a photo says nothing: outside the photo, behind what it shows, or next to its region.
    """

    photo: Numbers
    """Number of the photo."""
    point: Numbers
    """Number of the point."""
    x: Points
    """Pixel coordinate; so is y."""
    y: Points
    """Pixel coordinate."""
    ratio: Points
    """The point's depth over the depth shown there."""
    deviation: Points
    """|ratio - 1|."""
    through: BoolMask
    """The photo looks through the point: it shows something well behind it."""
    edge: BoolMask
    """A depth edge is near: the colour there is a mixture."""

    def __getitem__(self, which: BoolMask) -> Seen:
        return Seen(*(values[which] for values in vars(self).values()))


def look(photos: Photos, points: Points, tolerance: float) -> Seen:
    """How photos see points (3, N); `tolerance` is relative, of depth."""
    x, y, z = photos.cameras.project(points)
    width, height = photos.size.T[:, :, None]
    with np.errstate(invalid="ignore"):  # what cannot be projected is NaN, and not inside
        inside = (x >= 0.5) & (x <= width - 0.5) & (y >= 0.5) & (y <= height - 0.5)
    photo = np.repeat(np.arange(len(photos)), np.count_nonzero(inside, axis=1))
    at = np.flatnonzero(inside)
    x, y, z = x.ravel()[at], y.ravel()[at], z.ravel()[at]
    # Most points fall into another's region or behind what it shows: these are done with here.
    starts = photos.start
    pixel = y.astype(np.int64) * photos.size[photo, 0] + x.astype(np.int64) + starts[photo]
    near = np.flatnonzero(z < (1 + EDGE * LOOSE * tolerance) * photos.shown.take(pixel))
    photo, at, x, y, z = photo[near], at[near], x[near], y[near], z[near]
    point = at - photo * points.shape[1]
    width, height = photos.size[photo].T
    column, row, part_x, part_y = corner(x, y, width, height)
    shares = np.stack([(1 - part_y) * (1 - part_x), (1 - part_y) * part_x, part_y * (1 - part_x), part_y * part_x])
    pixel = row * width + column + starts[photo]
    z_corners = photos.shown.take(np.stack([pixel, pixel + 1, pixel + width, pixel + width + 1])).astype(np.float64)
    usable = np.flatnonzero(z_corners.min(axis=0) > 0)
    photo, point, x, y, z = photo[usable], point[usable], x[usable], y[usable], z[usable]
    ratios, shares = z / z_corners[:, usable], shares[:, usable]  # 1 = agrees, > 1 = hidden, < 1 = looked through
    # Disparity of a plane is affine in pixels, so its bilinear value is right on slanted surfaces, the nearest one on edges.
    smooth, nearest = (ratios * shares).sum(axis=0), _of_the_largest(shares, ratios)
    ratio = np.where(np.abs(smooth - 1) < np.abs(nearest - 1), smooth, nearest)
    through = ratios.max(axis=0) < 1 - LOOSE * tolerance
    edge = np.abs(ratios - 1).max(axis=0) > EDGE * tolerance
    return Seen(photo, point, x, y, ratio, np.abs(ratio - 1), through, edge)


def corner(x: Points, y: Points, width: Numbers | int, height: Numbers | int) -> tuple[Numbers, Numbers, Points, Points]:
    """The top-left of the four pixels whose centres surround points half a pixel within a photo, and the parts right and down."""
    column = np.minimum((x - 0.5).astype(np.int64), width - 2)
    row = np.minimum((y - 0.5).astype(np.int64), height - 2)
    return column, row, x - 0.5 - column, y - 0.5 - row


def _of_the_largest(shares: Points, values: Points) -> Points:
    """(4, N) -> (N,): the value with the largest share, the first of equals."""
    most, chosen = shares[0], values[0]
    for share, value in zip(shares[1:], values[1:], strict=True):
        chosen = np.where(share > most, value, chosen)
        most = np.maximum(most, share)
    return chosen
