"""Photos as pinhole cameras at the size that stereo works at, and how a neighbour shows a plane.

A capture's photos are distorted and of any size. Matching wants straight lines and few operations a pixel: so a photo is resampled
once through `scene.cameras`, into a pinhole camera with the photo's own focal length and principal point, scaled; depth is
carried back to the photo's pixels at the end.

Inverse depth w = 1 / z is linear in the pixel on every plane in space, and a neighbour shows pixel p at inverse depth w at
A (p, 1) + w b, divided by its third component. Pixels are counted from the first one's centre here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.scene.cameras import FISHEYE, project, ray_directions

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import View

Floats = npt.NDArray[np.float32]

WIDEST = 1.2
"""A fisheye photo is worked on as a pinhole's with at least this focal length per half width: 80 degrees across."""


@dataclass(frozen=True, eq=False)
class Pinhole:
    """A photo's camera without distortion, at working size."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    matrix: npt.NDArray[np.float64]
    """(3, 3) camera coordinates (x right, y down, z forward) to pixels, counted from the first one's centre."""
    rotation: npt.NDArray[np.float64]
    """(3, 3) world to camera."""
    center: npt.NDArray[np.float64]
    """(3,) where it stands, world frame."""

    @property
    def focal(self) -> float:
        """Pixels per unit of slope along x."""
        return float(self.matrix[0, 0])

    @property
    def forward(self) -> npt.NDArray[np.float64]:
        """(3,) the viewing direction, unit length."""
        return self.rotation[2]

    def rays(self, xy: npt.NDArray) -> npt.NDArray[np.float64]:
        """(N, 3) world directions of pixels (N, 2), of unit planar depth."""
        pixels = np.concatenate([np.asarray(xy, np.float64), np.ones((len(xy), 1))], axis=1)
        return pixels @ np.linalg.inv(self.matrix).T @ self.rotation

    def project(self, points: npt.NDArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Pixels (N, 2) and planar depth (N,) of world points (N, 3); pixels are meaningless where depth is not positive."""
        camera = (points - self.center) @ self.rotation.T
        z = camera[:, 2]
        pixels = camera @ self.matrix.T
        return pixels[:, :2] / np.where(z > 0, z, 1.0)[:, None], z


def pinhole(view: View, width: int) -> Pinhole:
    """A view's camera at `width` pixels across, or at the photo's own width if that is less."""
    width = min(width, view.width)
    height = max(2, round(view.height * width / view.width))
    across, down = width / view.width, height / view.height
    fx, fy = view.fx * across, view.fy * down
    if view.camera_model in FISHEYE:
        fx, fy = max(fx, WIDEST * width / 2), max(fy, WIDEST * width / 2)
    matrix = np.array([[fx, 0, view.cx * across - 0.5], [0, fy, view.cy * down - 0.5], [0, 0, 1.0]])
    axes = np.array([1.0, -1.0, -1.0])[:, None]  # OpenGL axes -> x right, y down, z forward
    return Pinhole(width, height, matrix, view.c2w[:, :3].T * axes, view.c2w[:, 3])


def half(camera: Pinhole, factor: int) -> Pinhole:
    """The same camera with pixels `factor` times as wide."""
    width, height = max(2, camera.width // factor), max(2, camera.height // factor)
    scale = np.diag([width / camera.width, height / camera.height, 1.0])
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    return Pinhole(width, height, np.linalg.inv(shift) @ scale @ shift @ camera.matrix, camera.rotation, camera.center)


def read_grey(view: View, camera: Pinhole) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """A photo as its pinhole camera shows it.

    Returns:
        (H, W) float32 grey in [0, 255], and (H, W, 3) uint8 RGB.
    """
    image = view.read_image()
    if not _is_plain(view):
        image = cv2.remap(image, *_photo_pixels(view, camera), cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    if image.shape[:2] != (camera.height, camera.width):
        image = cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY), image


def _is_plain(view: View) -> bool:
    return view.camera_model not in FISHEYE and not np.any(view.distortion)


def _photo_pixels(view: View, camera: Pinhole) -> tuple[Floats, Floats]:
    """Where the photo shows the pixels of the pinhole camera at the photo's size: two maps for cv2.remap."""
    scale = np.diag([view.width / camera.width, view.height / camera.height, 1.0])
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    large = Pinhole(view.width, view.height, np.linalg.inv(shift) @ scale @ shift @ camera.matrix, camera.rotation, camera.center)
    x, y = np.meshgrid(np.arange(view.width), np.arange(view.height))
    xy, _ = project(view, large.center + large.rays(np.stack([x.ravel(), y.ravel()], axis=1)))
    xy = np.nan_to_num(xy, nan=-1e4).astype(np.float32) - 0.5
    return xy[:, 0].reshape(view.height, view.width), xy[:, 1].reshape(view.height, view.width)


def to_photo(view: View, camera: Pinhole, z: Floats, other: npt.NDArray) -> tuple[Floats, npt.NDArray]:
    """Depth and one more map of the pinhole camera, in the photo's own pixels at working size.

    Args:
        view: the photo.
        camera: its pinhole camera.
        z: (H, W) planar depth; 0 = unknown.
        other: (H, W), 0 = unknown.

    Returns:
        (H, W) depth as `scene.cameras` has it (of a fisheye: the distance), and the other map. The nearest pixel's: depths
        are not mixed over an edge.
    """
    if _is_plain(view):
        return z, other
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    xy = np.stack([x.ravel() * view.width / camera.width, y.ravel() * view.height / camera.height], axis=1)
    rays = ray_directions(view, xy)
    pixels, along = camera.project(camera.center + rays)
    pixels = np.where((along > 0)[:, None], pixels, -1e4).astype(np.float32).reshape(camera.height, camera.width, 2)
    maps = np.ascontiguousarray(pixels[..., 0]), np.ascontiguousarray(pixels[..., 1])
    z = cv2.remap(z, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    other = cv2.remap(other, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    if view.camera_model in FISHEYE:
        z = np.where(z > 0, z / along.reshape(z.shape), 0).astype(np.float32)
    return z, other


def relative_pose(reference: Pinhole, neighbour: Pinhole) -> npt.NDArray[np.float64]:
    """(12,) A by rows and b: the neighbour shows the reference's pixel (x, y) at inverse depth w at A (x, y, 1) + w b."""
    turn = neighbour.matrix @ neighbour.rotation
    a = turn @ reference.rotation.T @ np.linalg.inv(reference.matrix)
    b = turn @ (reference.center - neighbour.center)
    return np.concatenate([a.ravel(), b])
