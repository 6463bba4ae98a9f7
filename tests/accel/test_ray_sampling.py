"""Fast samplers, positions and grid points against nerfstudio's own."""

from __future__ import annotations

import copy
import dataclasses
from unittest import mock

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.model_components import ray_samplers
from nerfstudio.model_components.ray_samplers import PDFSampler, UniformLinDispPiecewiseSampler
from torch import nn

from spinnerf_ns.accel import kernels, ray_sampling
from spinnerf_ns.accel.native import VARIABLE
from spinnerf_ns.accel.ray_sampling import FastPDFSampler, FastPiecewiseSampler, RayFrustums, accelerate, grid_points
from spinnerf_ns.accel.scene_placement import PlacedContraction, PlacedPiecewiseSampler
from spinnerf_ns.errors import SpinnerfError
from tests.nerf.conftest import bundle

needs_compiler = pytest.mark.skipif(kernels.find_compiler() is None, reason="no C++ compiler: no native kernel")
RAYS = 700
BOX = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
CONTRACTIONS = {
    "placed": PlacedContraction(torch.tensor([0.3, -0.2, 0.1]), 1.7),
    "stock": SceneContraction(order=float("inf")),
}
PIECEWISE = [PlacedPiecewiseSampler(2.3, single_jitter=True), UniformLinDispPiecewiseSampler(single_jitter=True)]


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.setenv(VARIABLE, "native" if kernels.find_compiler() else "auto")


def make_rays(count: int = RAYS) -> RayBundle:
    rays = bundle(count)
    rays.nears, rays.fars = torch.full((count, 1), 0.05), torch.full((count, 1), 1000.0)
    return rays


def make_weights(rays: int, samples: int) -> torch.Tensor:
    """(R, S, 1): some rays see nothing, some one thing alone, some everything; one has values that are no numbers."""
    weights = torch.rand(rays, samples, 1, generator=torch.Generator().manual_seed(5)).pow(8)
    weights[:20] = 0.0
    weights[20:40, samples // 2] = 1.0
    weights[40:60] = 0.0
    weights[40:60, -1] = 1e-30
    weights[60] = float("nan")
    weights[61, 3] = float("inf")
    return weights


def run_twice(stock: nn.Module, fast: nn.Module, *arguments, **settings):
    """The results of both from the same random numbers, of which they have to take equally many."""
    results, left = [], []
    for sampler in (stock, fast):
        torch.manual_seed(7)
        results.append(sampler(*arguments, **settings))
        left.append(torch.rand(3))
    assert torch.equal(*left)
    return results


def assert_same_samples(found: RaySamples, truth: RaySamples) -> None:
    """Equal in every field, bit by bit, and shared by a ray's samples where nerfstudio's are."""
    assert type(found) is RaySamples and found.shape == truth.shape
    for ours, theirs in ((found, truth), (found.frustums, truth.frustums)):
        assert vars(ours).keys() == vars(theirs).keys()
        for field in dataclasses.fields(theirs):
            value, expected = getattr(ours, field.name), getattr(theirs, field.name)
            if isinstance(expected, dict):
                assert value.keys() == expected.keys()
                pairs = [(value[name], expected[name]) for name in expected]
            else:
                pairs = [(value, expected)] if isinstance(expected, torch.Tensor) else []
                assert pairs or (value is None) == (expected is None), field.name
            for one, other in pairs:
                assert one.dtype == other.dtype and one.requires_grad == other.requires_grad
                assert torch.equal(one, other), field.name
                steps = zip(one.shape, one.stride(), other.stride(), strict=True)
                assert all((step == 0) == (expected == 0) for size, step, expected in steps if size > 1), field.name


# ------------------------------------------------------------------------------------------------------------- samplers
@needs_compiler
@pytest.mark.parametrize("stock", PIECEWISE, ids=lambda sampler: type(sampler).__name__)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("single_jitter", [True, False])
def test_first_samples_equal_nerfstudios(stock, training, single_jitter):
    stock = copy.deepcopy(stock).train(training)
    stock.single_jitter = single_jitter
    fast = copy.deepcopy(stock)
    assert accelerate(fast) == 1 and type(fast) is FastPiecewiseSampler and accelerate(fast) == 0
    rays = make_rays()
    with mock.patch.object(ray_sampling, "make_ray_samples", wraps=ray_sampling.make_ray_samples) as used:
        truth, found = run_twice(stock, fast, rays, num_samples=37)
    assert used.called
    assert_same_samples(found, truth)
    bins = torch.rand(RAYS, 9)
    assert torch.equal(found.spacing_to_euclidean_fn(bins), truth.spacing_to_euclidean_fn(bins))
    assert torch.equal(found.spacing_to_euclidean_fn(bins[:1]), truth.spacing_to_euclidean_fn(bins[:1]))
    assert torch.equal(found.frustums.get_positions(), truth.frustums.get_positions())
    assert torch.equal(found[5:9].frustums.get_positions(), truth[5:9].frustums.get_positions())


@needs_compiler
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("single_jitter", [True, False])
@pytest.mark.parametrize("sizes", [(48, 24), (24, 48), (1, 5), (256, 96)])
def test_drawn_samples_equal_nerfstudios(training, single_jitter, sizes):
    old, new = sizes
    first = UniformLinDispPiecewiseSampler(single_jitter=True).train(training)
    stock = PDFSampler(include_original=False, single_jitter=single_jitter).train(training)
    fast = copy.deepcopy(stock)
    assert accelerate(fast) == 1 and type(fast) is FastPDFSampler
    rays, weights = make_rays(), make_weights(RAYS, max(old, 4))[:, :old].clone().requires_grad_()
    samples = first(rays, num_samples=old)  # in evaluation all rays share one row of bins
    with mock.patch.object(ray_sampling, "resample_bins", wraps=ray_sampling.resample_bins) as used:
        truth, found = run_twice(stock, fast, rays, samples, weights, num_samples=new)
    assert used.called
    assert not found.spacing_starts.requires_grad and torch.isfinite(found.spacing_starts).all()
    assert_same_samples(found, truth)


@needs_compiler
def test_without_padding_empty_bins_are_skipped():
    stock = PDFSampler(include_original=False, histogram_padding=0.0).eval()
    fast = copy.deepcopy(stock)
    accelerate(fast)
    rays, weights = make_rays(), make_weights(RAYS, 16)
    weights[100:, ::3] = 0.0
    samples = UniformLinDispPiecewiseSampler().train()(rays, num_samples=16)
    truth, found = run_twice(stock, fast, rays, samples, weights, num_samples=31)
    assert_same_samples(found, truth)


@needs_compiler
def test_a_whole_proposal_sampler_equals_nerfstudios():
    stock = ray_samplers.ProposalNetworkSampler((32, 16), 12, 2, single_jitter=True)
    fast = copy.deepcopy(stock)
    assert accelerate(fast) == 2
    density_fns = [lambda positions: positions.norm(dim=-1, keepdim=True).sin().abs()] * 2
    truth, found = run_twice(stock, fast, make_rays(), density_fns=density_fns)
    for ours, theirs in zip([*found[2], found[0]], [*truth[2], truth[0]], strict=True):
        assert_same_samples(ours, theirs)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[1], truth[1], strict=True))


@needs_compiler
def test_other_samplers_and_cases_are_left_to_nerfstudio():
    original = PDFSampler(include_original=True)
    assert accelerate(nn.ModuleList([original, ray_samplers.UniformSampler()])) == 0
    first, drawn = UniformLinDispPiecewiseSampler(6), PDFSampler(8, include_original=False)
    stock = [copy.deepcopy(first), copy.deepcopy(drawn)]
    assert accelerate(nn.ModuleList([first, drawn])) == 2
    nested = make_rays(12)
    nested.metadata["nested"] = {"value": torch.rand(12, 2)}
    wide = make_rays(12).reshape((3, 4))
    weights = torch.rand(12, 6, 1)
    with mock.patch.object(ray_sampling.KERNEL, "library", side_effect=AssertionError("the kernel was asked")):
        truth, found = run_twice(stock[0], first, nested)
        assert torch.equal(found.frustums.starts, truth.frustums.starts)
        truth, found = run_twice(stock[1], drawn, nested, truth, weights)
        assert torch.equal(found.frustums.starts, truth.frustums.starts)
        with pytest.raises(ValueError, match="must be provided"):
            drawn(None, truth, weights)
    found = run_twice(stock[0].eval(), first.eval(), wide)
    assert found[0].shape == found[1].shape


@needs_compiler
def test_positions_with_gradients_or_offsets_are_nerfstudios():
    sampler = UniformLinDispPiecewiseSampler(6)
    accelerate(sampler)
    rays = make_rays(20)
    rays.origins.requires_grad_()
    frustums = sampler(rays).frustums
    assert type(frustums) is RayFrustums
    frustums.get_positions().sum().backward()
    assert torch.equal(rays.origins.grad, torch.full((20, 3), 6.0))
    rays.nears.requires_grad_()
    sampler(rays).frustums.starts.sum().backward()
    assert (rays.nears.grad != 0).all()
    with torch.no_grad():
        plain = frustums.get_positions()
        frustums.set_offsets(torch.ones(20, 6, 3))
        assert torch.equal(frustums.get_positions(), plain + 1.0)


# ----------------------------------------------------------------------------------------------------------- grid points
def hard_positions() -> torch.Tensor:
    """(N, 3): in the scene, around its border, far away, and no numbers."""
    generator = torch.Generator().manual_seed(3)
    inside = torch.rand(2000, 3, generator=generator) * 4 - 2
    far = torch.randn(9000, 3, generator=generator) * 10 ** (torch.rand(9000, 1, generator=generator) * 12 - 4)
    special = torch.tensor([[0.0, 0, 0], [1, 1, 1], [-1, 0, 1], [1e37, 1, 0], [1e-30, 0, 0]])
    numbers = torch.tensor([[float("inf"), 0, 0], [float("nan"), 1, 5], [0, float("nan"), 0], [0, 0, -float("inf")]])
    return torch.cat([inside, far, special, numbers])


@needs_compiler
@pytest.mark.parametrize("kind", CONTRACTIONS)
def test_grid_points_equal_nerfstudios(kind):
    contraction, positions = CONTRACTIONS[kind], hard_positions()
    found, inside = grid_points(positions, contraction)
    truth = (contraction(positions) + 2.0) / 4.0
    selector = ((truth > 0.0) & (truth < 1.0)).all(dim=-1)
    truth = truth * selector[..., None]
    assert torch.equal(inside[:, 0], selector.float())
    torch.testing.assert_close(found, truth, rtol=0, atol=0, equal_nan=True)
    assert selector.any() and not selector.all()
    shaped, shaped_inside = grid_points(positions[:600].view(20, 10, 3, 3).transpose(0, 1), contraction)
    assert torch.equal(shaped, truth[:600].view(20, 10, 3, 3).transpose(0, 1))
    assert shaped_inside.shape == (10, 20, 3, 1)


def test_other_contractions_are_left_to_nerfstudio():
    positions = torch.rand(5, 3)
    for distortion in (None, SceneContraction(), SceneContraction(order=2)):
        assert grid_points(positions, distortion) is None
    for positions in (torch.rand(0, 3), torch.rand(5, 3).double(), torch.rand(5, 3, requires_grad=True)):
        assert grid_points(positions, CONTRACTIONS["placed"]) is None


@needs_compiler
def test_results_do_not_depend_on_threads():
    sampler = nn.ModuleList([PlacedPiecewiseSampler(2.0), PDFSampler(include_original=False)])
    accelerate(sampler)
    rays, weights, before, found = make_rays(2000), make_weights(2000, 40), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            torch.manual_seed(1)
            samples = sampler[1](rays, sampler[0](rays, num_samples=40), weights, num_samples=20)
            found.append([samples.frustums.starts, *grid_points(samples.frustums.get_positions(), CONTRACTIONS["placed"])])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


# -------------------------------------------------------------------------------------------------------- implementations
def test_the_variable_chooses(monkeypatch):
    positions = torch.rand(5, 3)
    monkeypatch.setenv(VARIABLE, "off")
    assert grid_points(positions, CONTRACTIONS["placed"]) is None
    monkeypatch.setenv(VARIABLE, "fastest")
    with pytest.raises(SpinnerfError, match="SPINNERF_KERNELS=fastest"):
        grid_points(positions, CONTRACTIONS["placed"])


@needs_compiler
@pytest.mark.parametrize("broken", ["resample_bins", "library"])
def test_kernels_that_fail_are_not_used(monkeypatch, capsys, broken):
    ray_sampling.KERNEL.forget()
    monkeypatch.setenv(VARIABLE, "auto")
    if broken == "resample_bins":
        monkeypatch.setattr(ray_sampling, broken, lambda weights, starts, ends, levels, *rest: levels.expand(2, -1))
    else:
        monkeypatch.setattr(ray_sampling.KERNEL, broken, mock.Mock(side_effect=kernels.KernelUnavailable("no compiler")))
    assert grid_points(torch.rand(5, 3), CONTRACTIONS["placed"]) is None
    assert "torch path" in capsys.readouterr().out.replace("\n", " ")
    ray_sampling.KERNEL.forget()


def without_placement(positions, count, center, radius, *rest):
    return positions, count, ray_sampling._ORIGIN.data_ptr(), ray_sampling._UNIT.data_ptr(), *rest


@needs_compiler
@pytest.mark.parametrize(
    "name, change",
    [
        ("grid_points", without_placement),
        ("piecewise_distances", lambda *arguments: (*arguments[:6], 1.0, *arguments[7:])),  # nerfacto's radius
        ("density_backward", lambda *arguments: (*arguments[:2], 1, *arguments[3:])),  # logits side by side
        ("density_backward", lambda *arguments: (*arguments[:6], 2 * arguments[6], *arguments[7:])),  # the slope's limits
    ],
)
def test_the_check_finds_an_error_in_any_part(name, change, monkeypatch):
    assert ray_sampling.KERNEL.failure() is None
    function = getattr(ray_sampling.KERNEL.library(), f"spinnerf_{name}")
    monkeypatch.setattr(ray_sampling.KERNEL.library(), f"spinnerf_{name}", lambda *arguments: function(*change(*arguments)))
    assert ray_sampling.KERNEL.failure() is not None
