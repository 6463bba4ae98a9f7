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
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene.view import View
from spinnerf_ns.segmentation.prompts import check_source
from spinnerf_ns.segmentation.refine import (
    apply_palette,
    build_palette,
    clean_components,
    local_colour_probability,
    log_odds,
    random_walk,
    sigmoid,
    signed_distance,
    to_lab,
)
from spinnerf_ns.segmentation.trackers.carried import ColourModel, Hull, Known, surface_points, votes
from spinnerf_ns.stereo.maps import Stereo

Floats = NDArray[np.float32]

FULL_VOTE = 1.5
"""Votes for or against at which a pixel is as sure as carried pixels get."""
HULL_ODDS = 1.2
"""Log odds of the object inside the hull, where nobody voted, once many masks have carved it."""
OUT_OF_HULL_ODDS = -3.0
"""The same well outside of it."""
BESIDE_HULL = 0.02
"""What well outside means, as a part of the photo's width."""
CARVED = 6
"""So many known photos are many; with fewer the hull says less."""
VOTES_REACH = 1.0
"""Gaussian radius, in pixels of the depth map, in which a vote counts: on grass and leaves only some pixels have one."""
LEAST_IN_FRAME = 0.02
"""A photo that shows less of the hull does not show the object."""
LEVELS = np.linspace(0.5, 0.2, 13)
"""Where probabilities may be cut. Not above a half: a mask that is too small leaves the object's rim in the photo."""
CACHED_PHOTOS = 16


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

    name = "geometry"
    found: Callable[[int, BoolMask], None] | None = field(default=None, repr=False, compare=False)
    """Called with a photo's index and mask as soon as there is one."""

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
            progress: called with a photo's index when it is done.

        Returns:
            Per photo (H, W) bool at its full size, or None where the object was not found again.

        Raises:
            SpinnerfError: no source mask, an index that is no photo's, a mask of another size than its photo, no depth.
        """
        views = getattr(self, "_views", None)
        if views is None or len(views) != len(images):
            raise SpinnerfError("tracker 'geometry' needs dense depth of these photos; use another one: --tracker flow")
        run = _Run(self, images, views, self._depth)
        run.take_sources(source_masks)
        for index in sorted(source_masks):
            run.report(index, progress)
        run.spread(progress)
        return run.masks


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
        self.known: dict[int, Known] = {}
        self.hull: Hull | None = None
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
        surface = surface_points(list(self.known.values()))
        if len(surface) < 10:
            return
        self.center = np.median(surface, axis=0)
        self.hull = Hull(surface)
        for one in self.known.values():
            self.hull.carve(one.view, one.object_mask)

    def spread(self, progress: Callable[[int], None] | None) -> None:
        """Photo by photo, from what is known to what is nearest."""
        waiting = [index for index in range(len(self.images)) if self.masks[index] is None]
        while self.hull is not None and waiting:
            refused = []
            before = len(self.known)
            while waiting:
                index = min(waiting, key=lambda other: (min(self._apart(other, k) for k in self.known), other))
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
                self._revise()

    def _revise(self) -> None:
        """Fits every photo again, from all the others: the first ones were fitted when little was known."""
        surface = surface_points([self.known[i] for i in self.sources])
        hull, colours = Hull(surface), ColourModel()
        for index, one in self.known.items():
            hull.carve(one.view, one.object_mask)
            colours.learn(to_lab(self.photo(index)), one.object_mask, 3.0 if index in self.sources else one.worth)
        self.hull, self.colours = hull, colours
        self.level = self._find_level()
        before = dict(self.known)
        for index in range(len(self.images)):
            if index in self.sources or self.masks[index] is not None and index not in before:
                continue
            one = self._fitted(index, {other: known for other, known in before.items() if other != index}, patient=False)
            if one is None:
                continue
            object_mask, agreement = one
            self.masks[index] = object_mask
            worth = max(0.3, agreement * 0.95 ** self._steps.get(index, len(before)))
            stereo = self.read_depth(self.views[index].photo)
            self.known[index] = Known(self.views[index], object_mask, stereo.z, stereo.confidence, worth)

    # ------------------------------------------------------------------------------------------------------------- a photo
    def photo(self, index: int) -> Image:
        if index not in self._photos:
            self._photos[index] = self.images[index]()
            if len(self._photos) > CACHED_PHOTOS:
                self._photos.popitem(last=False)
        self._photos.move_to_end(index)
        return self._photos[index]

    def _know(self, index: int, object_mask: BoolMask, worth: float, steps: int) -> None:
        stereo = self.read_depth(self.views[index].photo)
        self.known[index] = Known(self.views[index], object_mask, stereo.z, stereo.confidence, worth)
        self._steps[index] = steps
        self.colours.learn(to_lab(self.photo(index)), object_mask, 3.0 if steps == 0 else worth)

    def _apart(self, one: int, other: int) -> float:
        """How differently two photos show the object: the angle between them, and the step in size."""
        offsets = [self.views[i].c2w[:, 3] - self.center for i in (one, other)]
        lengths = [max(float(np.linalg.norm(offset)), 1e-9) for offset in offsets]
        cosine = float(offsets[0] @ offsets[1]) / (lengths[0] * lengths[1])
        return float(np.arccos(np.clip(cosine, -1, 1))) + 0.5 * abs(float(np.log(lengths[0] / lengths[1])))

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
        self.hull.carve(self.views[index], object_mask)
        return True

    def _known_near(self, index: int, known: dict[int, Known]) -> list[int]:
        """The photos that vote on a photo."""
        near = sorted(known, key=lambda other: (self._apart(index, other), other))[: self.options.references]
        return list(dict.fromkeys([*near, *(source for source in self.sources if source in known)]))

    def _carried(self, index: int, known: dict[int, Known]) -> tuple[_Carried, Floats] | None:
        """What other photos say of a photo, and its fitted probabilities; None where it does not show the hull."""
        view, stereo = self.views[index], self.read_depth(self.views[index].photo)
        possible, in_frame = self.hull.silhouette(view, stereo.z.shape)
        if in_frame < LEAST_IN_FRAME or not possible.any():
            return None
        around = cv2.dilate(possible.astype(np.uint8), np.ones((41, 41), np.uint8)) > 0
        chosen = [known[other] for other in self._known_near(index, known)]
        said = votes(view, stereo.z, stereo.confidence, chosen, around)
        prior = _Carried(*said, possible, min(1.0, len(known) / CARVED))
        probability = prior.fitted(self.photo(index), self.colours, self.options)
        return None if probability is None else (prior, probability)

    def _fitted(self, index: int, known: dict[int, Known], patient: bool) -> tuple[BoolMask, float] | None:
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


class _Carried:
    """What known photos and the hull say of a photo, on its depth map's grid.

    Args:
        votes_for, votes_against: (h, w).
        possible: (h, w) the hull's silhouette.
        carved: how far the hull is to be believed, in [0, 1].
    """

    def __init__(self, votes_for: Floats, votes_against: Floats, possible: BoolMask, carved: float) -> None:
        votes_for, votes_against = (cv2.GaussianBlur(each, (0, 0), VOTES_REACH) for each in (votes_for, votes_against))
        total = votes_for + votes_against
        self.voted = total > 0.25
        self.says = (votes_for - votes_against) / np.maximum(total, 1e-6)
        strength = np.minimum(total / FULL_VOTE, 1.0)
        odds = 3.0 * self.says * strength
        # The hull ends where the masks do, which may be too early: only well outside of it nothing is object.
        beyond = np.minimum(-signed_distance(possible) / (BESIDE_HULL * possible.shape[1]), 1.0)
        unsaid = np.where(possible, HULL_ODDS * carved, OUT_OF_HULL_ODDS * beyond)
        odds = np.where(self.voted, odds, unsaid)
        self.odds = odds.astype(np.float32)
        self.object = self.voted & (self.says > 0)
        self.possible = possible

    def agreement(self, object_mask: BoolMask) -> tuple[float, float]:
        """IoU with what was carried, among voted pixels; and the part of the mask that was voted to be object."""
        small = cv2.resize(object_mask.astype(np.float32), self.odds.shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
        both, either = small & self.object, (small | self.object) & self.voted
        return float(both.sum() / max(1, either.sum())), float(both.sum() / max(1, small.sum()))

    def fitted(self, image: Image, colours: ColourModel, options: GeometryTracker) -> Floats | None:
        """(H, W) probability of the object that follows the photo's edges; None where there is nothing to fit."""
        window = self._window(image, options.window_size)
        if window is None:
            return None
        affine, size = window
        height, width = image.shape[:2]
        scale = abs(affine[0, 0])
        shown = cv2.GaussianBlur(image, (0, 0), 0.4 / scale) if scale < 0.6 else image
        how = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
        lab = to_lab(cv2.warpAffine(shown, affine, size, **how))
        across, down = self.odds.shape[1] / width, self.odds.shape[0] / height
        to_photo = np.array([[1 / across, 0, 0.5 / across - 0.5], [0, 1 / down, 0.5 / down - 0.5]])
        from_map = np.c_[affine[:, :2] @ to_photo[:, :2], affine[:, :2] @ to_photo[:, 2] + affine[:, 2]]
        odds = cv2.warpAffine(cv2.medianBlur(self.odds, 3), from_map, size, **how)
        voted = cv2.warpAffine(self.voted.astype(np.float32), from_map, size, **how) > 0.5
        probability = _fit(lab, odds, voted, colours.log_ratio(lab), options)
        found = cv2.warpAffine(probability, affine, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        return found

    def _window(self, image: Image, longest: int) -> tuple[NDArray[np.float64], tuple[int, int]] | None:
        """(2, 3) from the photo's pixels to a window around where the object may be, and its (width, height)."""
        # Specks of votes do not widen it.
        core = cv2.morphologyEx(self.object.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
        wanted = core if core.sum() >= 20 else self.possible
        wanted = wanted & cv2.dilate(self.possible.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        rows, columns = np.nonzero(wanted)
        if not len(rows):
            return None
        scale = np.array([image.shape[1] / self.odds.shape[1], image.shape[0] / self.odds.shape[0]])
        low = np.array([columns.min(), rows.min()]) * scale
        high = np.array([columns.max() + 1, rows.max() + 1]) * scale
        margin = 0.4 * float((high - low).max()) + 8
        low, high = np.maximum(low - margin, 0), np.minimum(high + margin, [image.shape[1], image.shape[0]])
        zoom = longest / float((high - low).max())
        affine = np.array([[zoom, 0, 0.5 * zoom - 0.5 - low[0] * zoom], [0, zoom, 0.5 * zoom - 0.5 - low[1] * zoom]])
        return affine, (max(16, round(zoom * (high - low)[0])), max(16, round(zoom * (high - low)[1])))


def _fit(lab: Image, odds: Floats, voted: BoolMask, likely: Floats, options: GeometryTracker) -> Floats:
    """(H, W) probability of the object: votes, local colours, edges."""
    unsaid = cv2.GaussianBlur(1.0 - voted.astype(np.float32), (0, 0), 2.0)
    carried = cv2.GaussianBlur(odds, (0, 0), 2.0) + likely * unsaid
    distance = signed_distance(carried > 0)
    depth = min(float(options.band), 0.6 * max(1.0, float(distance.max())))
    surely_object = (distance > depth) & (carried > 1.0)
    surely_background = (distance < -options.band) & (carried < -1.0)
    own = apply_palette(lab, build_palette(lab, options.colours))
    said = voted & (np.abs(carried) > 1.0)
    labels = (carried > 0).astype(np.float32)
    evidence = [
        (own, labels, (surely_object | surely_background).astype(np.float32)),
        (own, labels, 0.5 * said.astype(np.float32)),
    ]
    colour, _ = local_colour_probability(own, evidence, options.colour_radius)
    prior = sigmoid(carried + log_odds(colour)).astype(np.float32)
    return random_walk(lab, prior, np.abs(2 * prior - 1), surely_object, surely_background, options.smoothness)
