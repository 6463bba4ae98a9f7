"""A photo with its camera."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import read_image


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

    def read_image(self) -> Image:
        """The photo, (H, W, 3) uint8 RGB.

        Raises:
            SpinnerfError: it is missing, no image, or no longer of the size that it was when the capture was read.
        """
        image = read_image(self.path) if self.alpha_color is None else _read_over(self.path, self.alpha_color)
        if image.shape[:2] != (self.height, self.width):
            raise SpinnerfError(
                f"{self.path}: the photo is {image.shape[1]}x{image.shape[0]}, its camera is {self.width}x{self.height}; "
                "put the original photo back"
            )
        return image


def _read_over(path: Path, color: tuple[float, float, float]) -> Image:
    """A photo with its alpha channel laid over a colour, as nerfstudio's datasets do."""
    import cv2

    data = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if data is None or data.ndim != 3 or data.shape[2] != 4 or data.dtype != np.uint8:
        return read_image(path)
    rgb, alpha = data[..., 2::-1].astype(np.float32), data[..., 3:].astype(np.float32) / 255
    return np.clip(rgb * alpha + 255 * np.array(color, dtype=np.float32) * (1 - alpha), 0, 255).astype(np.uint8)
