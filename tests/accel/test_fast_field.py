"""Densities, fast fields and whole models against nerfstudio's own."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
from nerfstudio.field_components.activations import trunc_exp
from nerfstudio.fields.density_fields import HashMLPDensityField
from nerfstudio.fields.nerfacto_field import NerfactoField
from nerfstudio.model_components.ray_samplers import UniformLinDispPiecewiseSampler
from nerfstudio.models.nerfacto import NerfactoModelConfig
from torch import nn

from spinnerf_ns.accel import fast_field, hash_grid, ray_sampling
from spinnerf_ns.accel.fast_field import FastDensityField, FastNerfactoField
from spinnerf_ns.accel.ray_sampling import FastPDFSampler, FastPiecewiseSampler
from spinnerf_ns.evaluation.baselines import stock_models_without_download
from spinnerf_ns.nerf.seg_model import SpinnerfSegModelConfig
from tests.accel.test_ray_sampling import CONTRACTIONS, hard_positions, make_rays, native, needs_compiler  # noqa: F401  a fixture
from tests.nerf.conftest import build, bundle

BOX = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])


# ---------------------------------------------------------------------------------------------------------------- fields
@needs_compiler
@pytest.mark.parametrize("column", [False, True])
def test_density_and_its_gradient_equal_trunc_exp(column):
    logits = torch.randn(50, 60, 16 if column else 1) * 9
    inside = (torch.rand(50, 60, 1) > 0.2).float()
    results = []
    for function in (
        lambda values: 0.01 * trunc_exp(values) * (inside > 0),
        lambda values: ray_sampling.density_from_logits(values, inside, 0.01),
    ):
        leaf = logits.clone().requires_grad_()
        values = leaf[..., 3:4] if column else leaf
        density = function(values)
        results.append([density, *torch.autograd.grad((density * logits[..., :1]).sum(), leaf)])
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-6, atol=0)
    assert (logits.abs() > 15).any()
    leaf, inside = torch.randn(7, 1, requires_grad=True), torch.ones(7, 1)
    density = ray_sampling.density_from_logits(leaf, inside, 2.0)
    (slope,) = torch.autograd.grad(density.sum(), leaf, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(slope.sum(), leaf)[0], density.detach())  # exp is its own derivative


def make_field(kind: str, contraction: str, **settings) -> nn.Module:
    torch.manual_seed(0)
    make = {"density": HashMLPDensityField, "nerfacto": NerfactoField}[kind]
    grid = {"num_levels": 3, "log2_hashmap_size": 9, "max_res": 40, "average_init_density": 0.3, "implementation": "torch"}
    images = {"num_images": 2} if kind == "nerfacto" else {}
    return make(BOX, **images, **grid, spatial_distortion=CONTRACTIONS[contraction], **settings)


def make_pair(kind: str, contraction: str, **settings) -> tuple[nn.Module, nn.Module]:
    stock = make_field(kind, contraction, **settings)
    for part in stock.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight)  # large values, so that densities differ
    hash_grid.accelerate(stock, verbose=False)
    for part in stock.modules():
        if isinstance(part, hash_grid.FastHashEncoding):
            part.position_gradients = False
            nn.init.normal_(part.hash_table)
    fast = copy.deepcopy(stock)
    assert fast_field.accelerate(fast) + fast_field.accelerate_proposals(fast) == 1
    return stock, fast


@needs_compiler
@pytest.mark.parametrize("contraction", CONTRACTIONS)
@pytest.mark.parametrize("settings", [("density", {}), ("density", {"use_linear": True}), ("nerfacto", {})])
def test_fields_and_their_gradients_equal_nerfstudios(contraction, settings):
    (kind, options), positions = settings, hard_positions()
    positions = positions[torch.isfinite(positions).all(dim=-1)][:9000].view(3000, 3, 3)
    results = []
    for field in make_pair(kind, contraction, **options):
        with mock.patch.object(ray_sampling.KERNEL, "library", wraps=ray_sampling.KERNEL.library) as used:
            density = field.density_fn(positions)
        assert used.called == isinstance(field, FastDensityField | FastNerfactoField)
        (density.log1p() * positions[..., :1].sin()).sum().backward()
        gradients = [parameter.grad for parameter in field.parameters() if parameter.grad is not None]
        with torch.no_grad():
            torch.testing.assert_close(field.density_fn(positions[0, 0]), density[0, 0], rtol=1e-4, atol=1e-6)
        results.append([density.detach(), *gradients])
    assert len(results[0]) > 2
    assert torch.equal(results[0][0], results[1][0]) and (results[0][0] == 0).any()
    for theirs, ours in zip(*results, strict=True):
        assert (ours - theirs).abs().max() <= 2e-6 * theirs.abs().max()


@needs_compiler
def test_nerfactos_field_remembers_its_samples():
    stock, fast = make_pair("nerfacto", "placed")
    samples = UniformLinDispPiecewiseSampler(7)(make_rays(30))
    for field in (stock, fast):
        density, geometry = field.get_density(samples)
        assert density.shape == (30, 7, 1) and geometry.shape == (30, 7, 15)
    for name in ("_sample_locations", "_density_before_activation"):
        assert torch.equal(getattr(stock, name), getattr(fast, name))
    assert fast._density_before_activation.requires_grad


@needs_compiler
def test_fields_with_position_gradients_are_left_to_nerfstudio():
    _, fast = make_pair("density", "placed")
    positions = torch.rand(20, 3, requires_grad=True)
    fast.encoding.position_gradients = True
    assert torch.autograd.grad(fast.density_fn(positions).sum(), positions)[0].abs().sum() > 0
    with mock.patch.object(ray_sampling.KERNEL, "library", side_effect=AssertionError("the kernel was asked")):
        fast.density_fn(positions.detach())
    bounded = HashMLPDensityField(BOX, num_levels=2, log2_hashmap_size=6, implementation="torch")
    truth = bounded.density_fn(positions)
    assert fast_field.accelerate_proposals(bounded) == 1
    assert torch.equal(bounded.density_fn(positions), truth)


# ---------------------------------------------------------------------------------------------------------------- models
def stock_nerfacto(fast: bool):
    with mock.patch("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", mock.MagicMock()):
        config = NerfactoModelConfig()
        config.camera_optimizer.mode = "off"
        settings = {"implementation": "torch", "average_init_density": 1.0}
        if not fast:
            return build(config, **settings)
        with stock_models_without_download():
            return build(config, **settings)


@needs_compiler
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [stock_nerfacto, lambda fast: build(SpinnerfSegModelConfig(), fast_hash_grid=fast)])
def test_a_fast_model_renders_what_a_torch_model_does(make, training):
    found = []
    for fast in (False, True):
        model = make(fast).train(training)
        kinds = [type(part) for part in model.modules()]
        assert (FastPDFSampler in kinds) == (FastPiecewiseSampler in kinds) == (FastDensityField in kinds) == fast
        if fast:
            model = copy.deepcopy(model)  # with density functions of its own, not the first one's
            assert model.density_fns == [network.density_fn for network in model.proposal_networks]
            assert all(density_fn.__func__ is FastDensityField.density_fn for density_fn in model.density_fns)
        torch.manual_seed(3)
        outputs = model(bundle(60))
        found.append({name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-4, msg=name)
