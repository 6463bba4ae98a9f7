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

import os
import tempfile
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch

from spinnerf_ns.errors import SpinnerfError

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
def load_object_mask(path: Path | str, shape: tuple[int, int] | None = None) -> BoolMask:
    """Reads an object mask: any non-zero value is object, in any 8-bit PNG (grey, RGB, palette).

    Args:
        path: the mask file.
        shape: the (height, width) that it must have, or None.

    Returns:
        (H, W) bool, True = object.

    Raises:
        SpinnerfError: the file is missing, is no image, or has another size.
    """
    data = _imread(path, cv2.IMREAD_UNCHANGED, "mask")
    if data.ndim == 3:
        data = data[..., :3].max(axis=-1)  # an alpha channel says nothing about the object
    if shape is not None and data.shape != tuple(shape):
        raise SpinnerfError(
            f"{path}: the mask is {data.shape[1]}x{data.shape[0]}, its photo is {shape[1]}x{shape[0]}; "
            "export the mask at the photo's size"
        )
    return data > 0


def save_object_mask(path: Path | str, object_mask: BoolMask) -> None:
    """Writes (H, W) bool as an 8-bit PNG, 255 = object, atomically."""
    write_png(path, object_mask.astype(np.uint8) * OBJECT)


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


def save_depth(path: Path | str, z: npt.NDArray[np.floating]) -> None:
    """Writes (H, W) planar depth in world units as float32 .npy in units of `DEPTH_UNIT_SCALE`, atomically; 0 = unknown."""
    stored = (np.asarray(z, dtype=np.float64) / DEPTH_UNIT_SCALE).astype(np.float32)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, stored)


def load_depth(path: Path | str) -> npt.NDArray[np.float32]:
    """Reads what `save_depth` wrote.

    Returns:
        (H, W) float32 planar depth in world units; 0 = unknown.

    Raises:
        SpinnerfError: the file is missing or is no depth map.
    """
    try:
        stored = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SpinnerfError(f"{path}: cannot be read as a depth map ({error}); write it again: ns-spinnerf export") from error
    if stored.ndim != 2:
        raise SpinnerfError(f"{path}: a depth map of shape (height, width) was expected, found {stored.shape}")
    return (stored.astype(np.float64) * DEPTH_UNIT_SCALE).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------- images
def read_image(path: Path | str) -> Image:
    """Reads a photo as (H, W, 3) uint8 RGB, without applying its EXIF orientation (nerfstudio does not either).

    Raises:
        SpinnerfError: the file is missing or is no image.
    """
    data = _imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, "photo")
    return cv2.cvtColor(data, cv2.COLOR_BGR2RGB)


def write_png(path: Path | str, image: npt.NDArray[np.uint8]) -> None:
    """Writes (H, W) grey or (H, W, 3) RGB uint8 as PNG, atomically; folders are made."""
    data = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".png", data)
    if not done:
        raise SpinnerfError(f"{path}: an array of shape {image.shape} and type {image.dtype} cannot be written as PNG")
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _imread(path: Path | str, flags: int, what: str) -> npt.NDArray:
    path = Path(path)
    if not path.is_file():
        raise SpinnerfError(f"{path}: this {what} is missing; put it there or correct the path")
    data = cv2.imdecode(np.fromfile(path, dtype=np.uint8), flags)  # imread cannot open every unicode path
    if data is None:
        raise SpinnerfError(f"{path}: cannot be decoded as an image; write it again as PNG or JPEG")
    return data


class atomic_path:
    """A context that gives a temporary path beside `path` and moves it there only if the block succeeds.

    A reader never sees half a file, and a killed writer leaves only a hidden `.tmp-` file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=self.path.suffix, dir=self.path.parent)
        os.close(handle)
        self.temporary = Path(name)
        return self.temporary

    def __exit__(self, exception_type, exception, traceback) -> None:
        if exception_type is not None:
            self.temporary.unlink(missing_ok=True)
            return
        self.temporary.chmod(0o666 & ~_UMASK)  # mkstemp's 0600 would hide the file from the user's other programs
        os.replace(self.temporary, self.path)


_UMASK = os.umask(0)
os.umask(_UMASK)
