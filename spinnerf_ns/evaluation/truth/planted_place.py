"""Where an object is planted, and how large: chosen by geometry alone, from poses and sparse points.

Candidates are the sparse points themselves. At each, the object would stand on the plane through the points around it, in
the size that fills the wanted part of the photos. Those that too few photos would see are out; of the others the best by
`Weights` is taken. Pictures are never looked at, except that a point counts as seen where a photo has its colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.planted_object import FOOT_RADIUS, hull_points
from spinnerf_ns.scene.cameras import project
from spinnerf_ns.scene.view import View

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SEEN_BY = 0.6
"""Least part of the photos that see the object whole, or nearly."""
SIZE_RANGE = (0.03, 0.10)
"""Part of the photo that the object may fill (median over the photos that see it)."""
WHOLE = 0.9
"""Part of the object's outline that must lie in a photo for it to count as seen there."""
LARGEST = 0.25
"""Part of a photo that the object may fill."""
CANDIDATES = 400
SHORTLIST = 50
"""Of the candidates, by the tests that need no hidden points, go on to those that do."""
MOST_POINTS = 15_000
MOST_VIEWS = 40
"""More are thinned for the choice."""
GROUND_TILT = 40.0
"""Degrees between the cameras' up and a surface's normal up to which the surface is ground."""
LEAST_NEIGHBOURS = 8
"""Points around a candidate from which its plane is fitted."""


@dataclass(frozen=True)
class Weights:
    """What a place gains and loses."""

    seen: float = 1.0
    """Per part of the photos that see the object."""
    seen_elsewhere: float = 1.0
    """Per part of what the object hides that another photo shows."""
    occluded: float = -4.0
    """Per part of the points within the outline that lie before the object."""
    collision: float = -3.0
    """Per point inside the object, as a part of the points it stands on."""
    tilt: float = -2.0
    """Per 1 - cosine between the surface's normal and up."""
    roughness: float = -2.0
    """Per distance of the surface's points from their plane (rms) in object heights."""
    off_center: float = -0.3
    """Per distance from the photo's middle, half its diagonal being 1."""


WEIGHTS = Weights()


@dataclass(frozen=True)
class Place:
    """Where the object stands."""

    position: Floats
    """(3,) world."""
    axes: Floats
    """(3, 3) columns: the object's x, y, z in the world; -y faces the cameras, z is the direction it stands in."""
    height: float
    """World units."""
    figures: dict[str, float]
    """What spoke for it: seen_by, area, seen_elsewhere, occluded, collision, tilt_degrees, roughness, off_center, score."""


@dataclass(frozen=True)
class SeenPoints:
    """Sparse points and which views show them."""

    positions: Floats
    """(P, 3) world."""
    visible: Bools
    """(V, P)."""


def choose_place(views: Sequence[View], points: SeenPoints, size: float, rng: np.random.Generator) -> Place:
    """The best place for an object among sparse points.

    Args:
        views: all photos' cameras.
        points: the capture's sparse points.
        size: the part of the photo that the object fills, median over the photos that see it.
        rng: thins points and candidates.

    Raises:
        SpinnerfError: no place is seen by enough photos.
    """
    chosen_views = np.unique(np.linspace(0, len(views) - 1, min(MOST_VIEWS, len(views))).round().astype(int))
    used = np.flatnonzero(points.visible.sum(axis=0) >= 2)
    if len(used) < LEAST_NEIGHBOURS:
        raise SpinnerfError(
            f"{views[0].path.parent}: the photos show {len(used)} of {len(points.positions)} sparse points twice, expected "
            f"{LEAST_NEIGHBOURS} or more to stand an object on; make sparse_pc.ply again: ns-process-data"
        )
    if len(used) > MOST_POINTS:
        used = np.sort(rng.choice(used, MOST_POINTS, replace=False))
    scene = _Scene([views[i] for i in chosen_views], points.positions[used], points.visible[chosen_views][:, used])
    candidates = scene.candidates(rng)
    surfaces = [scene.surface(index, size) for index in candidates]
    up = _up(scene.views, [surface for surface in surfaces if surface is not None])
    found = scene.outline_tests([surface for surface in surfaces if surface is not None], up, size)
    if not found:
        raise SpinnerfError(
            f"{views[0].path.parent}: of {len(candidates)} places tried, none is seen by {SEEN_BY:.0%} of the photos at "
            f"{size:.0%} of their area; plant a smaller object: --size {max(SIZE_RANGE[0], size / 2):g}"
        )
    shortlist = sorted(found, key=lambda place: -place.figures["score"])[:SHORTLIST]
    return max((scene.points_test(place) for place in shortlist), key=lambda place: place.figures["score"])


@dataclass(frozen=True)
class _Surface:
    """The plane of the points around a candidate."""

    point: Floats
    normal: Floats
    """(3,) unit, towards the cameras."""
    roughness: float
    """Distance of the points from the plane, rms, world units."""
    height: float
    """Of an object of the wanted size here, a first guess."""


@dataclass(frozen=True)
class _Trial:
    """An object on a surface."""

    surface: _Surface
    tilt: float
    """Angle between the surface's normal and up, radians."""
    axes: Floats
    height: float
    figures: dict[str, float]


class _Scene:
    def __init__(self, views: list[View], positions: Floats, visible: Bools) -> None:
        self.views, self.positions, self.visible = views, positions, visible
        projected = [project(view, positions) for view in views]
        self.xy = np.stack([xy for xy, _ in projected])  # (V, P, 2)
        self.z = np.stack([z for _, z in projected])
        self.centers = np.stack([view.c2w[:, 3] for view in views])
        sizes = np.array([[view.width, view.height] for view in views], dtype=np.float64)
        with np.errstate(invalid="ignore"):
            self.in_frame = (self.z > 0) & ((self.xy > 0) & (self.xy < sizes[:, None])).all(axis=-1)

    def candidates(self, rng: np.random.Generator) -> NDArray[np.intp]:
        """Points in enough photos, spread evenly: sparse points crowd where there is texture."""
        enough = np.flatnonzero(self.in_frame.mean(axis=0) >= SEEN_BY)
        if len(enough) <= CANDIDATES:
            return enough
        positions = self.positions[enough]
        low, high = np.percentile(positions, [2, 98], axis=0)
        cells = np.floor((positions - low) / np.maximum((high - low).max() / 60, 1e-12)).astype(int)
        order = rng.permutation(len(enough))
        _, first = np.unique(cells[order], axis=0, return_index=True)
        kept = order[first]
        if len(kept) > CANDIDATES:
            kept = rng.choice(kept, CANDIDATES, replace=False)
        return enough[np.sort(kept)]

    def surface(self, index: int, size: float) -> _Surface | None:
        point = self.positions[index]
        shown = self.in_frame[:, index]
        scale = np.array([view.width * view.height / (view.fx * view.fy) for view in self.views])[shown]
        # The outline of a solid of height 1 is about 0.55 wide and high.
        height = float(np.sqrt(size / 0.55 * np.median(scale * self.z[shown, index] ** 2)))
        near = self.positions[np.linalg.norm(self.positions - point, axis=1) < 2 * FOOT_RADIUS * height]
        if len(near) < LEAST_NEIGHBOURS:
            return None
        center = np.median(near, axis=0)
        _, _, axes = np.linalg.svd(near - center, full_matrices=False)
        normal = axes[2]
        if normal @ (self.centers.mean(axis=0) - point) < 0:
            normal = -normal
        distance = (near - center) @ normal
        # The middle of the points around is steadier than one of them.
        roughness = float(np.sqrt((distance**2).mean()))
        return _Surface(point + normal * ((center - point) @ normal), normal, roughness, height)

    def outline_tests(self, surfaces: list[_Surface], up: Floats, size: float) -> list[Place]:
        """How the object would lie in the photos, for those surfaces where enough see it."""
        trials = []
        for surface in surfaces:
            tilt = float(np.arccos(np.clip(surface.normal @ up, -1, 1)))
            # On a wall it cannot stand; there it leans, upright.
            axes = _axes(surface.normal if tilt < np.deg2rad(GROUND_TILT) else up, self.centers.mean(axis=0) - surface.point)
            trials.append(_Trial(surface, tilt, axes, surface.height, {}))
        for _ in range(3):  # a larger object reaches nearer, so its size is found in steps
            trials = self.sized(trials, size)
        return [Place(trial.surface.point, trial.axes, trial.height, trial.figures) for trial in trials]

    def sized(self, trials: list[_Trial], size: float) -> list[_Trial]:
        """The trials that enough photos see, their heights corrected towards `size`, with their figures."""
        hulls = np.array([hull_points(trial.surface.point, trial.axes, trial.height) for trial in trials]).reshape(-1, 3)
        outlines = [self.outlines(view, hulls, len(trials)) for view in self.views]
        result = []
        for index, trial in enumerate(trials):
            areas, inside, off_center = np.array([outline[index] for outline in outlines]).T
            seen = (inside >= WHOLE) & (areas < LARGEST) & (areas > 0.2 * size)
            if seen.mean() < SEEN_BY:
                continue
            area = float(np.median(areas[seen]))
            figures = {
                "seen_by": float(seen.mean()),
                "area": area,
                "tilt_degrees": float(np.rad2deg(trial.tilt)),
                "roughness": trial.surface.roughness / trial.height,
                "off_center": float(np.median(off_center[seen])),
            }
            w = WEIGHTS
            figures["score"] = (
                w.seen * figures["seen_by"] + w.tilt * (1 - np.cos(trial.tilt)) + w.roughness * figures["roughness"]
                + w.off_center * figures["off_center"]
            )  # fmt: skip
            result.append(replace(trial, height=trial.height * float(np.sqrt(size / area)), figures=figures))
        return result

    @staticmethod
    def outlines(view: View, hulls: Floats, count: int) -> Floats:
        """(count, 3) for each of so many hulls, which follow each other: the part of the photo that its outline fills, the
        part of the outline within the photo, the distance off centre."""
        xy, z = (values.reshape(count, -1, *values.shape[1:]) for values in project(view, hulls))
        found = np.zeros((count, 3))
        usable = (z > 0).all(axis=1) & np.isfinite(xy).all(axis=(1, 2))
        low, high = xy.min(axis=1), xy.max(axis=1)
        with np.errstate(invalid="ignore"):
            usable &= ((high > 0) & (low < [view.width, view.height])).all(axis=1)
        frame = np.array([[0, 0], [view.width, 0], [view.width, view.height], [0, view.height]], np.float32)
        for index in np.flatnonzero(usable):
            outline = cv2.convexHull(xy[index].astype(np.float32))[:, 0]
            whole = shown = cv2.contourArea(outline)
            if whole > 0 and ((low[index] < 0) | (high[index] > frame[2])).any():
                shown = cv2.intersectConvexConvex(outline, frame)[0]
            middle = (low[index] + high[index] - frame[2]) / 2
            off_center = np.linalg.norm(middle) / np.hypot(*(frame[2] / 2))
            found[index] = shown / (view.width * view.height), shown / max(whole, 1e-9), off_center
        return found

    def points_test(self, place: Place) -> Place:
        """Adds what sparse points say of a place: what is before the object, in it, and behind it."""
        hull = hull_points(place.position, place.axes, place.height)
        before = np.zeros_like(self.visible)
        behind = np.zeros_like(self.visible)
        for index, view in enumerate(self.views):
            xy, z = project(view, hull)
            if not ((z > 0).all() and np.isfinite(xy).all()):
                continue
            within = _in_outline(cv2.convexHull(xy.astype(np.float32))[:, 0], self.xy[index]) & self.visible[index]
            middle = float(np.median(z))
            before[index] = within & (self.z[index] < middle - 0.45 * place.height)
            behind[index] = within & ~before[index]
        hidden = behind.any(axis=0)
        elsewhere = hidden & (self.visible & ~behind).any(axis=0)
        local = (self.positions - place.position) @ place.axes / place.height
        around = np.linalg.norm(local[:, :2], axis=1) < 1.5 * FOOT_RADIUS
        in_it = around & (local[:, 2] > 0.2) & (local[:, 2] < 0.9)
        on_ground = around & (np.abs(local[:, 2]) < 0.2)
        figures = {
            **place.figures,
            "occluded": float(before.sum() / max(1, before.sum() + behind.sum())),
            "collision": float(in_it.sum() / max(1, on_ground.sum())),
            "seen_elsewhere": float(elsewhere.sum() / max(1, hidden.sum())),
        }
        w = WEIGHTS
        figures["score"] += (
            w.occluded * figures["occluded"] + w.collision * min(1.0, figures["collision"])
            + w.seen_elsewhere * figures["seen_elsewhere"]
        )  # fmt: skip
        return Place(place.position, place.axes, place.height, figures)


def _in_outline(outline: NDArray[np.float32], xy: Floats) -> Bools:
    """(P,) whether points lie in a convex outline (K, 2)."""
    low, high = outline.min(axis=0), outline.max(axis=0)
    with np.errstate(invalid="ignore"):
        near = np.flatnonzero(((xy > low) & (xy < high)).all(axis=1))
    edges = np.roll(outline, -1, axis=0) - outline
    offset = xy[near][:, None] - outline
    side = edges[:, 0] * offset[..., 1] - edges[:, 1] * offset[..., 0]
    inside = np.zeros(len(xy), dtype=bool)
    inside[near[(side > 0).all(axis=1) | (side < 0).all(axis=1)]] = True
    return inside


def _up(views: list[View], surfaces: list[_Surface]) -> Floats:
    """Up: the cameras', corrected by the ground where there is any, because people hold cameras tilted."""
    up = np.mean([view.c2w[:, 1] for view in views], axis=0)
    up /= np.linalg.norm(up)
    flat = [surface.normal for surface in surfaces if surface.roughness < 0.1 * surface.height]
    ground = [normal for normal in flat if normal @ up > np.cos(np.deg2rad(GROUND_TILT))]
    if len(ground) < max(5, 0.05 * len(surfaces)):
        return up
    mean = np.median(ground, axis=0)
    return mean / np.linalg.norm(mean)


def _axes(up: Floats, to_cameras: Floats) -> Floats:
    """(3, 3) columns x, y, z: z along `up`, -y towards the cameras."""
    y = -(to_cameras - up * (to_cameras @ up))
    y /= max(np.linalg.norm(y), 1e-12)
    return np.stack([np.cross(y, up), y, up], axis=1)
