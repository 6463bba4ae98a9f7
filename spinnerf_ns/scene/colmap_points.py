"""A COLMAP model's own points with their tracks, in the capture's source frame."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene.cameras import project
from spinnerf_ns.scene.points import LEAST_POINTS, Observations, SparsePoints

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture

LEAST_PHOTOS = 3
"""Points that only two photos show may lie anywhere along their rays."""

LARGEST_ERROR = 0.003
"""How far from its feature a point may appear, as a part of the photo's width; COLMAP's own limit is 4 pixels of any photo."""


def read_colmap_points(capture: Capture) -> SparsePoints | None:
    """Points and tracks of the COLMAP model that a capture was read from, or that lies in it.

    Returns:
        None without a model, for one that cannot be read, and where its tracks do not appear where the capture's poses show
        them (a model of another reconstruction).
    """
    folder = capture.colmap_model
    if folder is None:
        return None
    from nerfstudio.data.utils import colmap_parsing_utils as colmap

    try:
        if not any((folder / f"images{suffix}").is_file() for suffix in (".bin", ".txt")):  # points alone were kept (LLFF)
            binary = (folder / "points3D.bin").is_file()
            read = colmap.read_points3D_binary if binary else colmap.read_points3D_text
            alone = _points(capture, {}, {}, read(folder / f"points3D{'.bin' if binary else '.txt'}"))
            return SparsePoints(alone.positions, alone.colors).thinned()
        if (folder / "points3D.bin").is_file():
            model = [
                colmap.read_cameras_binary(folder / "cameras.bin"),
                colmap.read_images_binary(folder / "images.bin"),
                colmap.read_points3D_binary(folder / "points3D.bin"),
            ]
        elif (folder / "points3D.txt").is_file():
            model = [
                colmap.read_cameras_text(folder / "cameras.txt"),
                colmap.read_images_text(folder / "images.txt"),
                colmap.read_points3D_text(folder / "points3D.txt"),
            ]
        else:
            return None
    except (OSError, ValueError, KeyError, IndexError, struct.error, MemoryError):
        return None
    return _consistent(capture, _points(capture, *model))


def _points(capture: Capture, cameras: dict[int, Any], images: dict[int, Any], points: dict[int, Any]) -> SparsePoints:
    ids = sorted(points)
    place = {point: index for index, point in enumerate(ids)}
    positions = np.array([points[i].xyz for i in ids], np.float64).reshape(-1, 3)
    colors = np.array([points[i].rgb for i in ids], np.float64).reshape(-1, 3)
    transform = np.asarray(capture.source_meta.get("applied_transform", np.eye(4)[:3]), np.float64)[:3]
    scale = float(capture.source_meta.get("applied_scale", 1.0))
    positions = scale * (positions @ transform[:, :3].T + transform[:, 3])
    photos: list[str] = []
    which, owner, where = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros((0, 2))]
    for image in images.values():
        try:
            view = capture.view(image.name)
        except SpinnerfError:  # a photo that the capture does not use
            continue
        known = np.array([place.get(int(i), -1) for i in image.point3D_ids], np.int64)
        camera = cameras[image.camera_id]
        xy = np.asarray(image.xys, np.float64).reshape(-1, 2) * [view.width / camera.width, view.height / camera.height]
        which.append(known[known >= 0])
        owner.append(np.full(int((known >= 0).sum()), len(photos)))
        where.append(xy[known >= 0])
        photos.append(view.photo)
    return SparsePoints(positions, colors, Observations(tuple(photos), *(np.concatenate(parts) for parts in (which, owner, where))))


def _consistent(capture: Capture, points: SparsePoints) -> SparsePoints | None:
    """The points whose tracks agree with the capture's poses; None where most do not."""
    seen, number = points.seen, len(points.positions)
    if number < LEAST_POINTS:
        return None
    fits = np.zeros(len(seen.point), dtype=bool)
    for index, photo in enumerate(seen.photos):
        own = np.flatnonzero(seen.photo == index)
        view = capture.view(photo)
        xy, z = project(view, points.positions[seen.point[own]])
        with np.errstate(invalid="ignore"):
            fits[own] = (np.linalg.norm(xy - seen.xy[own], axis=1) <= LARGEST_ERROR * view.width) & (z > 0)
    if not fits.any() or fits.mean() < 0.5:
        return None
    seen = Observations(seen.photos, seen.point[fits], seen.photo[fits], seen.xy[fits])
    kept = np.flatnonzero(np.bincount(seen.point, minlength=number) >= LEAST_PHOTOS)
    if len(kept) < LEAST_POINTS:
        return None
    return SparsePoints(points.positions[kept], points.colors[kept], seen.kept(kept, number)).thinned()
