"""Multi-view consistency: do two renders of neighbouring views show the same surface in the same colour?

A scene whose views were inpainted one by one can look right in every picture and still flicker. No truth is needed: one
render is carried into the other by its own depth, and the colours are compared where both see the surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spinnerf_ns.nerf.metrics import psnr_from_mse
from spinnerf_ns.scene.cameras import project, unproject

if TYPE_CHECKING:
    from spinnerf_ns.scene.view import View

DEPTH_TOLERANCE = 0.02
"""Relative difference of planar depth up to which two views are said to see the same surface."""


@dataclass(frozen=True)
class RenderedView:
    """A render with its depth and its camera."""

    view: View
    """The camera, at the render's size."""
    image: npt.NDArray
    """(H, W, 3) uint8, or float in [0, 1]."""
    z: npt.NDArray[np.floating]
    """(H, W) planar depth in the view's world units; 0 = unknown."""
    object_mask: npt.NDArray[np.bool_] | None = None
    """(H, W) bool, True = where the object was; None: no such region."""


def warp_into(
    source: RenderedView, target: RenderedView, depth_tolerance: float = DEPTH_TOLERANCE
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The target's colours, as seen at the source's pixels through the source's depth.

    Each source pixel's centre is lifted by the source's z, projected into the target, and read there (bilinear). It counts
    as seen by both where it falls inside the target and the target's z there agrees within `depth_tolerance`, relative.

    Returns:
        (H, W, 3) float64 in [0, 1], the target's colours in the source's frame (0 where not seen), and (H, W) bool, True
        where both see the surface.
    """
    height, width = source.z.shape
    colours, seen = np.zeros((height, width, 3)), np.zeros((height, width), dtype=bool)
    rows, columns = np.nonzero((source.z > 0) & np.isfinite(source.z))
    if rows.size == 0:
        return colours, seen
    centres = np.stack([columns + 0.5, rows + 0.5], axis=-1).astype(np.float64)
    points = unproject(source.view, centres, source.z[rows, columns].astype(np.float64))
    xy, z = project(target.view, points)
    target_height, target_width = target.z.shape
    x, y = (xy - 0.5).T  # in pixels whose centres are whole numbers
    # NaN (a point that the camera cannot see) compares as False.
    inside = (z > 0) & (x >= 0) & (y >= 0) & (x <= target_width - 1) & (y <= target_height - 1)
    rows, columns, x, y, z = rows[inside], columns[inside], x[inside], y[inside], z[inside]
    if rows.size == 0:
        return colours, seen
    there = target.z[np.rint(y).astype(int), np.rint(x).astype(int)]
    agree = (there > 0) & (np.abs(there - z) <= depth_tolerance * z)
    seen[rows, columns] = agree
    colours[rows[agree], columns[agree]] = _bilinear(_unit(target.image), x[agree], y[agree])
    return colours, seen


def multiview_consistency(first: RenderedView, second: RenderedView, depth_tolerance: float = DEPTH_TOLERANCE) -> dict[str, float]:
    """How well two neighbouring renders agree on the surface that both see, in both directions together.

    Returns:
        For the variants full, mask and outside (by the source's object mask): "consistency_mse_*" (of values in [0, 1]),
        "consistency_psnr_*" in dB, and "consistency_seen_*", the part of the variant's pixels that both views see. Where
        nothing is seen by both, the error is absent; where a variant has no pixels, all is.
    """
    errors: dict[str, list[float]] = {}
    pixels: dict[str, int] = {}
    for source, target in ((first, second), (second, first)):
        colours, seen = warp_into(source, target, depth_tolerance)
        squared = ((colours - _unit(source.image)) ** 2).mean(axis=-1)
        regions = {"full": np.ones_like(seen)}
        if source.object_mask is not None:
            regions |= {"mask": source.object_mask, "outside": ~source.object_mask}
        for variant, region in regions.items():
            pixels[variant] = pixels.get(variant, 0) + np.count_nonzero(region)
            errors.setdefault(variant, []).append(squared[seen & region])
    figures: dict[str, float] = {}
    for variant, parts in errors.items():
        values = np.concatenate(parts)
        if pixels[variant]:
            figures[f"consistency_seen_{variant}"] = values.size / pixels[variant]
        if values.size:
            figures[f"consistency_mse_{variant}"] = float(values.mean())
            figures[f"consistency_psnr_{variant}"] = psnr_from_mse(float(values.mean()))
    return figures


def _unit(image: npt.NDArray) -> npt.NDArray[np.float64]:
    return image / 255.0 if image.dtype == np.uint8 else image.astype(np.float64)


def _bilinear(image: npt.NDArray[np.float64], x: npt.NDArray, y: npt.NDArray) -> npt.NDArray[np.float64]:
    """(H, W, 3) read at N places, pixel centres at whole numbers; places lie inside the picture."""
    height, width = image.shape[:2]
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    right, down = (x - x0)[:, None], (y - y0)[:, None]
    top = image[y0, x0] * (1 - right) + image[y0, x1] * right
    bottom = image[y1, x0] * (1 - right) + image[y1, x1] * right
    return top * (1 - down) + bottom * down
