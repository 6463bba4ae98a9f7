"""Rays through pixels of perspective cameras."""

from __future__ import annotations

import torch
from nerfstudio.cameras.camera_utils import normalize_with_norm, radial_and_tangential_undistort
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components.ray_generators import RayGenerator
from torch import Tensor


class PerspectiveRayGenerator(RayGenerator):
    """`RayGenerator` without what nerfstudio does for cameras of several kinds; the same rays, and cameras of other kinds."""

    def __init__(self, cameras: Cameras) -> None:
        super().__init__(cameras)
        self.image_coords = self.image_coords.to(cameras.device)  # as a buffer it moves only inside a module
        self._is_perspective = bool((cameras.camera_type == CameraType.PERSPECTIVE.value).all())
        self._is_perspective &= cameras.ndim == 1 and cameras.times is None and not cameras.metadata
        self._intrinsics = torch.cat([cameras.cx, cameras.cy, cameras.fx, cameras.fy], dim=-1)
        lens = cameras.distortion_params
        self._lens = lens if lens is not None and bool((lens != 0).any()) else None
        self._neighbours = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], device=cameras.device)[:, None]

    def forward(self, ray_indices: Tensor) -> RayBundle:
        """(R, 3) camera, row, column -> rays; a pixel's area is spanned by its neighbours' rays."""
        if not self._is_perspective:
            return super().forward(ray_indices)
        camera = ray_indices[:, 0]
        center, focal = self._intrinsics[camera].split(2, dim=-1)
        pixels = self.image_coords[ray_indices[:, 1], ray_indices[:, 2]].flip(-1)  # (R, 2) x, y
        seen = (pixels - center + self._neighbours) / focal  # (3, R, 2): of the pixel, of those right of it and below it
        if self._lens is not None:
            seen = radial_and_tangential_undistort(seen, self._lens[camera])
        right, up, back, origins = self.cameras.camera_to_worlds[camera].unbind(-1)
        directions, norm = normalize_with_norm(seen[..., :1] * right - seen[..., 1:] * up - back, -1)
        sides = (directions[0] - directions[1:]).square().sum(dim=-1).sqrt()
        area = (sides[0] * sides[1])[:, None]
        return RayBundle(origins, directions[0], area, camera[:, None], metadata={"directions_norm": norm[0]})
