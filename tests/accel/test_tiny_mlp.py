"""The fast small networks against nerfstudio's torch path, the fused optimizer, and the allocator's settings."""

from __future__ import annotations

import copy
import pickle
from unittest import mock

import pytest
import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.field_components.mlp import MLP, MLPWithHashEncoding
from torch import nn

from spinnerf_ns.accel import kernels, tiny_mlp
from spinnerf_ns.accel.cpu import keep_freed_memory
from spinnerf_ns.accel.native import VARIABLE
from spinnerf_ns.accel.optimizers import FastAdamOptimizerConfig
from spinnerf_ns.accel.tiny_mlp import FastMLP, accelerate
from spinnerf_ns.errors import SpinnerfError
from tests.nerf.conftest import build, bundle

# Sums over thousands of rows in another order, and fused multiply-add: relative to the largest value.
TOLERANCE = 5e-6

needs_compiler = pytest.mark.skipif(kernels.find_compiler() is None, reason="no C++ compiler: no native kernel")
# in, layers, width, out, sigmoid: nerfacto's networks, the -lite ones, and widths that fit no vector.
SIZES = [
    (32, 2, 64, 16, False), (31, 3, 64, 3, True), (63, 3, 64, 3, True), (8, 2, 16, 1, False), (12, 2, 32, 1, False),
    (1, 1, 1, 1, True), (5, 1, 64, 7, False), (17, 4, 33, 2, True), (64, 8, 49, 64, False), (3, 2, 2, 9, True),
]  # fmt: skip
ROWS = 2 * tiny_mlp.LEAST_ROWS + 37


@pytest.fixture
def native(monkeypatch):
    monkeypatch.setenv(VARIABLE, "native")


@pytest.fixture
def all_rows_native(native, monkeypatch):
    monkeypatch.setattr(tiny_mlp, "LEAST_ROWS", 0)


def make_pair(width_in: int, layers: int, width: int, out: int, sigmoid: bool) -> tuple[MLP, FastMLP]:
    torch.manual_seed(width_in * 1000 + width)
    stock = MLP(width_in, layers, width, out, out_activation=nn.Sigmoid() if sigmoid else None)
    with torch.no_grad():
        for layer in stock.layers:  # torch's own start makes hidden values so small that a wrong bias would not show
            layer.bias.uniform_(-0.5, 0.5)
    fast = copy.deepcopy(stock)
    assert accelerate(fast) == 1
    return stock, fast


def rows_away_from_kinks(network: MLP, count: int) -> torch.Tensor:
    """Random rows whose hidden values are clearly above or below 0: at 0 rounding decides whether a gradient flows."""
    torch.manual_seed(1)
    rows = torch.randn(4 * count if len(network.layers) < 5 else 30 * count, network.in_dim)
    hidden, clear = rows, torch.ones(len(rows), dtype=torch.bool)
    with torch.no_grad():
        for layer in network.layers[:-1]:
            hidden = layer(hidden)
            clear &= (hidden.abs() > 1e-5).all(dim=-1)
            hidden = hidden.relu()
    assert int(clear.sum()) >= count
    return rows[clear][:count]


def results(network: MLP, rows: torch.Tensor) -> list[torch.Tensor]:
    """Output and gradients by the rows and every parameter."""
    rows = rows.detach().clone().requires_grad_()
    out = network(rows)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    return [out.detach(), *torch.autograd.grad(out, [rows, *network.parameters()], upstream)]


def assert_close(found: list[torch.Tensor], truth: list[torch.Tensor], tolerance: float = TOLERANCE) -> None:
    for ours, theirs in zip(found, truth, strict=True):
        assert ours.shape == theirs.shape
        if not theirs.numel():
            continue
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().amax().clamp(min=1e-3)


@needs_compiler
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients_equal_torch(all_rows_native, size):
    stock, fast = make_pair(*size)
    rows = rows_away_from_kinks(stock, ROWS)
    with mock.patch.object(tiny_mlp, "_forward", wraps=tiny_mlp._forward) as used:
        found = results(fast, rows)
    assert used.called
    stock.__class__ = MLP
    assert_close(found, results(stock, rows), tolerance=2 * TOLERANCE)  # torch rounds as well
    exact = copy.deepcopy(stock)
    rows64 = rows.double().requires_grad_()
    out = exact.double()(rows64)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).double()
    truth = [out.detach(), *torch.autograd.grad(out, [rows64, *exact.parameters()], upstream)]
    assert_close(found, [tensor.float() for tensor in truth])


@needs_compiler
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 2047, 2049])
def test_any_number_of_rows(all_rows_native, count):
    stock, fast = make_pair(7, 3, 20, 3, True)
    rows = rows_away_from_kinks(stock, count)
    assert_close(results(fast, rows), results(stock, rows), tolerance=2 * TOLERANCE)


@needs_compiler
def test_rows_need_not_be_contiguous(all_rows_native):
    stock, fast = make_pair(6, 2, 16, 4, False)
    wide = torch.randn(100, 40)
    for rows in (wide[:, 3:9], wide[::3, :12:2], wide[:6].T, wide[:, :6].reshape(20, 5, 6), wide[:1, :6].expand(50, 6)):
        assert_close([fast(rows)], [stock(rows)], tolerance=2 * TOLERANCE)
    view = wide.clone().requires_grad_()
    fast(view[:, 1:7]).sum().backward()
    assert (view.grad[:, 1:7] != 0).any() and (view.grad[:, [0, *range(7, 40)]] == 0).all()


@needs_compiler
def test_results_do_not_depend_on_threads(native):
    _, fast = make_pair(16, 2, 32, 16, False)
    rows, before, found = torch.randn(9000, 16), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            found.append(results(fast, rows))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@needs_compiler
def test_only_what_needs_a_gradient_gets_one(native):
    stock, fast = make_pair(8, 2, 16, 1, False)
    rows = torch.randn(ROWS, 8)
    fast(rows).sum().backward()
    assert rows.grad is None and all(tensor.grad is not None for tensor in fast.parameters())
    fast.layers[0].weight.requires_grad_(False)
    fast.zero_grad()
    fast(rows).sum().backward()
    assert fast.layers[0].weight.grad is None and fast.layers[0].bias.grad is not None
    fast.requires_grad_(False)
    rows.requires_grad_()
    fast(rows).sum().backward()
    truth = torch.autograd.grad(stock(rows).sum(), rows)[0]
    assert torch.allclose(rows.grad, truth, atol=1e-5)
    with torch.no_grad():
        assert not fast(rows).requires_grad


@needs_compiler
def test_second_derivatives_equal_torch(all_rows_native):
    stock, fast = make_pair(5, 3, 16, 2, True)
    found = []
    for network in (stock, fast):
        rows = rows_away_from_kinks(stock, 50).requires_grad_()
        (gradient,) = torch.autograd.grad(network(rows).sum(), rows, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), [rows, *list(network.parameters())[:-1]]))
    assert_close(*found[::-1], tolerance=2 * TOLERANCE)


@needs_compiler
def test_nan_and_infinity_stay_what_they_are(all_rows_native):
    stock, fast = make_pair(4, 2, 16, 3, True)
    rows = torch.randn(70, 4)
    rows[3, 1], rows[65, 0], rows[20] = float("nan"), float("inf"), 1e30
    torch.testing.assert_close(fast(rows), stock(rows), equal_nan=True, rtol=1e-5, atol=1e-6)


@needs_compiler
def test_what_the_kernel_can_not_compute_is_left_to_torch(native):
    wide, skip = MLP(8, 3, 65, 3), MLP(8, 3, 16, 3, skip_connections=(1,))
    other, tanh = MLP(8, 3, 16, 3, activation=nn.Softplus()), MLP(8, 3, 16, 3, out_activation=nn.Tanh())
    assert accelerate(nn.ModuleList([wide, skip, other, tanh])) == 0
    stock, fast = make_pair(8, 2, 16, 3, True)
    rows = torch.randn(ROWS, 8)
    with mock.patch.object(tiny_mlp.KERNEL, "library", side_effect=AssertionError("the kernel was asked")):
        assert torch.equal(fast(rows[:5]), stock(rows[:5]))  # few rows
        assert torch.equal(fast.double()(rows.double()), stock.double()(rows.double()))
        with pytest.raises(RuntimeError, match="shape"):
            fast.float()(rows[:, :7])


@needs_compiler
def test_autocast_keeps_float32(native):
    stock, fast = make_pair(8, 2, 16, 3, True)
    rows = torch.randn(ROWS, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = fast(rows)
    assert_close([found], [stock(rows)], tolerance=2 * TOLERANCE)


@needs_compiler
def test_traced_networks_follow_torch(native):
    stock, fast = make_pair(8, 2, 16, 3, True)
    rows = torch.randn(ROWS, 8)
    traced = torch.jit.trace(fast, rows)
    assert torch.allclose(traced(rows), stock(rows))


def test_parameters_and_copies_stay(monkeypatch):
    model = MLPWithHashEncoding(num_levels=2, log2_hashmap_size=5, layer_width=16)
    names = list(model.state_dict())
    assert accelerate(model) == 1 and accelerate(model) == 0
    assert list(model.state_dict()) == names
    assert isinstance(pickle.loads(pickle.dumps(model)).model[1], FastMLP)


def test_an_unknown_implementation_is_an_error(monkeypatch):
    _, fast = make_pair(8, 2, 16, 3, True)
    monkeypatch.setenv(VARIABLE, "fastest")
    with pytest.raises(SpinnerfError, match="SPINNERF_KERNELS=fastest"):
        fast(torch.randn(ROWS, 8))


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch, capsys):
    tiny_mlp.KERNEL.forget()
    monkeypatch.setenv(VARIABLE, "auto")
    monkeypatch.setattr(tiny_mlp, "_forward", lambda rows, sigmoid, parameters: rows.new_ones(len(rows), 3))
    stock, fast = make_pair(8, 2, 16, 3, True)
    rows = torch.randn(ROWS, 8)
    assert torch.equal(fast(rows), stock(rows))
    assert "torch's path" in capsys.readouterr().out
    tiny_mlp.KERNEL.forget()


@needs_compiler
@pytest.mark.parametrize("training", [True, False])
def test_a_model_on_the_kernels_equals_one_on_torch(native, training):
    """Rendered values of the whole model; the hash grid's kernel included."""
    from spinnerf_ns.nerf.seg_model import SpinnerfSegModelConfig

    found = []
    for fast in (False, True):
        model = build(SpinnerfSegModelConfig(), fast_hash_grid=fast).train(training)
        assert any(isinstance(part, FastMLP) for part in model.modules()) == fast
        torch.manual_seed(3)
        outputs = model(bundle(tiny_mlp.LEAST_ROWS // 8 + 50))
        found.append({name: outputs[name] for name in ("rgb", "accumulation", "expected_depth", "objectness")})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_changed_header_is_another_kernel(tmp_path):
    source, header = tmp_path / "kernel.cpp", tmp_path / "shared.hpp"
    source.write_text('#include <cmath>\n#include "shared.hpp"\n')
    header.write_text("int one;")
    before = kernels._key(source, ())
    assert kernels._key(source, ()) == before != kernels._key(source, ("-ffp-contract=fast",))
    header.write_text("int two;")
    assert kernels._key(source, ()) != before


# -------------------------------------------------------------------------------------------------- optimizer and memory
def test_fused_adam_steps_like_adam_and_loads_its_checkpoints():
    settings = {"lr": 1e-2, "eps": 1e-15, "weight_decay": 1e-4}
    results = []
    for first, second in ((AdamOptimizerConfig, FastAdamOptimizerConfig), (AdamOptimizerConfig, AdamOptimizerConfig)):
        torch.manual_seed(0)
        parameter = nn.Parameter(torch.randn(1000))
        optimizer = first(**settings).setup([parameter])
        for step in range(6):
            if step == 3:  # resumed with the other one
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = second(**settings).setup([parameter])
                optimizer.load_state_dict(state)
            parameter.grad = torch.sin(parameter.detach() * (step + 1))
            optimizer.step()
        results.append(parameter.detach().clone())
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_methods_train_with_it():
    from spinnerf_ns.method_configs.spinnerf_inpaint_release import spinnerf_inpaint_release
    from spinnerf_ns.method_configs.spinnerf_seg_lite import spinnerf_seg_lite

    parameter = nn.Parameter(torch.zeros(3))
    for method in (spinnerf_seg_lite, spinnerf_inpaint_release):
        for group in method.config.optimizers.values():
            optimizer = group["optimizer"].setup([parameter])
            assert type(optimizer) is torch.optim.Adam and optimizer.defaults["fused"]
            assert optimizer.defaults["lr"] == group["optimizer"].lr and optimizer.defaults["eps"] == 1e-15


def test_freed_memory_is_kept():
    if not keep_freed_memory():
        pytest.skip("no glibc here")
    import resource

    def faults() -> int:
        for _ in range(3):  # alignment may cost the second round a fresh block; steps are many
            blocks = [torch.ones(1 << 20) for _ in range(4)]  # 4 MiB each
            del blocks
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(1 << 20) for _ in range(4)]
        assert len(blocks) == 4
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert faults() < 1000  # 4096 pages of 4 KiB each time otherwise
