"""Labels of the least energy by graph cuts (Boykov, Veksler, Zabih 2001, alpha-expansion)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spinnerf_ns.accel.max_flow import source_side

STEPS_OF_COST = 10_000
"""Integer capacities that a cost of 1 is."""
MAX_SWEEPS = 4
"""Rounds over all labels at most; mostly the second changes nothing."""

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]


def cut_labels(labels: Integers, unary: Floats, edges: Integers, pairwise: Floats) -> Integers:
    """Moves labels to a local minimum of their energy that no single label's expansion can lower.

    Args:
        labels: (N,) where to start.
        unary: (N, K) cost of each label at each node; infinite where a label is not allowed.
        edges: (E, 2) neighbouring nodes.
        pairwise: (E, K, K) cost of both ends' labels, a metric: 0 for equal ones, symmetric, no detour cheaper.

    Returns:
        (N,) labels.
    """
    labels = labels.copy()
    best = energy(labels, unary, edges, pairwise)
    moves, failed_after = 0, {}
    for _ in range(MAX_SWEEPS):
        before = best
        for label in range(unary.shape[1]):
            if failed_after.get(label) == moves:
                continue  # nothing has changed since
            moved = np.where(_expansion(labels, label, unary, edges, pairwise), label, labels)
            found = energy(moved, unary, edges, pairwise)
            if found < best - 1e-9:  # capacities are rounded
                labels, best, moves = moved, found, moves + 1
            else:
                failed_after[label] = moves
        if best >= before:
            break
    return labels


def energy(labels: Integers, unary: Floats, edges: Integers, pairwise: Floats) -> float:
    """The sum of all costs of a labelling; arguments as of `cut_labels`."""
    first, second = labels[edges[:, 0]], labels[edges[:, 1]]
    return float(unary[np.arange(len(labels)), labels].sum() + pairwise[np.arange(len(edges)), first, second].sum())


def _expansion(labels: Integers, label: int, unary: Floats, edges: Integers, pairwise: Floats) -> npt.NDArray[np.bool_]:
    """(N,) bool: the nodes that take this label in the cheapest of all moves to it."""
    count, each = len(labels), np.arange(len(edges))
    p, q = edges.T
    both_keep = pairwise[each, labels[p], labels[q]]
    second_moves, first_moves = pairwise[each, labels[p], label], pairwise[each, label, labels[q]]
    # As sums of terms of one node each and of one that is paid where the first keeps and the second moves.
    moving = unary[:, label] - unary[np.arange(count), labels]
    moving = moving + np.bincount(p, first_moves - both_keep, count) + np.bincount(q, -first_moves, count)
    ceiling = 1e5  # infinite costs, far above any sum of the others at one node
    moving = np.clip(np.nan_to_num(moving, posinf=ceiling, neginf=-ceiling), -ceiling, ceiling)
    between = np.maximum(second_moves + first_moves - both_keep, 0)
    excess, cut = (np.rint(cost * STEPS_OF_COST).astype(np.int64) for cost in (moving, between))
    return ~source_side(excess, edges, cut)
