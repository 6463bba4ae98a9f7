"""Which photos a photo is matched with, and between which depths.

A neighbour is good when it shows the same content, not much larger or smaller, from a little aside: too little and depth is not
measured, too much and the photos no longer look alike. So neighbours are rated by the angle between both photos' rays at the
content, around a full circle as before a wall, and chosen so that they lie on different sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spinnerf_ns.stereo.rig import Pinhole

Points = npt.NDArray[np.float64]

ANGLE = 0.09
"""Radians between the rays of two photos at which they are matched best."""
SPREAD = 0.8
"""How far from it, in natural logarithms, a neighbour is still worth 60 %."""
MOST_ANGLE = 0.7
"""Beyond this angle, in radians, photos hardly look alike."""
MOST_SCALE = 2.0
"""A neighbour shows things at most so many times as large, or as small."""
MOST_RATED = 160
"""Photos that are rated for a photo, at most."""
GRID = 5
"""Pixels along each side at which a photo's content is tried."""


def axes_depth(cameras: Sequence[Pinhole]) -> float:
    """Roughly how far content lies, from poses alone: where viewing axes come nearest to each other, else from how far cameras
    stand apart. Only a start."""
    centers = np.stack([camera.center for camera in cameras])
    forward = np.stack([camera.forward for camera in cameras])
    extent = float(np.linalg.norm(centers - centers.mean(axis=0), axis=1).max())
    if extent == 0:
        return 1.0
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    matrix = across.sum(axis=0) + 1e-3 * len(cameras) * np.eye(3)
    meeting = np.linalg.solve(matrix, (across @ centers[..., None]).sum(axis=0)[:, 0] + 1e-3 * len(cameras) * centers.mean(axis=0))
    along = ((meeting - centers) * forward).sum(axis=1)
    depth = float(np.median(along))
    return depth if depth > 0.5 * extent else 2.0 * extent


def choose_neighbours(cameras: Sequence[Pinhole], index: int, depth: float, count: int) -> list[int]:
    """The photos to match a photo with.

    Args:
        cameras: all photos' cameras.
        index: the photo.
        depth: planar depth of its content, typically.
        count: how many, at most.

    Returns:
        Indices, the best first; fewer where no more photos show the same.
    """
    worth, sides = _rate(cameras, index, depth)
    chosen: list[int] = []
    while len(chosen) < count:
        alike = np.max([np.maximum(sides @ sides[other], 0) for other in chosen], axis=0) if chosen else np.zeros(len(cameras))
        left = worth * (1 - 0.4 * alike)
        left[chosen] = 0
        best = int(np.argmax(left))
        if left[best] <= 0:
            break
        chosen.append(best)
    return chosen


def _rate(cameras: Sequence[Pinhole], index: int, depth: float) -> tuple[Points, Points]:
    """(N,) how good a neighbour each photo is, 0 for useless, and (N, 2) on which side it lies."""
    camera = cameras[index]
    u, v = np.meshgrid((np.arange(GRID) + 0.5) / GRID * camera.width, (np.arange(GRID) + 0.5) / GRID * camera.height)
    points = camera.center + depth * camera.rays(np.stack([u.ravel(), v.ravel()], axis=1))
    to_here = points - camera.center
    to_here /= np.linalg.norm(to_here, axis=1, keepdims=True)
    worth, sides = np.zeros(len(cameras)), np.zeros((len(cameras), 2))
    for other in _candidates(cameras, index, depth):
        neighbour = cameras[other]
        xy, z = neighbour.project(points)
        inside = (z > 0) & (xy >= 0).all(axis=1) & (xy[:, 0] <= neighbour.width - 1) & (xy[:, 1] <= neighbour.height - 1)
        scale = neighbour.focal / camera.focal * depth / np.where(z > 0, z, depth)
        inside &= (scale < MOST_SCALE) & (scale > 1 / MOST_SCALE)
        if inside.sum() < 3:
            continue
        to_there = points - neighbour.center
        to_there /= np.linalg.norm(to_there, axis=1, keepdims=True)
        angle = float(np.median(np.arccos(np.clip((to_here * to_there).sum(axis=1), -1, 1))[inside]))
        if not 1e-4 < angle < MOST_ANGLE:
            continue
        worth[other] = inside.mean() * np.exp(-0.5 * (np.log(angle / ANGLE) / SPREAD) ** 2)
        aside = (camera.rotation @ (neighbour.center - camera.center))[:2]
        sides[other] = aside / max(float(np.linalg.norm(aside)), 1e-12)
    return worth, sides


def _candidates(cameras: Sequence[Pinhole], index: int, depth: float) -> list[int]:
    """The other photos; of very many those that see the content's middle at about the best angle, so that time does not grow with
    their number."""
    others = np.array([other for other in range(len(cameras)) if other != index], np.int64)
    if len(others) <= MOST_RATED:
        return others.tolist()
    camera = cameras[index]
    middle = camera.center + depth * camera.forward
    away = middle - np.stack([cameras[other].center for other in others])
    cosine = away @ camera.forward / np.maximum(np.linalg.norm(away, axis=1), 1e-12)
    angle = np.maximum(np.arccos(np.clip(cosine, -1, 1)), 1e-6)
    return np.sort(others[np.argsort(np.abs(np.log(angle / ANGLE)), kind="stable")[:MOST_RATED]]).tolist()


def plane_inverses(
    camera: Pinhole, neighbours: Sequence[Pinhole], near: float, far: float, least: int, most: int
) -> npt.NDArray[np.float64]:
    """Inverse depths of planes, even, a pixel apart in the neighbour at the middle of all by its baseline.

    Args:
        camera: the photo's.
        neighbours: its neighbours'.
        near, far: inverse depths of the nearest and the farthest content, near > far >= 0.
        least, most: how many planes.

    Returns:
        (P,) from far to near.
    """
    baselines = [float(np.linalg.norm(neighbour.center - camera.center)) for neighbour in neighbours]
    pixels = camera.focal * float(np.median(baselines)) * (near - far)
    return np.linspace(far, near, int(np.clip(round(pixels) + 1, least, most)))
