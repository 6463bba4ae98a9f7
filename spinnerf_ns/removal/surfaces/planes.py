"""Which surface each pixel around a region shows, so that a gap is filled only from the surface that it is a gap in.

A 2-D inpainter does not know that the cupboard's side ends where the floor goes on: it draws both into the gap. The depth
without the object says where each pixel's surface lies. Planes are found among the points of all photos at once, so every
photo agrees on them; what lies on none (a bush, a statue) is one rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image, scale_pixels, window_around
from spinnerf_ns.scene.cameras import ray_directions, unproject_pixels
from spinnerf_ns.scene.view import View

MAX_PLANES = 8
"""Planes that are looked for."""
LEAST_SHARE = 0.03
"""Smallest part of the points around the regions that makes a plane."""
TOLERANCE = 0.01
"""Distance from a plane within which a point belongs to it, in parts of its depth: rendered depth is no better than that."""
MARGIN_PER_1000 = 100.0
"""How far around the region surfaces are looked for, in pixels of a 1000-pixel-wide photo."""
POINTS_PER_PHOTO = 1500
"""Points of a photo that planes are found from; a fixed draw."""
DRAWS = 300
"""Planes tried for each one that is taken."""
SMOOTHING_PER_1000 = 25.0
"""Side of the window in which the most frequent surface wins, in pixels of a 1000-pixel-wide photo."""
SNAP = 0.03
"""Relative difference of depth up to which a pixel outside the region that is taken to show a plane is moved onto it."""
LEAST_DONORS = 24
"""A surface that shows fewer pixels than this around the region has nothing to give."""
EDGE_PER_1000 = 20.0
"""How far from a surface's edge a pixel may show its neighbour, in pixels of a 1000-pixel-wide photo."""
OTHER_COLOUR = 16
"""8-bit levels beyond a surface's colours that make another colour."""
EDGE = 0.05
"""Relative difference of depth across an edge."""
REST = 0
"""Label of what lies on no plane."""
UNKNOWN = -1
"""In place of a label, where depth does not tell."""

Points = npt.NDArray[np.float64]


def find_planes(views: Sequence[View], depths: Iterable[npt.NDArray[np.float32]], regions: Iterable[BoolMask]) -> Points:
    """The planes around the regions, by RANSAC over the points of all photos. Deterministic.

    Args:
        views: the photos.
        depths: per photo (H, W) planar depth without the object, world units; 0 = unknown.
        regions: per photo (H, W) bool.

    Returns:
        (K, 4) unit normal and offset: normal @ point + offset is the distance. The plane with the most points comes first.
    """
    generator = np.random.default_rng(0)
    clouds, scales, triples = [], [], []
    count = 0
    for view, z, region in zip(views, depths, regions, strict=True):
        if not region.any():
            continue
        rows, columns = np.nonzero(_near(region) & (z > 0))
        if rows.size < LEAST_DONORS:
            continue
        chosen = generator.choice(rows.size, min(rows.size, POINTS_PER_PHOTO), replace=False)
        rows, columns = rows[chosen], columns[chosen]
        points = unproject_pixels(view, rows, columns, z)
        # Three pixels near each other mostly lie on one surface; three from anywhere hardly ever do.
        reach = max(4, region.shape[1] // 12) ** 2
        seeds = generator.integers(0, len(points), 200)
        others = generator.integers(0, len(points), (200, 24))
        apart = (rows[others] - rows[seeds, None]) ** 2 + (columns[others] - columns[seeds, None]) ** 2
        order = np.argsort(np.abs(apart - reach), axis=1)[:, :2]
        triples.append(count + np.concatenate([seeds[:, None], np.take_along_axis(others, order, axis=1)], axis=1))
        clouds.append(points)
        scales.append(z[rows, columns].astype(np.float64))
        count += len(points)
    if not clouds:
        return np.zeros((0, 4))
    points, scale, candidates = np.concatenate(clouds), np.concatenate(scales), np.concatenate(triples)
    planes: list[Points] = []
    left = np.ones(len(points), bool)
    while len(planes) < MAX_PLANES and left.sum() >= LEAST_SHARE * len(points):
        usable = candidates[left[candidates].all(axis=1)]
        if not len(usable):
            break
        usable = usable[generator.integers(0, len(usable), DRAWS)]
        plane = _best_plane(points[left], scale[left], points[usable], generator)
        inliers = left & (np.abs(distance(points, plane)) < TOLERANCE * scale)
        if inliers.sum() < LEAST_SHARE * len(points):
            break
        planes.append(plane)
        # What is a little off is the same surface, bent by noise, and no second one.
        left &= np.abs(distance(points, plane)) >= 2 * TOLERANCE * scale
    return np.stack(planes) if planes else np.zeros((0, 4))


def distance(points: Points, plane: Points) -> Points:
    """Signed distances (...) of points (..., 3) from a plane (4,)."""
    return points @ plane[:3] + plane[3]


def _best_plane(points: Points, scale: Points, triples: Points, generator: np.random.Generator) -> Points:
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    flat = length[:, 0] > 1e-9 * np.square(scale.mean())  # three points on one line make no plane
    normals = normals[flat] / length[flat]
    planes = np.concatenate([normals, -(normals * triples[flat, 0]).sum(axis=1, keepdims=True)], axis=1)
    some = generator.integers(0, len(points), min(len(points), 4000))
    apart = np.abs(points[some] @ planes[:, :3].T + planes[:, 3]) / (TOLERANCE * scale[some, None])
    plane = planes[np.minimum(apart, 1).sum(axis=0).argmin()]
    for _ in range(4):
        inliers = np.abs(distance(points, plane)) < TOLERANCE * scale
        if inliers.sum() < 3:
            break
        weights = 1 / scale[inliers, None]  # a point's error grows with its depth
        center = (points[inliers] * weights).sum(axis=0) / weights.sum()
        normal = np.linalg.svd((points[inliers] - center) * weights, full_matrices=False)[2][2]
        plane = np.append(normal, -normal @ center)
    return plane


def surface_labels(view: View, z: npt.NDArray[np.float32], region: BoolMask, planes: Points) -> npt.NDArray[np.uint8]:
    """Which plane each pixel around a region shows.

    Args:
        view: the photo.
        z: (H, W) planar depth; 0 = unknown.
        region: (H, W) bool.
        planes: (K, 4) from `find_planes`.

    Returns:
        (H, W) uint8: 1 ... K, or `REST` for what lies on none. Far from the region everything is `REST`; what goes on in the region
        is for `continuation.continued` to say.
    """
    labels = np.full(region.shape, REST, np.uint8)
    if not region.any() or not len(planes):
        return labels
    window = surroundings(region)
    labels[window] = _most_frequent(np.where(region, UNKNOWN, shown_surfaces(view, z, region, planes))[window], len(planes), view)
    return labels


def all_surface_labels(view: View, z: npt.NDArray[np.float32], planes: Points) -> npt.NDArray[np.uint8]:
    """As `surface_labels` of a photo without a region, all over it."""
    if not len(planes):
        return np.full(z.shape, REST, np.uint8)
    return _most_frequent(shown_surfaces(view, z, np.ones(z.shape, bool), planes), len(planes), view)


def _most_frequent(shown: npt.NDArray[np.int64], planes: int, view: View) -> npt.NDArray[np.uint8]:
    """(h, w): which of so many planes, or `REST`, most pixels around one show."""
    size = scale_pixels(SMOOTHING_PER_1000, view.width) | 1
    votes = [cv2.boxFilter((shown == label).astype(np.float32), -1, (size, size)) for label in range(planes + 1)]
    return np.argmax(votes, axis=0).astype(np.uint8)


def shown_surfaces(view: View, z: npt.NDArray[np.float32], region: BoolMask, planes: Points) -> npt.NDArray[np.int64]:
    """As `surface_labels`, pixel by pixel and in the region too; `UNKNOWN` far from it, and where depth fades between surfaces."""
    rows, columns = np.nonzero(_near(region) & (z > 0))
    apart = np.abs(unproject_pixels(view, rows, columns, z) @ planes[:, :3].T + planes[:, 3]) / z[rows, columns, None]
    shown = np.full(region.shape, UNKNOWN, np.int64)
    shown[rows, columns] = np.where(apart.min(axis=1) < 2 * TOLERANCE, apart.argmin(axis=1) + 1, REST)
    # A rendered depth edge is no step: in front of the one surface and behind the other there is nothing.
    window = np.ones((scale_pixels(SMOOTHING_PER_1000, region.shape[1]) | 1,) * 2, np.uint8)
    nearest = cv2.erode(np.where(shown > REST, z, np.float32(np.inf)), window)
    farthest = cv2.dilate(np.where(shown > REST, z, np.float32(0)), window)
    fading = (shown == REST) & (nearest < z) & (z < farthest) & (farthest / nearest > 1 + EDGE)
    return np.where(fading, UNKNOWN, shown)


def snapped(
    view: View, z: npt.NDArray[np.float32], region: BoolMask, planes: Points, labels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """Depth moved onto the planes: many photos together know a plane better than one photo's rendered depth shows it.

    Args:
        view, z, region, planes: as of `surface_labels`.
        labels: what it returned.

    Returns:
        (H, W) float32: in the region the plane's depth; outside it `z` where it is too far from the plane to be it; `z` on `REST`.
    """
    result = z.copy()
    rows, columns = np.nonzero((labels != REST) & (region | (z > 0)))
    if not rows.size:
        return result
    on_plane = plane_depths(view, rows, columns, planes)[np.arange(len(rows)), labels[rows, columns] - 1]
    off = np.abs(on_plane - z[rows, columns])
    near = np.isfinite(on_plane) & (region[rows, columns] | (off < SNAP * z[rows, columns]))
    result[rows[near], columns[near]] = on_plane[near]
    return result


def plane_depths(view: View, rows: npt.NDArray, columns: npt.NDArray, planes: Points) -> Points:
    """(N, K) planar depth of every plane at (N,) pixels; NaN where it lies behind the camera."""
    rays = ray_directions(view, np.stack([columns + 0.5, rows + 0.5], axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = -(planes[:, :3] @ view.c2w[:, 3] + planes[:, 3]) / (rays @ planes[:, :3].T)
    return np.where(np.isfinite(z) & (z > 0), z, np.nan)


def fill_by_surface(
    fill: Callable[[Image, BoolMask, BoolMask], Image],
    image: Image,
    to_fill: BoolMask,
    labels: npt.NDArray[np.uint8],
    valid_mask: BoolMask | None = None,
) -> Image:
    """Fills each surface's part of a gap from that surface alone.

    Args:
        fill: a 2-D inpainter: (h, w, 3) uint8, (h, w) bool to_fill and (h, w) bool donors, which alone may be drawn from ->
            (h, w, 3) uint8. It is shown the surroundings of the gap: what lies beyond is another surface's as likely as not.
        image: (H, W, 3) uint8.
        to_fill: (H, W) bool.
        labels: (H, W) from `surface_labels`.
        valid_mask: (H, W) bool, where the photo may be used; None: everywhere.

    Returns:
        (H, W, 3) uint8, `image` outside the gap.
    """
    result = image.copy()
    if not to_fill.any():
        return result
    window = surroundings(to_fill)
    image, to_fill, labels, filled = image[window], to_fill[window], labels[window], result[window]
    unusable = to_fill if valid_mask is None else to_fill | ~valid_mask[window]
    kernel = np.ones((3, 3), np.uint8)
    for label in np.unique(labels[to_fill]):
        part = to_fill & (labels == label)
        surface = (labels == label) | to_fill
        # A surface's edge is a mixture of colours.
        donors = ~unusable & (cv2.erode(surface.astype(np.uint8), kernel) > 0)
        donors &= _own_colours(image, surface, donors, scale_pixels(EDGE_PER_1000, result.shape[1]))
        filled[part] = fill(image, part, ~unusable if donors.sum() < LEAST_DONORS else donors)[part]
    return result


def _own_colours(image: Image, surface: BoolMask, donors: BoolMask, width: int) -> BoolMask:
    """(h, w) False where a pixel near a surface's edge has a colour that the surface does not have further inside: labels are
    smooth, and edges are not, so some of what is taken for the one surface shows the other."""
    inside = donors & (cv2.erode(surface.astype(np.uint8), np.ones((2 * width + 1,) * 2, np.uint8)) > 0)
    if inside.sum() < LEAST_DONORS:
        return np.ones_like(surface)
    low, high = np.quantile(image[inside], (0.01, 0.99), axis=0)
    return inside | ((image >= low - OTHER_COLOUR) & (image <= high + OTHER_COLOUR)).all(axis=2)


def surroundings(region: BoolMask) -> tuple[slice, slice]:
    """The region's bounding box and what of its surroundings says how surfaces go on, as rows and columns."""
    longest = max(span.stop - span.start for span in window_around(region))
    return window_around(region, max(scale_pixels(MARGIN_PER_1000, region.shape[1]), longest // 2))


def _near(region: BoolMask) -> BoolMask:
    """(H, W) bool: the pixels of `surroundings`."""
    near = np.zeros_like(region)
    near[surroundings(region)] = True
    return near
