"""What inpainters share: checks, disparity, and that nothing outside the gap changes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.disparity.depth import complete_disparity


class PhotoInpainter:
    """An inpainter whose subclass fills a gap, in `fill`."""

    name = ""

    by_surface: ClassVar[bool] = False
    """Whether it draws whatever lies around a gap into it, and so is better shown one surface at a time."""
    one_core: ClassVar[bool] = False
    """Whether it leaves the other cores idle, so that several processes draw at once."""

    def prepare(self) -> None:
        """Gets ready (finds weights, loads a network), so that what is missing is said before any work. Here: nothing."""

    def fill(self, image: Image, to_fill: BoolMask, photo: str) -> Image:
        """Returns (H, W, 3) uint8; only the gap's pixels are taken from it. The gap is neither empty nor everything."""
        raise NotImplementedError

    def inpaint(self, image: Image, to_fill: BoolMask, photo: str = "photo") -> Image:
        """The photo with its gap filled; see `Inpainter.inpaint`.

        Example:
            >>> from spinnerf_ns.removal.inpainters import INPAINTERS
            >>> photo, to_fill = np.full((40, 60, 3), 90, np.uint8), np.zeros((40, 60), bool)
            >>> photo[10:20, 20:30], to_fill[10:20, 20:30] = 255, True
            >>> INPAINTERS.get("opencv")().inpaint(photo, to_fill)[15, 25]  # not 255
            array([91, 91, 91], dtype=uint8)
        """
        check_photo(image, to_fill, photo)
        filled = image.copy()
        if to_fill.any():
            filled[to_fill] = self.fill(image, to_fill, photo)[to_fill]
        return filled

    def inpaint_from(self, image: Image, to_fill: BoolMask, donors: BoolMask, photo: str = "photo") -> Image:
        """As `inpaint`, from chosen pixels alone: what is neither in the gap nor one of them is not looked at.

        Args:
            donors: (H, W) bool, the pixels to draw from; none of them in the gap.
        """
        return np.where(to_fill[..., None], self.inpaint(image, ~donors, photo), image)

    def inpaint_disparity(self, disparity: npt.NDArray[np.float32], to_fill: BoolMask) -> npt.NDArray[np.float32]:
        """Continues the background's surface from the rim; see `depth.complete_disparity`.

        A 2-D inpainter would quantise the floats or smear the object on the rim over the gap.
        """
        return complete_disparity(disparity, to_fill)


def check_photo(image: Image, to_fill: BoolMask, photo: str) -> None:
    """Raises `SpinnerfError` unless the photo and its gap fit together and something is left to continue from."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise SpinnerfError(f"{photo}: an (H, W, 3) uint8 photo was expected, found {image.dtype} {image.shape}; convert it")
    if to_fill.shape != image.shape[:2] or to_fill.dtype != bool:
        raise SpinnerfError(
            f"{photo}: a bool gap of shape {image.shape[:2]} was expected, found {to_fill.dtype} {to_fill.shape}; "
            "make the mask at the photo's size"
        )
    if to_fill.all() and to_fill.size:
        raise SpinnerfError(
            f"{photo}: the gap covers the whole photo, nothing is left to continue from; mend its object mask or leave the "
            "photo out"
        )
