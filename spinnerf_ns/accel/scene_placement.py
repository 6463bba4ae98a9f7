"""Where the scene lies in the model's grid.

Nerfstudio scales a capture so that the cameras fit the unit cube, and nerfacto gives the unit cube the finest cells of its
contracted grid. A forward-facing capture looks out of that cube: all of its content then lies in the contracted part, and
half of a ray's first samples before it. The model here contracts about the content instead: the same contraction, after
moving and scaling the scene so that cameras and content fit the unit cube. Poses, checkpoints' cameras and rendered depths
stay in nerfstudio's frame.
"""

from __future__ import annotations

import torch
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.model_components.ray_samplers import SpacedSampler
from torch import Tensor


class PlacedContraction(SceneContraction):
    """`SceneContraction` about a given centre, with a given radius in place of 1.

    Args:
        center: (3,) in the training frame.
        radius: half the side of the cube that is not contracted.
    """

    center: Tensor
    radius: Tensor

    def __init__(self, center: Tensor, radius: float) -> None:
        super().__init__(order=float("inf"))
        self.register_buffer("center", center.detach().clone().float().view(3))
        self.register_buffer("radius", torch.tensor(float(radius)))

    def forward(self, positions: Tensor) -> Tensor:
        """(..., 3) positions in the training frame -> (..., 3) in [-2, 2].

        The same values as `SceneContraction` with the maximum norm, from one factor per point instead of one per
        coordinate: with the norm in torch.linalg it took as long as the hash grid.
        """
        positions = (positions - self.center) / self.radius
        size = positions.abs().amax(dim=-1, keepdim=True)
        outside = size.clamp(min=1.0)
        return positions * ((2.0 - 1.0 / outside) / outside)


class PlacedPiecewiseSampler(SpacedSampler):
    """Nerfacto's first samples (half uniform, half linear in disparity), with the change at `radius` in place of 1."""

    def __init__(self, radius: float, single_jitter: bool = False) -> None:
        super().__init__(
            spacing_fn=lambda x: torch.where(x < radius, x / (2 * radius), 1 - radius / (2 * x)),
            spacing_fn_inv=lambda s: torch.where(s < 0.5, 2 * radius * s, radius / (2 - 2 * s)),
            single_jitter=single_jitter,
        )
