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
SAME_SURFACE = 0.05
"""A point whose distance differs by less than this part from that of the surface which a photo shows there lies on it."""


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


def some_views(views: Sequence[View]) -> list[View]:
    """At most `MOST_VIEWS` of the photos, from all along the list: those that `Provenance` asks."""
    chosen = np.unique(np.linspace(0, len(views) - 1, MOST_VIEWS).round().astype(int)) if len(views) else []
    return [views[i] for i in chosen]


class Provenance:
    """Whether any photo shows a point, by where the photos have masks of what no photo shows.

    Args:
        views: photos that showed the object (`some_views`).
        unseen: per photo (H, W) bool, what was invented in it.
        depths: per photo (H, W) planar z without the object, in the views' frame; 0 = unknown. A photo has a say about the
            points that lie on the surface which it shows, and none about what lies behind it: around an object, most photos
            that look at a place see something else.
        world_to_training: (4, 4), from the views' frame to the model's.
    """

    def __init__(
        self,
        views: Sequence[View],
        unseen: Sequence[BoolMask],
        depths: Sequence[npt.NDArray[np.floating]],
        world_to_training: npt.NDArray[np.float64],
    ) -> None:
        self._photos = list(zip(views, unseen, depths, strict=True))
        self._to_world = np.linalg.inv(world_to_training)

    def invented(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
        """Which of (P, 3) points in the training frame most photos that show them have inside such a mask; (P,)."""
        world = transform_points(self._to_world, points)
        showing, unseen = np.zeros(len(world), np.int32), np.zeros(len(world), np.int32)
        for view, mask, depth in self._photos:
            xy, z = project(view, world)
            with np.errstate(invalid="ignore"):
                inside = (z > 0) & (xy[:, 0] >= 0) & (xy[:, 0] < view.width) & (xy[:, 1] >= 0) & (xy[:, 1] < view.height)
            which = np.flatnonzero(inside)
            rows, columns = xy[which, 1].astype(np.int64), xy[which, 0].astype(np.int64)
            shown = np.abs(z[which] - depth[rows, columns]) <= SAME_SURFACE * depth[rows, columns]
            which, rows, columns = which[shown], rows[shown], columns[shown]
            showing[which] += 1
            unseen[which] += mask[rows, columns]
        return 2 * unseen > showing
