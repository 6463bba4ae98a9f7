"""Sparse points of an object-free capture: the source's without the object's, and new ones on the surfaces completed behind it.

Trainers of splats start from the points. Those on the object would bring it back as fog, and nothing would start where it stood.

The object's points are found by a vote of the photos. A photo that shows a point in its region, before the surface that was
completed there, says "object"; one that shows it outside its region says "stays"; one before which something else hides the
point says nothing. So points just behind the object stay, whose pixels lie in many regions, and a mask that fails in a photo
or two does no harm. A point that every photo shows in its region is the object's, or nobody has seen it without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinnerf_ns.accel.cpu import nearest_tree
from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.scene.cameras import project, unproject_pixels
from spinnerf_ns.scene.view import View

TOLERANCE = 0.02
"""Relative depth within which a point lies on a photo's surface: rendered depth is about so exact."""

POINTS_FROM_DEPTH = 50_000
"""Points of a capture that had none."""

CANDIDATES_PER_PHOTO = 20_000
"""Pixels of a photo, at most, that new points are made of; they are thinned afterwards."""

NEIGHBOURS = 8
"""The points' spacing is measured by the distance of the so many-th neighbour."""


@dataclass(frozen=True)
class CleanPhoto:
    """What a photo shows without the object."""

    image: Image
    """(H, W, 3) uint8, clean."""
    region: BoolMask
    """(H, W) what was taken out."""
    z: npt.NDArray[np.float32]
    """(H, W) depth without the object, source world units; 0 = unknown."""
    valid_mask: BoolMask | None = None
    """(H, W) True = use: other pixels say nothing and are no points; None: all."""
    never_showed: bool = False
    """Whether the object was never in it: what stands before its surface is then the object's, though nothing was taken out."""


@dataclass(frozen=True)
class RemovedPoints:
    """Points of an object-free capture, those measured first."""

    positions: npt.NDArray[np.float64]
    """(P, 3) source frame."""
    colors: npt.NDArray[np.uint8]
    """(P, 3) RGB."""
    measured: int
    """How many of them, the first ones, are the source's; the others come from completed or rendered depth."""
    seen: npt.NDArray[np.bool_]
    """(V, P) which photos show which."""


def removed_points(
    views: Sequence[View],
    read: Callable[[View], CleanPhoto],
    positions: npt.NDArray[np.float64],
    colors: npt.NDArray[np.uint8],
) -> RemovedPoints:
    """The points of a capture whose object was removed.

    Args:
        views: the photos that showed the object (object-free ones say nothing of it).
        read: a view -> what its photo shows without the object; called a few times for each, so that no two photos need to be
            in memory at once.
        positions: (P, 3) the source's points, source frame; (0, 3) if it has none.
        colors: (P, 3) uint8 their colours.

    Returns:
        The points.
    """
    votes = _votes(views, read, positions)
    kept = (votes.outside > votes.before_in_region) | (votes.in_region == 0)
    whole = len(positions) == 0
    found, found_colors = _candidates(views, read, everywhere=whole)
    if whole:
        chosen = np.arange(min(POINTS_FROM_DEPTH, len(found)))  # their order is random
    else:
        chosen = _thinned(found, _spacing(positions, found), positions[kept])
    found, found_colors = found[chosen], found_colors[chosen]
    new = _votes(views, read, found)
    # Before what other photos show: a wrong guess of one photo. On it, in another photo or its own: a surface.
    stands = new.on > new.before
    positions = np.concatenate([positions[kept], found[stands]])
    seen = np.concatenate([votes.seen[:, kept], new.seen[:, stands]], axis=1)
    return RemovedPoints(positions, np.concatenate([colors[kept], found_colors[stands]]), int(kept.sum()), seen)


@dataclass
class _Votes:
    """Per point: how many photos say what."""

    in_region: npt.NDArray[np.int64]
    """Show it in their region, not hidden."""
    before: npt.NDArray[np.int64]
    """Show it clearly before their surface, or in their region where none is known."""
    before_in_region: npt.NDArray[np.int64]
    """And that in their region."""
    outside: npt.NDArray[np.int64]
    """Show it outside their region, not hidden."""
    on: npt.NDArray[np.int64]
    """Show it on their surface."""
    seen: npt.NDArray[np.bool_]
    """(V, P) which photos show it on their surface, or where no surface is known."""


def _votes(views: Sequence[View], read: Callable[[View], CleanPhoto], points: npt.NDArray[np.float64]) -> _Votes:
    number = len(points)
    counts = [np.zeros(number, np.int64) for _ in range(5)]
    votes = _Votes(*counts, seen=np.zeros((len(views), number), bool))
    for index, view in enumerate(views if number else ()):
        xy, depth = project(view, points)
        with np.errstate(invalid="ignore"):
            shown = (depth > 0) & (xy >= 0).all(axis=1) & (xy[:, 0] < view.width) & (xy[:, 1] < view.height)
        which = np.flatnonzero(shown)
        photo = read(view)
        columns, rows = xy[which].astype(np.int64).T
        if photo.valid_mask is not None:
            used = photo.valid_mask[rows, columns]
            which, rows, columns = which[used], rows[used], columns[used]
        region, surface = photo.region[rows, columns], photo.z[rows, columns].astype(np.float64)
        depth, known = depth[which], surface > 0
        hidden = known & (depth > (1 + TOLERANCE) * surface)
        before = (known & (depth < (1 - TOLERANCE) * surface)) | (~known & region)
        region = region | (photo.never_showed & before)
        votes.in_region[which] += region & ~hidden
        votes.before[which] += before
        votes.before_in_region[which] += region & before
        votes.outside[which] += ~region & ~hidden
        votes.on[which] += known & ~hidden & ~before
        votes.seen[index, which] = ~hidden & ~before
    return votes


def _candidates(
    views: Sequence[View], read: Callable[[View], CleanPhoto], everywhere: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Points (Q, 3) at pixels with a depth, drawn at random: of the regions, or of whole photos; and their colours."""
    rng = np.random.default_rng(0)  # the same capture gives the same points
    most = max(1, 4 * POINTS_FROM_DEPTH // max(1, len(views))) if everywhere else CANDIDATES_PER_PHOTO
    positions, colors = [np.zeros((0, 3))], [np.zeros((0, 3), np.uint8)]
    for view in views:
        photo = read(view)
        usable = photo.z > 0 if everywhere else photo.region & (photo.z > 0)
        rows, columns = np.nonzero(usable if photo.valid_mask is None else usable & photo.valid_mask)
        if len(rows) > most:
            chosen = rng.choice(len(rows), most, replace=False)
            rows, columns = rows[chosen], columns[chosen]
        positions.append(unproject_pixels(view, rows, columns, photo.z))
        colors.append(photo.image[rows, columns])
    positions, colors = np.concatenate(positions), np.concatenate(colors)
    order = rng.permutation(len(positions))
    return positions[order], colors[order]


def _spacing(source: npt.NDArray[np.float64], near: npt.NDArray[np.float64]) -> float:
    """The side of the square that one of the source's points has for itself, among those next to `near`."""
    tree = nearest_tree(source)
    around = np.unique(tree.query(near[:: max(1, len(near) // 2000)])[1]) if len(near) else np.arange(len(source))
    neighbours = min(NEIGHBOURS, len(source) - 1)
    if neighbours < 1:
        return 0.0
    distance = tree.query(source[around], neighbours + 1)[0][:, -1]
    # Points are scattered on surfaces: `neighbours` of them lie in a disc of this radius.
    return float(np.median(distance)) * float(np.sqrt(np.pi / neighbours))


def _thinned(points: npt.NDArray[np.float64], spacing: float, present: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Which points remain if a cube of this side holds one at most, and none where a point is already `present`."""
    if spacing <= 0 or len(points) == 0:
        return np.arange(len(points))
    cells = np.floor((np.concatenate([present, points]) - points.min(axis=0)) / spacing).astype(np.int64)
    first = np.unique(cells, axis=0, return_index=True)[1]
    return np.sort(first[first >= len(present)] - len(present))
