"""Where a capture's content lies, from its sparse points and the bounds that it states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spinnerf_ns.scene.cameras import unproject
from spinnerf_ns.scene.frames import transform_points
from spinnerf_ns.scene.points import LEAST_POINTS, SparsePoints

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture

NEAR_FRACTION = 0.5
"""The near plane lies at this part of the nearest content's depth: points are sparse, and something may be nearer."""

STATED_FRACTION = 0.9
"""The near plane lies at this part of the nearest depth that the capture states: it is that of its nearest points."""

BACKGROUND_FACTOR = 2.0
"""Points further than this many times the median depth are background."""


@dataclass(frozen=True)
class SceneBounds:
    """A cube around cameras and content, in the training frame."""

    center: tuple[float, float, float]
    """Its centre."""
    radius: float
    """Half its side."""
    near: float
    """Depth before which no photo sees anything."""


def scene_bounds(capture: Capture, points: SparsePoints | None) -> SceneBounds | None:
    """Bounds of the cameras and of the content, outliers left out.

    Args:
        capture: the capture.
        points: its sparse points, source frame. Without them, or with too few, the depths that it states stand in.

    Returns:
        None for a capture that neither has points nor states depths.
    """
    cameras = capture.cameras(capture.views).camera_to_worlds.double().numpy()
    source = np.zeros((0, 3)) if points is None else points.positions
    stated = min((near for near, _ in capture.bounds.values()), default=np.inf) * capture.world_scale
    found = _content(transform_points(capture.world_to_training, source), cameras) if len(source) >= LEAST_POINTS else None
    if found is None and capture.bounds:
        found = _content(transform_points(capture.world_to_training, _stated_points(capture)), cameras)
    if found is None:
        return None
    content, nearest = found
    low, high = np.percentile(content, [1, 99], axis=0)
    low, high = np.minimum(low, cameras[:, :, 3].min(axis=0)), np.maximum(high, cameras[:, :, 3].max(axis=0))
    center = (low + high) / 2
    near = min(NEAR_FRACTION * nearest, STATED_FRACTION * stated)
    return SceneBounds(tuple(center.tolist()), float((high - low).max() / 2), near)


def _content(points: npt.NDArray[np.float64], cameras: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float] | None:
    """(P, 3) points without the background, and the depth of the nearest; None where cameras see too few of them."""
    depths = _nearest_depths(points, cameras)
    seen = depths > 0
    if seen.sum() < LEAST_POINTS:
        return None
    # What lies further than the middle of the scene by much is its background, which the contraction is there for; and
    # sparse reconstructions carry a few points far off, so of the rest the middle 98 per cent on each axis are content.
    return points[seen & (depths < BACKGROUND_FACTOR * np.median(depths[seen]))], float(np.percentile(depths[seen], 1))


def _stated_points(capture: Capture) -> npt.NDArray[np.float64]:
    """Points on the photos' rays between the depths that they state, even in disparity."""
    points = [np.zeros((0, 3))]
    for photo, (near, far) in capture.bounds.items():
        view = capture.view(photo)
        across = np.stack(np.meshgrid(*(np.linspace(0.1, 0.9, 5),) * 2), axis=-1).reshape(-1, 2) * [view.width, view.height]
        depths = 1 / np.linspace(1 / near, 1 / far, 8)
        points.append(unproject(view, np.repeat(across, len(depths), axis=0), np.tile(depths, len(across))))
    return np.concatenate(points)


def _nearest_depths(points: npt.NDArray[np.float64], cameras: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(P,) each point's smallest depth before the cameras that look at it (within 45 degrees); 0 where none does."""
    nearest = np.full(len(points), np.inf)
    for camera in cameras:
        seen = (points - camera[:, 3]) @ camera[:, :3]
        z = -seen[:, 2]
        looked_at = (z > 0) & (np.abs(seen[:, :2]).max(axis=1) < z)
        nearest = np.where(looked_at, np.minimum(nearest, z), nearest)
    return np.where(np.isfinite(nearest), nearest, 0.0)
