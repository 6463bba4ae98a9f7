"""The kernel's cuts against scipy's, and when which is used."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest

from spinnerf_ns.accel import kernels, max_flow
from spinnerf_ns.accel.max_flow import source_side
from spinnerf_ns.accel.native import VARIABLE
from spinnerf_ns.errors import SpinnerfError

needs_compiler = pytest.mark.skipif(kernels.find_compiler() is None, reason="no C++ compiler: no native kernel")
# A chain: the first node holds the second, which holds the third less than the sink does.
CHAIN = np.array([5, -2, -3]), np.array([[0, 1], [1, 2]]), np.array([4, 1])
KEPT = [True, True, False]


@pytest.fixture(autouse=True)
def untried():
    """Implementations are tried anew."""
    max_flow.KERNEL.forget()
    yield
    max_flow.KERNEL.forget()


@needs_compiler
@pytest.mark.parametrize("most", [3, 1000])
def test_the_kernel_and_scipy_cut_alike(most, monkeypatch):
    monkeypatch.setenv(VARIABLE, "native")
    generator = np.random.default_rng(most)
    for nodes in [1, *generator.integers(2, 60, 100)]:
        edges = np.array([pair for pair in itertools.combinations(range(nodes), 2) if generator.random() < 0.3]).reshape(-1, 2)
        between, excess = generator.integers(0, most, len(edges)), generator.integers(-most, most + 1, nodes)
        excess[0] = 10**9  # a node that must not change
        found = source_side(excess, edges, between)
        np.testing.assert_array_equal(found, max_flow._by_scipy(excess, edges, between))
        assert found[0] and found.dtype == bool


@pytest.mark.parametrize("choice", ["off", pytest.param("native", marks=needs_compiler), "auto", ""])
def test_the_variable_chooses(choice, monkeypatch):
    monkeypatch.setenv(VARIABLE, choice)
    with mock.patch.object(max_flow.KERNEL, "library", wraps=max_flow.KERNEL.library) as kernel:
        assert source_side(*CHAIN).tolist() == KEPT
    assert kernel.called == (choice != "off")


def test_an_unknown_implementation_is_an_error(monkeypatch):
    monkeypatch.setenv(VARIABLE, "fastest")
    with pytest.raises(SpinnerfError, match="SPINNERF_KERNELS=fastest: .* set it to auto, off, native"):
        source_side(*CHAIN)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda excess, edges, between: excess > 0,
        lambda excess, edges, between: max_flow._by_scipy(excess, edges[:, ::-1], between),
        lambda excess, edges, between: ~max_flow._by_scipy(-excess, edges[:, ::-1], between),  # the cut with the most nodes
        mock.Mock(side_effect=kernels.KernelUnavailable("no compiler")),
        mock.Mock(side_effect=AttributeError("undefined symbol: spinnerf_min_cut")),
    ],
    ids=["no edges", "reversed edges", "most nodes", "unavailable", "damaged"],
)
def test_a_kernel_that_fails_is_not_used(wrong, monkeypatch, capsys):
    monkeypatch.setattr(max_flow, "_by_kernel", wrong)
    monkeypatch.setenv(VARIABLE, "auto")
    assert source_side(*CHAIN).tolist() == KEPT
    assert "cut by scipy" in capsys.readouterr().out.replace("\n", " ")
    monkeypatch.setenv(VARIABLE, "native")
    with pytest.raises(SpinnerfError, match="kernel max_flow, which can't be had here"):
        source_side(*CHAIN)
