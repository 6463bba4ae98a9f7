"""The rehearsal on a wall: a candidate that knows it wins, and a clever one that fails loses to the plain one."""

import numpy as np

from spinnerf_ns.removal.rehearsal import Tried, decide, planted_regions, rehearse, try_photo
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


def test_a_rehearsal_compares_what_the_region_itself_shows():
    """A candidate that fails on what stands beside the region, and knows what lies behind it, is the right one."""
    layers, truths = scene(half=0.25)

    def left(planted):
        """The left half of it."""
        columns = np.arange(planted.shape[1])
        return planted & (columns < np.median(np.nonzero(planted)[1]))

    def knows_the_left(number, hidden):
        known = left(hidden.region & ~layers[number].region)
        return np.where(known[..., None], truths[number], np.clip(truths[number].astype(int) + 60, 0, 255)).astype(np.uint8)

    def noisy(number, hidden):
        noise = np.random.default_rng(0).normal(0, 150, truths[number].shape)
        return np.clip(truths[number] + noise, 0, 255).astype(np.uint8)

    ways = {"left": knows_the_left, "plain": noisy}
    places = [number for number, layer in enumerate(layers) if planted_regions(layer)]
    tried = [try_photo(number, layers[number], ways, left) for number in places]
    assert places and decide(list(ways), tried).winner == "left"
    nowhere = [try_photo(number, layers[number], ways, np.zeros_like) for number in places]
    assert [each.pixels for each in nowhere] == [sum(int(p.sum()) for p in planted_regions(layers[number])) for number in places]


def test_the_preferred_way_stays_unless_another_is_clearly_better():
    assert decide(["first", "second"], [Tried([100.0, 90.0], 1, 1)]).winner == "first"
    assert decide(["first", "second"], [Tried([100.0, 70.0], 1, 1)]).winner == "second"
