"""What the inpainters that work photo by photo share: checks, the loop, and that nothing outside the hole changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.disparity.depth import complete_disparity


class PhotoInpainter:
    """An inpainter whose subclass fills one photo at a time, in `fill`."""

    name = ""

    by_surface: ClassVar[bool] = False
    """Whether it draws whatever lies around a hole into it, and so is better shown one surface at a time."""

    def prepare(self) -> None:
        """Gets ready (finds weights, loads a network), so that what is missing is said before any work. Here: nothing."""

    def fill(self, image: Image, hole: BoolMask, photo: str) -> Image:
        """Returns (H, W, 3) uint8; only the hole's pixels are taken from it. The hole is neither empty nor everything."""
        raise NotImplementedError

    def inpaint(self, images: Sequence[Image], holes: Sequence[BoolMask], photos: Sequence[str] | None = None) -> list[Image]:
        """Fills each photo's hole; see `Inpainter.inpaint`."""
        photos = [str(number) for number in range(len(images))] if photos is None else list(photos)
        if not len(images) == len(holes) == len(photos):
            raise SpinnerfError(
                f"inpainter '{self.name}': {len(images)} photos, {len(holes)} holes and {len(photos)} names were given; "
                "give one of each per photo"
            )
        for image, hole, photo in zip(images, holes, photos, strict=True):
            check_photo(image, hole, photo)
        filled = []
        for image, hole, photo in zip(images, holes, photos, strict=True):
            answer = image.copy()
            if hole.any():
                answer[hole] = self.fill(image, hole, photo)[hole]
            filled.append(answer)
        return filled

    def inpaint_disparity(self, disparity: npt.NDArray[np.float32], hole: BoolMask) -> npt.NDArray[np.float32]:
        """Continues the background's surface from the rim; see `depth.complete_disparity`.

        A 2-D inpainter would quantise the floats or smear the object on the rim over the hole.
        """
        return complete_disparity(disparity, hole)


def check_photo(image: Image, hole: BoolMask, photo: str) -> None:
    """Raises `SpinnerfError` unless the photo and its hole fit together and something is left to continue from."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise SpinnerfError(f"{photo}: an (H, W, 3) uint8 photo was expected, found {image.dtype} {image.shape}; convert it")
    if hole.shape != image.shape[:2] or hole.dtype != bool:
        raise SpinnerfError(
            f"{photo}: a bool hole of shape {image.shape[:2]} was expected, found {hole.dtype} {hole.shape}; "
            "make the mask at the photo's size"
        )
    if hole.all() and hole.size:
        raise SpinnerfError(
            f"{photo}: the hole covers the whole photo, nothing is left to continue from; mend its object mask or leave the "
            "photo out"
        )


def crop_around(hole: BoolMask, margin: int) -> tuple[slice, slice]:
    """The rows and columns of the hole's bounding box, grown by `margin` pixels and cut at the border."""
    x, y, width, height = cv2.boundingRect(hole.astype(np.uint8))
    return slice(max(0, y - margin), y + height + margin), slice(max(0, x - margin), x + width + margin)
