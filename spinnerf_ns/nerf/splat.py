"""A field as Gaussian splats: pictures with depth from the training cameras, and what `scene.splat_fusion` makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from nerfstudio.cameras.cameras import Cameras, CameraType
from rich.progress import track

from spinnerf_ns.conventions import t_to_z
from spinnerf_ns.nerf.rendering import render_pixels
from spinnerf_ns.scene.cameras import FISHEYE, ray_directions
from spinnerf_ns.scene.capture import Capture
from spinnerf_ns.scene.frames import transform_pose
from spinnerf_ns.scene.splat_fusion import Shot, fitted, fused
from spinnerf_ns.scene.splats import Array, Splats, render_splats
from spinnerf_ns.scene.view import View

MOST_PIXELS = 4_000_000
"""Pixels of all pictures together, unless a resolution is asked for: some 3 GB and minutes on two cores."""

FIT_PIXELS = 2_500_000
"""Pixels that colours are fitted to: the blending weights of each take about 100 bytes twice."""

WIDEST = 1.2
"""Half the width of a fisheye's pinhole picture, in focal lengths: 100 degrees across."""

AGREE = 0.02
"""Expected and median depth within this part of each other: a surface, and the expected one is smoother. Else an edge, between
whose two sides the expected depth lies."""

FAR = 2.0
"""Where a ray hits nothing its colour is put at this many times the largest depth of all."""


@dataclass(frozen=True)
class SplatFigures:
    """PSNR in dB of splats against the field that they were made from, per picture."""

    training: list[float]
    """From training cameras."""
    between: list[float]
    """From cameras half-way between neighbouring training cameras: no picture of them was used."""


def pinhole(view: View, downscale: float = 1.0) -> View:
    """A camera without distortion at a view's pose, at 1 / downscale of its resolution; of a fisheye its middle 100 degrees."""
    width, height = max(1, round(view.width / downscale)), max(1, round(view.height / downscale))
    fx, fy = view.fx * width / view.width, view.fy * height / view.height
    cx, cy = view.cx * width / view.width, view.cy * height / view.height
    if view.camera_model in FISHEYE:
        fx, fy, cx, cy = max(fx, width / 2 / WIDEST), max(fy, height / 2 / WIDEST), width / 2, height / 2
    lens = {"distortion": np.zeros(6), "camera_model": "PINHOLE"}
    return replace(view, width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy, **lens)


def between(views: Sequence[View], number: int) -> list[View]:
    """Cameras half-way between neighbouring views, `number` of them at most, spread over the views."""
    from scipy.spatial.transform import Rotation, Slerp

    centers = np.array([view.c2w[:, 3] for view in views])
    result = []
    for index in _spread(len(views), number) if len(views) > 1 else []:
        distance = np.linalg.norm(centers - centers[index], axis=1)
        distance[index] = np.inf
        pair = [views[index].c2w, views[int(distance.argmin())].c2w]
        turn = Slerp([0, 1], Rotation.from_matrix([pose[:, :3] for pose in pair]))(0.5).as_matrix()
        result.append(replace(views[index], c2w=np.concatenate([turn, (pair[0][:, 3:] + pair[1][:, 3:]) / 2], axis=1)))
    return result


def render_shots(model: Any, capture: Capture, views: Sequence[View], what: str = "Rendering") -> list[Shot]:
    """Pictures and depth from cameras without distortion (`pinhole`).

    Args:
        model: nerfacto or a model of ours.
        capture: the capture whose frames these are.
        views: the cameras, source frame.
        what: the progress bar's words.

    Returns:
        In source units.
    """
    colors, depths = [], []
    for view in track(views, what, transient=True):
        rendered = render_pixels(model, _camera(capture, view), ("rgb", "z", "depth"))
        rows, columns = np.mgrid[: view.height, : view.width]
        rays = ray_directions(view, np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1))
        median = t_to_z(rendered["depth"], np.linalg.norm(rays, axis=1).reshape(view.height, view.width))
        z = np.where(np.abs(rendered["z"] - median) <= AGREE * median, rendered["z"], median)
        colors.append(np.clip(rendered["rgb"], 0, 1).astype(np.float32))
        depths.append(np.where(rendered["z"] > 0, z, 0) / capture.world_scale)
    most = max((float(z.max()) for z in depths), default=0.0) or 1.0
    filled = [np.where(z > 0, z, FAR * most).astype(np.float32) for z in depths]
    return [Shot(*parts) for parts in zip(views, colors, filled, strict=True)]


def splats_of(shots: Sequence[Shot]) -> Splats:
    """Splats of pictures with depth, their colours fitted to as many of the pictures as memory takes."""
    pixels = sum(shot.z.size for shot in shots)
    step = max(1, -(-pixels // FIT_PIXELS))
    return fitted(fused(shots), shots[::step])


def compare(splats: Splats, training: Sequence[Shot], between_: Sequence[Shot]) -> SplatFigures:
    """The splats' pictures against the field's."""
    return SplatFigures(*([_psnr(render_splats(splats, s.view), s.image) for s in shots] for shots in (training, between_)))


def some(shots: Sequence[Any], number: int) -> list[Any]:
    """So many of them at most, evenly spread."""
    return [shots[index] for index in _spread(len(shots), number)]


def _spread(count: int, number: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, number)).round()}) if count else []


def _psnr(found: Array, expected: Array) -> float:
    error = float(np.mean((np.clip(found, 0, 1) - expected) ** 2, dtype=np.float64))
    return float(-10 * np.log10(max(error, 1e-10)))


def _camera(capture: Capture, view: View) -> Cameras:
    import torch

    return Cameras(
        camera_to_worlds=torch.from_numpy(transform_pose(capture.world_to_training, view.c2w)).float()[None],
        fx=float(view.fx),
        fy=float(view.fy),
        cx=float(view.cx),
        cy=float(view.cy),
        width=view.width,
        height=view.height,
        camera_type=CameraType.PERSPECTIVE,
    )
