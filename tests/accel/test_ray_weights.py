"""The fast rendering weights and losses along rays against nerfstudio's own."""

from __future__ import annotations

import pickle
from unittest import mock

import pytest
import torch
from nerfstudio.cameras.rays import Frustums, RaySamples
from nerfstudio.model_components import losses as stock
from nerfstudio.models import nerfacto

from spinnerf_ns.accel import kernels, ray_weights
from spinnerf_ns.accel.native import VARIABLE
from spinnerf_ns.accel.ray_weights import (
    FastRaySamples,
    accelerate,
    distortion_loss,
    interlevel_loss,
    rendering_weights,
    torch_weights,
)
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.nerf.seg_model import SpinnerfSegModelConfig
from tests.nerf.conftest import build, bundle

needs_compiler = pytest.mark.skipif(kernels.find_compiler() is None, reason="no C++ compiler: no native kernel")
RAYS = 77
SIZES = [1, 2, 15, 16, 17, 24, 48, 100]
LEVELS = [(1, 1), (1, 9), (9, 1), (48, 24), (24, 48), (33, 33)]  # samples of the proposal, final samples


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.setenv(VARIABLE, "native")


def random_edges(samples: int, seed: int, rays: int = RAYS) -> torch.Tensor:
    """(R, S + 1) ascending in [0, 1]; some rays with coincident edges."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.rand(rays, samples + 1, generator=generator).sort(dim=-1).values
    edges[::5] = (edges[::5] * 4).round() / 4
    return edges


def random_weights(samples: int, seed: int, rays: int = RAYS) -> torch.Tensor:
    """(R, S, 1); some rays without any weight, and some samples."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(rays, samples, 1, generator=generator)
    weights = weights / weights.sum(dim=1, keepdim=True) * torch.rand(rays, 1, 1, generator=generator)
    weights[torch.rand(rays, samples, 1, generator=generator) < 0.2] = 0.0
    weights[3::7] = 0.0
    return weights


def samples_of(edges: torch.Tensor, joined: bool = True) -> RaySamples:
    """Samples with these spacing bins, cut from one array or in two."""
    starts, ends = edges[:, :-1, None], edges[:, 1:, None]
    if not joined:
        starts, ends = starts.clone(), ends.clone()
    return RaySamples(Frustums.get_mock_frustum(), spacing_starts=starts, spacing_ends=ends)


def value_and_gradients(function, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """A function's value and, for a fixed upstream gradient, its gradients by the inputs."""
    inputs = [values.detach().clone().requires_grad_() for values in inputs]
    value = function(*inputs)
    upstream = torch.rand(value.shape, generator=torch.Generator().manual_seed(9)) + 0.5
    return [value.detach(), *torch.autograd.grad(value, inputs, upstream, allow_unused=True)]


def assert_close(found, truth, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    for ours, theirs in zip(found, truth, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol, equal_nan=True)


def kernel_unused():
    return mock.patch.object(ray_weights.KERNEL, "library", side_effect=AssertionError("the kernel was asked"))


# -------------------------------------------------------------------------------------------------------------- weights
def random_rays(samples: int, rays: int = RAYS) -> tuple[torch.Tensor, torch.Tensor]:
    """Densities over many orders of magnitude, some 0, and lengths, some 0."""
    generator = torch.Generator().manual_seed(samples)
    densities = torch.exp(4 * torch.randn(rays, samples, 1, generator=generator))
    deltas = torch.rand(rays, samples, 1, generator=generator)
    densities[::4, ::3], deltas[::3, ::2] = 0.0, 0.0
    return densities, deltas


@needs_compiler
@pytest.mark.parametrize("samples", SIZES)
def test_weights_equal_nerfstudio(samples):
    rays = random_rays(samples)
    with mock.patch.object(ray_weights.KERNEL, "library", wraps=ray_weights.KERNEL.library) as used:
        found = value_and_gradients(rendering_weights, *rays)
    assert used.called
    truth = value_and_gradients(torch_weights, *rays)
    # Gradients are differences of terms of the size of the densities or lengths.
    assert_close(found[:2], truth[:2])
    assert_close(found[2:], truth[2:], atol=1e-6 * float(rays[0].max()))
    with torch.no_grad():
        assert torch.equal(rendering_weights(*rays), found[0])


@needs_compiler
def test_gradients_of_weights_equal_exact_ones():
    densities, deltas = random_rays(40)
    found = value_and_gradients(rendering_weights, densities, deltas)
    exact = value_and_gradients(torch_weights, densities.double(), deltas.double())
    assert_close(found[:2], [values.float() for values in exact[:2]], rtol=1e-4)


@needs_compiler
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -1.0, 1e-40])
@pytest.mark.parametrize("length", [0.0, 0.5])
def test_unusual_densities_give_what_torch_gives(value, length):
    densities, deltas = random_rays(20)
    densities[::2, 7], deltas[::2, 7] = value, length
    densities[1::4, 0] = value
    found, truth = (value_and_gradients(function, densities, deltas) for function in (rendering_weights, torch_weights))
    assert_close(found, truth, rtol=3e-5, atol=1e-3)
    assert_close(found[:1], truth[:1])


@needs_compiler
def test_exponential_is_exact_over_its_whole_range():
    delta_density = torch.linspace(0.0, 120.0, 200_001)[:, None, None].repeat(1, 2, 1)
    # With an opaque second sample its weight is exp(-x) of the first.
    delta_density[:, 1] = 1e9
    found = rendering_weights(delta_density, torch.ones_like(delta_density))[:, 1, 0].double()
    truth = torch.exp(-delta_density[:, 0, 0].double())
    normal = truth > 3e-38
    assert ((found - truth).abs()[normal] <= 2 * 2**-23 * truth[normal]).all()
    assert (found[~normal] <= 3e-38).all()


@needs_compiler
def test_weights_of_arrays_that_are_not_contiguous():
    densities, deltas = random_rays(30)
    inputs = densities[:, ::2], deltas[:, 1::2]
    assert_close(
        value_and_gradients(lambda a, b: rendering_weights(a[:, ::2], b[:, 1::2]), densities, deltas)[:2],
        value_and_gradients(lambda a, b: torch_weights(a[:, ::2], b[:, 1::2]), densities, deltas)[:2],
        atol=1e-5,
    )
    assert_close([rendering_weights(*inputs)], [torch_weights(*inputs)])


@needs_compiler
def test_what_the_kernel_does_not_take_is_left_to_nerfstudio():
    densities, deltas = random_rays(6)
    with kernel_unused():
        for a, b in ((densities.double(), deltas.double()), (densities[:0], deltas[:0]), (densities, deltas[:1])):
            assert torch.equal(rendering_weights(a, b), torch_weights(a, b))
        many = torch.rand(2, ray_weights.MAX_SAMPLES + 1, 1)
        assert torch.equal(rendering_weights(many, many), torch_weights(many, many))
    with kernel_unused():
        traced = torch.jit.trace(rendering_weights, (densities, deltas), check_trace=False)
    assert torch.equal(traced(densities, deltas), torch_weights(densities, deltas))


# --------------------------------------------------------------------------------------------------------------- losses
@needs_compiler
@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("joined", [True, False])
def test_distortion_equals_nerfstudio(samples, joined):
    samples_list = [samples_of(random_edges(samples, 1), joined)]
    weights = random_weights(samples, 2)
    found, truth = (
        value_and_gradients(lambda own, loss=loss: loss([own], samples_list), weights)
        for loss in (distortion_loss, stock.distortion_loss)
    )
    assert found[0].shape == truth[0].shape == ()
    assert_close(found, truth, atol=1e-8)


@needs_compiler
def test_distortion_of_narrow_bins_is_exact():
    """Weights within a thousandth of the ray: a difference of prefix sums would have lost them."""
    edges, weights = 0.9 + 1e-3 * random_edges(24, 1), random_weights(24, 2)
    (found, gradient) = value_and_gradients(lambda own: distortion_loss([own], [samples_of(edges)]), weights)
    exact = value_and_gradients(lambda own: stock.distortion_loss([own], [samples_of(edges.double())]), weights.double())
    assert_close([found, gradient], [values.float() for values in exact], rtol=1e-3, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("joined", [True, False])
def test_interlevel_equals_nerfstudio(levels, joined):
    proposal, final = levels
    samples_list = [samples_of(random_edges(count, seed), joined) for seed, count in enumerate((proposal, 7, final))]
    final_weights = random_weights(final, 5).requires_grad_()
    found, truth = (
        value_and_gradients(
            lambda one, two, loss=loss: loss([one, two, final_weights], samples_list),
            random_weights(proposal, 3),
            random_weights(7, 4),
        )
        for loss in (interlevel_loss, stock.interlevel_loss)
    )
    assert found[0].shape == truth[0].shape == () and float(truth[0]) > 0
    assert_close(found, truth, atol=1e-8)
    assert final_weights.grad is None


def assert_interlevel_loss_is_torchs(proposal, final):
    """Values and gradients, of edges (R, S + 1)."""
    samples_list, weights = [samples_of(proposal), samples_of(final)], random_weights(final.shape[-1] - 1, 5)
    found, truth = (
        value_and_gradients(lambda own, loss=loss: loss([own, weights], samples_list), random_weights(proposal.shape[-1] - 1, 3))
        for loss in (interlevel_loss, stock.interlevel_loss)
    )
    assert_close(found, truth, atol=1e-8)


@needs_compiler
@pytest.mark.parametrize("shift", [-2.0, -0.5, 0.0, 0.5, 2.0])
def test_bins_that_do_not_overlap_or_coincide(shift):
    """Final samples before, across, and behind the proposal's bins; all edges on a coarse raster, so that many are equal."""
    proposal, final = (random_edges(12, 1) * 6).round() / 6, (random_edges(9, 2) * 6).round() / 6 + shift
    assert_interlevel_loss_is_torchs(proposal, final)


@needs_compiler
def test_final_edges_out_of_order_by_rounding_are_searched_as_torch_does():
    edges = random_edges(20, 1)
    proposal = edges.clone()
    edges[:, 7] = torch.nextafter(edges[:, 8], torch.tensor(2.0))  # interpolation may overshoot the next edge
    assert_interlevel_loss_is_torchs(proposal, edges)


@needs_compiler
def test_nan_weights_give_nan_losses():
    samples_list = [samples_of(random_edges(8, 1)), samples_of(random_edges(8, 2))]
    good, bad = random_weights(8, 3), random_weights(8, 4)
    bad[5, 3] = float("nan")
    for weights_list in ([good, bad], [bad, good]):
        for ours, theirs in ((interlevel_loss, stock.interlevel_loss), (distortion_loss, stock.distortion_loss)):
            torch.testing.assert_close(
                ours(weights_list, samples_list), theirs(weights_list, samples_list), equal_nan=True, rtol=1e-5, atol=1e-8
            )


@needs_compiler
def test_a_gradient_is_computed_only_where_one_is_needed():
    samples_list = [samples_of(random_edges(12, 1)), samples_of(random_edges(8, 2))]
    proposal, final = random_weights(12, 3), random_weights(8, 4).requires_grad_()
    with mock.patch.object(ray_weights._NativeLoss, "apply", side_effect=AssertionError("a gradient was prepared")):
        assert not interlevel_loss([proposal, final], samples_list).requires_grad
        with torch.no_grad():
            distortion_loss([proposal, final], samples_list)
    assert distortion_loss([proposal, final], samples_list).requires_grad


@needs_compiler
def test_losses_that_the_kernel_does_not_take_are_left_to_nerfstudio():
    doubles = [samples_of(random_edges(12, 1).double()), samples_of(random_edges(8, 2).double())]
    weights = [random_weights(12, 3).double(), random_weights(8, 4).double()]
    with kernel_unused():
        assert torch.equal(interlevel_loss(weights, doubles), stock.interlevel_loss(weights, doubles))
        assert torch.equal(distortion_loss(weights, doubles), stock.distortion_loss(weights, doubles))
        moving = random_edges(8, 2).requires_grad_()
        distortion_loss([random_weights(8, 4)], [samples_of(moving)]).backward()
        assert moving.grad is not None


# -------------------------------------------------------------------------------------------------------- all functions
def everything() -> list[torch.Tensor]:
    """Values and gradients of all functions, on rays enough for several tasks."""
    samples_list = [samples_of(random_edges(48, 1, 999)), samples_of(random_edges(24, 2, 999))]
    final = random_weights(24, 4, 999)
    return [
        *value_and_gradients(rendering_weights, *random_rays(48, 999)),
        *value_and_gradients(lambda own: interlevel_loss([own, final], samples_list), random_weights(48, 3, 999)),
        *value_and_gradients(lambda own: distortion_loss([own], samples_list[1:]), final),
    ]


@needs_compiler
def test_results_do_not_depend_on_threads():
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            found.append(everything())
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@needs_compiler
def test_second_derivatives_equal_torch():
    densities, deltas = random_rays(10)
    densities = densities.clamp(max=5.0)
    samples_list = [samples_of(random_edges(10, 1)), samples_of(random_edges(8, 2))]
    final = random_weights(8, 4)
    found = []
    for weigh, interlevel, distortion in (
        (rendering_weights, interlevel_loss, distortion_loss),
        (torch_weights, stock.interlevel_loss, stock.distortion_loss),
    ):
        leaf = densities.clone().requires_grad_()
        weights = weigh(leaf, deltas)
        loss = interlevel([weights, final], samples_list) + distortion([weights], samples_list[:1])
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        found.append([gradient.detach(), *torch.autograd.grad(gradient.square().sum(), leaf)])
    assert_close(*found, rtol=1e-4, atol=1e-8)


def test_an_unknown_implementation_is_an_error(monkeypatch):
    monkeypatch.setenv(VARIABLE, "fastest")
    with pytest.raises(SpinnerfError, match="SPINNERF_KERNELS=fastest"):
        rendering_weights(*random_rays(3))


def test_torch_can_be_asked_for(monkeypatch):
    monkeypatch.setenv(VARIABLE, "off")
    with kernel_unused():
        everything()


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch, capsys):
    ray_weights.KERNEL.forget()
    monkeypatch.setenv(VARIABLE, "auto")
    monkeypatch.setattr(ray_weights, "_weights_forward", lambda densities, deltas: torch.ones_like(densities))
    rays = random_rays(8)
    assert torch.equal(rendering_weights(*rays), torch_weights(*rays))
    assert "torch's path" in capsys.readouterr().out
    ray_weights.KERNEL.forget()


# ---------------------------------------------------------------------------------------------------------------- models
@needs_compiler
def test_a_training_step_uses_the_kernel_for_all_and_equals_torch():
    batch = {"image": torch.rand(32, 3, generator=torch.Generator().manual_seed(2))}
    results = []
    for fast in (False, True):
        model = build(SpinnerfSegModelConfig(objectness=False), fast_hash_grid=fast).train()
        torch.manual_seed(3)
        with mock.patch.object(nerfacto, "interlevel_loss", wraps=nerfacto.interlevel_loss) as slow_interlevel:
            outputs = model(bundle())
            losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
        assert slow_interlevel.called != fast
        assert all((type(samples) is FastRaySamples) == fast for samples in outputs["ray_samples_list"])
        sum(losses.values()).backward()
        results.append((losses, {name: parameter.grad for name, parameter in model.named_parameters()}))
    (slow_losses, slow_gradients), (losses, gradients) = results
    assert set(losses) == set(slow_losses)
    for name, value in slow_losses.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-7, msg=name)
    for name, gradient in slow_gradients.items():
        if gradient is not None:
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_samplers_are_changed_once_and_can_be_copied():
    model = build(SpinnerfSegModelConfig(objectness=False))
    names = list(model.state_dict())
    assert accelerate(model) == 2 and accelerate(model) == 0
    assert list(model.state_dict()) == names
    copied = pickle.loads(pickle.dumps(model.proposal_sampler.pdf_sampler))
    assert accelerate(copied) == 0 and ray_weights._weigh_fast in copied._forward_hooks.values()
