"""What a mask, a depth and a pixel mean here, and the conversions between their forms. Pure functions.

Masks
    `object_mask`: True = object (SPIn-NeRF, LaMa). `valid_mask`: True = use (nerfstudio's mask). On disk an object mask is
    an 8-bit PNG, 255 = object.
    What is done with them has a word each. `region`: the object mask, grown: what is taken out. `unseen_mask`: the part of it that
    no other photo shows. `to_fill`: what an inpainter is asked for now, in prose a gap.
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

OBSERVED, SEEN_ELSEWHERE, INVENTED = 0, 128, 255
"""Where a clean photo's pixel comes from, in `removed/provenance/`: the photo itself, other photos, or nowhere."""

DEPTH_UNIT_SCALE = 1e-3
"""World units per stored depth unit: nerfstudio's default `depth_unit_scale_factor`."""

DILATION_PER_1000 = 10.0
"""Default mask dilation, in pixels of a 1000-pixel-wide photo (the release: 10 px at 1008x567)."""

LEAST_DILATION = 3
"""Pixels of it in a small photo: masks are a pixel or two off at any resolution, and what is left of the object's rim is drawn
into the region."""

EDGE_OF_DEPTH = 0.05
"""Neighbouring pixels whose depths differ by more than this part show different surfaces, unless a slope is as steep."""
SAME_SLOPE = 1.5
"""Two neighbouring differences of disparity on one surface differ by this factor at most."""

OBJECTNESS_THRESHOLD = 0.5
"""Rendered objectness above this is object (SPIn-NeRF)."""

BoolMask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.uint8]
Labels = TypeVar("Labels", bound=npt.NDArray)
Floats = TypeVar("Floats", npt.NDArray[np.floating], torch.Tensor)


# ----------------------------------------------------------------------------------------------------------------- masks
def scale_pixels(pixels_per_1000: float, width: int) -> int:
    """Pixels of a 1000-pixel-wide photo as whole pixels of a `width`-pixel-wide one; at least 1 unless 0 is asked for."""
    return max(1, round(pixels_per_1000 * width / 1000)) if pixels_per_1000 > 0 else 0


def window_around(region: BoolMask, margin: int = 0) -> tuple[slice, slice]:
    """The rows and columns of a region's bounding box, grown by `margin` pixels and cut at the border; none of an empty region.

    Returns:
        Two slices with plain bounds: their lengths are the window's sides.
    """
    x, y, width, height = cv2.boundingRect(region.astype(np.uint8))
    if not width:
        return slice(0, 0), slice(0, 0)
    rows, columns = region.shape
    return (
        slice(max(0, y - margin), min(y + height + margin, rows)),
        slice(max(0, x - margin), min(x + width + margin, columns)),
    )


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

    Example:
        >>> mask = np.zeros((100, 200), bool)
        >>> mask[50, 100] = True
        >>> dilate_mask(mask, 10.0)[50].sum(), dilate_mask(mask, 10.0, least=3)[50].sum(), dilate_mask(mask, 0.0)[50].sum()
        (5, 7, 1)
    """
    radius = scale_pixels(pixels_per_1000, object_mask.shape[1] if width is None else width)
    radius = max(radius, least) if radius else 0
    if radius == 0 or not object_mask.any():
        return object_mask.copy()
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(object_mask.astype(np.uint8), disc) > 0


def resize_mask(mask: BoolMask, shape: tuple[int, int]) -> BoolMask:
    """A mask at another resolution: a pixel is set if at least half of it is.

    Args:
        mask: (H, W) bool, of any meaning.
        shape: (H', W').

    Returns:
        (H', W') bool; the same array where the size is right.
    """
    if mask.shape == tuple(shape):
        return mask
    if shape[0] > mask.shape[0] or shape[1] > mask.shape[1]:
        return resize_labels(mask, shape)  # so that a mask that is enlarged and shrunk again is the same
    return cv2.resize(mask.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_AREA) >= 0.5


def resize_labels(labels: Labels, shape: tuple[int, int]) -> Labels:
    """Labels, ids or anything else that cannot be mixed at another resolution: the one at each new pixel's centre.

    Args:
        labels: (H, W, ...).
        shape: (H', W').

    Returns:
        (H', W', ...); the same array where the size is right.
    """
    if labels.shape[:2] == tuple(shape):
        return labels
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(np.int64) for n, old in zip(shape, labels.shape[:2], strict=True))
    return labels[rows[:, None], columns]


# ----------------------------------------------------------------------------------------------------------------- depth
def resize_depth(z: npt.NDArray[np.float32], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Planar depth at another resolution, at each new pixel's centre.

    Disparity is interpolated where the four pixels around lie on one surface, which is exact on planes; across an edge of depth,
    or next to unknown depth, the nearest pixel's is taken: between an object and a wall there is nothing.

    Args:
        z: (H, W) float32, 0 = unknown.
        shape: (H', W').

    Returns:
        (H', W') float32; the same array where the size is right.
    """
    if z.shape == tuple(shape):
        return z
    nearest = resize_labels(z, shape)
    x, y = (((np.arange(n) + 0.5) * old / n - 0.5).astype(np.float32) for n, old in zip(shape[::-1], z.shape[::-1], strict=True))
    disparity = z_to_disparity(z)
    # Beyond the outermost centres a plane goes on: two pixels' difference is carried out half a pixel.
    (top, down), (left, right) = (_between(places, old) for places, old in zip((y, x), z.shape, strict=True))
    low, high = np.minimum(top + 1, z.shape[0] - 1), np.minimum(left + 1, z.shape[1] - 1)
    down, right = down[:, None], right[None]
    four = [disparity[rows[:, None], columns] for rows in (top, low) for columns in (left, high)]
    smooth = (four[0] * (1 - right) + four[1] * right) * (1 - down) + (four[2] * (1 - right) + four[3] * right) * down
    across, along = _go_on(disparity), _go_on(disparity.T).T
    together = across[top[:, None], left] & across[low[:, None], left] & along[top[:, None], left] & along[top[:, None], high]
    together &= (np.minimum.reduce(four) > 0) & (smooth > 0)
    return np.where(together, 1 / np.where(together, smooth, 1), nearest).astype(np.float32)


def _go_on(disparity: npt.NDArray[np.float32]) -> BoolMask:
    """(H, W) bool: whether each pixel and the next one of its row lie on one surface: they differ little, or about as much as
    the pixels before and after them do, as on a slanted one."""
    if disparity.shape[1] < 2:
        return np.ones(disparity.shape, bool)
    step = np.abs(np.diff(disparity, axis=1))
    ends = np.minimum(disparity[:, 1:], disparity[:, :-1])
    before, after = np.pad(step, ((0, 0), (1, 0)), mode="edge")[:, :-1], np.pad(step, ((0, 0), (0, 1)), mode="edge")[:, 1:]
    before[:, 0], after[:, -1] = after[:, 0], before[:, -1]
    goes_on = (step <= EDGE_OF_DEPTH * ends) | (step <= SAME_SLOPE * np.minimum(before, after))
    return np.pad(goes_on, ((0, 0), (0, 1)), mode="edge")


def _between(places: npt.NDArray[np.float32], size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The pixel before each place along an axis (of which another follows, if there are two), and how far beyond it that is."""
    first = np.clip(np.floor(places), 0, max(0, size - 2)).astype(np.int64)
    return first, (places - first).astype(np.float32)


def t_to_z(t: Floats, directions_norm: Floats) -> Floats:
    """Distance along the ray -> planar depth. Same shape, same units."""
    return t / directions_norm


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
