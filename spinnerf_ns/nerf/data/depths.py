"""The depths that training photos are known to have: at sparse points, and where stereo is sure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from spinnerf_ns.nerf.data.datamanager import SpinnerfDataManager


def sparse_depths(manager: SpinnerfDataManager) -> tuple[Tensor, Tensor]:
    """Flat pixel indices (K,) of the sparse points that training photos show, and their disparities (K,) in the training frame."""
    from spinnerf_ns.scene.points import visible_depths

    points = manager.points if manager.config.sparse_num_rays else None
    pool, scale = manager.train_pool, manager.capture.world_scale
    clean = manager.workspace.clean_photos  # some of the points are the object's, which is not there
    flat, disparity = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
    for index, path in enumerate(manager.train_dataset.image_filenames if points is not None else ()):
        view = manager.view_of(path)
        if view.photo in clean:
            continue
        start, end = pool.starts[index : index + 2].tolist()
        height, width = int(pool.heights[index]), int(pool.widths[index])
        if (height, width) != (view.height, view.width):  # camera_res_scale_factor: the views' cameras do not fit
            continue
        image = pool.colors[start:end, :3].view(height, width, 3).numpy()
        pixels, z = visible_depths(view, image, points)
        places = torch.from_numpy(pixels[:, 0] * width + pixels[:, 1] + start)
        kept = slice(None) if pool.usable is None else pool.usable[places]
        flat.append(places[kept])
        disparity.append(torch.from_numpy(1.0 / (z * scale)).float()[kept])
    return torch.cat(flat), torch.cat(disparity)


def stereo_disparities(manager: SpinnerfDataManager, unit: float) -> Tensor:
    """(P,) float16 disparities of all pixels of the manager's pool, 0 where stereo is not sure.

    Args:
        manager: its workspace has dense depth.
        unit: the disparity in the training frame that counts as 1: half floats are fine enough for relative errors, and hold a
            scene of any size so.
    """
    from spinnerf_ns.stereo.consistency import CONFIDENT
    from spinnerf_ns.stereo.maps import load_stereo

    pool, scale = manager.train_pool, manager.capture.world_scale * unit
    measured = torch.zeros(pool.num_pixels, dtype=torch.float16)
    clean = manager.workspace.clean_photos  # they show another scene than the photos that depth was measured from
    for index, path in enumerate(manager.train_dataset.image_filenames):
        photo = manager.view_of(path).photo
        if photo in clean:
            continue
        start, end = pool.starts[index : index + 2].tolist()
        shape = int(pool.heights[index]), int(pool.widths[index])
        depth = load_stereo(manager.workspace, photo, shape)
        sure = (depth.confidence >= CONFIDENT) & (depth.z > 0)
        disparity = np.where(sure, 1.0 / np.where(sure, depth.z * scale, 1.0), 0.0)
        measured[start:end] = torch.from_numpy(disparity.reshape(-1)).half()
    return measured
