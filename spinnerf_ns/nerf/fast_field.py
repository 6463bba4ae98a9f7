"""Nerfacto's field without work that is the same for all samples of a ray."""

from __future__ import annotations

import torch
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import get_normalized_directions
from nerfstudio.fields.nerfacto_field import NerfactoField
from torch import Tensor, nn


def accelerate(module: nn.Module) -> int:
    """Let every `NerfactoField` inside `module` encode directions once per ray, in place; returns how many were changed.

    Only the class changes: parameters, state_dict and results are as before, bit by bit.
    """
    changed = 0
    for part in module.modules():
        if type(part) is NerfactoField:
            part.__class__ = FastNerfactoField
            changed += 1
    return changed


class FastNerfactoField(NerfactoField):
    """`NerfactoField` that encodes a ray's direction once instead of at every sample: some forty operations on each."""

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        """Colour at (R, S) samples with (R, S, G) geometry features; all else is left to nerfstudio."""
        directions = ray_samples.frustums.directions
        shared = directions.dim() == 3 and directions.stride(1) == 0 and ray_samples.camera_indices is not None
        only_colour = not (self.use_transient_embedding or self.use_semantics or self.use_pred_normals)
        if not shared or not only_colour or self.embedding_appearance is not None or density_embedding is None:
            return super().get_outputs(ray_samples, density_embedding)
        encoded = self.direction_encoding(get_normalized_directions(directions[:, 0]))
        encoded = encoded[:, None].expand(-1, directions.shape[1], -1)
        features = torch.cat([encoded, density_embedding], dim=-1)
        rgb = self.mlp_head(features.view(-1, features.shape[-1])).view(*directions.shape[:-1], -1)
        return {FieldHeadNames.RGB: rgb.to(directions)}
