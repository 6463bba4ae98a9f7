"""Mask refinement by views: masked pixels whose background other photos really show are filled from them.

SPIn-NeRF does this before inpainting, one view against the others, pixel by pixel; here all pairs, vectorised. The smaller
hole that is left, `unseen_mask`, is the only thing that needs invention. A masked pixel is accepted when
  * its background point, unprojected from `z_background`, falls on a pixel of another photo that is outside that photo's
    hole and whose visible depth is the point's depth there, within the tolerance;
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

from spinnerf_ns.conventions import BoolMask, Image, scale_pixels
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene.cameras import project, unproject_pixels
from spinnerf_ns.scene.capture import View

Floats = npt.NDArray[np.float32]

ENOUGH = 8
"""A pixel that this many photos show asks no further ones."""
LOOSE = 2.5
"""A pixel next to accepted ones is accepted with this many times the tolerance."""
EDGE = 4.0
"""Pixels around the one looked at must agree within this many times the tolerance, else it lies on an edge."""
ALIKE = 24.0
"""Colours within this many 8-bit levels of each other agree."""
GAIN_LIMIT = 1.25
"""Exposure gains beyond this (or below its inverse) are cut: then it is not exposure that differs."""
GROWTH = 24
"""Rounds, of two pixels each, in which accepted regions grow into pixels whose `z_background` is noisy or unknown."""
SPECK_PER_1000 = 6.0
"""Accepted islands smaller than a square of this side (pixels of a 1000-pixel-wide photo) are noise."""


@dataclass
class ViewLayers:
    """What is known about one photo before its hole is filled."""

    view: View
    """The photo's camera."""
    image: Image
    """(H, W, 3) uint8 RGB, the photo."""
    hole: BoolMask
    """(H, W) bool: the dilated object mask."""
    z_visible: Floats
    """(H, W) planar depth of what the photo shows, object included; 0 = unknown."""
    z_background: Floats
    """(H, W) planar depth of what lies behind the object; may be wrong where no photo ever looked, 0 = unknown."""


@dataclass
class Filled:
    """A photo after the other photos gave what they show."""

    image: Image
    """(H, W, 3) uint8: the photo; inside the hole, what other photos show. Unseen pixels are as they were."""
    unseen_mask: BoolMask
    """(H, W) bool: the hole's pixels that no photo shows."""
    z: Floats
    """(H, W) float32: `z_visible` outside the hole, `z_background` where filled, 0 where unseen."""


def fill_from_views(
    layers: Sequence[ViewLayers],
    relative_tolerance: float = 0.01,
    progress: Callable[[int], None] | None = None,
    max_sources: int | None = None,
    match_exposure: bool = True,
) -> list[Filled]:
    """Fills every photo's hole from all other photos.

    Args:
        layers: the photos; all depths in the units of the views' poses.
        relative_tolerance: depths agree when they differ by no more than this fraction.
        progress: called with a photo's number when it is done.
        max_sources: ask only this many photos, nearest by pose first; None asks all (pixels stop asking when enough answer).
        match_exposure: scale another photo's colours by what both photos show around the hole.

    Returns:
        One `Filled` per photo. Pixels outside the holes are identical to the photo.

    Raises:
        SpinnerfError: a layer's shape differs from its photo's.
    """
    for layer in layers:
        _check(layer)
    filled = []
    for number, layer in enumerate(layers):
        others = [other for other in _nearest_first(layer, layers) if other is not layer]
        filled.append(_fill(layer, others[:max_sources], relative_tolerance, match_exposure))
        if progress is not None:
            progress(number)
    return filled


def _check(layer: ViewLayers) -> None:
    shape = (layer.view.height, layer.view.width)
    for name in ("image", "hole", "z_visible", "z_background"):
        found = getattr(layer, name).shape[:2]
        if found != shape:
            raise SpinnerfError(
                f"{layer.view.photo}: {name} is {found[1]}x{found[0]}, the photo at the resolution used is "
                f"{shape[1]}x{shape[0]}; render or scale it to that size"
            )


def _nearest_first(layer: ViewLayers, layers: Sequence[ViewLayers]) -> list[ViewLayers]:
    """By distance between the cameras, and by the angle between their axes: a right angle counts as the scene's depth."""
    known = layer.z_visible[layer.z_visible > 0]
    depth = float(np.median(known)) if known.size else 1.0

    def distance(other: ViewLayers) -> float:
        apart = np.linalg.norm(other.view.c2w[:, 3] - layer.view.c2w[:, 3]) / depth
        return float(apart + 1 - other.view.c2w[:, 2] @ layer.view.c2w[:, 2])

    return sorted(layers, key=distance)


def _fill(layer: ViewLayers, others: Sequence[ViewLayers], tolerance: float, match_exposure: bool) -> Filled:
    hole = layer.hole
    image, z = layer.image.copy(), np.where(hole, 0, layer.z_visible).astype(np.float32)
    accepted = np.zeros_like(hole)
    if not hole.any() or not others:
        return Filled(image, hole.copy(), z)
    rim = _rim(layer) if match_exposure else None

    def accept(pixels: BoolMask, z_pixels: Floats, candidates: _Candidates) -> None:
        rows, columns = np.nonzero(pixels)
        taken = pixels[candidates.rows, candidates.columns]
        image[rows, columns] = candidates.colours(taken)
        z[rows, columns] = z_pixels[rows, columns]
        accepted[rows, columns] = True

    unknown = ~(np.isfinite(layer.z_background) & (layer.z_background > 0))
    wanted = hole & ~unknown
    if wanted.any():
        candidates = _gather(layer, wanted, layer.z_background, others, tolerance, rim)
        strong = candidates.spread(candidates.supports > candidates.conflicts, hole.shape)
        loose = candidates.spread(candidates.loose_supports > candidates.conflicts, hole.shape)
        accept(_coherent(strong, loose, layer.z_background, tolerance), layer.z_background, candidates)
    news = ~hole | accepted
    for _ in range(GROWTH):
        wanted = hole & ~accepted & (cv2.dilate(news.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0)
        proposal = _continued(z)
        # A thing that no photo shows may stand before a wall that others do: a known depth is not overruled, only mended.
        wanted &= (proposal > 0) & (unknown | (np.abs(proposal - layer.z_background) <= EDGE * tolerance * proposal))
        if not wanted.any():
            break
        first = _gather(layer, wanted, proposal, others, LOOSE * tolerance, None)
        proposal[wanted] *= first.correction
        candidates = _gather(layer, wanted, proposal, others, tolerance, rim)
        news = candidates.spread(candidates.supports > candidates.conflicts, hole.shape)
        news &= _agreeing_neighbours((z > 0) | news, np.where(news, proposal, z), EDGE * tolerance) >= 3
        accept(news, proposal, candidates)
    unseen = hole & ~_without_specks(accepted)
    image[unseen], z[unseen] = layer.image[unseen], 0
    return Filled(image, unseen, z)


def _continued(z: Floats) -> Floats:
    """(H, W): mean disparity of the known pixels in each 5 x 5 neighbourhood, as a depth; 0 where there are none."""
    known = (z > 0).astype(np.float32)
    disparity = np.where(z > 0, 1 / np.where(z > 0, z, 1), 0).astype(np.float32)
    count = cv2.boxFilter(known, -1, (5, 5), normalize=False, borderType=cv2.BORDER_CONSTANT)
    total = cv2.boxFilter(disparity, -1, (5, 5), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.where(count > 0.5, count / np.maximum(total, 1e-12), 0).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------- candidates
class _Candidates:
    """Up to `ENOUGH` colours for each of N pixels, best view first, and how many photos speak for and against each."""

    def __init__(self, pixels: BoolMask) -> None:
        self.rows, self.columns = np.nonzero(pixels)
        count = self.rows.size
        self.rgb = np.zeros((count, ENOUGH, 3), np.float32)
        self.weight = np.zeros((count, ENOUGH), np.float32)
        self.used = np.zeros(count, np.int64)
        self.supports = np.zeros(count, np.int64)
        self.loose_supports = np.zeros(count, np.int64)
        self.conflicts = np.zeros(count, np.int64)
        self.ratios = np.zeros(count, np.float64)

    @property
    def correction(self) -> npt.NDArray[np.float64]:
        """(N,) factor that moves each depth onto the surface that the photos show near it."""
        return self.supports / np.maximum(np.where(self.supports > 0, self.ratios, 1), 1e-12) + (self.supports == 0)

    def spread(self, values: BoolMask, shape: tuple[int, int]) -> BoolMask:
        """(N,) values of the pixels as an (H, W) mask."""
        mask = np.zeros(shape, bool)
        mask[self.rows, self.columns] = values
        return mask

    def add(self, which: npt.NDArray[np.int64], rgb: Floats, weight: Floats) -> None:
        slot = self.used[which]
        self.rgb[which, slot], self.weight[which, slot] = rgb, weight
        self.used[which] += 1

    def colours(self, taken: BoolMask) -> npt.NDArray[np.uint8]:
        """(M, 3): the mean of what agrees with the colour that most weight agrees with; never a mean of different things."""
        rgb, weight = self.rgb[taken], self.weight[taken]
        alike = np.stack([np.abs(rgb - rgb[:, [slot]]).max(axis=2) < ALIKE for slot in range(ENOUGH)], axis=1)
        votes = (alike * weight[:, None, :]).sum(axis=2) * (weight > 0)
        agree = np.take_along_axis(alike, votes.argmax(axis=1)[:, None, None], axis=1)[:, 0]
        share = agree * weight
        mean = (share[..., None] * rgb).sum(axis=1) / np.maximum(share.sum(axis=1), 1e-12)[:, None]
        return np.clip(np.round(mean), 0, 255).astype(np.uint8)


def _gather(
    layer: ViewLayers, pixels: BoolMask, z: Floats, others: Sequence[ViewLayers], tolerance: float, rim: _Rim | None
) -> _Candidates:
    """Asks the others about the pixels' background points at depth `z`, nearest first; `rim` None: no exposure gain."""
    candidates = _Candidates(pixels)
    points = unproject_pixels(layer.view, candidates.rows, candidates.columns, z)
    for other in others:
        active = np.flatnonzero(candidates.used < ENOUGH)
        if not active.size:
            break
        seen = look(other, points[active], tolerance)
        shown = seen.deviation <= tolerance
        candidates.supports[active] += shown
        candidates.ratios[active] += np.where(shown, seen.ratio, 0)
        candidates.loose_supports[active] += seen.deviation <= LOOSE * tolerance
        candidates.conflicts[active] += seen.through
        good = seen.deviation <= LOOSE * tolerance
        if not good.any():
            continue
        which = active[good]
        rgb = _bilinear(other.image, seen.xy[good])
        if rim is not None:
            rgb = rgb * _gain(rim, other, tolerance)
        weight = _weight(layer, other, points[which], seen, good, tolerance)
        candidates.add(which, rgb, weight)
    return candidates


@dataclass
class Seen:
    """How a photo sees N points."""

    xy: npt.NDArray[np.float64]
    """(N, 2) pixel coordinates."""
    ratio: npt.NDArray[np.float64]
    """(N,) the point's depth over the depth shown there; infinite outside the photo, behind it, and next to its hole."""
    deviation: npt.NDArray[np.float64]
    """(N,) |ratio - 1|."""
    through: BoolMask
    """(N,) the photo looks through the point: it shows something well behind it."""
    edge: BoolMask
    """(N,) a depth edge is near: the colour there is a mixture."""


def look(other: ViewLayers, points: npt.NDArray[np.float64], tolerance: float) -> Seen:
    """How a photo sees (N, 3) points; `tolerance` is relative, of depth."""
    xy, z = project(other.view, points)
    width, height = other.view.width, other.view.height
    seen = Seen(xy, np.full(z.size, np.inf), np.full(z.size, np.inf), np.zeros(z.size, bool), np.zeros(z.size, bool))
    with np.errstate(invalid="ignore"):  # what cannot be projected is NaN, and not inside
        inside = (z > 0) & (xy[:, 0] >= 0.5) & (xy[:, 0] <= width - 0.5) & (xy[:, 1] >= 0.5) & (xy[:, 1] <= height - 0.5)
    which = np.flatnonzero(inside)
    pixel = (np.minimum(xy[which, 1].astype(np.int64), height - 1), np.minimum(xy[which, 0].astype(np.int64), width - 1))
    shown = other.z_visible[pixel]
    # Most points fall into the other's hole or behind what it shows: these are done with here.
    which = which[~other.hole[pixel] & (shown > 0) & (z[which] < (1 + EDGE * LOOSE * tolerance) * shown)]
    column, row, part_x, part_y = _corner(xy[which], width, height)
    corners = [(row + down, column + right) for down in (0, 1) for right in (0, 1)]
    shares = np.stack([(1 - part_y) * (1 - part_x), (1 - part_y) * part_x, part_y * (1 - part_x), part_y * part_x])
    z_corners = np.stack([other.z_visible[corner] for corner in corners]).astype(np.float64)
    hidden = np.any([other.hole[corner] for corner in corners], axis=0)
    usable = ((z_corners > 0) & np.isfinite(z_corners)).all(axis=0) & ~hidden
    which, shares, z_corners = which[usable], shares[:, usable], z_corners[:, usable]
    ratios = z[which] / z_corners  # 1 = agrees, > 1 = hidden, < 1 = looked through
    # Disparity of a plane is affine in pixels, so its bilinear value is right on slanted surfaces, the nearest one on edges.
    smooth = (ratios * shares).sum(axis=0)
    nearest = np.take_along_axis(ratios, shares.argmax(axis=0)[None], axis=0)[0]
    seen.ratio[which] = np.where(np.abs(smooth - 1) < np.abs(nearest - 1), smooth, nearest)
    seen.deviation[which] = np.abs(seen.ratio[which] - 1)
    seen.through[which] = ratios.max(axis=0) < 1 - LOOSE * tolerance
    seen.edge[which] = np.abs(ratios - 1).max(axis=0) > EDGE * tolerance
    return seen


def _weight(
    layer: ViewLayers, other: ViewLayers, points: npt.NDArray, seen: Seen, good: BoolMask, tolerance: float
) -> Floats:
    """(M,) trust in a photo's colour: it should look from nearly the same direction, from as near, and not on an edge."""
    here, there = points - layer.view.c2w[:, 3], points - other.view.c2w[:, 3]
    here_norm, there_norm = np.linalg.norm(here, axis=1), np.linalg.norm(there, axis=1)
    cosine = np.clip((here * there).sum(axis=1) / np.maximum(here_norm * there_norm, 1e-12), -1, 1)
    nearness = 1 / (np.arccos(cosine) + 0.02) ** 2
    detail = np.minimum(1, (other.view.fx / there_norm) / (layer.view.fx / here_norm))
    exact = np.exp(-((seen.deviation[good] / tolerance) ** 2) / 2)
    return (nearness * detail**2 * exact * np.where(seen.edge[good], 0.02, 1) + 1e-6).astype(np.float32)


def _corner(xy: npt.NDArray, width: int, height: int):
    """The top-left of the four pixels whose centres surround each point, and the parts to the right and down."""
    column = np.clip(np.floor(xy[:, 0] - 0.5).astype(np.int64), 0, max(width - 2, 0))
    row = np.clip(np.floor(xy[:, 1] - 0.5).astype(np.int64), 0, max(height - 2, 0))
    return column, row, xy[:, 0] - 0.5 - column, xy[:, 1] - 0.5 - row


def _bilinear(image: Image, xy: npt.NDArray[np.float64]) -> Floats:
    column, row, part_x, part_y = _corner(xy, image.shape[1], image.shape[0])
    part_x, part_y = part_x[:, None], part_y[:, None]
    top = image[row, column] * (1 - part_x) + image[row, column + 1] * part_x
    bottom = image[row + 1, column] * (1 - part_x) + image[row + 1, column + 1] * part_x
    return (top * (1 - part_y) + bottom * part_y).astype(np.float32)


# --------------------------------------------------------------------------------------------------------------- exposure
_Rim = tuple[npt.NDArray[np.float64], Floats]


def _rim(layer: ViewLayers) -> _Rim | None:
    """Up to 1500 points of what the photo shows around its hole, and their colours."""
    reach = 2 * scale_pixels(25, layer.view.width) + 1
    around = cv2.dilate(layer.hole.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    rows, columns = np.nonzero(around & ~layer.hole & (layer.z_visible > 0))
    if rows.size < 50:
        return None
    chosen = np.linspace(0, rows.size - 1, min(rows.size, 1500)).astype(np.int64)
    rows, columns = rows[chosen], columns[chosen]
    return unproject_pixels(layer.view, rows, columns, layer.z_visible), layer.image[rows, columns].astype(np.float32)


def _gain(rim: _Rim, other: ViewLayers, tolerance: float) -> Floats:
    """(3,) factor that makes the other photo as bright as this one, from the points that both show; 1 if too few."""
    points, colours = rim
    seen = look(other, points, tolerance)
    common = (seen.deviation <= LOOSE * tolerance) & ~seen.edge
    if common.sum() < 50:
        return np.ones(3, np.float32)
    theirs, ours = _bilinear(other.image, seen.xy[common]), colours[common]
    lit = ((theirs > 8) & (theirs < 247) & (ours > 8) & (ours < 247)).all(axis=1)  # clipped colours show no gain
    if lit.sum() < 50:
        return np.ones(3, np.float32)
    gain = np.exp(np.median(np.log(ours[lit] / theirs[lit]), axis=0))
    return np.clip(gain, 1 / GAIN_LIMIT, GAIN_LIMIT).astype(np.float32)


# -------------------------------------------------------------------------------------------------------------- coherence
def _coherent(strong: BoolMask, loose: BoolMask, z: Floats, tolerance: float) -> BoolMask:
    """Accepted pixels whose neighbours are accepted at about their depth: hysteresis, then no lone pixels, no specks."""
    neighbours = np.ones((3, 3), np.uint8)
    agreeing = _agreeing_neighbours(strong, z, EDGE * tolerance)
    accepted = strong & (agreeing >= 3)
    accepted |= loose & (cv2.dilate(accepted.astype(np.uint8), neighbours) > 0)
    return _without_specks(accepted)


def _without_specks(accepted: BoolMask) -> BoolMask:
    least = scale_pixels(SPECK_PER_1000, accepted.shape[1]) ** 2
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
