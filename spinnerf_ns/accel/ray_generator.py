"""Rays through pixels of perspective cameras."""

from __future__ import annotations

from functools import cached_property

import torch
from nerfstudio.cameras.camera_utils import normalize_with_norm, radial_and_tangential_undistort
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components.ray_generators import RayGenerator
from torch import Tensor

MOST_POINTS = 1 << 23
"""Image points whose undistorted place is kept (64 MB); with more of them a lens is undone anew for every ray."""

AT_A_TIME = 1 << 16
"""Points that a lens is undone for at a time: it takes a hundred bytes of memory for each."""


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
        camera, row, column = ray_indices.unbind(-1)
        if self._undistorted is not None:  # seen: (3, R, 2): of the pixel, of those right of it and below it
            kind = self._kinds[camera]
            seen = torch.stack([self._undistorted[kind, row + down, column + across] for down, across in ((0, 0), (0, 1), (1, 0))])
        else:
            center, focal = self._intrinsics[camera].split(2, dim=-1)
            seen = (self.image_coords[row, column].flip(-1) - center + self._neighbours) / focal
            if self._lens is not None:
                seen = radial_and_tangential_undistort(seen, self._lens[camera])
        right, up, back, origins = self.cameras.camera_to_worlds[camera].unbind(-1)
        directions, norm = normalize_with_norm(seen[..., :1] * right - seen[..., 1:] * up - back, -1)
        sides = (directions[0] - directions[1:]).square().sum(dim=-1).sqrt()
        area = (sides[0] * sides[1])[:, None]
        return RayBundle(origins, directions[0], area, camera[:, None], metadata={"directions_norm": norm[0]})

    @cached_property
    def _undistorted(self) -> Tensor | None:
        """(K, H + 1, W + 1, 2): where the K different cameras' pixels, and those beyond the last ones, would be without a lens.

        None without a lens, and where there would be too many of them.
        """
        if self._lens is None:
            return None
        height, width = (size + 1 for size in self.image_coords.shape[:2])
        kinds, self._kinds = torch.cat([self._intrinsics, self._lens], dim=-1).unique(dim=0, return_inverse=True)
        if len(kinds) * height * width > MOST_POINTS:
            return None
        down, across = (torch.arange(size, device=kinds.device) + 0.5 for size in (height, width))
        pixels = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1).view(-1, 2)  # x, y
        places = [
            radial_and_tangential_undistort((part - kind[:2]) / kind[2:4], kind[4:].expand(len(part), -1))
            for kind in kinds
            for part in pixels.split(AT_A_TIME)
        ]
        return torch.cat(places).view(len(kinds), height, width, 2)
