"""Reading and writing masks, depth and photos: atomic, and with errors that name the file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import DEPTH_UNIT_SCALE, OBJECT, BoolMask, Image
from spinnerf_ns.errors import SpinnerfError


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


# ----------------------------------------------------------------------------------------------------------------- depth
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
