"""From photos, regions and depth to clean photos: step after step over all photos, with a few of them in memory.

    surfaces     which plane each pixel around a region shows
    continued    where these planes go on in the region
    filled       what other photos show of the region; the depth of all of it
    rehearsed    in a few photos: how well each way of drawing does beside the region
    then photo by photo what no photo shows

Every step's results are a file per photo in the stage's scratch folder, of a window around the region alone. So memory does not
grow with the number of photos, and a run that was killed goes on at the photo where it was, in every step.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spinnerf_ns.accel.cpu import flush_subnormals
from spinnerf_ns.conventions import BoolMask, Image, disparity_to_z, window_around, z_to_disparity
from spinnerf_ns.files import atomic_path
from spinnerf_ns.hints import say
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.invention import Open, Reference, completed, left_out
from spinnerf_ns.removal.layers import Floats, Layers, Recent, ViewLayers, kept_photos
from spinnerf_ns.removal.plan import Plan, load_layers
from spinnerf_ns.removal.rehearsal import Fill, Rehearsal, Tried, decide, photos_to_try, try_photo
from spinnerf_ns.removal.surfaces.continuation import continued
from spinnerf_ns.removal.surfaces.planes import (
    REST,
    all_surface_labels,
    fill_by_surface,
    find_planes,
    shown_surfaces,
    snapped,
    surface_labels,
    surroundings,
)
from spinnerf_ns.removal.views.fill import Filled, Sources, fill_photo, most_sources
from spinnerf_ns.scene.camera_path import order_along_path
from spinnerf_ns.scene.removed import RemovedView, RemovedWriter

BY_SURFACE = "by surface"
"""Name of the way in which what no photo shows is drawn from its own surface alone."""

SURFACES, CONTINUED, FILLED, REHEARSED, WRITTEN = "surfaces", "continued", "filled", "rehearsed", "written"
"""Steps; those before the last one have a folder each."""
SAID = {
    SURFACES: "Finding surfaces", CONTINUED: "Continuing surfaces", FILLED: "Filling from other photos", REHEARSED: "Rehearsing",
    WRITTEN: "Inpainting",
}  # fmt: skip
"""Step -> what its bar says."""

Labels = npt.NDArray[np.uint8]


class Cleaning:
    """The steps of one export.

    Args:
        plan: what it works with.
        config: how.
        scratch: the folder of what steps found out.
        writer: writes clean photos.
    """

    def __init__(self, plan: Plan, config: ExportConfig, scratch: Path, writer: RemovedWriter) -> None:
        self.plan, self.config, self.scratch, self.writer = plan, config, scratch, writer
        views = plan.views
        is_source = [plan.is_source(view) for view in views]
        self._order = order_along_path(views)
        image = Recent(lambda number: plan.read_image(views[number]), most_sources(views) + 1)
        read = Recent(self._read, kept_photos(views, 4_000_000))
        self.given = Layers(views, is_source, read, image)
        """The photos, their depth as it was rendered."""
        self.shown = self.layers = self.given
        """With depth moved onto the planes that they show; after the step `surfaces`."""
        if plan.by_surface:
            self.shown = Layers(views, is_source, lambda number: self._on_planes(number, self._own_labels(number)), image)
            self.layers = Layers(views, is_source, lambda number: self._on_planes(number, self.labels(number)), image)
            """With depth moved onto planes in the region, too; after the step `continued`."""
        self.photos = _OpenPhotos(self)
        """The photos after the step `filled`."""

    @property
    def steps(self) -> list[str]:
        """The steps before drawing, in their order."""
        return [SURFACES, CONTINUED, FILLED] if self.plan.by_surface else [FILLED]

    def left(self, step: str) -> list[int]:
        """Numbers of the photos with a region that a step has not done, along the camera path."""
        if step == REHEARSED:
            takes_part = self.to_rehearse()
        else:
            clean = step == SURFACES
            takes_part = [number for number in self._order if self.given[number].region.any() or (clean and self._clean(number))]
        return [number for number in takes_part if not self._path(step, number).is_file()]

    def do(self, step: str, number: int) -> None:
        """Does a step for a photo."""
        work = {SURFACES: self._surface, CONTINUED: self._continued, FILLED: self._filled, REHEARSED: self._rehearsed}[step]
        with atomic_path(self._path(step, number)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **work(number))

    @cached_property
    def sources(self) -> Sources:
        """Which photos are asked about a photo; after the step `surfaces`."""
        return Sources(self.shown, [number for number in range(len(self.given)) if self._clean(number)])

    def _read(self, number: int) -> ViewLayers:
        return load_layers(self.plan, self.config, number, self.given.image(number))

    # ------------------------------------------------------------------------------------------------------------ surfaces
    @cached_property
    def planes(self) -> npt.NDArray[np.float64]:
        """(K, 4) the planes around the regions, from what the photos show; none where none are looked for."""
        if not self.plan.by_surface:
            return np.zeros((0, 4))
        path = self.scratch / "planes.npy"
        if not path.is_file():
            able = [number for number, source in enumerate(self.given.is_source) if source]
            around = (np.where(x.region, 0, x.z_visible) for x in map(self.given.__getitem__, able))
            regions = (self.given[number].region for number in able)
            planes = find_planes([self.given.views[number] for number in able], around, regions)
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, planes)
        return np.load(path)

    def labels(self, number: int) -> Labels:
        """(H, W): which plane each of a photo's pixels shows, in the region the one that goes on there."""
        return self._kept_labels(CONTINUED, number)

    def _surface(self, number: int) -> dict[str, npt.NDArray]:
        layer = self.given[number]
        if self._clean(number):  # it shows the surfaces wherever they are
            return {"labels": all_surface_labels(layer.view, layer.z_visible, self.planes)}
        labels = surface_labels(layer.view, layer.z_visible, layer.region, self.planes)
        return {"labels": labels[surroundings(layer.region)]}

    def _continued(self, number: int) -> dict[str, npt.NDArray]:
        layer, labels = self.shown[number], self._own_labels(number)
        found = continued(layer, self.sources.of(number, layer), self.planes, labels)
        return {"labels": found[surroundings(layer.region)]}

    def _own_labels(self, number: int) -> Labels:
        return self._kept_labels(SURFACES, number)

    def _clean(self, number: int) -> bool:
        return self.plan.views[number].photo in self.plan.clean

    def _kept_labels(self, step: str, number: int) -> Labels:
        if self._clean(number):
            return self._kept(SURFACES, number)["labels"]
        region = self.given[number].region
        labels = np.full(region.shape, REST, np.uint8)
        if region.any():
            labels[surroundings(region)] = self._kept(step, number)["labels"]
        return labels

    def _on_planes(self, number: int, labels: Labels) -> ViewLayers:
        layer = self.given[number]
        return replace(layer, z_visible=snapped(layer.view, layer.z_visible, layer.region, self.planes, labels))

    # ------------------------------------------------------------------------------------------------------------- filling
    def areas(self) -> tuple[list[int], list[int]]:
        """Per photo the pixels of its region, and those that no photo shows; after the step `filled`."""
        areas = []
        for number in range(len(self.given)):
            found = self._path(FILLED, number).is_file()
            areas.append(self._kept(FILLED, number, ("areas",))["areas"].tolist() if found else [0, 0])
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
        return fill_photo(layer, self.sources.of(number, layer), self.config.depth_tolerance)

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
    def rehearsal(self) -> Rehearsal:
        """Whether this scene is better inpainted surface by surface or as it looks, by regions planted where the truth is known."""
        tried = []
        for number in self.to_rehearse():
            kept = self._kept(REHEARSED, number)
            tried.append(Tried(kept["squares"].tolist(), int(kept["pixels"]), int(kept["places"])))
        return decide(list(self._ways), tried)

    def to_rehearse(self) -> list[int]:
        """Numbers of the photos of the step `rehearsed`; after the step `filled`."""
        return photos_to_try(self.given.is_source, [number for number, area in enumerate(self.areas()[0]) if area])

    def _rehearsed(self, number: int) -> dict[str, npt.NDArray]:
        layer = self.layers[number]
        goes_on = np.setdiff1d(self.labels(number)[layer.region], [REST])

        def alike(planted: BoolMask) -> BoolMask:
            return planted & np.isin(shown_surfaces(layer.view, layer.z_visible, planted, self.planes), goes_on)

        return {name: np.array(value) for name, value in vars(try_photo(number, layer, self._ways, alike)).items()}

    @property
    def _ways(self) -> dict[str, Fill]:
        planes, inpainter = self.planes, self.plan.inpainter

        def by_surface(number: int, hidden: ViewLayers) -> Image:
            layer = self.layers[number]
            planted = hidden.region & ~layer.region
            z = np.where(hidden.region, 0, hidden.z_visible).astype(np.float32)
            labels = surface_labels(hidden.view, z, hidden.region, planes)
            # Which surface goes on where the other photos say in the region; here they would show what is drawn as well.
            shown = shown_surfaces(layer.view, layer.z_visible, planted, planes)
            labels = np.where(planted, np.maximum(shown, REST), labels).astype(np.uint8)
            return drawn(hidden, hidden.image, hidden.region, labels, inpainter)

        def whole(number: int, hidden: ViewLayers) -> Image:
            return drawn(hidden, hidden.image, hidden.region, None, inpainter)

        return {BY_SURFACE: by_surface, "whole": whole}

    def draw(self, number: int, image: Image, to_fill: BoolMask, by_surface: bool) -> Image:
        """A photo with `to_fill` inpainted, as the rehearsal says."""
        labels = self.labels(number) if by_surface else None
        return drawn(self.layers[number], image, to_fill, labels, self.plan.inpainter)

    def write(self, number: int) -> int:
        """Writes a photo without the object, after `say_how`; how many of its pixels were carried from references."""
        references, by_surface = self._how
        photo = self.photos[number]

        def draw(number: int, image: Image, to_fill: BoolMask) -> Image:
            return self.draw(number, image, to_fill, by_surface)

        done = completed(references, number, photo, draw, self.config.carry) if self.config.invention else left_out(photo)
        region = self.layers[number].region
        self.writer.write(RemovedView(photo.view.photo, done.image, region, photo.to_fill, done.z))
        return int((done.source > 0).sum())

    def say_how(self, references: Sequence[Reference], by_surface: bool) -> None:
        """Says what photos are drawn from."""
        with atomic_path(self.scratch / "how.pickle") as temporary, open(temporary, "wb") as file:
            pickle.dump((list(references), by_surface), file)

    @cached_property
    def _how(self) -> tuple[list[Reference], bool]:
        with open(self.scratch / "how.pickle", "rb") as file:
            return pickle.load(file)

    # ------------------------------------------------------------------------------------------------------------- on disk
    def _path(self, step: str, number: int) -> Path:
        return self.scratch / step / f"{self.plan.views[number].photo}.npz"

    def _kept(self, step: str, number: int, names: Sequence[str] | None = None) -> dict[str, npt.NDArray]:
        """What a step found out of a photo, all of it or these arrays: the others are not read."""
        with np.load(self._path(step, number), allow_pickle=False) as kept:
            return {name: kept[name] for name in (kept.files if names is None else names)}


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
    valid = layer.valid_mask  # what may not be used is nothing to draw from
    if labels is None:
        return np.where(to_fill[..., None], inpainter.inpaint(image, to_fill if valid is None else to_fill | ~valid, photo), image)

    def fill(image: Image, to_fill: BoolMask, donors: BoolMask) -> Image:
        if hasattr(inpainter, "inpaint_from"):
            return inpainter.inpaint_from(image, to_fill, donors, photo)
        return inpainter.inpaint(image, ~donors, photo)

    return fill_by_surface(fill, image, to_fill, labels, valid)


# ------------------------------------------------------------------------------------------------------- in several processes
def prepare(flush: bool, *arguments: Any) -> Cleaning:
    """A process' own `Cleaning`, with the arithmetic of the process that asks."""
    if flush:
        flush_subnormals()
    return Cleaning(*arguments)


def do(cleaning: Cleaning, task: tuple[str, int]) -> int:
    """A step for a photo, or (`WRITTEN`) all that is left to do; what `Cleaning.write` returns."""
    step, number = task
    if step == WRITTEN:
        return cleaning.write(number)
    cleaning.do(step, number)
    return 0


def flushes() -> bool:
    """Whether numbers below 1.2e-38 are 0 here (`accel.cpu.flush_subnormals`)."""
    return bool(np.float32(1e-39) * np.float32(1) == 0)
