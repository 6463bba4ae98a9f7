"""What a mask, a depth and a pixel mean here, and the conversions between their forms. Pure functions.

Masks
    `object_mask`: True = object (SPIn-NeRF, LaMa). `valid_mask`: True = use (nerfstudio's mask). On disk an object mask is
    an 8-bit PNG, 255 = object.
Depth
    `t` is the distance along the ray, `z` the distance along the camera's viewing axis: z = t / directions_norm, where
    directions_norm is the length of the ray's direction before normalisation (nerfstudio's `metadata["directions_norm"]`).
    disparity = 1 / z. On disk z is float32 in units of `DEPTH_UNIT_SCALE` world units, so that nerfstudio's default
    `depth_unit_scale_factor` reads it back; 0 = unknown.
Pixels
    (x, y), x to the right, y down; (0, 0) is the outer corner of the top-left pixel, whose centre is (0.5, 0.5).
Lengths in photos
    are given in pixels of a 1000-pixel-wide photo and scaled, so that they do not depend on resolution.
"""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch

OBJECT = 255
"""Value of an object's pixel in an object mask on disk."""

DEPTH_UNIT_SCALE = 1e-3
"""World units per stored depth unit: nerfstudio's default `depth_unit_scale_factor`."""

DILATION_PER_1000 = 10.0
"""Default mask dilation, in pixels of a 1000-pixel-wide photo (the release: 10 px at 1008x567)."""

LEAST_DILATION = 3
"""Pixels of it in a small photo: masks are a pixel or two off at any resolution, and what is left of the object's rim is drawn
into the hole."""

OBJECTNESS_THRESHOLD = 0.5
"""Rendered objectness above this is object (SPIn-NeRF)."""

BoolMask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.uint8]
Floats = TypeVar("Floats", npt.NDArray[np.floating], torch.Tensor)


# ----------------------------------------------------------------------------------------------------------------- masks
def scale_pixels(pixels_per_1000: float, width: int) -> int:
    """Pixels of a 1000-pixel-wide photo as whole pixels of a `width`-pixel-wide one; at least 1 unless 0 is asked for."""
    return max(1, round(pixels_per_1000 * width / 1000)) if pixels_per_1000 > 0 else 0


def dilate_mask(
    object_mask: BoolMask, pixels_per_1000: float = DILATION_PER_1000, width: int | None = None, least: int = 1
) -> BoolMask:
    """Grows a mask by a disc.

    Args:
        object_mask: (H, W) bool.
        pixels_per_1000: the disc's radius in pixels of a 1000-pixel-wide photo.
        width: the photo's width; by default the mask's.
        least: the radius is at least so many pixels of this photo, unless 0 is asked for.

    Returns:
        (H, W) bool.
    """
    radius = scale_pixels(pixels_per_1000, object_mask.shape[1] if width is None else width)
    radius = max(radius, least) if radius else 0
    if radius == 0 or not object_mask.any():
        return object_mask.copy()
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(object_mask.astype(np.uint8), disc) > 0


# ----------------------------------------------------------------------------------------------------------------- depth
def t_to_z(t: Floats, directions_norm: Floats) -> Floats:
    """Distance along the ray -> planar depth. Same shape, same units."""
    return t / directions_norm


def z_to_t(z: Floats, directions_norm: Floats) -> Floats:
    """Planar depth -> distance along the ray. Same shape, same units."""
    return z * directions_norm


def z_to_disparity(z: Floats) -> Floats:
    """1 / z where z > 0, and 0 (unknown) elsewhere. Same shape."""
    return _reciprocal(z)


def disparity_to_z(disparity: Floats) -> Floats:
    """1 / disparity where it is > 0, and 0 (unknown) elsewhere. Same shape."""
    return _reciprocal(disparity)


def _reciprocal(values: Floats) -> Floats:
    if isinstance(values, torch.Tensor):
        known = values > 0
        return torch.where(known, 1.0 / torch.where(known, values, 1.0), 0.0)
    known = values > 0
    return np.where(known, 1.0 / np.where(known, values, 1), 0).astype(values.dtype)
