"""The fast hash grid against nerfstudio's torch path."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.field_components.mlp import MLPWithHashEncoding
from nerfstudio.fields.density_fields import HashMLPDensityField
from torch import nn

from spinnerf_ns.accel import hash_grid, kernels
from spinnerf_ns.accel.hash_grid import FastHashEncoding, accelerate, hash_grid_backend, torch_hash_grid
from spinnerf_ns.accel.native import VARIABLE
from spinnerf_ns.errors import SpinnerfError

# Sums in another order: a few units in the last place of the largest term.
GRADIENT_TOLERANCE = 2e-6

needs_compiler = pytest.mark.skipif(kernels.find_compiler() is None, reason="no C++ compiler: no native kernel")
SIZES = [(16, 2, 10), (5, 2, 10), (4, 1, 9), (3, 3, 8), (1, 4, 8), (2, 8, 7)]  # levels, features, log2 of the table


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory):
    """One build for the whole file, away from the user's cache unless that was asked for."""
    if "SPINNERF_KERNEL_CACHE" not in os.environ:
        os.environ["SPINNERF_KERNEL_CACHE"] = str(tmp_path_factory.mktemp("kernels"))
        yield
        del os.environ["SPINNERF_KERNEL_CACHE"]
    else:
        yield


@pytest.fixture
def native(monkeypatch):
    monkeypatch.setenv(VARIABLE, "native")


def make_pair(levels: int, features: int, log2_size: int, max_res: int = 300) -> tuple[HashEncoding, FastHashEncoding]:
    torch.manual_seed(levels * 100 + features)
    stock = HashEncoding(levels, 16, max_res, log2_size, features_per_level=features, hash_init_scale=1.0, implementation="torch")
    fast = FastHashEncoding(
        levels, 16, max_res, log2_size, features_per_level=features, hash_init_scale=1.0, implementation="torch"
    )
    fast.load_state_dict(stock.state_dict())
    return stock, fast


def hard_points(count: int = 700) -> torch.Tensor:
    """Points inside, outside and below the unit cube, on grid lines, on and next to its faces, zeros of both signs."""
    torch.manual_seed(1)
    spread = torch.rand(count, 3) * 6 - 3
    on_lines = torch.randint(-40, 41, (count, 3)) / 16.0  # 16 is the coarsest level's resolution: ceil == floor there
    mixed = torch.where(torch.rand(count, 3) < 0.5, spread, on_lines)
    one = torch.tensor(1.0)
    edges = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-30, -1e-30, 1e-8, -1e-8, float(torch.nextafter(one, 2 * one)), 0.99999994])
    corners = torch.cartesian_prod(edges, edges, edges)
    return torch.cat([spread, on_lines, mixed, corners, torch.full((3, 3), 1000.0), torch.full((3, 3), -1000.0)])


def gradients(encoding: nn.Module, points: torch.Tensor) -> list[torch.Tensor]:
    points = points.clone().requires_grad_()
    features = encoding(points)
    torch.manual_seed(2)
    return list(torch.autograd.grad(features, (points, encoding.hash_table), torch.randn_like(features)))


@needs_compiler
@pytest.mark.parametrize("size", SIZES)
def test_forward_equals_torch_path_bit_by_bit(native, size):
    stock, fast = make_pair(*size)
    points = hard_points()
    assert torch.equal(fast(points), stock(points))


@needs_compiler
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_equal_torch_path(native, size, threads):
    stock, fast = make_pair(*size)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, truth = gradients(fast, hard_points()), gradients(stock, hard_points())
    finally:
        torch.set_num_threads(before)
    for ours, theirs in zip(found, truth, strict=True):
        assert theirs.abs().max() > 0.1
        assert (ours - theirs).abs().max() <= GRADIENT_TOLERANCE * theirs.abs().max()


@needs_compiler
def test_gradients_do_not_depend_on_threads(native):
    _, fast = make_pair(5, 2, 10)
    points, before = hard_points(), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            found.append(gradients(fast, points))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@needs_compiler
def test_training_scale_with_the_default_grid(native):
    """The table size and finest level of nerfacto's field, and more points than one task takes."""
    stock, fast = make_pair(2, 2, 19, max_res=2048)
    points = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(fast(points), stock(points))
    for ours, theirs in zip(gradients(fast, points), gradients(stock, points), strict=True):
        assert (ours - theirs).abs().max() <= GRADIENT_TOLERANCE * theirs.abs().max()


@needs_compiler
def test_only_what_needs_a_gradient_gets_one(native):
    _, fast = make_pair(4, 2, 10)
    points = torch.rand(10, 3)
    fast(points).sum().backward()
    assert points.grad is None and fast.hash_table.grad is not None
    fast.requires_grad_(False)
    points.requires_grad_()
    fast(points).sum().backward()
    assert points.grad is not None
    with torch.no_grad():
        assert not fast(points).requires_grad


@needs_compiler
def test_second_derivatives_equal_torch_path(native):
    """An eikonal-like loss differentiates the gradient of the coordinates once more."""
    stock, fast = make_pair(3, 2, 8, max_res=24)
    found = []
    for encoding in (stock, fast):
        points = torch.rand(50, 3, generator=torch.Generator().manual_seed(4)).requires_grad_()
        (slope,) = torch.autograd.grad(encoding(points).square().sum(), points, create_graph=True)
        found.append(torch.autograd.grad(slope.square().mean(), (points, encoding.hash_table)))
    for theirs, ours in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@needs_compiler
def test_shapes_layouts_and_types(native):
    stock, fast = make_pair(4, 2, 10)
    points = hard_points(12)
    for given in (
        points[:24].reshape(2, 3, 4, 3),
        points[0],
        points.t().contiguous().t(),
        points[::2],
        points.half(),
        points.double(),
        points[:0],
    ):
        ours, theirs = fast(given), stock(given)
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


@needs_compiler
def test_first_use_may_be_an_inference(native):
    hash_grid._backend.cache_clear()
    stock, fast = make_pair(4, 2, 10)
    points = hard_points(5)
    with torch.inference_mode():
        assert torch.equal(fast(points), stock(points))


@needs_compiler
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_function_transforms_follow_the_torch_path(native):
    stock, fast = make_pair(4, 2, 10)
    points = torch.rand(3, 5, 3)
    assert torch.equal(torch.func.vmap(fast)(points), stock(points))


def test_arithmetic_without_a_module_equals_torch_path():
    stock, _ = make_pair(4, 3, 9)
    points = hard_points(50)
    assert torch.equal(torch_hash_grid(points, stock.hash_table, stock.scalings, stock.hash_table_size), stock(points))


def test_accelerate_reaches_fields_and_keeps_their_state(capsys):
    box = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    model = nn.ModuleDict(
        {
            "field": MLPWithHashEncoding(num_levels=4, log2_hashmap_size=8, implementation="torch"),
            "proposal": HashMLPDensityField(box, num_levels=3, log2_hashmap_size=8, implementation="torch"),
            "linear": HashMLPDensityField(box, num_levels=3, log2_hashmap_size=8, use_linear=True, implementation="torch"),
        }
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    points = torch.rand(20, 3)
    truth = model["field"](points)
    assert accelerate(model) == 3
    assert "3 hash grids" in capsys.readouterr().out
    assert accelerate(model) == 0
    after = model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.allclose(model["field"](points), truth, atol=1e-6)
    twin = copy.deepcopy(model)
    assert isinstance(twin["proposal"].encoding, FastHashEncoding)
    twin.load_state_dict(pickle.loads(pickle.dumps(before)))
    assert pickle.loads(pickle.dumps(model["field"]))(points).shape == truth.shape
    assert model.to("meta")["field"](points.to("meta")).shape == truth.shape


def test_subclasses_with_their_own_path_are_left_alone():
    class Other(HashEncoding):
        def pytorch_fwd(self, in_tensor):
            return in_tensor * 2

    other = Other(2, log2_hashmap_size=4, implementation="torch")
    assert accelerate(other, verbose=False) == 0
    assert torch.equal(other(torch.ones(1, 3)), torch.full((1, 3), 2.0))


def test_the_variable_chooses(monkeypatch):
    monkeypatch.setenv(VARIABLE, "off")
    assert hash_grid_backend() == "torch"
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(SpinnerfError, match="set it to auto, off, native"):
        hash_grid_backend()


@pytest.fixture
def no_kernel_yet(monkeypatch, tmp_path):
    """A process that has loaded no kernel, with an empty cache."""
    hash_grid.KERNEL.forget()
    hash_grid._backend.cache_clear()
    monkeypatch.setenv("SPINNERF_KERNEL_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    hash_grid.KERNEL.forget()
    hash_grid._backend.cache_clear()


def test_without_a_compiler_it_falls_back_and_says_so_once(monkeypatch, no_kernel_yet, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(hash_grid, "_compiled", _no_compiled)
    monkeypatch.delenv(VARIABLE, raising=False)
    stock, fast = make_pair(3, 2, 8)
    points = hard_points(5)
    for _ in range(2):
        assert torch.equal(fast(points), stock(points))
    assert capsys.readouterr().out.count("torch path") == 1
    monkeypatch.setenv(VARIABLE, "native")
    with pytest.raises(SpinnerfError, match="no C\\+\\+ compiler found"):
        hash_grid_backend()


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch, no_kernel_yet, capsys):
    monkeypatch.setattr(hash_grid.KERNEL, "library", lambda: None)
    monkeypatch.setattr(hash_grid, "_native_forward", lambda points, table, *_: points.new_ones(len(points), 4))
    monkeypatch.setattr(hash_grid, "_native_backward", lambda points, table, *_: (points * 0, table * 0))
    monkeypatch.setattr(hash_grid, "_compiled", _no_compiled)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert hash_grid_backend() == "torch"
    assert "differ" in capsys.readouterr().out.replace("\n", " ")


def _no_compiled():
    raise RuntimeError("no torch.compile in this test")


def test_a_compiler_that_fails_leaves_nothing_behind(monkeypatch, no_kernel_yet, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: error: made to fail' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(kernels.KernelUnavailable, match="made to fail"):
        kernels.load_kernel(hash_grid.KERNEL.source)
    assert not list(no_kernel_yet.iterdir())


# Loads kernels.py by its path: importing the package would import torch, seconds per process.
PROCESS = """
import ctypes, importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("kernels", sys.argv[1])
kernels = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernels)
print(kernels.load_kernel(pathlib.Path(sys.argv[2])).answer())
"""


@needs_compiler
@pytest.mark.parametrize("cache", ["shared", "impossible"])
def test_processes_that_build_at_once_all_get_a_kernel(tmp_path, cache):
    source, folder = tmp_path / "answer.cpp", tmp_path / "cache"
    source.write_text('extern "C" int answer() { return 42; }')
    if cache == "impossible":  # a file where the folder should be: nothing can be kept, not even by root
        folder.write_text("in the way")
    command = [sys.executable, "-c", PROCESS, kernels.__file__, str(source)]
    environment = {**os.environ, "SPINNERF_KERNEL_CACHE": str(folder)}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=100)[0].strip() for process in running] == ["42"] * 3
    if cache == "shared":
        (library,) = folder.iterdir()  # one library, no partial file
        library.write_bytes(b"damaged")
        assert subprocess.check_output(command, env=environment, text=True).strip() == "42"


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_can_use_the_grid_after_its_parent_did(native):
    _, fast = make_pair(4, 2, 10)
    points = torch.rand(5000, 3)
    truth = fast(points)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(fast(points), truth) else 1)
    assert os.waitpid(child, 0)[1] == 0
