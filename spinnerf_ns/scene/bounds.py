"""Where a capture's content lies, from its sparse points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture

NEAR_FRACTION = 0.5
"""The near plane lies at this part of the nearest content's depth: points are sparse, and something may be nearer."""

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


def scene_bounds(capture: Capture) -> SceneBounds | None:
    """Bounds of the cameras and of the sparse points, outliers left out; None for a capture without usable points.

    Args:
        capture: the capture; its points are the .ply file that transforms.json names.
    """
    path = capture.source_meta.get("ply_file_path")
    if path is None or not Path(path).is_file():
        return None
    points = read_points(Path(path))
    if len(points) < 100:  # too few to say where the content ends
        return None
    cameras = capture.cameras(capture.views).camera_to_worlds.double().numpy()
    points = _to_training_frame(points, capture, cameras[0])
    depths = _nearest_depths(points, cameras)
    seen = depths > 0
    if seen.sum() < 100:
        return None
    # What lies further than the middle of the scene by much is its background, which the contraction is there for; and
    # sparse reconstructions carry a few points far off, so of the rest the middle 98 per cent on each axis are content.
    content = points[seen & (depths < BACKGROUND_FACTOR * np.median(depths[seen]))]
    low, high = np.percentile(content, [1, 99], axis=0)
    low, high = np.minimum(low, cameras[:, :, 3].min(axis=0)), np.maximum(high, cameras[:, :, 3].max(axis=0))
    near = NEAR_FRACTION * float(np.percentile(depths[depths > 0], 1))
    center = (low + high) / 2
    return SceneBounds(tuple(center.tolist()), float((high - low).max() / 2), near)


def read_points(path: Path) -> npt.NDArray[np.float64]:
    """(P, 3) positions of a .ply file; empty if it cannot be read (points are a help, not a need)."""
    import trimesh

    try:
        return np.asarray(trimesh.load(path, process=False).vertices, dtype=np.float64)
    except (ValueError, AttributeError, KeyError, OSError):
        return np.zeros((0, 3))


def _to_training_frame(
    points: npt.NDArray[np.float64], capture: Capture, camera: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Points of the capture's world frame in the training frame, by the first view's pose in both."""
    source = capture.views[0].c2w
    rotation = camera[:, :3] @ source[:, :3].T
    translation = camera[:, 3] - capture.world_scale * rotation @ source[:, 3]
    return capture.world_scale * points @ rotation.T + translation


def _nearest_depths(points: npt.NDArray[np.float64], cameras: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(P,) each point's smallest depth before the cameras that look at it (within 45 degrees); 0 where none does."""
    nearest = np.full(len(points), np.inf)
    for camera in cameras:
        seen = (points - camera[:, 3]) @ camera[:, :3]
        z = -seen[:, 2]
        looked_at = (z > 0) & (np.abs(seen[:, :2]).max(axis=1) < z)
        nearest = np.where(looked_at, np.minimum(nearest, z), nearest)
    return np.where(np.isfinite(nearest), nearest, 0.0)
