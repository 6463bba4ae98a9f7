"""The cheapest cut of a graph in two, by a C++ kernel (max_flow.cpp, built on first use), else by scipy. Both find the same."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from spinnerf_ns.kernels import KernelUnavailable, load_kernel

_SOURCE = Path(__file__).with_suffix(".cpp")

Integers = npt.NDArray[np.int64]


def source_side(excess: Integers, edges: Integers, between: Integers) -> npt.NDArray[np.bool_]:
    """The nodes on the source's side of the cheapest cut; of several such cuts the one with the fewest.

    Args:
        excess: (N,) what it costs to cut a node from the source, or where negative, from the sink.
        edges: (E, 2) nodes, no pair twice.
        between: (E,) >= 0, what it costs to have the first node on the source's side and the second on the sink's.

    Returns:
        (N,) bool.
    """
    library = _library()
    if library is None:
        return _by_scipy(excess, edges, between)
    excess, between = (np.ascontiguousarray(costs, np.int64) for costs in (excess, between))
    first, second = np.ascontiguousarray(edges.T, np.int32)
    keeps = np.zeros(len(excess), np.uint8)
    arrays = (array.ctypes.data for array in (first, second, between, excess, keeps))
    library.spinnerf_min_cut(len(excess), len(edges), *arrays)
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


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = load_kernel(_SOURCE)
    except (KernelUnavailable, OSError):  # no compiler, or installed without the source: slower, and the same
        return None
    library.spinnerf_min_cut.argtypes = [ctypes.c_int32, ctypes.c_int32] + 5 * [ctypes.c_void_p]
    library.spinnerf_min_cut.restype = None
    return library
