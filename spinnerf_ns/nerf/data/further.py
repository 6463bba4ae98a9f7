"""Further photos for a data manager, for a time: what the field of what stays sees and the segmentation field does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image as PILImage

from spinnerf_ns.accel.ray_generator import PerspectiveRayGenerator
from spinnerf_ns.conventions import Image, resize_mask
from spinnerf_ns.nerf.data.pixel_samplers import starts_of
from spinnerf_ns.nerf.losses import UNKNOWN
from spinnerf_ns.scene.view import View

if TYPE_CHECKING:
    from spinnerf_ns.nerf.data.datamanager import SpinnerfSegDataManager


@contextmanager
def with_photos(manager: SpinnerfSegDataManager, views: Sequence[View], images: Sequence[Image]) -> Iterator[None]:
    """Within this context photos are behind the training photos in the manager's pool, without labels, points or measured depth.

    Args:
        manager: its other entries, the dataset's among them, stay as they are.
        views: of its capture.
        images: what they show, (H, W, 3) uint8 each.
    """
    if not views:
        yield
        return
    names = ("train_pool", "labels", "stereo_disparity", "train_ray_generator")
    before = {name: getattr(manager, name) for name in names}
    pool, scale = manager.train_pool, manager.config.camera_res_scale_factor
    sizes = torch.tensor([(int(view.height * scale), int(view.width * scale)) for view in views], dtype=torch.int64)
    pixels = int(sizes.prod(dim=1).sum())
    colors = torch.full((pixels, pool.colors.shape[1]), 255, dtype=torch.uint8)  # a fourth channel is opaque
    usable = torch.empty(pixels, dtype=torch.bool)
    starts = starts_of(sizes).tolist()
    for view, image, (height, width), start, end in zip(views, images, sizes.tolist(), starts[:-1], starts[1:], strict=True):
        if image.shape[:2] != (height, width):
            image = np.array(PILImage.fromarray(image).resize((width, height), resample=PILImage.Resampling.BILINEAR))
        colors[start:end, :3] = torch.from_numpy(image.reshape(-1, 3))
        usable[start:end] = torch.from_numpy(resize_mask(view.valid_mask(), (height, width)).reshape(-1))
    own = torch.ones(pool.num_pixels, dtype=torch.bool) if pool.usable is None else pool.usable
    all_usable = None if pool.usable is None and bool(usable.all()) else torch.cat([own, usable])
    cameras = manager.capture.cameras([*(manager.view_of(path) for path in manager.train_dataset.image_filenames), *views])
    cameras.rescale_output_resolution(scale)
    all_sizes = torch.cat([torch.stack([pool.heights, pool.widths], dim=1), sizes])
    cameras.height, cameras.width = (all_sizes[:, side : side + 1].to(cameras.height.dtype) for side in (0, 1))
    manager.train_pool = replace(
        pool,
        colors=torch.cat([pool.colors, colors]),
        starts=starts_of(all_sizes),
        heights=all_sizes[:, 0].contiguous(),
        widths=all_sizes[:, 1].contiguous(),
        camera_indices=torch.arange(len(all_sizes)),
        usable=all_usable,
    )
    manager.labels = torch.cat([manager.labels, torch.full((pixels,), UNKNOWN, dtype=torch.uint8)])
    if manager.stereo_disparity is not None:
        manager.stereo_disparity = torch.cat([manager.stereo_disparity, manager.stereo_disparity.new_zeros(pixels)])
    manager.train_ray_generator = PerspectiveRayGenerator(cameras.to(manager.device))
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(manager, name, value)
