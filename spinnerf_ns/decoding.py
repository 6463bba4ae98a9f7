"""The one decoder of pictures: a photo's colours and alpha, and which pixels of a mask are the object.

Photos are 8-bit RGB whatever the file is (palette, CMYK, 16-bit, grey, with alpha). An EXIF orientation is not applied: poses
and intrinsics are for the stored pixels. Masks come from painters, programs and networks: 0/1, 0/255, 16-bit, JPEG, soft edges,
a cut-out on transparent, palettes, and id maps of which one id is meant.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage
from PIL import UnidentifiedImageError

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.errors import SpinnerfError

ORIENTATION_TAG = 0x0112
"""EXIF's number of it; 1 = as stored."""

UNREADABLE = (".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf")
"""Suffixes of what telephones and cameras keep and nothing here decodes; a photo of another suffix beside it is taken."""

OPAQUE = 128
"""Alpha from here on shows the photo; below it, what is under it is not looked at."""

SMALL_IDS = 31
"""A mask whose largest value is at most this holds numbers, not brightness: it has no soft edges."""
LABEL_AREA = 0.002
"""A value is a label of its own, and no step of a soft edge, if even areas of it cover this part of the picture."""
LABEL_DISTANCE = 0.06
"""Values nearer to each other than this part of the largest are one label with a lossy file's noise, if it is one."""
MOST_LABELS = 256
"""A coloured picture with more colours than this is a photo."""
COLOURED = 0.15
"""Channels that differ by more than this part of the largest value are a colour."""
STRAYS = 0.02
"""Part of a picture's pixels that may be coloured and it is grey all the same: a lossy file's noise at edges."""
BETWEEN = 0.5
"""A grey picture of which more than this part is neither dark nor bright is a photo."""


# ---------------------------------------------------------------------------------------------------------------- photos
def read_photo(path: Path | str) -> tuple[Image, npt.NDArray[np.uint8] | None]:
    """Reads a photo.

    Returns:
        (H, W, 3) uint8 RGB as stored (no EXIF orientation applied; colours under alpha as they are); (H, W) uint8 alpha, None
        for a file without, or with 255 everywhere.

    Raises:
        SpinnerfError: the file is missing, is no image, or is cut short.
    """
    picture = _open(path, "photo")
    transparent = _has_alpha(picture)
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA" if transparent else "RGB")
    elif picture.mode.startswith("I") or picture.mode == "F":
        grey = _eight_bit(np.asarray(picture))
        return np.repeat(grey[..., None], 3, axis=2), None
    if not transparent:
        return np.array(picture.convert("RGB")), None
    values = np.array(picture.convert("RGBA"))
    alpha = np.ascontiguousarray(values[..., 3])
    return np.ascontiguousarray(values[..., :3]), None if alpha.min() == 255 else alpha


def check_photo(path: Path | str) -> None:
    """Decodes a photo to its last pixel, and raises what `read_photo` raises."""
    _open(path, "photo")


def photo_size(path: Path | str) -> tuple[int, int]:
    """(width, height) of a picture as stored, from its head alone.

    Raises:
        SpinnerfError: the file is missing or no image.
    """
    try:
        with PilImage.open(path) as picture:
            return picture.size
    except FileNotFoundError as error:
        raise SpinnerfError(f"{path}: this photo is missing; put it there or correct the path") from error
    except (UnidentifiedImageError, OSError, SyntaxError, PilImage.DecompressionBombError) as error:
        raise _undecodable(Path(path)) from error


def photo_orientation(path: Path | str) -> int:
    """EXIF's orientation, 1 = as stored, where viewers show the photo turned or mirrored; 1 where the file says nothing."""
    try:
        with PilImage.open(path) as picture:
            found = picture.getexif().get(ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError):
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def as_stored(picture: npt.NDArray, orientation: int) -> npt.NDArray:
    """A picture (H, W, ...) as viewers show it, turned back to the stored pixels of a photo with this EXIF orientation."""
    if orientation >= 5:
        picture = np.swapaxes(picture, 0, 1)
    if orientation in (3, 4, 6, 7):
        picture = picture[::-1]
    if orientation in (2, 3, 7, 8):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def has_alpha(path: Path | str) -> bool:
    """Whether a picture may have transparent pixels, from its head alone; False where there is no picture."""
    try:
        with PilImage.open(path) as picture:
            return _has_alpha(picture)
    except (OSError, SyntaxError, PilImage.DecompressionBombError):
        return False


def is_plain(path: Path | str) -> bool:
    """Whether a photo is 8-bit RGB without alpha, which every program decodes alike: not a palette, CMYK, grey or 16 bits."""
    try:
        with PilImage.open(path) as picture:
            return picture.mode == "RGB" and not _has_alpha(picture)
    except (OSError, SyntaxError, PilImage.DecompressionBombError):
        return False


def _undecodable(path: Path) -> SpinnerfError:
    """The error of a file that is no picture, or none that is read here."""
    again = "write it again as PNG or JPEG"
    if path.suffix.lower() in UNREADABLE:
        files = f"{shlex.quote(str(path.parent))}/*{path.suffix}"
        again = f"write JPEGs beside such files, which are then taken: mogrify -format jpg {files}"
    return SpinnerfError(f"{path}: cannot be decoded as an image; {again}")


def _open(path: Path | str, what: str) -> PilImage.Image:
    """A picture, decoded fully."""
    path = Path(path)
    if not path.is_file():
        raise SpinnerfError(f"{path}: this {what} is missing; put it there or correct the path")
    try:
        picture = PilImage.open(path)
    except (UnidentifiedImageError, OSError, SyntaxError, PilImage.DecompressionBombError) as error:
        raise _undecodable(Path(path)) from error
    try:
        picture.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        text = f"{path}: this {what} is cut short or damaged ({error}); put the whole file back"
        raise SpinnerfError(text) from error
    return picture


def _has_alpha(picture: PilImage.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info


def _eight_bit(values: npt.NDArray) -> npt.NDArray[np.uint8]:
    """16-bit grey, or floats in [0, 1] or [0, 255], as 8-bit grey."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values)
        return np.clip(values * (255 if values.max(initial=0) <= 1 else 1), 0, 255).round().astype(np.uint8)
    if values.dtype.itemsize > 2 and values.max(initial=0) > 65535:
        return np.clip(values >> 24, 0, 255).astype(np.uint8)
    return np.clip(values.astype(np.int64) >> 8, 0, 255).astype(np.uint8)


# ----------------------------------------------------------------------------------------------------------------- masks
@dataclass(frozen=True)
class DecodedMask:
    """A mask file's pixels, before it is decided which of them are the object."""

    values: npt.NDArray[np.int64]
    """(H, W): grey values, or a label each: a palette's index, or 0xRRGGBB of a colour."""
    labels: dict[int, int]
    """Values that cover even areas -> how many pixels have them; may be empty for a mask of 0 and one other value."""
    is_id_map: bool = False
    """Whether there are several things in it, of which one must be chosen."""
    coloured: bool = False
    """Whether labels are colours."""

    def named(self, most: int = 8) -> str:
        """The labels with their areas, the largest first: "0 (81%), 2 (7%)"."""
        by_area = sorted(self.labels.items(), key=lambda item: -item[1])
        texts = [f"{self.name(label)} ({_percent(area / self.values.size)})" for label, area in by_area[:most]]
        return ", ".join(texts) + (f" and {len(by_area) - most} more" if len(by_area) > most else "")

    def name(self, label: int) -> str:
        """How a label is written."""
        return f"0x{label:06x}" if self.coloured else str(label)

    def object_mask(self) -> BoolMask:
        """(H, W) bool: above half of the picture's own maximum; of two labels, the one above their middle."""
        highest = int(self.values.max(initial=0))
        lowest = min(self.labels) if len(self.labels) == 2 else 0
        return 2 * self.values > lowest + highest if highest > 0 else np.zeros(self.values.shape, bool)

    def where(self, label: int) -> BoolMask:
        """(H, W) bool: the pixels of a label; of a lossy grey file those nearest to it."""
        if self.coloured or len(self.labels) < 2 or set(np.unique(self.values).tolist()) <= set(self.labels):
            return self.values == label
        known = np.array(sorted({*self.labels, label}))
        return known[np.searchsorted((known[1:] + known[:-1]) / 2, self.values)] == label


def decode_mask(path: Path | str) -> DecodedMask:
    """Reads a mask file of any kind.

    Raises:
        SpinnerfError: the file is missing, no image, cut short, or a photo.
    """
    picture = _open(path, "mask")
    if picture.mode == "1":
        return _grey_mask(np.asarray(picture).astype(np.int64), path)
    if picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture))
        return _grey_mask(np.round(values * (65535 if values.max(initial=0) <= 1 else 1)).astype(np.int64), path)
    if picture.mode.startswith("I") or (picture.mode == "L" and not _has_alpha(picture)):
        return _grey_mask(np.asarray(picture).astype(np.int64), path)
    if not _has_alpha(picture):
        colours, opaque = np.array(picture.convert("RGB")), None
    else:
        colours = np.array(picture.convert("RGBA"))
        alpha, colours = colours[..., 3], colours[..., :3]
        opaque = None if alpha.min() == alpha.max() else alpha >= OPAQUE
    if picture.mode == "P" and (found := _palette_ids(picture, colours, opaque)) is not None:
        return found
    if opaque is None:
        return _coloured_mask(colours, path)
    # A cut-out: its outline is its alpha, unless what is opaque is itself a mask in black and white.
    if _two_valued(colours[opaque]):
        return _coloured_mask(np.where(opaque[..., None], colours, 0), path)
    return _grey_mask(alpha.astype(np.int64), path)


def _palette_ids(picture: PilImage.Image, colours: Image, opaque: BoolMask | None) -> DecodedMask | None:
    """The indices of a palette picture that is an id map; None for a mask or a photo with a palette."""
    ids = np.asarray(picture).astype(np.int64)
    if (colours == colours[..., :1]).all():
        return None  # a grey picture, indexed
    labels = _labels(ids, numbers=True)
    even = np.isin(ids, list(labels))
    things = len(labels) > 2 and float((even if opaque is None else even[opaque]).mean()) > 0.5
    return DecodedMask(ids, labels, is_id_map=True) if things and len(np.unique(ids)) <= 2 * len(labels) else None


def _coloured_mask(colours: Image, path: Path | str) -> DecodedMask:
    """Of (H, W, 3)."""
    values = colours.max(axis=2).astype(np.int64)
    highest = int(values.max(initial=0))
    tinted = values - colours.min(axis=2) > COLOURED * max(highest, 1)
    if tinted.mean() <= STRAYS * min(1.0, 2 * float((2 * values > highest).mean())):
        return _grey_mask(values, path)
    code = (colours.astype(np.int64) << [16, 8, 0]).sum(axis=2)
    labels = _labels(code, distance=lambda a, b: max(abs(x - y) for x, y in zip(_channels(a), _channels(b), strict=True)) / 255)
    if not 2 <= len(labels) <= MOST_LABELS or sum(labels.values()) < 0.5 * code.size:
        raise SpinnerfError(
            f"{path}: is a coloured picture ({len(np.unique(code))} colours), not a mask; "
            "paint the object white on black, or cut it out on transparent, and save it as PNG"
        )
    if len(labels) == 2 and len({max(_channels(label)) for label in labels}) == 2:
        return _grey_mask(values, path)
    return DecodedMask(code, labels, is_id_map=True, coloured=True)


def _grey_mask(values: npt.NDArray[np.int64], path: Path | str) -> DecodedMask:
    """Of (H, W) grey values, of any depth."""
    highest = int(values.max(initial=0))
    if ((values == 0) | (values == highest)).all():
        return DecodedMask(values, {})
    numbers = highest <= SMALL_IDS
    labels = _labels(values, numbers=numbers)
    between = (values > 0.1 * highest) & (values < 0.9 * highest)
    if not numbers and between.mean() > BETWEEN and sum(labels.values()) < BETWEEN * values.size:
        raise SpinnerfError(
            f"{path}: is a grey picture ({_percent(float(between.mean()))} of it neither dark nor bright), not a mask; "
            "paint the object white on black and save it as PNG"
        )
    return DecodedMask(values, labels, is_id_map=len(labels) > 2)


def _labels(
    values: npt.NDArray[np.int64], numbers: bool = False, distance: Callable[[int, int], float] | None = None
) -> dict[int, int]:
    """Values that cover even areas, with all their pixels. Steps of a soft edge cover none, and a lossy file's noise little.

    Args:
        values: (H, W) below 2^24.
        numbers: whether they are ids: then a few even pixels are enough, and neighbouring ids are different labels.
        distance: between two values, as a part of the largest there may be; by default the difference over the largest.
    """
    kernel = np.ones((3, 3) if numbers else (5, 5), np.uint8)
    exact = values.astype(np.float32)
    even = cv2.erode(exact, kernel) == cv2.dilate(exact, kernel)
    found, areas = np.unique(values[even], return_counts=True)
    distinct, everywhere = np.unique(values, return_counts=True)
    if not numbers and len(found) < len(distinct):  # a lossy file, or soft edges
        large = areas >= max(1.0, LABEL_AREA * values.size)
        found, areas = found[large], areas[large]
    total = dict(zip(distinct.tolist(), everywhere.tolist(), strict=True))
    kept = found.tolist()
    if not numbers and len(found) < len(distinct):
        highest = float(values.max())
        apart = distance or (lambda a, b: abs(a - b) / highest)
        kept = []
        for label in found[np.argsort(-areas, kind="stable")].tolist():
            if all(apart(label, other) > LABEL_DISTANCE for other in kept):
                kept.append(label)
    return {label: total[label] for label in sorted(kept)}


def _two_valued(colours: npt.NDArray[np.uint8]) -> bool:
    """Whether (N, 3) colours are a mask's: grey, black and white, with little between, and some of both."""
    if len(colours) == 0:
        return False
    values = colours.max(axis=1).astype(np.int64)
    dark, bright = values < 26, values > 229
    grey = values - colours.min(axis=1) <= COLOURED * 255
    return bool(grey.mean() > 1 - STRAYS and (dark | bright).mean() > 0.9 and dark.mean() > 0.001 and bright.mean() > 0.001)


def _channels(code: int) -> tuple[int, int, int]:
    return code >> 16, (code >> 8) & 255, code & 255


def _percent(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 else f"{part:.1%}" if part >= 0.001 else "below 0.1%"
