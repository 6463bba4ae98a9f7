"""From photos, regions and depth to clean photos: step after step over all photos, with a few of them in memory.

    surfaces     which plane each pixel around a region shows
    continued    where these planes go on in the region
    filled       what other photos show of the region; the depth of all of it
    then photo by photo what no photo shows

Every step's results are a file per photo in the stage's scratch folder, of a window around the region alone. So memory does not
grow with the number of photos, and a run that was killed goes on at the photo where it was, in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image, disparity_to_z, window_around, z_to_disparity
from spinnerf_ns.files import atomic_path
from spinnerf_ns.hints import say
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.invention import Open
from spinnerf_ns.removal.layers import Floats, Layers, Recent, ViewLayers, kept_photos
from spinnerf_ns.removal.plan import Plan, load_layers
from spinnerf_ns.removal.rehearsal import Rehearsal, rehearse
from spinnerf_ns.removal.surfaces.continuation import continued
from spinnerf_ns.removal.surfaces.planes import REST, fill_by_surface, find_planes, snapped, surface_labels, surroundings
from spinnerf_ns.removal.views.fill import Filled, Sources, fill_photo, most_sources
from spinnerf_ns.scene.camera_path import order_along_path

BY_SURFACE = "by surface"
"""Name of the way in which what no photo shows is drawn from its own surface alone."""

SURFACES, CONTINUED, FILLED = "surfaces", "continued", "filled"
"""Steps, and their folders."""

Labels = npt.NDArray[np.uint8]
Track = Callable[[Sequence[int], str], Iterable[int]]
"""(photos' numbers, what is done) -> the numbers, with a bar."""


class Cleaning:
    """The steps of one export.

    Args:
        plan: what it works with.
        config: how.
        scratch: step -> the folder of its results.
        track: shows how far a step is.
    """

    def __init__(self, plan: Plan, config: ExportConfig, scratch: Callable[[str], Path], track: Track) -> None:
        self.plan, self.config, self._scratch, self._track = plan, config, scratch, track
        views = plan.views
        is_source = [not view.splits or "train" in view.splits for view in views]
        self._order = order_along_path(views)
        self._sources: Sources | None = None
        image = Recent(lambda number: views[number].read_image(), most_sources(views) + 1)
        read = Recent(self._read, kept_photos(views, 4_000_000))
        self.given = Layers(views, is_source, read, image)
        """The photos, their depth as it was rendered."""
        self.shown = Layers(views, is_source, lambda number: self._on_planes(number, self._own_labels(number)), image)
        """With depth moved onto the planes that they show."""
        self.layers = self.given
        """With depth moved onto planes in the region, too; after `find_surfaces`."""
        self.planes = np.zeros((0, 4))
        self.photos = _OpenPhotos(self)
        """The photos after `fill`."""

    def _read(self, number: int) -> ViewLayers:
        return load_layers(self.plan, self.config, number, self.given.image(number))

    # ------------------------------------------------------------------------------------------------------------ surfaces
    def find_surfaces(self) -> None:
        """The planes around the regions, from what the photos show, and where they go on."""
        if not self.plan.by_surface:
            return
        self.planes = self._planes()
        for number in self._track(self._left(SURFACES), "Finding surfaces"):
            self._keep(SURFACES, number, labels=self._surface(number))
        self._sources = Sources(self.shown)
        for number in self._track(self._left(CONTINUED), "Continuing surfaces"):
            self._keep(CONTINUED, number, labels=self._continued(number))
        own = self.given
        self.layers = Layers(own.views, own.is_source, lambda number: self._on_planes(number, self.labels(number)), own.image)

    def labels(self, number: int) -> Labels:
        """(H, W): which plane each of a photo's pixels shows, in the region the one that goes on there."""
        return self._kept_labels(CONTINUED, number)

    def _planes(self) -> npt.NDArray[np.float64]:
        path = self._scratch(SURFACES) / "planes.npy"
        if not path.is_file():
            able = [number for number, source in enumerate(self.given.is_source) if source]
            around = (np.where(x.region, 0, x.z_visible) for x in map(self.given.__getitem__, able))
            regions = (self.given[number].region for number in able)
            planes = find_planes([self.given.views[number] for number in able], around, regions)
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, planes)
        return np.load(path)

    def _surface(self, number: int) -> Labels:
        layer = self.given[number]
        return surface_labels(layer.view, layer.z_visible, layer.region, self.planes)[surroundings(layer.region)]

    def _continued(self, number: int) -> Labels:
        layer, labels = self.shown[number], self._own_labels(number)
        assert self._sources is not None
        found = continued(layer, self._sources.of(number, layer), self.planes, labels)
        return found[surroundings(layer.region)]

    def _own_labels(self, number: int) -> Labels:
        return self._kept_labels(SURFACES, number)

    def _kept_labels(self, step: str, number: int) -> Labels:
        region = self.given[number].region
        labels = np.full(region.shape, REST, np.uint8)
        if region.any():
            labels[surroundings(region)] = self._kept(step, number)["labels"]
        return labels

    def _on_planes(self, number: int, labels: Labels) -> ViewLayers:
        layer = self.given[number]
        return replace(layer, z_visible=snapped(layer.view, layer.z_visible, layer.region, self.planes, labels))

    # ------------------------------------------------------------------------------------------------------------- filling
    def fill(self) -> None:
        """What the photos show of each other's regions, and depth."""
        if self._sources is None:
            self._sources = Sources(self.layers)
        for number in self._track(self._left(FILLED), "Filling from other photos"):
            self._keep(FILLED, number, **self._filled(number))
        self._sources = None  # and its window

    def areas(self) -> tuple[list[int], list[int]]:
        """Per photo the pixels of its region, and those that no photo shows; after `fill`."""
        areas = []
        for number in range(len(self.given)):
            areas.append(self._kept(FILLED, number)["areas"].tolist() if self._path(FILLED, number).is_file() else [0, 0])
        return [area[0] for area in areas], [area[1] for area in areas]

    def _filled(self, number: int) -> dict[str, npt.NDArray]:
        layer = self.layers[number]
        filled = self._from_views(number, layer)
        z = filled.z
        if self.plan.by_surface:
            z = snapped(layer.view, z, layer.region, self.planes, self.labels(number))
        z = self._completed(layer, z)
        window = window_around(layer.region)
        areas = np.array([layer.region.sum(), filled.unseen_mask.sum()], np.int64)
        return {"image": filled.image[window], "unseen": filled.unseen_mask[window], "z": z[window], "areas": areas}

    def _from_views(self, number: int, layer: ViewLayers) -> Filled:
        if not self.config.fill_from_views:
            return Filled(layer.image, layer.region, np.where(layer.region, 0, layer.z_visible).astype(np.float32))
        if self.plan.without_object:
            layer = replace(layer, z_background=layer.z_visible)
        assert self._sources is not None
        return fill_photo(layer, self._sources.of(number, layer), self.config.depth_tolerance)

    def _completed(self, layer: ViewLayers, z: Floats) -> Floats:
        """(H, W) depth without the object: what was filled keeps its own, the rest of the region is continued from around it;
        unknown where the photo has no depth to continue."""
        known = np.where(layer.region, z, layer.z_visible).astype(np.float32)
        # Everything in the region without a depth is completed, filled pixels with an uncertain depth included.
        to_complete = layer.region & (known <= 0)
        disparity = z_to_disparity(known)
        if to_complete.any() and not (known > 0).any():
            say(
                f"{layer.view.photo}: no depth is known in this photo, so none is given where the object was; its colours are "
                "inpainted"
            )
        elif to_complete.any():
            disparity = self.plan.disparity_inpainter.inpaint_disparity(disparity, to_complete)
        return disparity_to_z(disparity).astype(np.float32)

    # ------------------------------------------------------------------------------------------------------------- drawing
    def rehearsed(self, with_region: Sequence[int]) -> Rehearsal:
        """Whether this scene is better inpainted surface by surface or as it looks, by regions planted where the truth is known.

        Args:
            with_region: numbers of the photos that show the object.
        """
        planes, inpainter = self.planes, self.plan.inpainter

        def by_surface(number: int, hidden: ViewLayers) -> Image:
            hidden = replace(hidden, z_visible=np.where(hidden.region, 0, hidden.z_visible).astype(np.float32))
            labels = surface_labels(hidden.view, hidden.z_visible, hidden.region, planes)
            # The other photos would give the answer away; where nobody looks, they can say nothing.
            return drawn(hidden, hidden.image, hidden.region, continued(hidden, [], planes, labels), inpainter)

        def whole(number: int, hidden: ViewLayers) -> Image:
            return drawn(hidden, hidden.image, hidden.region, None, inpainter)

        return rehearse(self.layers, {BY_SURFACE: by_surface, "whole": whole}, with_region)

    # ------------------------------------------------------------------------------------------------------------- on disk
    def _left(self, step: str) -> list[int]:
        """Numbers of the photos with a region that the step has not done, along the camera path."""
        return [number for number in self._order if not self._path(step, number).is_file() and self.given[number].region.any()]

    def _path(self, step: str, number: int) -> Path:
        return self._scratch(step) / f"{self.plan.views[number].photo}.npz"

    def _keep(self, step: str, number: int, **arrays: npt.NDArray) -> None:
        with atomic_path(self._path(step, number)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def _kept(self, step: str, number: int) -> dict[str, npt.NDArray]:
        with np.load(self._path(step, number), allow_pickle=False) as kept:
            return dict(kept)


class _OpenPhotos(Sequence[Open]):
    """The photos with what other photos show of their regions; each is put together when it is asked for."""

    def __init__(self, cleaning: Cleaning) -> None:
        self._cleaning = cleaning
        self._recent = Recent(self._open, kept_photos(cleaning.plan.views, 16_000_000))

    def __len__(self) -> int:
        return len(self._cleaning.given)

    def __getitem__(self, number: int) -> Open:  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._recent(int(number))

    def _open(self, number: int) -> Open:
        layer = self._cleaning.layers[number]
        image, to_fill = layer.image, np.zeros_like(layer.region)
        z = disparity_to_z(z_to_disparity(np.where(layer.region, 0, layer.z_visible).astype(np.float32)))
        if layer.region.any():
            kept, window = self._cleaning._kept(FILLED, number), window_around(layer.region)
            image = image.copy()
            image[window], to_fill[window] = kept["image"], kept["unseen"]
            z[window] = kept["z"]
        return Open(layer.view, image, to_fill, z, layer.is_source)


def drawn(layer: ViewLayers, image: Image, to_fill: BoolMask, labels: Labels | None, inpainter: Any) -> Image:
    """A photo with `to_fill` inpainted; with labels, each surface's part from that surface alone."""
    photo = layer.view.photo

    def fill(image: Image, to_fill: BoolMask) -> Image:
        if layer.valid_mask is not None:
            to_fill = to_fill | ~layer.valid_mask  # what may not be used is nothing to draw from
        return inpainter.inpaint(image, to_fill, photo)

    if labels is None:
        return np.where(to_fill[..., None], fill(image, to_fill), image)
    return fill_by_surface(fill, image, to_fill, labels)
