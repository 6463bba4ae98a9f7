"""Whole photos from a model: chosen outputs, chosen pixels, planar depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import cv2
import numpy as np
import numpy.typing as npt
import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from spinnerf_ns.conventions import BoolMask, resize_depth, resize_mask, t_to_z, window_around
from spinnerf_ns.nerf.base_model import LEAST_ACCUMULATION, SpinnerfModel
from spinnerf_ns.nerf.seg_model import SpinnerfSegModel

RAYS_ON_CPU = 4096
"""Rays at once on a CPU: more of them are no faster, and want more memory."""
BYTES_PER_SAMPLE = 4096
"""A generous bound of what a sample takes while it is rendered: about 1000 floats, all features and hidden layers."""
LEAST_CHUNK = 256
COARSE_WIDTH = 180
"""Pixels of width that a coarse picture has at least; narrower photos than twice that are rendered in full.

At half of 384 pixels 0.5 % of a field's depths were off by more than half a per cent, in half of the time; still coarser pictures
saved none, for the edges.
"""
COARSEST = 8
"""Pixels of a photo per coarse pixel and axis at most."""
DEPTH_EDGE = 0.02
"""Bend of disparity from pixel to pixel, as a part of it, from which it is rendered in full."""
OBJECTNESS_EDGE = 0.05
"""Difference of objectness between neighbours from which it is rendered in full."""


@torch.no_grad()
def render_pixels(
    model: SpinnerfModel, camera: Cameras, names: Sequence[str], pixels: BoolMask | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Renders outputs of a model for a photo, or for some of its pixels.

    Args:
        model: the model; its mode (train or eval) is left as it was found.
        camera: one camera, in the training frame.
        names: the outputs, or "z": planar depth of the expected surface in the training frame, 0 where a ray hits nothing.
        pixels: (H, W) bool, the pixels to render; by default all.

    Returns:
        name -> (H, W) for one channel, (H, W, C) otherwise; 0 at pixels that were not asked for.
    """
    height, width = int(camera.height), int(camera.width)
    bundle = camera.to(model.device).generate_rays(camera_indices=0, keep_shape=True).flatten()
    chosen = None
    if pixels is not None:
        chosen = torch.from_numpy(np.flatnonzero(pixels)).to(model.device)
        if len(chosen) == 0:
            return {name: np.zeros((height, width), np.float32) for name in names}
        bundle = bundle[chosen]
    was_training = model.training
    model.eval()
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    try:
        chunk = rays_per_chunk(model)
        # A stock model renders everything it can.
        with model.rendering_only(names) if isinstance(model, SpinnerfModel) else nullcontext():
            for start in range(0, len(bundle), chunk):
                rays = bundle[start : start + chunk]
                outputs = model(rays)
                for name in names:
                    parts[name].append(_planar_depth(outputs, rays) if name == "z" else outputs[name])
    finally:
        model.train(was_training)
    result = {}
    for name, pieces in parts.items():
        values = torch.cat(pieces).float()
        if chosen is not None:
            full = values.new_zeros(height * width, values.shape[-1])
            full[chosen] = values
            values = full
        values = values.view(height, width, -1)
        result[name] = (values[..., 0] if values.shape[-1] == 1 else values).cpu().numpy()
    return result


def rays_per_chunk(model: SpinnerfModel) -> int:
    """How many rays to render at once: the model's `eval_num_rays_per_chunk`, or less where less is faster or fits.

    On a GPU they take at most half of the memory that is free.
    """
    most = model.config.eval_num_rays_per_chunk
    if model.device.type == "cpu":
        return min(most, RAYS_ON_CPU)
    if model.device.type != "cuda":
        return most
    samples = sum(model.config.num_proposal_samples_per_ray) + model.config.num_nerf_samples_per_ray
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(LEAST_CHUNK, min(most, free // 2 // (samples * BYTES_PER_SAMPLE)))


def _planar_depth(outputs: dict[str, Tensor], rays) -> Tensor:
    z = t_to_z(outputs["expected_depth"], rays.metadata["directions_norm"])
    return torch.where(outputs["accumulation"] > LEAST_ACCUMULATION, z, torch.zeros_like(z))


def render_objectness_and_depth(
    model: SpinnerfSegModel, camera: Cameras, world_scale: float, downscale: int = 1, around_object: bool = False
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Renders a photo's objectness and its depth.

    Args:
        model: a segmentation model.
        camera: one camera, in the training frame.
        world_scale: training frame's units per world unit.
        downscale: render one pixel in so many per axis and interpolate.
        around_object: whether depth is read there alone, so that its edges elsewhere may stay coarse.

    Returns:
        (H, W) objectness in [0, 1]; (H, W) planar depth with the object in world units, 0 = unknown.
    """

    def near(coarse: dict[str, npt.NDArray[np.float32]]) -> BoolMask:
        return _around(coarse["objectness"] > OBJECTNESS_EDGE, 0.25)

    rendered = render_sparsely(model, camera, ("objectness", "z"), downscale, near if around_object else None)
    return rendered["objectness"], rendered["z"] / np.float32(world_scale)


def render_depth(
    model: SpinnerfModel, camera: Cameras, world_scale: float, downscale: int = 1, region: BoolMask | None = None
) -> npt.NDArray[np.float32]:
    """(H, W) planar depth in world units, 0 = unknown; arguments as of `render_objectness_and_depth`.

    Args:
        region: (H, W) bool: depth is read around it alone, if there is one, so that its edges elsewhere may stay coarse.
    """

    def near(coarse: dict[str, npt.NDArray[np.float32]]) -> BoolMask:
        assert region is not None
        return _around(resize_mask(region, coarse["z"].shape), 1.0)  # there other photos look past the object

    sharp = region is None or not region.any()
    return render_sparsely(model, camera, ("z",), downscale, None if sharp else near)["z"] / np.float32(world_scale)


def _around(region: BoolMask, sides: float) -> BoolMask:
    """(H, W) bool: the region's bounding box, grown by so many of its longer side."""
    near = np.zeros_like(region)
    near[window_around(region, round(sides * max(span.stop - span.start for span in window_around(region))))] = True
    return near


def render_sparsely(
    model: SpinnerfModel,
    camera: Cameras,
    names: Sequence[str],
    downscale: int = 1,
    near: Callable[[dict[str, npt.NDArray[np.float32]]], BoolMask] | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Renders a photo coarsely, and in full where that does not say it: at edges of depth and of objectness.

    Between edges depth is nearly planar and objectness 0 or 1, and both are interpolated exactly as they are there. A photo of
    1008 pixels' width is rendered at a fourth of its resolution and at the edges, which is 15 to 40 % of its rays.

    Args:
        model: the model.
        camera: one camera, in the training frame.
        names: of "objectness" and "z".
        downscale: the finest resolution: one pixel in so many per axis.
        near: the coarse pictures by name, (h, w) each -> (h, w) bool: where edges of depth are wanted sharp; by default everywhere.

    Returns:
        name -> (H, W), in the units of `render_pixels`.
    """
    shape = (int(camera.height), int(camera.width))
    fine = scaled(camera, downscale) if downscale > 1 else camera
    height, width = int(fine.height), int(fine.width)
    factor = min(COARSEST, width // COARSE_WIDTH)
    if factor < 2:
        rendered = render_pixels(model, fine, names)
    else:
        coarse = render_pixels(model, scaled(fine, factor), names)
        rendered = {name: _enlarged(name, values, (height, width)) for name, values in coarse.items()}
        edges = {name: _edges(name, values) for name, values in coarse.items()}
        if near is not None and "z" in edges:
            edges["z"] &= near(coarse)
        unsaid = np.any(list(edges.values()), axis=0)
        pixels = resize_mask(cv2.dilate(unsaid.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0, (height, width))
        for name, values in render_pixels(model, fine, names, pixels).items():
            rendered[name][pixels] = values[pixels]
    return {name: _enlarged(name, values, shape) for name, values in rendered.items()}


def _enlarged(name: str, values: npt.NDArray[np.float32], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    return resize_depth(values, shape) if name == "z" else _resized(values, shape).copy()


def _edges(name: str, values: npt.NDArray[np.float32]) -> BoolMask:
    """(H, W) bool: where a coarse picture's pixels do not say what lies between them."""
    if name != "z":
        kernel = np.ones((3, 3), np.uint8)
        return cv2.dilate(values, kernel) - cv2.erode(values, kernel) > OBJECTNESS_EDGE
    known = values > 0
    disparity = np.where(known, 1 / np.where(known, values, 1), 0).astype(np.float32)
    # Disparity of a plane is affine in pixels: what bends it is no plane, or the end of one.
    bend = np.zeros_like(disparity)
    for kernel in (np.float32([[1, -2, 1]]), np.float32([[1], [-2], [1]])):
        bend = np.maximum(bend, np.abs(cv2.filter2D(disparity, -1, kernel, borderType=cv2.BORDER_REPLICATE)))
    next_to_unknown = cv2.dilate((~known).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return (bend > DEPTH_EDGE * disparity) | next_to_unknown & known


def scaled(camera: Cameras, downscale: int) -> Cameras:
    """A copy of the camera with 1 / downscale of the resolution, rounded to whole pixels; it shows what the camera shows to its
    last edge, so its pixels are a little off square where the photo's sides are no multiples."""
    small = Cameras(
        camera_to_worlds=camera.camera_to_worlds.clone(),
        fx=camera.fx.clone(),
        fy=camera.fy.clone(),
        cx=camera.cx.clone(),
        cy=camera.cy.clone(),
        width=(camera.width.float() / downscale).round().clamp(min=1).to(camera.width.dtype),
        height=(camera.height.float() / downscale).round().clamp(min=1).to(camera.height.dtype),
        distortion_params=None if camera.distortion_params is None else camera.distortion_params.clone(),
        camera_type=camera.camera_type.clone(),
        metadata=None,
    )
    across, down = small.width / camera.width, small.height / camera.height
    small.fx, small.cx = camera.fx * across, camera.cx * across
    small.fy, small.cy = camera.fy * down, camera.cy * down
    return small


def render_objectness(model: SpinnerfSegModel, camera: Cameras, downscale: int = 1) -> npt.NDArray[np.float32]:
    """(H, W) in [0, 1]: rendered objectness, rendered at 1 / downscale, at its edges, and interpolated."""
    return render_sparsely(model, camera, ("objectness",), downscale)["objectness"]


def _resized(values: npt.NDArray[np.float32], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    if values.shape == shape:
        return values
    return cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
