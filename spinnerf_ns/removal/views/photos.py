"""How many photos at once see the same points.

Photos are asked in batches: a region of a few hundred pixels is over in no time, so calls would cost more than arithmetic. Most
answers are "outside" or "hidden", so only the pairs of a photo and a point are kept of which the photo has something to say.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask
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
    """

    def __init__(self, layers: Sequence[ViewLayers]) -> None:
        self.layers = list(layers)
        self.cameras = CameraStack([layer.view for layer in layers])
        self.size = np.array([layer.region.shape[::-1] for layer in layers], np.int64).reshape(-1, 2)
        """(V, 2) width and height."""
        ends = np.cumsum(self.size.prod(axis=1))
        self.start = ends - self.size.prod(axis=1)
        """(V,) where each photo begins in `shown`."""
        self.shown = np.zeros(ends[-1] if len(ends) else 0, np.float32)
        """All photos' pixels in a row: planar depth outside the regions, 0 = unknown or in a region."""
        for layer, start, end in zip(layers, self.start, ends, strict=True):
            z = layer.z_visible.ravel()
            np.copyto(self.shown[start:end], z, where=(z > 0) & (z < np.inf) & ~layer.region.ravel())

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, which: slice | Numbers) -> Photos:
        part = copy.copy(self)
        part.layers = [self.layers[number] for number in np.arange(len(self))[which]]
        part.cameras, part.size, part.start = self.cameras[which], self.size[which], self.start[which]
        return part

    def all_but(self, number: int) -> Photos:
        """The others of a photo that may be sources; nothing is copied."""
        return self[np.array([i for i, layer in enumerate(self.layers) if i != number and layer.is_source], np.int64)]


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
    pixel = y.astype(np.int64) * photos.size[photo, 0] + x.astype(np.int64) + photos.start[photo]
    near = np.flatnonzero(z < (1 + EDGE * LOOSE * tolerance) * photos.shown.take(pixel))
    photo, at, x, y, z = photo[near], at[near], x[near], y[near], z[near]
    point = at - photo * points.shape[1]
    width, height = photos.size[photo].T
    column, row, part_x, part_y = corner(x, y, width, height)
    shares = np.stack([(1 - part_y) * (1 - part_x), (1 - part_y) * part_x, part_y * (1 - part_x), part_y * part_x])
    pixel = row * width + column + photos.start[photo]
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
