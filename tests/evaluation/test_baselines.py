"""Baselines differ from ours in their own idea alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spinnerf_ns.evaluation.baselines import METHODS, SHARED_MODEL_SETTINGS, per_view, release, with_steps
from spinnerf_ns.nerf.base_model import TRAINS_GEOMETRY
from spinnerf_ns.runs import method_config
from spinnerf_ns.scene.workspace import Workspace
from tests.evaluation.conftest import EXPORT, export_truth, tiny


@pytest.mark.parametrize("name", METHODS)
def test_grid_samples_rays_steps_rates_and_seed_are_the_same(name) -> None:
    ours = with_steps(method_config("spinnerf-inpaint-lite"), 40)
    ours.machine.seed = 7
    config = METHODS[name].make(ours)
    for setting in SHARED_MODEL_SETTINGS:
        assert getattr(config.pipeline.model, setting) == getattr(ours.pipeline.model, setting), setting
    assert config.pipeline.datamanager.train_num_rays_per_batch == ours.pipeline.datamanager.train_num_rays_per_batch
    assert (config.max_num_iterations, config.machine.seed) == (40, 7)
    for group, value in config.optimizers.items():
        assert value["optimizer"] == ours.optimizers[group]["optimizer"]
        assert value["scheduler"] == ours.optimizers[group]["scheduler"] and value["scheduler"].max_steps == 40


def test_steps_scale_what_is_said_in_steps() -> None:
    full = method_config("spinnerf-inpaint-lite")
    half = with_steps(method_config("spinnerf-inpaint-lite"), full.max_num_iterations // 2)
    assert half.pipeline.datamanager.patch_start_step * 2 == full.pipeline.datamanager.patch_start_step
    seg = method_config("spinnerf-seg-lite")
    rounds, steps = seg.pipeline.mask_round_steps, seg.max_num_iterations
    assert with_steps(seg, steps // 4).pipeline.mask_round_steps == tuple(step // 4 for step in rounds)


def test_release_brings_its_losses() -> None:
    preset, ours = method_config("spinnerf-inpaint-release").pipeline, method_config("spinnerf-inpaint-lite")
    config = release(ours).pipeline
    assert config.model.disparity_loss_mult == preset.model.disparity_loss_mult != ours.pipeline.model.disparity_loss_mult
    assert config.datamanager.reference_photos == "one" and ours.pipeline.datamanager.reference_photos == "agreeing"
    assert config.datamanager.depth_num_rays == ours.pipeline.datamanager.depth_num_rays


@pytest.mark.parametrize("detached", [False, True])
def test_per_view_draws_from_all_pixels_and_detaches_only_the_hole(removed, detached) -> None:
    config = per_view(tiny("spinnerf-inpaint-lite"), detached=detached).pipeline.datamanager
    config.data, config.train_num_rays_per_batch = removed, 2000
    manager = config.setup(device="cpu")
    torch.manual_seed(0)
    bundle, batch = manager.next_train(1000)
    inside = torch.zeros(manager.train_pool.num_pixels, dtype=torch.bool)
    inside[manager.region_pixels] = True
    uniform = batch["layout"].uniform
    in_region = inside[batch["flat"][:uniform]]
    part = len(manager.region_pixels) / manager.train_pool.num_pixels
    assert 0.5 * part < in_region.float().mean() < 2 * part, "as often as the removed region is large"
    trains = bundle.metadata[TRAINS_GEOMETRY][:uniform, 0]
    assert torch.equal(trains, ~in_region if detached else torch.ones_like(in_region))
    assert batch["layout"].patch_rays == batch["layout"].depth == batch["layout"].reference == 0


def test_a_detached_ray_moves_colour_and_not_density(removed) -> None:
    config = per_view(tiny("spinnerf-inpaint-lite"), detached=True)
    config.pipeline.datamanager.data = removed
    pipeline = config.pipeline.setup(device="cpu")
    pipeline.train()
    inside = torch.zeros(pipeline.datamanager.train_pool.num_pixels, dtype=torch.bool)
    inside[pipeline.datamanager.region_pixels] = True
    bundle, batch = pipeline.datamanager.next_train(0)
    uniform = batch["layout"].uniform
    region = inside[batch["flat"][:uniform]]
    assert region.any() and not region.all()

    def density_gradient(rays: torch.Tensor) -> float:
        pipeline.zero_grad()
        rgb = pipeline.model(bundle)["rgb"][:uniform]
        rgb[rays].square().sum().backward()
        # the proposal networks and the grid are reached through density, and the grid also through colour
        weights = [p.grad for n, p in pipeline.model.field.mlp_base.named_parameters() if "encod" not in n]
        return max(float(g.abs().max()) for g in weights if g is not None)

    head = pipeline.model.field.mlp_head
    outside_gradient = density_gradient(~region)
    assert outside_gradient > 0 and any(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())
    # The last row's first output is density: it gets nothing from rays into the region.
    last = [m for m in pipeline.model.field.mlp_base.modules() if isinstance(m, torch.nn.Linear)][-1]
    density_gradient(region)
    assert float(last.weight.grad[0].abs().max()) == 0 and float(last.weight.grad[1:].abs().max()) > 0
    density_gradient(~region)
    assert float(last.weight.grad[0].abs().max()) > 0


def test_per_view_inpainting_takes_nothing_from_other_photos(twin, removed, tmp_path) -> None:
    alone = Workspace.open(twin.root, tmp_path / "alone")
    alone.set_object_free(Workspace.open(twin.root).object_free)
    folder = export_truth(twin, alone, replace(EXPORT, fill_from_views=False))
    for path in sorted((folder / "object_masks").glob("*.png")):
        assert (folder / "unseen_masks" / path.name).read_bytes() == path.read_bytes()
    masks = sorted((removed / "object_masks").glob("*.png"))
    filled = [path for path in masks if (removed / "unseen_masks" / path.name).read_bytes() != path.read_bytes()]
    assert filled, "the shared export does fill from other photos"
