"""What stands before a planted object: from depth maps where the capture has them, else from sparse points."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.conventions import DEPTH_UNIT_SCALE, Image, resize_depth
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.planted_object import Rendering
from spinnerf_ns.scene.capture import Capture
from spinnerf_ns.scene.source import read_transforms
from spinnerf_ns.scene.view import View

DEPTH_MARGIN = 0.05
"""In object heights: the surface that it stands on is not before it, though depth maps and its plane are a little off."""
POINT_MARGIN = 0.3
"""In object heights: the same for sparse points, which are less exact."""
LEAST_FRONT_POINTS = 3
"""Fewer points before the object are taken for mistakes of the reconstruction."""
REACH = 0.04
"""How far around a point before the object its surface may reach where a point behind is nearer, in photo widths."""
LEAST_VISIBLE = 0.02
"""Smaller pieces of the object, as a part of it, are not left over between what is before it."""
FAR_REACH = 3.0
"""How many times further where no point says that something behind is seen there."""


@dataclass(frozen=True)
class KnownDepth:
    """Depth files that a capture's transforms.json names."""

    files: dict[str, Path]
    """A photo's absolute path -> its depth file."""
    unit: float
    """Source world units per stored unit."""

    @classmethod
    def of(cls, capture: Capture) -> KnownDepth:
        """The capture's depth files; none for captures without."""
        path = capture.data if capture.data.is_file() else capture.data / "transforms.json"
        if not path.is_file():
            return cls({}, DEPTH_UNIT_SCALE)
        meta = read_transforms(path)
        files = {
            os.path.abspath(path.parent / frame["file_path"]): path.parent / frame["depth_file_path"]
            for frame in meta["frames"]
            if frame.get("depth_file_path")
        }
        return cls(files, DEPTH_UNIT_SCALE * float(meta.get("applied_scale", 1.0)))

    def read(self, view: View, size: tuple[int, int]) -> NDArray[np.float64] | None:
        """(height, width) of `size`: planar depth in source world units, 0 = unknown; None where the photo has no file.

        Raises:
            SpinnerfError: the file is missing or is no depth map.
        """
        path = self.files.get(os.path.abspath(view.path))
        if path is None:
            return None
        try:
            stored = np.load(path) if path.suffix == ".npy" else cv2.imread(str(path), cv2.IMREAD_ANYDEPTH)
        except (OSError, ValueError):
            stored = None
        if stored is None or stored.ndim != 2:
            raise SpinnerfError(
                f"{path}: no depth map of shape (height, width) can be read there; mend it, or remove depth_file_path from "
                "every frame of transforms.json"
            )
        return resize_depth((stored.astype(np.float64) * self.unit).astype(np.float32), size).astype(np.float64)


def front_by_depth(depth: NDArray[np.float64], rendering: Rendering, height: float) -> NDArray[np.float32]:
    """(h, w) 1 where a known surface lies before the object, in the rendering's box.

    Args:
        depth: (H, W) planar depth of the photo, 0 = unknown.
        rendering: the object as the photo's camera shows it.
        height: the object's, world units.
    """
    there = depth[rendering.rows, rendering.columns]
    object_z = _filled(rendering)
    front = (there > 0) & (there < object_z - DEPTH_MARGIN * height)
    return front.astype(np.float32)


def front_by_points(
    photo: Image,
    pixels: NDArray[np.int64],
    z: NDArray[np.floating],
    rendering: Rendering,
    height: float,
) -> NDArray[np.float32]:
    """(h, w) in [0, 1] how much something lies before the object, in the rendering's box.

    Points before the object and points behind it are the seeds of a watershed in the photo, so that what is before ends
    where the photo has an edge.

    Args:
        photo: (H, W, 3) without the object.
        pixels: (K, 2) row and column of the sparse points that the photo shows.
        z: (K,) their planar depth.
        rendering: the object as the photo's camera shows it.
        height: the object's, world units.
    """
    shape = rendering.coverage.shape
    nothing = np.zeros(shape, np.float32)
    rows, columns = pixels[:, 0] - rendering.rows.start, pixels[:, 1] - rendering.columns.start
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    rows, columns, z = rows[inside], columns[inside], z[inside]
    covered = rendering.coverage[rows, columns] > 0
    rows, columns, z = rows[covered], columns[covered], z[covered]
    before = z < _filled(rendering)[rows, columns] - POINT_MARGIN * height
    reach = max(2, round(REACH * photo.shape[1]))
    if before.sum() < LEAST_FRONT_POINTS:
        return nothing
    to_front, to_back = (_distance(shape, rows[which], columns[which]) for which in (before, ~before))
    markers = np.zeros(shape, np.int32)
    markers[(to_front > reach) & (to_back < to_front)] = 2
    markers[to_front > FAR_REACH * reach] = 2
    markers[rows[~before], columns[~before]] = 2
    markers[rows[before], columns[before]] = 1
    # OpenCV never labels the outermost pixels.
    crop = cv2.copyMakeBorder(photo[rendering.rows, rendering.columns], 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    found = cv2.watershed(crop, np.pad(markers, 1))[1:-1, 1:-1] == 1
    # A lone point behind, in what is before, is a mistake too.
    count, labels, sizes, _ = cv2.connectedComponentsWithStats(((rendering.coverage > 0) & ~found).astype(np.uint8))
    small = sizes[:count, cv2.CC_STAT_AREA] < LEAST_VISIBLE * (rendering.coverage > 0).sum()
    found |= small[labels] & (rendering.coverage > 0) & found.any()
    return cv2.GaussianBlur(found.astype(np.float32), (0, 0), 0.7)


def _distance(shape: tuple[int, ...], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """(h, w) pixels to the nearest of some pixels; inf where there is none."""
    if not len(rows):
        return np.full(shape, np.inf, np.float32)
    away = np.ones(shape, np.uint8)
    away[rows, columns] = 0
    return cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _filled(rendering: Rendering) -> NDArray[np.float64]:
    """(h, w) the object's depth; at the rim, where pixels' centres miss it, that of the nearest pixel that it covers."""
    z = rendering.z
    met = np.isfinite(z)
    if met.all() or not met.any():
        return np.where(met, z, 0.0)
    _, labels = cv2.distanceTransformWithLabels(
        (~met).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    value = np.zeros(labels.max() + 1)
    value[labels[met]] = z[met]
    return value[labels]
