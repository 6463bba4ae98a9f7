"""What the page shows of photos, masks and space: encoded pictures and plain JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.page.session import Session
from spinnerf_ns.segmentation.agreement import Solid, agreement
from spinnerf_ns.segmentation.painting import COLOURS

THUMBNAIL, LARGEST = 200, 2048
"""Longest sides, in pixels, of a photo in the strip and of one that is pointed at; places are sent in the photo's own pixels."""
QUALITY = {THUMBNAIL: 75, LARGEST: 90}
"""JPEG quality."""
INSIDE, CONTOUR = 110, 255
"""Opacity of a mask and of its contour."""
MOST_POINTS = 5000
"""Points of the 3-D check."""


def photo_jpeg(image: Image, side: int) -> bytes:
    """A photo, shrunk to a longest side where it is larger."""
    rgb = _shrunk(image, side)
    quality = min(QUALITY.values()) if side <= THUMBNAIL else max(QUALITY.values())
    return cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def mask_png(object_mask: BoolMask, place: int, side: int) -> bytes:
    """A mask as a coloured film to lay over its photo.

    Args:
        object_mask: (H, W).
        place: of the object in the list; says its colour.
        side: longest side, as of the photo.
    """
    small = _shrunk(object_mask.astype(np.uint8) * 255, side) > 127
    red, green, blue = COLOURS[place % len(COLOURS)]
    film = np.zeros((*small.shape, 4), np.uint8)
    film[small] = (blue, green, red, INSIDE)
    contour = small & ~(cv2.erode(small.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0)
    film[contour, 3] = CONTOUR
    return cv2.imencode(".png", film, [cv2.IMWRITE_PNG_COMPRESSION, 2])[1].tobytes()


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def space(session: Session, name: str, solid: Solid | None) -> dict[str, Any]:
    """The object's points and the cameras, for the 3-D check.

    Args:
        session: the scene.
        name: the object.
        solid: it in space, where that is known already.

    Returns:
        {"points": [[x, y, z, r, g, b], ...], "cameras": [[x, y, z, dx, dy, dz], ...], "photos": [photo of each camera]}; the
        source frame, colours 0 to 255, d is the viewing direction.
    """
    masks = {view.photo: session.mask(name, view.photo) for view in session.views}
    if solid is None:
        _, solid = agreement(session.views, masks)
    points = solid.points[solid.surface]
    points = points[:: max(1, -(-len(points) // MOST_POINTS))]
    colours = np.full((len(points), 3), 160.0)
    nearest = np.full(len(points), np.inf)
    from spinnerf_ns.scene.cameras import project

    for view in session.views[:: max(1, len(session.views) // 12)]:  # each point as the nearest of a dozen photos shows it
        mask = masks[view.photo]
        if mask is None or not len(points):
            continue
        xy, z = project(view, points)
        with np.errstate(invalid="ignore"):
            good = (z > 0) & (z < nearest) & (xy >= 0).all(axis=1) & (xy[:, 0] < view.width) & (xy[:, 1] < view.height)
        which = np.flatnonzero(good)
        rows, columns = xy[which, 1].astype(int), xy[which, 0].astype(int)
        inside = mask[rows, columns]
        which, rows, columns = which[inside], rows[inside], columns[inside]
        colours[which], nearest[which] = session.image(view.photo)[rows, columns], z[which]
    poses = np.array([view.c2w for view in session.views])
    return {
        "points": np.round(np.concatenate([points, colours], axis=1), 5).tolist(),
        "cameras": np.round(np.concatenate([poses[:, :, 3], -poses[:, :, 2]], axis=1), 5).tolist(),
        "photos": [view.photo for view in session.views],
    }


def decoded_mask(data: bytes) -> BoolMask | None:
    """(H, W) bool of an uploaded picture; None if it is none."""
    import tempfile

    from spinnerf_ns.errors import SpinnerfError
    from spinnerf_ns.files import load_object_mask

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.png"
        path.write_bytes(data)
        try:
            return load_object_mask(path)
        except SpinnerfError:
            return None
