"""OpenCV's classical inpainting: quick, smooth, blind to texture. Good for thin gaps, streaky in large ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np

from spinnerf_ns.conventions import BoolMask, Image, scale_pixels, window_around
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.inpainters.base import PhotoInpainter

_FLAGS = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}


@dataclass
class OpenCVInpainter(PhotoInpainter):
    """Telea's fast marching or Bertalmio's Navier-Stokes transport, both from OpenCV, on a crop around the gap."""

    name: ClassVar[str] = "opencv"
    by_surface: ClassVar[bool] = True
    one_core: ClassVar[bool] = True

    method: Literal["telea", "ns"] = "telea"
    """telea: weighted means from the rim inwards (Telea 2004). ns: isophotes carried on (Bertalmio et al. 2001)."""
    radius: float = 5.0
    """Neighbourhood that each pixel is taken from, in pixels of a 1000-pixel-wide photo."""

    def __post_init__(self) -> None:
        if self.method not in _FLAGS:
            raise SpinnerfError(f"inpainter 'opencv': method is {self.method!r}, expected one of: {', '.join(_FLAGS)}")
        if not self.radius > 0:
            raise SpinnerfError(f"inpainter 'opencv': radius is {self.radius}, expected more than 0 pixels")

    def fill(self, image: Image, to_fill: BoolMask, photo: str) -> Image:
        radius = scale_pixels(self.radius, image.shape[1])
        window = window_around(to_fill, 2 * radius + 2)  # what lies farther away cannot reach the gap
        filled = image.copy()
        filled[window] = cv2.inpaint(
            np.ascontiguousarray(image[window]), to_fill[window].astype(np.uint8), radius, _FLAGS[self.method]
        )
        return filled
