"""From one frame of coordinates to another: similarities (rotation, one scale, shift) as (4, 4) matrices of points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SAME_FRAME = 1e-4
"""Two frames are one where no camera moves by more than this part of the cameras' spread: float32 poses differ by less."""

MISPLACED = 0.01
"""A pose is somewhere else where it is this part of the cameras' spread away from where it should be, or turned by as much."""

SPREAD_OUT = 1e-5
"""Cameras stand at one place where they differ by less than this part of their distance from the origin: float32's rounding."""

PARALLEL = 1e-3
"""Viewing axes within some two degrees of each other meet nowhere."""


def similarity_between(
    source: Sequence[npt.NDArray[np.floating]], target: Sequence[npt.NDArray[np.floating]], scale: float
) -> npt.NDArray[np.float64]:
    """The similarity that takes poses to the same cameras' poses in another frame.

    The rotation is the mean over all cameras of that between their axes (Horn 1987), scale and shift fit the positions best
    (Umeyama 1991, with the rotation given): float32's rounding in a single pose moves nothing.

    Args:
        source: (3, 4) or (4, 4) camera-to-world matrices.
        target: those of the same cameras in the other frame.
        scale: the scale to take where the cameras stand at one place, so that nothing shows it.

    Returns:
        (4, 4) matrix M: `M @ (x, y, z, 1)` is a source point in the target frame.

    Example:
        >>> pose = np.eye(4)[:3]
        >>> moved = pose + [0, 0, 0, 1] * np.ones((3, 1))
        >>> similarity_between([pose], [moved], 2.0)[0].tolist()
        [2.0, 0.0, 0.0, 1.0]
    """
    old = np.stack([np.asarray(pose, dtype=np.float64)[:3] for pose in source])
    new = np.stack([np.asarray(pose, dtype=np.float64)[:3] for pose in target])
    u, _, v = np.linalg.svd(np.einsum("nik,njk->ij", new[:, :, :3], old[:, :, :3]))
    rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))]) @ v
    old_mean, new_mean = old[:, :, 3].mean(axis=0), new[:, :, 3].mean(axis=0)
    before, after = (old[:, :, 3] - old_mean) @ rotation.T, new[:, :, 3] - new_mean
    spread = float((before**2).sum())
    if np.sqrt(spread) > SPREAD_OUT * np.abs(old[:, :, 3]).max():
        scale = float((before * after).sum() / spread)
    result = np.eye(4)
    result[:3, :3] = scale * rotation
    result[:3, 3] = new_mean - scale * rotation @ old_mean
    return result


def misplaced(
    frame: npt.NDArray[np.float64], source: Sequence[npt.NDArray[np.floating]], target: Sequence[npt.NDArray[np.floating]]
) -> npt.NDArray[np.int64]:
    """Which poses a similarity does not take to where they are said to be, by more than float32 explains.

    Args:
        frame, source, target: as `similarity_between` has and takes them.
    """
    found = np.stack([transform_pose(frame, pose) for pose in source])
    wanted = np.stack([np.asarray(pose, dtype=np.float64)[:3] for pose in target])
    furthest = np.abs(np.stack([np.asarray(pose)[:3, 3] for pose in source])).max()
    rounding = np.finfo(np.float32).eps * np.cbrt(np.linalg.det(frame[:3, :3])) * furthest
    near = MISPLACED * np.ptp(wanted[:, :, 3], axis=0).max() + 4 * rounding
    turned = np.abs(found - wanted)[:, :, :3].max(axis=(1, 2)) > MISPLACED
    return np.flatnonzero(turned | (np.abs(found - wanted)[:, :, 3].max(axis=1) > near))


def transform_points(frame: npt.NDArray[np.float64], points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(..., 3) points in another frame.

    Args:
        frame: (4, 4) from `similarity_between`.
    """
    return np.asarray(points, dtype=np.float64) @ frame[:3, :3].T + frame[:3, 3]


def transform_pose(frame: npt.NDArray[np.float64], c2w: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """A (3, 4) camera-to-world matrix in another frame; the similarity's scale is no part of a rotation."""
    scale = np.cbrt(np.linalg.det(frame[:3, :3]))
    pose = np.asarray(c2w, dtype=np.float64)
    return np.concatenate([frame[:3, :3] / scale @ pose[:3, :3], transform_points(frame, pose[:3, 3])[:, None]], axis=1)


def same_frame(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> bool:
    """Whether two similarities into a training frame, whose cameras lie in the unit cube, are the same but for rounding.

    Args:
        first, second: (4, 4) from the same source frame.
    """
    there_and_back = np.asarray(second, dtype=np.float64) @ np.linalg.inv(np.asarray(first, dtype=np.float64))
    return bool(np.abs(there_and_back - np.eye(4)).max() <= SAME_FRAME)


def look_away(poses: npt.NDArray[np.float64]) -> bool:
    """Whether cameras turn their backs on the place where their viewing axes meet: as when y and z point the other way.

    Args:
        poses: (N, 3, 4) camera-to-world, OpenGL axes.

    Returns:
        True where the axes meet, behind nine of ten cameras; so they do for photos that look outwards from a place, too.
    """
    centers, ahead = poses[:, :, 3], -poses[:, :, 2]
    across = np.eye(3) - ahead[:, :, None] * ahead[:, None, :]
    if len(poses) < 3 or np.linalg.eigvalsh(across.mean(axis=0))[0] < PARALLEL:
        return False
    meeting = np.linalg.solve(across.sum(axis=0), np.einsum("nij,nj->i", across, centers))
    along = ((meeting - centers) * ahead).sum(axis=1)
    beside = np.linalg.norm(np.einsum("nij,nj->ni", across, meeting - centers), axis=1)
    return float(np.median(beside)) < 0.2 * float(np.median(np.abs(along))) and float((along < 0).mean()) > 0.9
