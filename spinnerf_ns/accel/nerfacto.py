"""The fast path of a nerfacto model, ours or nerfstudio's."""

from __future__ import annotations

from nerfstudio.models.nerfacto import NerfactoModel

from spinnerf_ns.accel import fast_field, hash_grid, ray_sampling, ray_weights, tiny_mlp


def accelerate_nerfacto(model: NerfactoModel, verbose: bool = True) -> None:
    """Lets a nerfacto model use the fast grids, networks, samples and weights, in place.

    Results equal those of nerfstudio's torch path but for rounding, so only the time changes.

    Args:
        model: with all its fields built.
        verbose: print a line about hash grids.
    """
    hash_grid.accelerate(model, verbose=verbose)
    tiny_mlp.accelerate(model)
    fast_field.accelerate(model)
    fast_field.accelerate_proposals(model)
    ray_sampling.accelerate(model)
    # What differentiates the fields by position.
    position_gradients = model.config.predict_normals or model.config.camera_optimizer.mode != "off"
    for module in model.modules():
        if isinstance(module, hash_grid.FastHashEncoding):
            module.position_gradients = position_gradients
    ray_weights.accelerate(model)
