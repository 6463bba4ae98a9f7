"""Carries an object's mask from photo to photo by depth, and fits it to every photo anew.

Where dense depth of the photos is at hand (see `stereo`), a pixel says itself where other photos show it: around a full circle,
over large steps, and after the object was out of the frame. For each photo, those first that look at the object from nearest by:

1. Photos with known masks vote on its pixels (see `carried`): the source always, and those that look from a similar side.
2. What nobody can say (surfaces that come into sight, even ones without depth) is bounded by the visual hull of all known masks.
3. The votes are fitted to the photo's colours and edges, as the flow tracker does it (see `refine`).
4. The mask is taken only where what was carried and what was fitted agree; then the photo votes, too. What was refused is tried
   again when more is known: from the other side, or by the hull.

A photo that shows nothing of the hull gets None: the object is out of the frame.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.hints import say
from spinnerf_ns.scene.view import View
from spinnerf_ns.segmentation.prompts import check_source
from spinnerf_ns.segmentation.refine import clean_components, to_lab
from spinnerf_ns.segmentation.trackers.agreed import agreed
from spinnerf_ns.segmentation.trackers.carried import Carried, ColourModel, Hull, Known, Masked, surface_points, votes
from spinnerf_ns.segmentation.trackers.flow import LEVELS, FlowTracker
from spinnerf_ns.stereo.maps import Stereo

Floats = NDArray[np.float32]

CARVED = 6
"""So many known photos are many; with fewer the hull says less."""
LEAST_IN_FRAME = 0.02
"""A photo that shows less of the hull does not show the object."""
CACHED_PHOTOS = 16
CACHED_VOTERS = 32
"""Known photos whose depth is in memory: what votes on a photo votes on its neighbours, too."""


@dataclass
class GeometryTracker:
    """Depth carries the mask; votes, the visual hull and the photo's own edges decide (no weights). Needs dense depth."""

    window_size: int = 320
    """Longest side, in pixels, to which the window around the object is scaled. Lengths below are in its pixels."""
    references: int = 8
    """Known photos that vote on each photo, besides the sources."""
    band: int = 14
    """Half width of the band around the carried contour in which the mask may change."""
    colours: int = 48
    """Clusters of the local colour models."""
    colour_radius: float = 14.0
    """Gaussian radius of the neighbourhood of a local colour model."""
    smoothness: float = 8.0
    """How far the fit follows the photo's flat areas against votes and colour."""
    least_agreement: float = 0.6
    """A photo's mask is refused when it overlaps (IoU) what was carried less than this, among the pixels that were voted on."""
    least_voted: float = 0.1
    """A photo's mask is refused when votes for the object cover less than this part of it, until nothing else is left to try."""

    rounds: int = 2
    """So often all photos are fitted again from all others, when all are known."""
    checked: bool = True
    """Whether optical flow carries the masks, too, and a photo keeps the mask that agrees better with the others'."""

    name = "geometry"
    found = None
    """Called with a photo's index and mask as soon as there is one, if it is a function."""

    def place(self, views: Sequence[View], depth: Callable[[str], Stereo]) -> None:
        """Says where the photos were taken and how far everything is; before `track`.

        Args:
            views: as the images of `track`.
            depth: a photo's key -> its dense depth, at any size.
        """
        self._views, self._depth = list(views), depth

    def track(
        self,
        images: Sequence[Callable[[], Image]],
        source_masks: dict[int, BoolMask],
        progress: Callable[[int], None] | None = None,
    ) -> list[BoolMask | None]:
        """Masks in all photos, from masks in some.

        Args:
            images: one function per photo that reads it: (H, W, 3) uint8 RGB; those of the views given to `place`.
            source_masks: index of a photo -> (H, W) bool, True = object; returned as they are.
            progress: called with a photo's index when it is done, once for each look at all photos.

        Returns:
            Per photo (H, W) bool at its full size, or None where the object was not found again.

        Raises:
            SpinnerfError: no source mask, an index that is no photo's, a mask of another size than its photo.
        """
        views = getattr(self, "_views", None)
        if views is None or len(views) != len(images):
            return self._by_flow(images, source_masks, progress, "there is no dense depth of these photos")
        run = _Run(self, images, views, self._depth)
        run.take_sources(source_masks)
        if run.sources and run.hull is None:
            return self._by_flow(images, source_masks, progress, "the object has no depth in the photo pointed at")
        for index in sorted(source_masks):
            run.report(index, progress)
        run.spread(progress)
        return self._checked(images, source_masks, run.masks, progress) if self.checked else run.masks

    def _checked(
        self,
        images: Sequence[Callable[[], Image]],
        source_masks: dict[int, BoolMask],
        masks: list[BoolMask | None],
        progress: Callable[[int], None] | None,
    ) -> list[BoolMask | None]:
        """Depth may be wrong, or the object stand before what has none: then flow's masks agree better with one another."""
        taken, by_flow = agreed(self._views, masks, FlowTracker().track(images, source_masks, progress), source_masks)
        if any(by_flow):
            say(f"tracker geometry: {sum(by_flow)} of {len(masks)} photos take optical flow's mask, which fits those of the others")
        return taken

    @staticmethod
    def _by_flow(
        images: Sequence[Callable[[], Image]],
        source_masks: dict[int, BoolMask],
        progress: Callable[[int], None] | None,
        reason: str,
    ) -> list[BoolMask | None]:
        say(f"tracker geometry: {reason}; optical flow carries the masks")
        return FlowTracker().track(images, source_masks, progress)


class _Run:
    """What is known so far about one object."""

    def __init__(
        self,
        options: GeometryTracker,
        images: Sequence[Callable[[], Image]],
        views: Sequence[View],
        depth: Callable[[str], Stereo],
    ) -> None:
        self.options, self.images, self.views, self.read_depth = options, images, views, depth
        self.masks: list[BoolMask | None] = [None] * len(images)
        self.sources: list[int] = []
        self.known: dict[int, Masked] = {}
        self.hull: Hull | None = None
        self._offsets: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._nearest = np.full(len(images), np.inf)
        """How differently each photo shows the object from that known photo that shows it most alike."""
        self._with_depth: OrderedDict[Masked, Known] = OrderedDict()
        self.colours = ColourModel()
        self.level = float(LEVELS[0])
        self._steps: dict[int, int] = {}
        self._photos: OrderedDict[int, Image] = OrderedDict()
        self._reported: set[int] = set()

    def report(self, index: int, progress: Callable[[int], None] | None) -> None:
        """Says that a photo is done, once."""
        if self.options.found is not None and self.masks[index] is not None:
            self.options.found(index, self.masks[index])
        if progress is not None and index not in self._reported:
            progress(index)
        self._reported.add(index)

    def take_sources(self, source_masks: dict[int, BoolMask]) -> None:
        name, count = self.options.name, len(self.images)
        if not source_masks:
            check_source(name, None, count)
        for index, object_mask in source_masks.items():
            check_source(name, index, count)
            object_mask = np.asarray(object_mask, dtype=bool)
            check_source(name, index, count, object_mask.shape, (self.views[index].height, self.views[index].width))
            self.masks[index] = object_mask
            if object_mask.any():
                self.sources.append(index)
                self._know(index, object_mask, 1.0, 0)
        surface = surface_points([self._known_with_depth(one) for one in self.known.values()])
        if len(surface) < 10:
            return
        self.center = np.median(surface, axis=0)
        for index in self.known:
            self._nearest = np.minimum(self._nearest, self._apart_from(index))
        self.hull = Hull(surface)
        for one in self.known.values():
            self.hull.carve(one)

    def spread(self, progress: Callable[[int], None] | None) -> None:
        """Photo by photo, from what is known to what is nearest."""
        waiting = [index for index in range(len(self.images)) if self.masks[index] is None]
        while self.hull is not None and waiting:
            refused = []
            before = len(self.known)
            while waiting:
                index = min(waiting, key=lambda other: (self._nearest[other], other))
                waiting.remove(index)
                if self._try(index, patient=True):
                    self.report(index, progress)
                else:
                    refused.append(index)
            waiting = refused
            if len(self.known) == before:
                break
        for index in waiting:
            if self.hull is not None:
                self._try(index, patient=False)
            self.report(index, progress)
        if self.hull is not None:
            for _ in range(self.options.rounds):
                self._revise(progress)

    def _revise(self, progress: Callable[[int], None] | None) -> None:
        """Fits every photo again, from all the others: the first ones were fitted when little was known."""
        surface = surface_points([self._known_with_depth(self.known[i]) for i in self.sources])
        hull, colours = Hull(surface), ColourModel()
        for index, one in self.known.items():
            hull.carve(one)
            colours.learn(to_lab(self.photo(index)), one.object_mask, 3.0 if index in self.sources else one.worth)
        self.hull, self.colours = hull, colours
        self.level = self._find_level()
        before = dict(self.known)
        for index in range(len(self.images)):
            if progress is not None:
                progress(index)
            if index in self.sources or self.masks[index] is not None and index not in before:
                continue
            one = self._fitted(index, {other: known for other, known in before.items() if other != index}, patient=False)
            if one is None:
                continue
            object_mask, agreement = one
            self.masks[index] = object_mask
            worth = max(0.3, agreement * 0.95 ** self._steps.get(index, len(before)))
            self.known[index] = Masked(self.views[index], object_mask, worth, False)

    # ------------------------------------------------------------------------------------------------------------- a photo
    def photo(self, index: int) -> Image:
        if index not in self._photos:
            self._photos[index] = self.images[index]()
            if len(self._photos) > CACHED_PHOTOS:
                self._photos.popitem(last=False)
        self._photos.move_to_end(index)
        return self._photos[index]

    def _know(self, index: int, object_mask: BoolMask, worth: float, steps: int) -> None:
        self.known[index] = Masked(self.views[index], object_mask, worth, steps == 0)
        self._steps[index] = steps
        if self.hull is not None:
            self._nearest = np.minimum(self._nearest, self._apart_from(index))
        self.colours.learn(to_lab(self.photo(index)), object_mask, 3.0 if steps == 0 else worth)

    def _known_with_depth(self, masked: Masked) -> Known:
        """A photo whose mask is known, with its depth: of those that voted last it is at hand."""
        if masked not in self._with_depth:
            if len(self._with_depth) >= CACHED_VOTERS:
                self._with_depth.popitem(last=False)
            stereo = self.read_depth(masked.view.photo)
            self._with_depth[masked] = Known(
                masked.view, masked.object_mask, stereo.z, stereo.confidence, masked.worth, masked.is_source
            )
        self._with_depth.move_to_end(masked)
        return self._with_depth[masked]

    def _apart_from(self, index: int) -> NDArray[np.float64]:
        """(N,) how differently all photos show the object from how one does."""
        if self._offsets is None:
            offsets = np.stack([view.c2w[:, 3] for view in self.views]) - self.center
            lengths = np.maximum(np.linalg.norm(offsets, axis=1), 1e-9)
            self._offsets = offsets, lengths
        offsets, lengths = self._offsets
        cosine = (offsets @ offsets[index]) / (lengths * lengths[index])
        return np.arccos(np.clip(cosine, -1, 1)) + 0.5 * np.abs(np.log(lengths / lengths[index]))

    def _try(self, index: int, patient: bool) -> bool:
        """Looks for the object in a photo; whether a mask was taken."""
        one = self._fitted(index, self.known, patient)
        if one is None:
            return False
        object_mask, agreement = one
        self.masks[index] = object_mask
        nearest = min(self._known_near(index, self.known), key=self._steps.__getitem__)
        steps = self._steps[nearest] + 1
        self._know(index, object_mask, max(0.3, agreement * 0.95**steps), steps)
        self.hull.carve(self.known[index])
        return True

    def _known_near(self, index: int, known: dict[int, Masked]) -> list[int]:
        """The photos that vote on a photo."""
        apart = self._apart_from(index)
        near = sorted(known, key=lambda other: (apart[other], other))[: self.options.references]
        return list(dict.fromkeys([*near, *(source for source in self.sources if source in known)]))

    def _carried(self, index: int, known: dict[int, Masked]) -> tuple[Carried, Floats] | None:
        """What other photos say of a photo, and its fitted probabilities; None where it does not show the hull."""
        view, stereo = self.views[index], self.read_depth(self.views[index].photo)
        possible, in_frame = self.hull.silhouette(view, stereo.z.shape)
        if in_frame < LEAST_IN_FRAME or not possible.any():
            return None
        around = cv2.dilate(possible.astype(np.uint8), np.ones((41, 41), np.uint8)) > 0
        chosen = [self._known_with_depth(known[other]) for other in self._known_near(index, known)]
        said = votes(view, stereo.z, stereo.confidence, chosen, around)
        prior = Carried(*said, possible, min(1.0, len(known) / CARVED))
        probability = prior.fitted(self.photo(index), self.colours, self.options)
        return None if probability is None else (prior, probability)

    def _fitted(self, index: int, known: dict[int, Masked], patient: bool) -> tuple[BoolMask, float] | None:
        """A photo's mask and how far it agrees with what was carried; None where it is not to be believed."""
        carried = self._carried(index, known)
        if carried is None:
            return None
        prior, probability = carried
        object_mask = clean_components(probability > self.level)
        if not object_mask.any():
            return None
        agreement, voted = prior.agreement(object_mask)
        if agreement < self.options.least_agreement or (patient and voted < self.options.least_voted):
            return None
        return object_mask, agreement

    def _find_level(self) -> float:
        """Where probabilities are cut: where the sources, fitted from all other photos, give their own masks back best."""
        overlap, either = np.zeros(len(LEVELS)), np.zeros(len(LEVELS))
        for index in self.sources:
            others = {other: one for other, one in self.known.items() if other not in self.sources}
            carried = self._carried(index, others) if others else None
            if carried is None:
                continue
            for at, level in enumerate(LEVELS):
                found = carried[1] > level
                overlap[at] += (found & self.masks[index]).sum()
                either[at] += (found | self.masks[index]).sum()
        return float(LEVELS[np.argmax(overlap / np.maximum(either, 1))]) if either.any() else self.level
