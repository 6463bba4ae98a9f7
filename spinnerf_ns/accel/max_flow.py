"""The cheapest cut of a graph in two, by a C++ kernel (max_flow.cpp, see native.py), else by scipy. Both find the same."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from spinnerf_ns.accel.native import Kernel

Integers = npt.NDArray[np.int64]


def source_side(excess: Integers, edges: Integers, between: Integers) -> npt.NDArray[np.bool_]:
    """The nodes on the source's side of the cheapest cut; of several such cuts the one with the fewest.

    Args:
        excess: (N,) what it costs to cut a node from the source, or where negative, from the sink.
        edges: (E, 2) nodes, no pair twice.
        between: (E,) >= 0, what it costs to have the first node on the source's side and the second on the sink's.

    Returns:
        (N,) bool.

    Raises:
        SpinnerfError: SPINNERF_KERNELS names no implementation, or "native" where it can't be had.
        MemoryError: the graph is too large.
    """
    if KERNEL.is_used():
        return _by_kernel(excess, edges, between)
    return _by_scipy(excess, edges, between)


def _by_kernel(excess: Integers, edges: Integers, between: Integers) -> npt.NDArray[np.bool_]:
    excess, between = (np.ascontiguousarray(costs, np.int64) for costs in (excess, between))
    first, second = np.ascontiguousarray(edges.T, np.int32)
    keeps = np.zeros(len(excess), np.uint8)
    arrays = (array.ctypes.data for array in (first, second, between, excess, keeps))
    if KERNEL.library().spinnerf_min_cut(len(excess), len(edges), *arrays):
        raise MemoryError(f"a graph of {len(excess)} nodes and {len(edges)} edges could not be cut")
    return keeps.astype(bool)


def _by_scipy(excess: Integers, edges: Integers, between: Integers) -> npt.NDArray[np.bool_]:
    count = len(excess)
    nodes, source, sink = np.arange(count), count, count + 1
    start = np.concatenate([np.where(excess > 0, source, nodes), edges[:, 0]])
    end = np.concatenate([np.where(excess > 0, nodes, sink), edges[:, 1]])
    capacity = np.concatenate([np.abs(excess), between]).astype(np.int32)
    graph = csr_matrix((capacity, (start, end)), shape=(count + 2, count + 2))
    left = graph - maximum_flow(graph, source, sink).flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    keeps = np.zeros(count + 2, bool)
    keeps[breadth_first_order(left, source, return_predecessors=False)] = True
    return keeps[:count]


def _declare(library: ctypes.CDLL) -> None:
    library.spinnerf_min_cut.argtypes = [ctypes.c_int32, ctypes.c_int32, *5 * [ctypes.c_void_p]]
    library.spinnerf_min_cut.restype = ctypes.c_int32


def _agrees() -> bool:
    """Whether the kernel cuts a small graph as scipy does: a picture's grid and some diagonals, with several cheapest cuts."""
    node = np.arange(12 * 12).reshape(12, 12)
    pairs = [(node[:, :-1], node[:, 1:]), (node[1:], node[:-1]), (node[:-1, :-1].ravel()[::3], node[1:, 1:].ravel()[::3])]
    edges = np.concatenate([np.stack([first.ravel(), second.ravel()], axis=1) for first, second in pairs])
    excess, between = node.ravel() * 37 % 19 - 9, np.arange(len(edges)) * 23 % 7
    return np.array_equal(_by_kernel(excess, edges, between), _by_scipy(excess, edges, between))


KERNEL = Kernel(
    __file__,
    _declare,
    _agrees,
    "surfaces are cut by scipy",
    other="scipy",
    old_variable="SPINNERF_MAX_FLOW",
)
