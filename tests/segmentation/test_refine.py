"""Colour models, the random walk and the cleaning of masks, against what can be said by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spinnerf_ns.segmentation.refine import (
    apply_palette,
    build_palette,
    clean_components,
    local_colour_probability,
    log_odds,
    random_walk,
    sigmoid,
    signed_distance,
)


def test_palette_separates_colours_and_repeats_itself() -> None:
    lab = np.zeros((20, 30, 3), np.uint8)
    lab[:, 10:20] = (120, 60, 200)
    lab[:, 20:] = (250, 130, 20)
    palette = build_palette(lab, 3)
    clusters = apply_palette(lab, palette)
    assert len(set(clusters[0, [0, 15, 25]])) == 3
    assert (build_palette(lab, 3) == palette).all()


def test_local_colours_are_local() -> None:
    # One colour everywhere: object on the left, background on the right. A global model could not tell.
    clusters = np.zeros((40, 120), np.int64)
    is_object = np.zeros((40, 120), np.float32)
    is_object[:, :60] = 1
    probability, seen = local_colour_probability(clusters, [(clusters, is_object, np.ones_like(is_object))], 10.0)
    assert probability[20, 10] > 0.99 and probability[20, 110] < 0.01
    assert 0.4 < probability[20, 60] < 0.6
    assert seen[20, 60] == pytest.approx(1, abs=0.05)  # evidence per pixel, of one photo


def test_unseen_colours_say_nothing() -> None:
    clusters = np.zeros((20, 20), np.int64)
    other = np.ones((20, 20), np.int64)
    probability, seen = local_colour_probability(clusters, [(other, np.ones((20, 20)), np.ones((20, 20)))], 5.0)
    assert np.allclose(probability, 0.5) and not seen.any()


def test_random_walk_against_a_dense_solution() -> None:
    rng = np.random.default_rng(0)
    shape = (6, 7)
    lab = rng.integers(0, 255, (*shape, 3)).astype(np.uint8)
    prior, confidence = rng.random(shape).astype(np.float32), rng.random(shape).astype(np.float32)
    held, dropped = np.zeros(shape, bool), np.zeros(shape, bool)
    held[2, 2], dropped[5] = True, True
    found = random_walk(lab, prior, confidence, held, dropped, 3.0)
    # By the definition in the docstring: one equation per pixel, no sparse matrices.
    colours = lab.astype(float)
    pairs = [((y, x), (y, x + 1)) for y in range(6) for x in range(6)]
    pairs += [((y, x), (y + 1, x)) for y in range(5) for x in range(7)]
    squares = [((colours[a] - colours[b]) ** 2).sum() for a, b in pairs]
    beta = 1 / (2 * np.mean(squares))
    system, right = np.diag(confidence.ravel().astype(float) + 1e-6), (confidence * prior).ravel().astype(float)
    for (a, b), square in zip(pairs, squares):
        i, j = np.ravel_multi_index(a, shape), np.ravel_multi_index(b, shape)
        weight = 3.0 * (np.exp(-beta * square) + 0.005)
        system[[i, j], [i, j]] += weight
        system[i, j] -= weight
        system[j, i] -= weight
    for index in np.flatnonzero(held | dropped):
        system[index] = 0
        system[index, index] = 1
        right[index] = held.ravel()[index]
    assert np.abs(np.linalg.solve(system, right).reshape(shape) - found).max() < 0.01


def test_random_walk_stops_at_an_edge() -> None:
    lab = np.zeros((20, 40, 3), np.uint8)
    lab[:, 23:] = 200
    held, dropped = np.zeros((20, 40), bool), np.zeros((20, 40), bool)
    held[:, :5], dropped[:, 36:] = True, True
    nothing = np.full((20, 40), 0.5, np.float32)
    found = random_walk(lab, nothing, np.full_like(nothing, 1e-4), held, dropped, 8.0) > 0.5
    assert found[:, :23].all() and not found[:, 23:].any()
    all_sure = random_walk(lab, nothing, nothing, found, ~found, 8.0)
    assert (all_sure == found).all()


def test_cleaning() -> None:
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    mask[20, 20] = False  # a pinhole is filled,
    mask[30:40, 30:40] = False  # a real hole is not
    mask[2, 2] = True  # a speck goes
    cleaned = clean_components(mask)
    assert cleaned[20, 20] and not cleaned[35, 35] and not cleaned[2, 2]
    assert cleaned.sum() == 1600 - 100
    assert not clean_components(np.zeros((5, 5), bool)).any()
    assert clean_components(np.ones((5, 5), bool)).all()


def test_distance_and_odds() -> None:
    mask = np.zeros((11, 11), bool)
    mask[:, :5] = True
    distance = signed_distance(mask)
    assert distance[5, 4] == pytest.approx(1, abs=0.1) and distance[5, 5] == pytest.approx(-1, abs=0.1)
    assert (signed_distance(np.zeros((4, 9), bool)) == -9).all() and (signed_distance(np.ones((4, 9), bool)) == 9).all()
    values = np.linspace(0.05, 0.95, 7, dtype=np.float32)
    assert np.allclose(sigmoid(log_odds(values)), values, atol=1e-5)
    assert np.isfinite(log_odds(np.array([0.0, 1.0], np.float32))).all()
