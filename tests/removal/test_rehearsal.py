"""The rehearsal on a wall: a candidate that knows it wins, and a clever one that fails loses to the plain one."""

import numpy as np

from spinnerf_ns.removal.rehearsal import planted_regions, rehearse
from tests.removal.views.test_fill import scene


def test_planted_regions_lie_beside_the_region_where_all_is_known():
    layers, _ = scene(half=0.25)
    for layer in layers:
        for planted in planted_regions(layer):
            assert planted.sum() >= 0.8 * layer.region.sum() and not (planted & layer.region).any()
    layers[0].z_visible[:] = 0
    assert planted_regions(layers[0]) == []
    layers[1].valid_mask = np.zeros_like(layers[1].region)
    assert planted_regions(layers[1]) == []


def test_the_least_error_wins_and_nobody_sees_the_answer():
    layers, truths = scene(half=0.25)

    def grey(number, hidden):
        assert (hidden.image[hidden.region & ~layers[number].region] == 128).all()
        return hidden.image

    def knows(number, hidden):
        return truths[number]

    def noisy(number, hidden):
        noise = np.random.default_rng(0).normal(0, 40, truths[number].shape)
        return np.clip(truths[number] + noise, 0, 255).astype(np.uint8)

    rehearsal = rehearse(layers, {"clever": grey, "plain": noisy})
    assert rehearsal.winner == "plain" and rehearsal.places >= 4 and "plain" in str(rehearsal)
    assert rehearse(layers, {"clever": knows, "plain": noisy}).winner == "clever"
    assert rehearse(layers, {"first": knows, "second": knows}).winner == "first", "of equals the preferred one"


def test_nothing_to_plant_takes_the_first():
    layers, _ = scene()
    for layer in layers:
        layer.z_visible[:] = 0
    rehearsal = rehearse(layers, {"first": lambda number, hidden: hidden.image, "second": lambda number, hidden: hidden.image})
    assert rehearsal.winner == "first" and not rehearsal.table and "no place" in str(rehearsal)
