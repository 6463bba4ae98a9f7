"""A photo with its camera."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.decoding import OPAQUE, has_alpha, photo_size, read_photo
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_valid_mask


@dataclass(frozen=True, eq=False)
class View:
    """A photo with its camera. Pixels: (0, 0) is the outer corner of the top-left pixel, whose centre is (0.5, 0.5)."""

    photo: str
    """The photo's key: its path below the folder common to all photos, without suffix (with it if two would be the same)."""
    path: Path
    """The photo's file, at the resolution used."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    fx: float
    """Focal length along x, pixels of the resolution used; so are fy, cx and cy."""
    fy: float
    """Focal length along y."""
    cx: float
    """Principal point, x."""
    cy: float
    """Principal point, y."""
    distortion: npt.NDArray[np.float64]
    """(6,) k1, k2, k3, k4, p1, p2."""
    camera_model: str
    """transforms.json's name of it: OPENCV, OPENCV_FISHEYE, ..."""
    c2w: npt.NDArray[np.float64]
    """(3, 4) camera-to-world in the source frame, OpenGL axes (x right, y up, looks along -z)."""
    splits: frozenset[str]
    """Of "train", "val", "test"; empty for a photo that transforms.json lists in none."""
    alpha_color: tuple[float, float, float] | None = None
    """Colour in [0, 1] behind a photo with an alpha channel, where the parser has one (Blender's: white)."""

    mask_path: Path | None = None
    """The capture's own mask of the photo (transforms.json's mask_path), where it has one: what is dark there is not used."""

    def read_image(self) -> Image:
        """The photo, (H, W, 3) uint8 RGB: what is trained on, segmented, filled and measured.

        Raises:
            SpinnerfError: it is missing, no image, cut short, or no longer of the size that it was when the capture was read.
        """
        return self._read()[0]

    @property
    def has_mask(self) -> bool:
        """Whether some of its pixels may be unusable: it has a mask of the capture's own, or an alpha channel that counts."""
        return self.mask_path is not None or (self.alpha_color is None and has_alpha(self.path))

    @property
    def trains(self) -> bool:
        """Whether it is trained on: a held-out photo is only measured against."""
        return not self.splits or "train" in self.splits

    def valid_mask(self) -> BoolMask:
        """(H, W) bool, True = use: not transparent in the photo, and bright in the capture's own mask.

        Other pixels are never trained on, never a source of a fill, never filled and never measured.

        Raises:
            SpinnerfError: as `read_image`; or the mask is missing, no mask, or of another size.
        """
        valid = np.ones((self.height, self.width), bool)
        if self.mask_path is not None:
            valid &= load_valid_mask(self.mask_path, valid.shape)
        if self.has_mask and self.alpha_color is None:
            alpha = self._read()[1]
            if alpha is not None:
                valid &= alpha >= OPAQUE
        return valid

    def _read(self) -> tuple[Image, npt.NDArray[np.uint8] | None]:
        """The photo and its alpha."""
        image, alpha = read_photo(self.path)
        if image.shape[:2] != (self.height, self.width):
            raise SpinnerfError(
                f"{self.path}: the photo is {image.shape[1]}x{image.shape[0]}, its camera is {self.width}x{self.height}; "
                "put the original photo back"
            )
        if alpha is not None and self.alpha_color is not None:
            image = _over(image, alpha, self.alpha_color)
        return image, alpha


def sizes_of(views: Sequence[View], width: float | None = None, scale: float = 1.0) -> str:
    """The photos' sizes in words: "384x288", "384x288 and 192x144", "384x288 to 64x48 (5 sizes)".

    Args:
        views: the photos.
        width: what they are worked on at, if that is narrower than they are.
        scale: what they are worked on at, of their own size.
    """
    sizes = set()
    for view in views:
        factor = scale if width is None else min(1.0, width / view.width)
        sizes.add((max(1, round(view.width * factor)), max(1, round(view.height * factor))))
    words = [f"{across}x{down}" for across, down in sorted(sizes, reverse=True)]
    return " and ".join(words) if len(words) <= 2 else f"{words[0]} to {words[-1]} ({len(words)} sizes)"


def full_size(view: View) -> tuple[int, int] | None:
    """(width, height) of the photo that a downscaled copy (images_N/) stands for; None where the photo itself is used."""
    folder = view.path.parent
    full = folder.parent / "images" / view.path.name
    return photo_size(full) if folder.name.startswith("images_") and full.is_file() else None


def said_of_photos(views: Sequence[View]) -> str:
    """How many photos are used, and at which size, in words."""
    if not views:
        return "no photos"
    text, full = f"{len(views)} photos of {sizes_of(views)}", full_size(views[0])
    folder = views[0].path.parent.name
    return text if full is None else f"{text}, from {folder}/ (the photos are {full[0]}x{full[1]})"


def pictures(views: Iterable[View]) -> list[Path]:
    """The files that views are made of: photos, and the capture's own masks."""
    return [path for view in views for path in (view.path, view.mask_path) if path is not None]


def _over(image: Image, alpha: npt.NDArray[np.uint8], color: tuple[float, float, float]) -> Image:
    """A photo laid over a colour, as nerfstudio's datasets do."""
    share = alpha[..., None].astype(np.float32) / 255
    return np.clip(image * share + 255 * np.array(color, dtype=np.float32) * (1 - share), 0, 255).astype(np.uint8)
