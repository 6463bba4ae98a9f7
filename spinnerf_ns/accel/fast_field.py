"""Nerfacto's fields without work that is the same for all samples of a ray, and without gradients that no loss asks for."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import Field, get_normalized_directions
from nerfstudio.fields.density_fields import HashMLPDensityField
from nerfstudio.fields.nerfacto_field import NerfactoField
from torch import Tensor, nn

from spinnerf_ns.accel.hash_grid import FastHashEncoding
from spinnerf_ns.accel.ray_sampling import density_from_logits, grid_points, is_native


def accelerate(module: nn.Module) -> int:
    """Let every `NerfactoField` inside `module` run fast, in place; returns how many were changed.

    Only the class changes: parameters, state_dict and results are as before, bit by bit.
    """
    changed = 0
    for part in module.modules():
        if type(part) is NerfactoField:
            part.__class__ = FastNerfactoField
            changed += 1
    return changed


def accelerate_proposals(module: nn.Module) -> int:
    """The same for every `HashMLPDensityField`, the field of a proposal network.

    A model's `density_fns` are methods that were taken from its proposal networks before, so they are taken once more.
    """
    changed = 0
    for part in module.modules():
        if type(part) is HashMLPDensityField:
            part.__class__ = FastDensityField
            changed += 1
    for part in module.modules():
        if isinstance(getattr(part, "density_fns", None), list):
            own: Any = part.density_fns
            part.density_fns = [_renewed(density_fn) for density_fn in own]  # type: ignore[assignment]
    return changed


def _renewed(density_fn: Any) -> Any:
    taken_before = getattr(density_fn, "__func__", None) is Field.density_fn
    return density_fn.__self__.density_fn if taken_before else density_fn


def _goes_native(field: Field, encoding: nn.Module) -> bool:
    """Whether a field's points may come from `grid_points`: not where a gradient by position is wanted."""
    if type(encoding) is not FastHashEncoding or encoding.position_gradients or encoding.tcnn_encoding is not None:
        return False
    return field.spatial_distortion is not None and is_native(field.aabb)


class FastDensityField(HashMLPDensityField):
    """`HashMLPDensityField` that takes positions to density in few operations."""

    def get_density(self, ray_samples: RaySamples) -> tuple[Tensor, None]:
        """Density (..., 1) at the samples."""
        native = _goes_native(self, self.encoding)  # before positions are computed for nothing
        density = self._density_at(ray_samples.frustums.get_positions()) if native else None
        return super().get_density(ray_samples) if density is None else (density, None)

    def density_fn(self, positions: Tensor, times: Tensor | None = None) -> Tensor:
        """Density (..., 1) at (..., 3) positions in the training frame."""
        density = self._density_at(positions) if _goes_native(self, self.encoding) else None
        return super().density_fn(positions, times) if density is None else density

    def _density_at(self, positions: Tensor) -> Tensor | None:
        found = grid_points(positions, self.spatial_distortion)
        if found is None:
            return None
        points, inside = found
        flat = points.view(-1, 3)
        logits = self.linear(self.encoding(flat)) if self.use_linear else self.mlp_base(flat)
        return density_from_logits(logits.float().view(inside.shape), inside, self.average_init_density)


class FastNerfactoField(NerfactoField):
    """`NerfactoField` that takes positions to density in few operations, and encodes a ray's direction once instead of at
    every sample: some forty operations on each."""

    def get_density(self, ray_samples: RaySamples) -> tuple[Tensor, Tensor]:
        """Density (..., 1) and geometry features (..., G) at the samples."""
        network = self.mlp_base.model
        encoding = network[0] if isinstance(network, nn.Sequential) else network
        if not _goes_native(self, encoding):
            return super().get_density(ray_samples)
        found = grid_points(ray_samples.frustums.get_positions(), self.spatial_distortion)
        if found is None:
            return super().get_density(ray_samples)
        self._sample_locations, inside = found
        hidden = self.mlp_base(self._sample_locations.view(-1, 3)).view(*inside.shape[:-1], -1)
        self._density_before_activation, geometry = torch.split(hidden, [1, self.geo_feat_dim], dim=-1)
        return density_from_logits(self._density_before_activation.float(), inside, self.average_init_density), geometry

    def get_outputs(self, ray_samples: RaySamples, density_embedding: Tensor | None = None) -> dict[FieldHeadNames, Tensor]:
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
