"""Outputs for looking at: made only where someone asks for them, since each is a rendering of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.scene.cameras import project
from spinnerf_ns.scene.frames import transform_points
from spinnerf_ns.scene.view import View

MOST_VIEWS = 24
"""Photos that are asked about a point; more of them say little more, and each takes its time."""
DOUBT = 0.05
"""Part of these photos that may show a point of what no photo shows all the same: a mask here or there is a pixel off."""


class OnDemand(dict):
    """A model's outputs, some of which are rendered when they are first taken out; all names are there from the start."""

    def later(self, name: str, make: Callable[[], Tensor]) -> None:
        """Adds an output that `make` renders."""
        self[name] = _Later(make)

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if isinstance(value, _Later):
            value = self[name] = value.make()
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """As a dictionary's."""
        return self[name] if name in self else default

    def items(self) -> Any:
        """As a dictionary's; renders everything."""
        return [(name, self[name]) for name in self]

    def values(self) -> Any:
        """As a dictionary's; renders everything."""
        return [self[name] for name in self]

    def settle(self, wanted: Iterable[str], otherwise: Callable[[str], Tensor]) -> None:
        """Renders what is wanted of what was left for later, and puts something else in the others' place."""
        wanted = set(wanted)
        for name in list(self):
            if isinstance(dict.__getitem__(self, name), _Later):
                self[name] = self[name] if name in wanted else otherwise(name)


class _Later:
    def __init__(self, make: Callable[[], Tensor]) -> None:
        self.make = make


class Provenance:
    """Whether any photo shows a point, by where the photos have masks of what no photo shows.

    Args:
        views: photos that showed the object.
        unseen: per photo (H, W) bool, what was invented in it.
        world_to_training: (4, 4), from the views' frame to the model's.
    """

    def __init__(self, views: Sequence[View], unseen: Sequence[BoolMask], world_to_training: npt.NDArray[np.float64]) -> None:
        chosen = np.unique(np.linspace(0, len(views) - 1, MOST_VIEWS).round().astype(int)) if len(views) else []
        self._photos = [(views[i], unseen[i]) for i in chosen]
        self._to_world = np.linalg.inv(world_to_training)

    def invented(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
        """Which of (P, 3) points in the training frame (nearly) all photos that look there see inside such a mask; (P,)."""
        world = transform_points(self._to_world, points)
        looking, unseen = np.zeros(len(world), np.int32), np.zeros(len(world), np.int32)
        for view, mask in self._photos:
            xy, z = project(view, world)
            with np.errstate(invalid="ignore"):
                inside = (z > 0) & (xy[:, 0] >= 0) & (xy[:, 0] < view.width) & (xy[:, 1] >= 0) & (xy[:, 1] < view.height)
            which = np.flatnonzero(inside)
            looking[which] += 1
            unseen[which] += mask[xy[which, 1].astype(np.int64), xy[which, 0].astype(np.int64)]
        return (looking > 0) & (unseen >= (1 - DOUBT) * looking)
