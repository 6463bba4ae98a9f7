"""World points to pixels and back, with the distortion that nerfstudio's rays have. Pure numpy, float64.

Nerfstudio's models (`nerfstudio.cameras.cameras.Cameras`): a pixel (x, y) becomes ((x - cx) / fx, (y - cy) / fy), from which
the radial and tangential distortion [k1, k2, k3, k4, p1, p2] is removed. A perspective ray then goes through (x, y, 1); a
fisheye ray makes the angle hypot(x, y) with the viewing axis.

Depth is what `conventions` calls z = t / directions_norm, so that rendered depth, stored depth and these functions agree:
planar depth for perspective cameras. Fisheye rays are unit vectors before normalisation (directions_norm = 1), so there z is
the distance from the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spinnerf_ns.errors import SpinnerfError

if TYPE_CHECKING:
    from spinnerf_ns.scene.view import View

Points = npt.NDArray[np.float64]

PERSPECTIVE = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
FISHEYE = ("OPENCV_FISHEYE",)

NEWTON_STEPS = 20
"""At most; undistortion converges quadratically and mostly stops after four."""

BLOCK = 1 << 14
"""Points projected at a time: their intermediate results stay in the processor's cache."""


def project(view: View, points_world: npt.ArrayLike) -> tuple[Points, Points]:
    """Pixels at which a view shows points.

    Args:
        view: the view.
        points_world: (N, 3) in the frame of `view.c2w`.

    Returns:
        xy (N, 2): pixels, (0, 0) is the outer corner of the top-left pixel; not clipped to the photo. NaN for points that
        the camera model cannot see: behind a perspective camera, or so far off axis that the distortion folds over.
        z (N,): depth in world units; negative behind a perspective camera.

    Raises:
        SpinnerfError: the camera model is neither perspective nor fisheye.
    """
    points = np.asarray(points_world, dtype=np.float64).reshape(-1, 3)
    camera = CameraStack([view])
    xy, z = np.empty((len(points), 2)), np.empty(len(points))
    for start in range(0, len(points), BLOCK):
        block = slice(start, start + BLOCK)
        x, y, z[block] = camera.project(np.ascontiguousarray(points[block].T))
        xy[block, 0], xy[block, 1] = x, y
    return xy, z


class CameraStack:
    """Cameras that project the same points at once.

    Args:
        views: their views.

    Raises:
        SpinnerfError: a camera model is neither perspective nor fisheye.
    """

    def __init__(self, views: Sequence[View]) -> None:
        poses = np.array([view.c2w for view in views], np.float64).reshape(-1, 3, 4)
        self.center = poses[:, :, 3:]
        """(V, 3, 1) where they are, world frame."""
        axes = np.array([1.0, -1.0, -1.0])[:, None]  # OpenGL axes -> x right, y down, z forward
        self._rotation = np.ascontiguousarray(poses[:, :, :3].transpose(0, 2, 1) * axes)
        pixels = np.array([[view.fx, view.fy, view.cx, view.cy] for view in views], np.float64).reshape(-1, 4, 1)
        self._pixels = pixels
        self._distortion = np.array([view.distortion for view in views], np.float64).reshape(-1, 6, 1)
        self._fold = np.array([_fold(view.distortion) for view in views])[:, None]
        self._fisheye = np.array([_is_fisheye(view) for view in views], bool)

    def __len__(self) -> int:
        return len(self._fold)

    def __getitem__(self, which: slice | npt.NDArray[np.int64]) -> CameraStack:
        part = CameraStack.__new__(CameraStack)
        part.__dict__.update({name: values[which] for name, values in vars(self).items()})
        return part

    def project(self, points: Points) -> tuple[Points, Points, Points]:
        """Pixels x and y and depth z, each (V, N), of points (3, N): what the function `project` returns."""
        camera = self._rotation @ (points - self.center)  # R^T (p - t)
        x, y, z = camera[:, 0], camera[:, 1], camera[:, 2]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            before = np.where(z > 0, z, np.nan)
            ray_x, ray_y = x / before, y / before
            for number in np.flatnonzero(self._fisheye):
                ray_x[number], ray_y[number], z[number] = _fisheye_ray(x[number], y[number], z[number])
            x, y = ray_x, ray_y
            if self._distortion.any():
                folded = x * x + y * y > self._fold
                x, y = _distorted(x, y, self._distortion.transpose(1, 0, 2))
                x[folded], y[folded] = np.nan, np.nan
            fx, fy, cx, cy = self._pixels.transpose(1, 0, 2)
            return fx * x + cx, fy * y + cy, z


def unproject(view: View, xy: npt.ArrayLike, z: npt.ArrayLike) -> Points:
    """Points that a view shows at pixels; the inverse of `project`.

    Args:
        view: the view.
        xy: (N, 2) pixels; a pixel's centre is at +0.5.
        z: (N,) depth in world units.

    Returns:
        (N, 3) in the frame of `view.c2w`.

    Raises:
        SpinnerfError: the camera model is neither perspective nor fisheye.
    """
    rays = ray_directions(view, xy)
    return view.c2w[:, 3] + rays * np.asarray(z, dtype=np.float64).reshape(-1, 1)


def unproject_pixels(view: View, rows: npt.NDArray, columns: npt.NDArray, depth: npt.NDArray) -> Points:
    """Points that a view shows at the centres of pixels.

    Args:
        view: the view.
        rows, columns: (N,) int.
        depth: (H, W) planar depth in world units.

    Returns:
        (N, 3) in the frame of `view.c2w`.
    """
    return unproject(view, np.stack([columns + 0.5, rows + 0.5], axis=1), depth[rows, columns])


def ray_directions(view: View, xy: npt.ArrayLike) -> Points:
    """World directions of pixels' rays before normalisation: a point at depth z is at origin + z * direction.

    Args:
        view: the view.
        xy: (N, 2) pixels.

    Returns:
        (N, 3); the length is nerfstudio's `directions_norm`.
    """
    fisheye = _is_fisheye(view)
    xy = np.asarray(xy, dtype=np.float64).reshape(-1, 2)
    x, y = _undistort((xy[:, 0] - view.cx) / view.fx, (xy[:, 1] - view.cy) / view.fy, view.distortion)
    if fisheye:
        theta = np.clip(np.hypot(x, y), 0, np.pi)
        shrink = np.sinc(theta / np.pi)  # sin(theta) / theta, 1 at 0
        camera = np.stack([x * shrink, -y * shrink, -np.cos(theta)], axis=-1)
    else:
        camera = np.stack([x, -y, -np.ones_like(x)], axis=-1)
    return camera @ view.c2w[:, :3].T


def _is_fisheye(view: View) -> bool:
    if view.camera_model in FISHEYE:
        return True
    if view.camera_model in PERSPECTIVE:
        return False
    raise SpinnerfError(
        f"{view.path}: the camera model {view.camera_model} cannot be projected, only perspective and OPENCV_FISHEYE can; "
        "undistort the photos first (colmap image_undistorter)"
    )


def _fisheye_ray(x: Points, y: Points, z: Points) -> tuple[Points, Points, Points]:
    """Angle with the viewing axis, (N,) in x and in y, and distance."""
    off_axis = np.hypot(x, y)
    theta = np.arctan2(off_axis, z)
    stretch = np.where(off_axis > 0, theta / off_axis, np.where(z > 0, 1 / z, np.nan))
    return x * stretch, y * stretch, np.sqrt(off_axis**2 + z**2)


def _distorted(x: Points, y: Points, distortion: Points) -> tuple[Points, Points]:
    """Distorted coordinates, of the same shape; each of the six parameters broadcasts to it."""
    k1, k2, k3, k4, p1, p2 = distortion
    r = x * x + y * y
    d = 1 + r * (k1 + r * (k2 + r * (k3 + r * k4)))
    return x * d + 2 * p1 * x * y + p2 * (r + 2 * x * x), y * d + 2 * p2 * x * y + p1 * (r + 2 * y * y)


def _distort(x: Points, y: Points, distortion: Points) -> tuple[Points, Points, Points, Points, Points, Points]:
    """What `_distorted` returns, and its derivatives by x and y: xd_x, xd_y, yd_x, yd_y."""
    k1, k2, k3, k4, p1, p2 = distortion
    r = x * x + y * y
    d = 1 + r * (k1 + r * (k2 + r * (k3 + r * k4)))
    d_r = k1 + r * (2 * k2 + r * (3 * k3 + r * 4 * k4))
    xd, yd = _distorted(x, y, distortion)
    cross = 2 * d_r * x * y + 2 * p1 * x + 2 * p2 * y  # the Jacobian is symmetric
    return xd, yd, d + 2 * d_r * x * x + 2 * p1 * y + 6 * p2 * x, cross, cross, d + 2 * d_r * y * y + 2 * p2 * x + 6 * p1 * y


def _undistort(xd: Points, yd: Points, distortion: Points) -> tuple[Points, Points]:
    """Newton's iteration from the distorted point, as nerfstudio does, but to convergence."""
    x, y = xd.copy(), yd.copy()
    if not np.any(distortion):
        return x, y
    for _ in range(NEWTON_STEPS):
        x_now, y_now, xx, xy, yx, yy = _distort(x, y, distortion)
        error_x, error_y = x_now - xd, y_now - yd
        determinant = xx * yy - xy * yx
        usable = np.abs(determinant) > 1e-3  # nerfstudio's: near a fold there is no step to take
        determinant = np.where(usable, determinant, 1)
        step_x = np.where(usable, (error_x * yy - error_y * xy) / determinant, 0)
        step_y = np.where(usable, (error_y * xx - error_x * yx) / determinant, 0)
        x, y = x - step_x, y - step_y
        if max(np.abs(step_x).max(initial=0), np.abs(step_y).max(initial=0)) < 1e-14:
            break
    return x, y


def _fold(distortion: Points) -> float:
    """Squared radius at which the radial distortion stops growing: points beyond would appear where they are not."""
    k1, k2, k3, k4 = distortion[:4]
    if not np.any(distortion[:4]):
        return np.inf
    roots = np.roots([9 * k4, 7 * k3, 5 * k2, 3 * k1, 1])  # d/dr of r (1 + k1 r^2 + k2 r^4 + ...), in r^2
    real = roots[np.abs(roots.imag) < 1e-12].real
    return float(real[real > 0].min(initial=np.inf))
