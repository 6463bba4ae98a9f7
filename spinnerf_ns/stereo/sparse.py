"""Sparse points from photos with known poses: features, matches along epipolar lines, tracks, triangulation. Pure numpy and OpenCV.

The poses are known, so nothing is estimated but points. A feature's ray spans, with the line between two cameras, a plane; its
match lies in the same plane. All these planes share that line, so each is one angle about it: features sorted by the angle are
compared within a narrow band alone, which is what makes matching cheap beside finding the features. Matches of all pairs are
joined to tracks (union-find), and a track is a point where at least three photos agree on it and say its depth well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import resize_mask
from spinnerf_ns.scene.cameras import ray_directions
from spinnerf_ns.scene.points import Observations, SparsePoints

if TYPE_CHECKING:
    from spinnerf_ns.scene.view import View

LARGEST_WIDTH = 1600
"""Pixels; wider photos are shrunk to this before features are looked for: the points are no better and take longer."""

FEATURES = 4000
"""At most so many features of a photo, the strongest."""

CONTRAST = 0.015
"""Least contrast of a feature (OpenCV's threshold; its own is 0.04): fine grain is what even surfaces have."""

RANKS = (1, 2, 3, 4, 6, 8, 11, 15, 20)
"""A photo is matched with its nearest, second nearest, ... neighbour: the near ones find the features again, the far ones
say their depth. Their number does not depend on that of the photos."""

LARGEST_TURN = 40.0
"""Degrees between two viewing axes beyond which features are not found again."""

BAND = 0.003
"""How far a match may lie from its epipolar line, as a part of the photo's width."""

LEAST_BAND = 1.5
"""The same in pixels, at least."""

LEAST_SIMILARITY = 0.8
"""Least cosine between the descriptors of a match."""

RATIO = 0.85
"""The next best match's descriptor must be further by this factor, as in Lowe's test."""

LARGEST_ERROR = 0.002
"""How far from its feature a point may appear, as a part of the photo's width."""

LEAST_LARGEST_ERROR = 1.0
"""The same in pixels, at least."""

LEAST_PHOTOS = 3
"""Two photos match along their epipolar line by chance; that a third agrees is no chance."""

LARGEST_UNCERTAINTY = 0.02
"""Largest standard deviation of a point's depth, as a part of it, for features that are half a pixel off."""

FEATURE_ERROR = 0.5
"""Pixels that features are taken to be off."""

CHUNK = 64
"""Features compared at once."""

ReadImage = Callable[["View"], npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Features:
    """What was found in a photo."""

    xy: npt.NDArray[np.float64]
    """(K, 2) pixels; (0, 0) is the outer corner of the top-left pixel."""
    descriptors: npt.NDArray[np.float32]
    """(K, 128), each of length 1."""
    colors: npt.NDArray[np.float64]
    """(K, 3) in [0, 255]."""
    rays: npt.NDArray[np.float64]
    """(K, 3) unit vectors, world frame."""
    pixel: float
    """Angle of a pixel, in radians."""


def sparse_points(
    views: Sequence[View], read_image: ReadImage | None = None, advance: Callable[[int], None] | None = None
) -> SparsePoints:
    """Points that at least three of the photos show, in the frame of the views' poses.

    Args:
        views: photos with their poses. Time is linear in their number.
        read_image: reads a photo (H, W, 3) uint8 RGB; by default `View.read_image`.
        advance: called with 1 for each photo whose features are found.

    Returns:
        The points with their tracks; none where photos share no features.

    Raises:
        SpinnerfError: a photo cannot be read, or its camera model cannot be projected.
    """
    features = []
    for view in views:
        features.append(find_features(view, view.read_image() if read_image is None else read_image(view)))
        if advance is not None:
            advance(1)
    matches = {(i, j): match(views[i], views[j], features[i], features[j]) for i, j in pairs(views)}
    owners, tracks, keypoints = join(matches, [len(each.xy) for each in features])
    return triangulate(views, features, owners, tracks, keypoints)


# ---------------------------------------------------------------------------------------------------------------- features
def find_features(view: View, image: npt.NDArray[np.uint8]) -> Features:
    """SIFT features of a photo with RootSIFT descriptors (Arandjelovic and Zisserman 2012).

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    import cv2

    shrink = max(1.0, view.width / LARGEST_WIDTH)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if shrink > 1:
        gray = cv2.resize(gray, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
    # Who walks before a photo is no part of the scene.
    used = resize_mask(view.valid_mask(), gray.shape).astype(np.uint8) if view.has_mask else None
    found, descriptors = cv2.SIFT_create(nfeatures=FEATURES, contrastThreshold=CONTRAST).detectAndCompute(gray, used)
    if descriptors is None:
        descriptors = np.zeros((0, 128), np.float32)
    # OpenCV counts from the centre of the top-left pixel.
    xy = (np.array([keypoint.pt for keypoint in found], np.float64).reshape(-1, 2) + 0.5) * (
        np.array([view.width, view.height]) / gray.shape[::-1]
    )
    descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-12))
    pixels = np.clip(xy.astype(np.int64), 0, [view.width - 1, view.height - 1])
    rays = ray_directions(view, xy)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return Features(xy, descriptors, image[pixels[:, 1], pixels[:, 0]].astype(np.float64), rays, 1.0 / view.fx)


# ----------------------------------------------------------------------------------------------------------------- matches
def pairs(views: Sequence[View]) -> list[tuple[int, int]]:
    """Which photos to match: each with some near and some further ones that look the same way. Sorted; i < j."""
    poses = np.array([view.c2w for view in views], np.float64).reshape(-1, 3, 4)
    centers, axes = poses[:, :, 3], -poses[:, :, 2]
    spread = max(float(np.median(np.linalg.norm(centers - centers.mean(axis=0), axis=1))), 1e-9) if len(views) else 1.0
    chosen = set()
    for index in range(len(views)):
        turn = np.degrees(np.arccos(np.clip(axes @ axes[index], -1, 1)))
        distance = np.linalg.norm(centers - centers[index], axis=1) / spread + turn / LARGEST_TURN
        order = np.argsort(distance, kind="stable")
        order = order[(order != index) & (turn[order] < LARGEST_TURN)]
        chosen |= {(min(index, int(other)), max(index, int(other))) for other in order[[r - 1 for r in RANKS if r <= len(order)]]}
    return sorted(chosen)


def match(first: View, second: View, a: Features, b: Features) -> npt.NDArray[np.int64]:
    """(M, 2) which feature of the first photo is which of the second: mutually best along the epipolar line, and distinct."""
    nothing = np.zeros((0, 2), np.int64)
    line = second.c2w[:, 3] - first.c2w[:, 3]
    length = float(np.linalg.norm(line))
    if length == 0 or not len(a.xy) or not len(b.xy):
        return nothing
    line = line / length
    ahead = -(first.c2w[:, 2] + second.c2w[:, 2])
    up = ahead - (ahead @ line) * line
    if np.linalg.norm(up) < 1e-6:
        up = np.eye(3)[np.argmin(np.abs(line))]
        up = up - (up @ line) * line
    up = up / np.linalg.norm(up)
    side = np.cross(line, up)
    angle_a, slope_a = _about_line(a.rays, line, up, side)
    angle_b, slope_b = _about_line(b.rays, line, up, side)
    band = max(LEAST_BAND, BAND * min(first.width, second.width)) * max(a.pixel, b.pixel)
    order_a, order_b = np.argsort(angle_a, kind="stable"), np.argsort(angle_b, kind="stable")
    # Angles go round: whoever lies near the seam has neighbours on its other side.
    wide_b = np.concatenate([angle_b[order_b] - 2 * np.pi, angle_b[order_b], angle_b[order_b] + 2 * np.pi])
    descriptors_b, slope_b = b.descriptors[order_b], slope_b[order_b]
    best_of_a = np.full(len(a.xy), -1)
    best_of_b = np.full(len(b.xy), -1)
    strength_b = np.full(len(b.xy), -1.0, np.float32)
    for start in range(0, len(a.xy), CHUNK):
        rows = order_a[start : start + CHUNK]
        reach = band / max(float(slope_a[rows].min()), 0.05)
        low, high = np.searchsorted(wide_b, [angle_a[rows[0]] - reach, angle_a[rows[-1]] + reach])
        if high - low < 1:
            continue
        columns = np.arange(low, high) % len(b.xy)
        apart = np.abs(angle_a[rows][:, None] - wide_b[low:high])
        similar = a.descriptors[rows] @ descriptors_b[columns].T
        similar[apart * np.minimum(slope_a[rows][:, None], slope_b[columns]) > band] = -1
        best = similar.argmax(axis=1)
        each = np.arange(len(rows))
        value = similar[each, best]
        similar[each, best] = -1
        second_best = similar.max(axis=1)
        distinct = (value > LEAST_SIMILARITY) & (1 - value < RATIO**2 * (1 - second_best))
        best_of_a[rows[distinct]] = order_b[columns[best[distinct]]]
        similar[each, best] = value
        of_b, value_b = similar.argmax(axis=0), similar.max(axis=0)
        targets = order_b[columns]
        better = value_b > strength_b[targets]
        strength_b[targets[better]] = value_b[better]
        best_of_b[targets[better]] = rows[of_b[better]]
    matched = np.flatnonzero(best_of_a >= 0)
    matched = matched[best_of_b[best_of_a[matched]] == matched]
    return np.stack([matched, best_of_a[matched]], axis=1)


def _about_line(rays: npt.NDArray, line: npt.NDArray, up: npt.NDArray, side: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray]:
    """Rays' angles about a line, and the sine of their angle with it: how far a ray moves per change of the first."""
    x, y = rays @ up, rays @ side
    return np.arctan2(y, x), np.hypot(x, y)


# ------------------------------------------------------------------------------------------------------------------ tracks
def join(
    matches: dict[tuple[int, int], npt.NDArray[np.int64]], counts: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Matches of pairs joined over all photos.

    Args:
        matches: (photo, photo) -> (M, 2) their features.
        counts: features per photo.

    Returns:
        photo, track and feature of each observation (T,), sorted by track. A track in which a photo has several features says
        nothing in that photo; tracks in fewer than three photos are left out.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    starts = np.concatenate([[0], np.cumsum(counts)])
    edges = np.concatenate([np.zeros((0, 2), np.int64), *(m + [starts[i], starts[j]] for (i, j), m in matches.items())])
    total = int(starts[-1])
    graph = coo_matrix((np.ones(len(edges), np.int32), (edges[:, 0], edges[:, 1])), shape=(total, total)).tocsr()
    graph = graph + graph.T
    # One wrong match would join two tracks; three photos do not agree on a wrong one.
    graph = graph.multiply(graph @ graph)
    _, label = connected_components(graph, directed=False)
    owner = np.repeat(np.arange(len(counts)), counts)
    _, where, times = np.unique(label * np.int64(len(counts)) + owner, return_inverse=True, return_counts=True)
    alone = times[where] == 1
    size = np.bincount(label[alone], minlength=label.max(initial=-1) + 1)
    kept = np.flatnonzero(alone & (size[label] >= LEAST_PHOTOS)) if total else np.zeros(0, np.int64)
    kept = kept[np.argsort(label[kept], kind="stable")]
    tracks = np.unique(label[kept], return_inverse=True)[1]
    return owner[kept], tracks.astype(np.int64), kept - starts[owner[kept]]


# ----------------------------------------------------------------------------------------------------------- triangulation
def triangulate(
    views: Sequence[View],
    features: Sequence[Features],
    owners: npt.NDArray[np.int64],
    tracks: npt.NDArray[np.int64],
    keypoints: npt.NDArray[np.int64],
) -> SparsePoints:
    """The points of tracks, by the rays' nearest point; whichever photo disagrees most is left out until all agree.

    Args:
        views, features: per photo.
        owners, tracks, keypoints: (T,) photo, track and feature of each observation.
    """
    photos = tuple(view.photo for view in views)
    if not len(owners):
        empty = Observations(photos, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))
        return SparsePoints(np.zeros((0, 3)), np.zeros((0, 3)), empty)
    rays = np.concatenate([each.rays for each in features])
    starts = np.concatenate([[0], np.cumsum([len(each.xy) for each in features])])
    flat = starts[owners] + keypoints
    rays = rays[flat]
    centers = np.array([view.c2w[:, 3] for view in views])[owners]
    pixel = np.array([each.pixel for each in features])[owners]
    allowed = np.array([max(LEAST_LARGEST_ERROR, LARGEST_ERROR * view.width) for view in views])[owners] * pixel
    used = np.ones(len(owners), bool)
    number = int(tracks.max()) + 1
    while True:
        points, information = _nearest_points(rays[used], centers[used], pixel[used], tracks[used], number)
        away = points[tracks] - centers
        distance = np.linalg.norm(away, axis=1)
        along = (away * rays).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.where(along > 0, np.linalg.norm(np.cross(away, rays), axis=1) / distance, np.inf)
        error = np.where(np.isfinite(error), error, np.inf) / allowed
        worst = np.zeros(number)
        np.maximum.at(worst, tracks[used], error[used])
        drop = used & (error > 1) & (error >= worst[tracks])
        left = np.bincount(tracks[used], minlength=number)
        if not (drop & (left[tracks] > LEAST_PHOTOS)).any():
            break
        used &= ~drop
    # A photo's depth of a point is as uncertain as the point is along the ray: take that of its nearest photo.
    good = (worst <= 1) & (left >= LEAST_PHOTOS)
    nearest = np.full(number, np.inf)
    np.minimum.at(nearest, tracks[used], distance[used])
    variance = np.full(number, np.inf)
    variance[good] = 1.0 / np.maximum(np.linalg.eigvalsh(information[good])[:, 0], 1e-300)
    good &= FEATURE_ERROR * np.sqrt(variance) <= LARGEST_UNCERTAINTY * nearest
    used &= good[tracks]
    renumbered = np.cumsum(good) - 1
    which = renumbered[tracks[used]]
    colors = np.concatenate([each.colors for each in features])[flat[used]]
    size = np.maximum(np.bincount(which, minlength=int(good.sum())), 1)
    mean = np.stack([np.bincount(which, colors[:, i], minlength=int(good.sum())) for i in range(3)], axis=1) / size[:, None]
    xy = np.concatenate([each.xy for each in features])[flat[used]]
    return SparsePoints(points[good], mean, Observations(photos, which, owners[used], xy))


def _nearest_points(
    rays: npt.NDArray, centers: npt.NDArray, pixel: npt.NDArray, tracks: npt.NDArray, number: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(P, 3) points nearest to their rays in angle, and (P, 3, 3) the information on them per squared pixel of error."""
    across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    weight = 1.0 / pixel**2
    points = np.zeros((number, 3))
    for turn in range(3):  # the first time every ray counts alike, then by its distance
        if turn > 0:
            weight = 1.0 / (pixel**2 * np.maximum(((points[tracks] - centers) ** 2).sum(axis=1), 1e-24))
        weighted = across * weight[:, None, None]
        normal = _sums(weighted.reshape(-1, 9), tracks, number).reshape(-1, 3, 3)
        right = _sums((weighted @ centers[:, :, None])[..., 0], tracks, number)
        size = np.trace(normal, axis1=1, axis2=2)
        stable = normal + (1e-12 * size + 1e-300)[:, None, None] * np.eye(3)
        points = np.linalg.solve(stable, right[..., None])[..., 0]
    return points, normal


def _sums(values: npt.NDArray, tracks: npt.NDArray, number: int) -> npt.NDArray[np.float64]:
    return np.stack([np.bincount(tracks, column, minlength=number) for column in values.T], axis=1)
