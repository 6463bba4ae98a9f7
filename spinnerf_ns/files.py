"""Reading and writing masks, depth and photos: atomic, and with errors that name the file."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import DEPTH_UNIT_SCALE, OBJECT, BoolMask, Image, resize_mask
from spinnerf_ns.decoding import decode_mask, read_photo
from spinnerf_ns.errors import SpinnerfError


# ----------------------------------------------------------------------------------------------------------------- masks
def load_object_mask(path: Path | str, shape: tuple[int, int] | None = None, object_id: int | None = None) -> BoolMask:
    """Reads an object mask, whatever made it: 0/1, 0/255, 16 bits, JPEG, soft edges, a palette, a cut-out on transparent.

    Args:
        path: the mask file. Object is what is above half of the picture's own maximum; of a cut-out, what is opaque.
        shape: the (height, width) of its photo, or None. A mask of an integer multiple or part of it is scaled.
        object_id: which of an id map's labels is meant; then a file without it has an empty mask.

    Returns:
        (H, W) bool, True = object.

    Raises:
        SpinnerfError: the file is missing, is no mask, has another size, or holds several ids and none is chosen.

    Example:
        >>> mask = np.zeros((48, 64), bool)
        >>> mask[10:20, 30:40] = True
        >>> save_object_mask("mask.png", mask)
        >>> np.array_equal(load_object_mask("mask.png", (48, 64)), mask), int(load_object_mask("mask.png", (96, 128)).sum())
        (True, 400)
    """
    decoded = decode_mask(path)
    if decoded.is_id_map and object_id is None:
        raise SpinnerfError(
            f"{path}: holds several things, the ids {decoded.named()}, and one object's mask was expected; "
            "say which is meant: --mask-id ID (of ns-spinnerf segment), or write it in black and white"
        )
    return scaled_mask(decoded.object_mask() if object_id is None else decoded.where(object_id), shape, path)


def load_valid_mask(path: Path | str, shape: tuple[int, int]) -> BoolMask:
    """Reads a capture's own mask of a photo of (height, width), True = use: grey, RGB or anything else that an object mask may be.

    Raises:
        SpinnerfError: the file is missing, is no mask, or has another size.
    """
    decoded = decode_mask(path)
    return scaled_mask(decoded.values > 0 if decoded.is_id_map else decoded.object_mask(), shape, path)


def scaled_mask(object_mask: BoolMask, shape: tuple[int, int] | None, path: Path | str) -> BoolMask:
    """A mask at its photo's (height, width), if it is that of the same photo at N times or 1/N of the size.

    Raises:
        SpinnerfError: it is not.
    """
    if shape is None or object_mask.shape == tuple(shape):
        return object_mask
    if scale_between(object_mask.shape, shape) is None:
        raise SpinnerfError(
            f"{path}: the mask is {object_mask.shape[1]}x{object_mask.shape[0]}, its photo is {shape[1]}x{shape[0]}; "
            "export the mask at the photo's size"
        )
    return resize_mask(object_mask, shape)


def scale_between(shape: tuple[int, ...], wanted: tuple[int, int]) -> float | None:
    """By what (height, width) must be scaled to be another: N or 1/N, a rounded pixel allowed for; None if by neither."""
    small, large = sorted((tuple(shape), tuple(wanted)))
    times = round(large[1] / small[1])
    if times < 1 or any(abs(big - times * little) > times for big, little in zip(large, small, strict=True)):
        return None
    return float(times) if small == tuple(shape) else 1 / times


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

    Example:
        >>> save_depth("depth.npy", np.array([[2.5, 0.0]]))
        >>> load_depth("depth.npy").tolist(), np.load("depth.npy").tolist()
        ([[2.5, 0.0]], [[2500.0, 0.0]])
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
    """Reads a photo as (H, W, 3) uint8 RGB, without applying its EXIF orientation: `decoding.read_photo` without alpha.

    Raises:
        SpinnerfError: the file is missing, is no image, or is cut short.
    """
    return read_photo(path)[0]


def write_png(path: Path | str, image: npt.NDArray[np.uint8]) -> None:
    """Writes (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA uint8 as PNG, atomically; folders are made."""
    order = cv2.COLOR_RGBA2BGRA if image.shape[2:] == (4,) else cv2.COLOR_RGB2BGR
    data = image if image.ndim == 2 else cv2.cvtColor(image, order)
    done, encoded = cv2.imencode(".png", data)
    if not done:
        raise SpinnerfError(f"{path}: an array of shape {image.shape} and type {image.dtype} cannot be written as PNG")
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def write_ply_table(path: Path | str, vertices: npt.NDArray) -> None:
    """Writes a structured array of float32 and uint8 fields as the vertices of a binary .ply, atomically."""
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property {'float' if vertices.dtype[name] == '<f4' else 'uchar'} {name}" for name in vertices.dtype.names]
    with atomic_path(path) as temporary:
        temporary.write_bytes(("\n".join(header) + "\nend_header\n").encode("ascii") + vertices.tobytes())


def write_json(path: Path | str, content: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Writes JSON for people to read, in UTF-8, atomically.

    Args:
        path: the file; its folder is made.
        content: what it says.
        default: makes what JSON has no word for into something that it has one for.

    Example:
        >>> write_json("a.json", {"photo": "frame_1", "size": [4, 3]})
        >>> json.loads(Path("a.json").read_text())
        {'photo': 'frame_1', 'size': [4, 3]}
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=default) + "\n", encoding="utf-8")


def digest_of(content: Any) -> str:
    """sha256, in hexadecimal, over what JSON says of `content`; equal for equal contents, whatever the order of their keys.

    Example:
        >>> digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def sha256_of(path: Path | str) -> str:
    """sha256 over a file's contents, in hexadecimal. A file that is as it was is not read twice by one process."""
    status = os.stat(path)
    return _sha256(os.path.abspath(path), status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=1 << 16)
def _sha256(path: str, *identity: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
