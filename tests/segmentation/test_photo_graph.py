"""The order of tracking: over the most similar pairs, from the best masks."""

from __future__ import annotations

import numpy as np
import pytest

from spinnerf_ns.segmentation.trackers.photo_graph import PhotoGraph
from tests.segmentation.conftest import moving_disc, texture


@pytest.fixture
def there_and_back():
    """Five photos: the disc moves away, partly hidden, and comes back; the last photo shows something else."""
    images, masks = moving_disc(3)
    images[1][40:56] = images[2][40:56] = texture(16, 96, 7)
    return [images[0], images[1], images[2], images[0], texture(96, 96, 9)], [masks[0], masks[1], masks[2], masks[0]]


def test_likeness_counts_more_than_the_path(there_and_back) -> None:
    images, masks = there_and_back
    read = []
    graph = PhotoGraph(5, lambda index: read.append(index) or images[index], reach=4)
    graph.add_source(0, masks[0])
    assert graph.next([1, 2, 3, 4]) == 3  # the same photo again, three steps away
    graph.add_tracked(3, masks[3], [0], 1.0)
    assert graph.references(1, 1) == [0]  # equally similar to 0 and 3, but 0 is the source
    graph.add_tracked(1, masks[1], [0], 1.0)
    assert graph.references(2, 2)[:2] == [0, 1] or graph.references(2, 2)[:2] == [1, 0]
    assert graph.next([2, 4]) == 2  # the other scene comes last
    assert sorted(read) == [0, 1, 2, 3, 4]  # each photo is read once for its thumbnail


def test_worth_falls_with_steps_support_and_cuts(there_and_back) -> None:
    images, masks = there_and_back
    graph = PhotoGraph(5, lambda index: images[index], reach=2)
    graph.add_source(0, masks[0])
    graph.add_tracked(1, masks[1], [0], 1.0)
    graph.add_tracked(2, masks[2], [1, 0], 0.5)
    cut = np.zeros((96, 96), bool)
    cut[60:, 30:60] = True
    graph.add_tracked(3, cut, [0], 1.0)
    worths = [graph.worth(index) for index in range(4)]
    assert worths[0] == 1 > worths[1] > worths[2] > 0
    assert worths[3] < 0.75 * worths[1]


def test_far_photos_fall_back_to_the_path(there_and_back) -> None:
    images, masks = there_and_back
    graph = PhotoGraph(5, lambda index: images[index], reach=0)
    graph.add_source(0, masks[0])
    graph._similarity.clear()
    graph.add_tracked(2, masks[2], [0], 1.0)
    assert graph.next([4, 3]) == 3
    assert graph.references(3, 2) == [2, 0]


def test_the_next_photo_is_found_in_time_that_grows_with_their_number(monkeypatch):
    """Of all waiting photos against all tracked ones, step after step, time would grow with the cube."""
    from spinnerf_ns.segmentation.trackers import photo_graph

    monkeypatch.setattr(photo_graph, "DenseFlow", lambda **_: lambda a, b: (None, np.ones(a.shape, np.float32)))
    ranked: list[int] = []
    rank = PhotoGraph._rank
    monkeypatch.setattr(PhotoGraph, "_rank", lambda self, reference, index: ranked.append(index) or rank(self, reference, index))
    calls = []
    for count in (12, 24):
        ranked.clear()
        graph = PhotoGraph(count, lambda index: np.zeros((20, 20, 3), np.uint8), reach=4)
        mask = np.zeros((20, 20), bool)
        mask[5:9, 5:9] = True
        graph.add_source(0, mask)
        waiting = list(range(1, count))
        while waiting:
            index = graph.next(waiting)
            waiting.remove(index)
            graph.add_tracked(index, mask, [0], 1.0)
        calls.append(len(ranked))
    assert calls[1] < 5 * calls[0]
