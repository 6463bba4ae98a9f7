"""Graph cuts against all labellings of small graphs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from spinnerf_ns.removal.surfaces.label_cut import cut_labels, energy


def problem(seed: int, nodes: int, labels: int):
    """Random costs on a random graph; pairwise costs are truncated distances of random depths, a metric."""
    generator = np.random.default_rng(seed)
    unary = generator.random((nodes, labels))
    edges = np.array([pair for pair in itertools.combinations(range(nodes), 2) if generator.random() < 0.5])
    at = generator.random((len(edges), labels))
    pairwise = np.minimum(np.abs(at[:, :, None] - at[:, None]), 0.4) + 0.1 * (1 - np.eye(labels))
    return unary, edges, pairwise


def best_of_all(unary, edges, pairwise) -> float:
    every = itertools.product(range(unary.shape[1]), repeat=len(unary))
    return min(energy(np.array(labels), unary, edges, pairwise) for labels in every)


@pytest.mark.parametrize("seed", range(10))
def test_two_labels_are_cut_to_the_least_energy_of_all(seed):
    unary, edges, pairwise = problem(seed, 9, 2)
    found = cut_labels(unary.argmin(axis=1), unary, edges, pairwise)
    assert energy(found, unary, edges, pairwise) == pytest.approx(best_of_all(unary, edges, pairwise), abs=2e-3)


@pytest.mark.parametrize("seed", range(10))
def test_more_labels_come_within_a_few_per_cent_of_it(seed):
    unary, edges, pairwise = problem(seed, 6, 4)
    found = energy(cut_labels(unary.argmin(axis=1), unary, edges, pairwise), unary, edges, pairwise)
    assert found <= 1.05 * best_of_all(unary, edges, pairwise)


def test_a_label_that_is_not_allowed_is_not_taken_and_a_fixed_one_stays():
    unary, edges, pairwise = problem(3, 8, 3)
    unary[:, 2] = np.inf
    unary[0] = [np.inf, 0, np.inf]
    start = np.array([1] + [0] * 7)
    found = cut_labels(start, unary, edges, pairwise)
    assert found[0] == 1 and (found != 2).all()


def test_nodes_without_edges_take_their_cheapest_label():
    unary = np.array([[1.0, 0.2], [0.1, 0.9]])
    found = cut_labels(np.array([0, 1]), unary, np.zeros((0, 2), np.int64), np.zeros((0, 2, 2)))
    assert found.tolist() == [1, 0]
