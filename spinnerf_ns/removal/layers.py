"""What is known about each photo before anything is filled, and all photos' layers without all of them in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.scene.view import View

Floats = npt.NDArray[np.float32]
Item = TypeVar("Item")


@dataclass
class ViewLayers:
    """What is known about one photo before its region is filled."""

    view: View
    """The photo's camera."""
    image: Image
    """(H, W, 3) uint8 RGB, the photo."""
    region: BoolMask
    """(H, W) bool: the dilated object mask, where the photo may be used."""
    z_visible: Floats
    """(H, W) planar depth of what the photo shows, object included; 0 = unknown."""
    z_background: Floats
    """(H, W) planar depth of what lies behind the object; may be wrong where no photo ever looked, 0 = unknown."""
    valid_mask: BoolMask | None = None
    """(H, W) bool, True = use (`View.valid_mask`); None: all. What may not be used has no depth here, and is no source."""
    is_source: bool = True
    """Whether other photos may be filled from this one: held-out photos are measured against, so nothing is taken from them."""


def kept_photos(views: Sequence[View], pixels: int, least: int = 2) -> int:
    """How many of the views' photos make up so many pixels; at least `least`."""
    largest = max((view.width * view.height for view in views), default=1)
    return max(least, pixels // largest)


class Recent(Generic[Item]):
    """What a function returns of numbers, of which the last few are kept."""

    def __init__(self, make: Callable[[int], Item], most: int) -> None:
        self._make, self._most = make, most
        self._kept: OrderedDict[int, Item] = OrderedDict()

    def __call__(self, number: int) -> Item:
        if number not in self._kept:
            while len(self._kept) >= self._most:  # before another one is made
                self._kept.popitem(last=False)
            self._kept[number] = self._make(number)
        self._kept.move_to_end(number)
        return self._kept[number]


class Layers(Sequence[ViewLayers]):
    """All photos' layers; each is read when it is asked for.

    Args:
        views: the photos' cameras.
        is_source: per photo, as `ViewLayers.is_source`.
        read: number -> the photo's layers.
        image: number -> the photo alone; it is asked for oftener than the rest.
    """

    def __init__(
        self,
        views: Sequence[View],
        is_source: Sequence[bool],
        read: Callable[[int], ViewLayers],
        image: Callable[[int], Image] | None = None,
    ) -> None:
        self.views, self.is_source = list(views), list(is_source)
        self._read = read
        self.image = (lambda number: read(number).image) if image is None else image

    @classmethod
    def of(cls, layers: Sequence[ViewLayers]) -> Layers:
        """Layers that are in memory."""
        if isinstance(layers, Layers):
            return layers
        return cls([layer.view for layer in layers], [layer.is_source for layer in layers], list(layers).__getitem__)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, number: int) -> ViewLayers:  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._read(int(number))

    def __iter__(self) -> Iterator[ViewLayers]:
        return (self[number] for number in range(len(self)))
