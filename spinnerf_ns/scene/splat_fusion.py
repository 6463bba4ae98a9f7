"""Splats from pictures with depth: a Gaussian for each patch of surface that some picture shows, in colours fitted to all.

1. Every pixel is a point on a surface, with a footprint (how much of it the pixel covers) and a normal from the depth around it.
2. A point that hangs before what other pictures show is left out: at a depth edge a field's depth lies in between.
3. Points are fused in cells as large as their footprint, the finest first: where a near camera saw a surface, what a far one
   saw of it is left out. A cell becomes a flat Gaussian along the surface.
4. Colours are fitted to the pictures, in whose blending weights they are linear: least squares by conjugate gradients, held
   to the colours that the cells had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spinnerf_ns.scene.cameras import project, ray_directions
from spinnerf_ns.scene.splats import Array, Splats, blending_weights
from spinnerf_ns.scene.view import View

CELL = 1.0
"""Side of a cell, in footprints."""

WIDTH = 0.55
"""Standard deviation of a Gaussian along the surface, in cells: neighbours leave no gap between them, and blur little."""

THICKNESS = 0.15
"""And across it."""

OPACITY = 0.95

TOLERANCE = 0.01
"""Relative depth by which a point hangs before another picture's surface."""

WITNESSES = 6
"""Pictures that each picture's points are compared with."""

MOST_LEVELS = 4
"""A surface that was seen with cells up to 2 ** MOST_LEVELS times finer needs no coarser ones."""

FIT_STEPS = 25
HOLD = 0.02
"""Weight with which a Gaussian's colour is held to the one that it was seen with, by that of a pixel."""


@dataclass(frozen=True)
class Shot:
    """A picture with depth."""

    view: View
    """Its camera, without distortion."""
    image: Array
    """(H, W, 3) in [0, 1]."""
    z: Array
    """(H, W) planar depth, units of the view's frame; positive."""


def fused(shots: Sequence[Shot]) -> Splats:
    """Splats of the surfaces that pictures show, in the colours that they were seen in (steps 1 to 3)."""
    points = [_points(shot) for shot in shots]
    kept = [~_hanging(shots, index, points[index].positions) for index in range(len(shots))]
    table = _Points(
        *(np.concatenate([getattr(p, name)[k] for p, k in zip(points, kept, strict=True)]) for name in _Points.__annotations__)
    )
    return _gaussians(table)


def fitted(splats: Splats, shots: Sequence[Shot]) -> Splats:
    """The splats with colours fitted to pictures (step 4)."""
    weights = sparse.vstack([blending_weights(splats, shot.view) for shot in shots], format="csr")
    target = np.concatenate([shot.image.reshape(-1, 3) for shot in shots])
    colors = splats.colors + _least_squares(weights, target - weights @ splats.colors)
    return replace(splats, colors=np.clip(colors, 0, 1).astype(np.float32))


# ------------------------------------------------------------------------------------------------------------------ points
@dataclass(frozen=True)
class _Points:
    """Pixels as patches of surface."""

    positions: Array
    normals: Array
    """Towards the camera, unit."""
    colors: Array
    footprints: Array
    """Side of the patch, across the ray."""


def _points(shot: Shot) -> _Points:
    view = shot.view
    rows, columns = np.mgrid[: view.height, : view.width]
    rays = ray_directions(view, np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1))
    positions = (view.c2w[:, 3] + rays * shot.z.reshape(-1, 1)).astype(np.float32)
    grid = positions.reshape(view.height, view.width, 3)
    normals = np.cross(_slope(grid, shot.z, 1), _slope(grid, shot.z, 0))
    towards = -rays.reshape(grid.shape).astype(np.float32)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    normals = np.where(length > 0, normals / np.maximum(length, 1e-30), towards)
    normals *= np.where((normals * towards).sum(axis=-1, keepdims=True) < 0, -1, 1)
    footprints = (shot.z / np.sqrt(view.fx * view.fy)).astype(np.float32)
    return _Points(positions, normals.reshape(-1, 3).astype(np.float32), shot.image.reshape(-1, 3), footprints.reshape(-1))


def _slope(grid: Array, z: Array, axis: int) -> Array:
    """(H, W, 3) the step along the surface per pixel, on the side where depth changes less: edges are no slopes."""
    step = np.diff(grid, axis=axis)
    jump = np.abs(np.diff(z, axis=axis))
    edge = [(0, 0)] * 3
    forward, backward = list(edge), list(edge)
    forward[axis], backward[axis] = (0, 1), (1, 0)
    ahead, behind = np.pad(step, forward, mode="edge"), np.pad(step, backward, mode="edge")
    jump_ahead = np.pad(jump, forward[:2], constant_values=np.inf)
    jump_behind = np.pad(jump, backward[:2], constant_values=np.inf)
    return np.where((jump_ahead < jump_behind)[..., None], ahead, behind)


def _hanging(shots: Sequence[Shot], index: int, positions: Array) -> npt.NDArray[np.bool_]:
    """(P,) whether more of the pictures beside this one look through a point than show it."""
    own = shots[index].view
    away = np.array([np.linalg.norm(shot.view.c2w[:, 3] - own.c2w[:, 3]) for shot in shots])
    apart = 1 - np.array([shot.view.c2w[:, 2] @ own.c2w[:, 2] for shot in shots])
    order = np.argsort(away / max(float(away.max()), 1e-9) + apart, kind="stable")[1:]
    votes = np.zeros(len(positions), np.int64)
    for witness in (shots[i] for i in order[: 2 * WITNESSES : 2]):  # every other one: the next shows the same from the same place
        xy, z = project(witness.view, positions)
        inside = np.flatnonzero((z > 0) & (xy >= 0).all(axis=1) & (xy < [witness.view.width, witness.view.height]).all(axis=1))
        columns, rows = xy[inside].astype(np.int64).T
        ratio = z[inside] / witness.z[rows, columns]
        votes[inside] += (ratio < 1 - TOLERANCE).astype(np.int64) - (np.abs(ratio - 1) <= TOLERANCE)
    return votes > 0


# ------------------------------------------------------------------------------------------------------------------ fusing
def _gaussians(points: _Points) -> Splats:
    base = float(points.footprints.min(initial=1.0)) if len(points.footprints) else 1.0
    levels = np.floor(np.log2(points.footprints / base) + 0.5).astype(np.int64)
    origin = points.positions.min(axis=0) if len(points.positions) else np.zeros(3, np.float32)
    finer: list[tuple[int, Array]] = []
    parts = []
    for level in np.unique(levels):
        side = CELL * base * 2.0**level
        members = np.flatnonzero(levels == level)
        keys = _keys(points.positions[members], origin, side)
        for other, positions in finer:
            if level - other <= MOST_LEVELS:
                free = ~np.isin(keys, _keys(positions, origin, side))
                members, keys = members[free], keys[free]
        if not len(members):
            continue
        _, group, count = np.unique(keys, return_inverse=True, return_counts=True)
        group = group.reshape(-1)
        total = sparse.csr_matrix((np.ones(len(members), np.float32), (group, np.arange(len(members)))))
        means, normals, colors = (
            total @ values[members] / count[:, None] for values in (points.positions, points.normals, points.colors)
        )
        parts.append((means, normals, colors, np.full(len(means), side)))
        finer.append((level, means))
    means, normals, colors, sides = (np.concatenate(each) for each in zip(*parts, strict=True))
    scales = np.stack([WIDTH * sides, WIDTH * sides, THICKNESS * sides], axis=1)
    return Splats(
        means.astype(np.float32),
        scales.astype(np.float32),
        _quaternions(normals),
        np.full(len(means), OPACITY, np.float32),
        colors.astype(np.float32),
    )


def _keys(positions: Array, origin: Array, side: float) -> npt.NDArray[np.int64]:
    """(P,) one number per cell."""
    cells = np.floor((positions - origin) / side).astype(np.int64) & 0x1FFFFF
    return (cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2]


def _quaternions(normals: npt.NDArray) -> Array:
    """(N, 4) turns that take the z axis to the normals (N, 3)."""
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    x, y, z = np.where(length > 1e-6, normals / np.maximum(length, 1e-6), [0.0, 0.0, 1.0]).T
    flip = np.where(z < 0, -1.0, 1.0)  # a flat Gaussian looks the same from behind
    x, y, z = x * flip, y * flip, z * flip
    quaternions = np.stack([1 + z, -y, x, np.zeros_like(z)], axis=1)
    return (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).astype(np.float32)


def _least_squares(weights: sparse.csr_matrix, target: npt.NDArray) -> npt.NDArray[np.float64]:
    """(N, 3) the change of colour that minimises |W x - target|^2 + HOLD |x|^2, by conjugate gradients."""
    transposed = weights.T.tocsr()
    result = np.zeros((weights.shape[1], target.shape[1]), np.float32)
    residual = (transposed @ target.astype(np.float32)).astype(np.float32)
    direction, size = residual.copy(), (residual**2).sum(axis=0, dtype=np.float64)
    for _ in range(FIT_STEPS):
        if not (size > 0).all():
            break
        image = transposed @ (weights @ direction) + HOLD * direction
        step = (size / np.maximum((direction * image).sum(axis=0, dtype=np.float64), 1e-30)).astype(np.float32)
        result += step * direction
        residual -= step * image
        before, size = size, (residual**2).sum(axis=0, dtype=np.float64)
        direction = residual + (size / before).astype(np.float32) * direction
    return result
