"""Carries an object's mask from photo to photo by optical flow, and fits it to every photo anew.

For each photo, the most similar first (see `photo_graph`):

1. The most similar tracked photo and the most similar source photo are its references. Dense flow, forwards and backwards,
   between whole photos gives an affine motion of the object, or feature matches do; each reference is warped by it, and flow
   in a window around the object does the rest. Only what agrees there and back inside the object counts; a smooth motion of
   the object is fitted to it (see `object_motion`), so that the background that appears behind it is not dragged along.
2. The references' masks, warped, vote by how well their colours match: the prior.
3. The prior is fitted to this photo in a band around its contour: local colour models from the references and from this
   photo's own sure pixels, then a random walk that stops at edges (see `refine`). So errors do not pile up: the source photo
   stays a reference, and the contour lies on an edge of the photo again before it is passed on.

A photo whose references are not found again in it gets None; the next ones are tried from what was tracked before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.conventions import BoolMask, Image
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
from spinnerf_ns.segmentation.trackers.object_motion import (
    DenseFlow,
    compose,
    fit_affine,
    fit_object_motion,
    match_affine,
    pixel_grid,
    rescaled,
)
from spinnerf_ns.segmentation.trackers.photo_graph import PhotoGraph

Floats = NDArray[np.float32]
CACHED_PHOTOS = 8
LEAST_WINDOW = 16
"""Least side of the window around the object, in its own pixels: flow wants some."""
UNSEEN_ODDS = -1.0
"""Log odds of the object where no reference shows anything: what comes into a frame mostly is background."""
LEVELS = np.linspace(0.5, 0.2, 13)
"""Where fitted probabilities may be cut. Not above a half: a mask that is too small leaves the object's rim in the photo."""


@dataclass
class FlowTracker:
    """Optical flow with a consistency check, a fitted object motion, and a re-fit on each photo (OpenCV, no weights)."""

    photo_size: int = 1024
    """Photos are worked on with this longest side at most; masks come back at full size."""
    flow_size: int = 480
    """Longest side, in pixels, at which whole photos are aligned."""
    window_size: int = 320
    """Longest side, in pixels, to which the window around the object is scaled. Lengths below are in its pixels."""
    references: int = 1
    """Most similar tracked photos that vote on each photo, besides the most similar source photo."""
    reach: int = 24
    """Each tracked photo is compared with so many neighbours on the path, to find what to track next; sources with all."""
    band: int = 14
    """Half width of the band around the warped contour in which the mask may change."""
    colours: int = 48
    """Clusters of the local colour models."""
    colour_radius: float = 14.0
    """Gaussian radius of the neighbourhood of a local colour model."""
    smoothness: float = 8.0
    """How far the fit follows the photo's flat areas against flow and colour."""
    least_support: float = 0.4
    """A photo is given up (None) when less than this fraction of the object is found again in it."""
    enough_support: float = 0.6
    """Below this fraction, features are matched as well, for motions that are too large for flow."""
    largest_change: float = 2.0
    """A photo is given up when the fit changes the area of the warped mask by more than this factor."""

    name = "flow"

    def track(
        self,
        images: Sequence[Callable[[], Image]],
        source_masks: dict[int, BoolMask],
        progress: Callable[[int], None] | None = None,
    ) -> list[BoolMask | None]:
        """Masks in all photos, from masks in some.

        Args:
            images: one function per photo, in the order of the camera path, that reads it: (H, W, 3) uint8 RGB; sizes may
                differ.
            source_masks: index of a photo -> (H, W) bool, True = object; returned as they are.
            progress: called with a photo's index when it is done.

        Returns:
            Per photo (H, W) bool at its full size, or None where the object was not found again.

        Raises:
            SpinnerfError: no source mask, an index that is no photo's, or a mask of another size than its photo.
        """
        run = _Run(self, images)
        run.take_sources(source_masks)
        for index in sorted(source_masks):
            if progress is not None:
                progress(index)
        waiting = [index for index in range(len(images)) if index not in source_masks] if run.sources else []
        lost = []
        while waiting:
            index = run.graph.next(waiting)
            waiting.remove(index)
            if not run.track_photo(index):
                lost.append(index)
            if progress is not None:
                progress(index)
        # What was lost may be found from photos that were tracked later.
        while any([run.track_photo(index) for index in lost if run.masks[index] is None]):
            pass
        return run.masks


class _Run:
    """What is known so far about one sequence of photos. Masks are kept at full size, affines in working pixels."""

    def __init__(self, options: FlowTracker, images: Sequence[Callable[[], Image]]) -> None:
        self.options = options
        self.images = images
        self.masks: list[BoolMask | None] = [None] * len(images)
        self.sources: list[int] = []
        self.affines: dict[tuple[int, int], NDArray[np.float64]] = {}
        self.graph = PhotoGraph(len(images), lambda index: self.photo(index)[0], options.reach)
        self._tried: dict[int, list[int]] = {}
        self._photos: OrderedDict[int, tuple[Image, tuple[int, int]]] = OrderedDict()

    def take_sources(self, source_masks: dict[int, BoolMask]) -> None:
        if not source_masks:
            check_source(self.options.name, None, len(self.images))
        for index, object_mask in source_masks.items():
            check_source(self.options.name, index, len(self.images))
            object_mask = np.asarray(object_mask, dtype=bool)
            _, shape = self.photo(index)
            check_source(self.options.name, index, len(self.images), object_mask.shape, shape)
            self.masks[index] = object_mask
            if object_mask.any():
                self.sources.append(index)
        for index in self.sources:
            self.graph.add_source(index, self.masks[index])

    @cached_property
    def level(self) -> float:
        """Where fitted probabilities are cut: where the fit of a source photo to itself gives its own mask back best.

        A mask's contour need not lie where the photo's edges and the fit's smoothing put it: drawn generously, it lies
        outside all around. Tracked masks shall be drawn as the source's is.
        """
        overlap, either = np.zeros(len(LEVELS)), np.zeros(len(LEVELS))
        identity = np.eye(2, 3)
        for index in self.sources:
            prior = self._prior(index, {index: identity})
            fitted = None if prior is None else prior.fitted()
            if fitted is None:
                continue
            for at, level in enumerate(LEVELS):
                found = fitted > level
                overlap[at] += (found & self.masks[index]).sum()
                either[at] += (found | self.masks[index]).sum()
        return float(LEVELS[np.argmax(overlap / np.maximum(either, 1))])

    def photo(self, index: int) -> tuple[Image, tuple[int, int]]:
        """The photo at working size, and its full (height, width)."""
        if index not in self._photos:
            image = self.images[index]()
            shape = (image.shape[0], image.shape[1])
            scale = min(1.0, self.options.photo_size / max(shape))
            if scale < 1:
                size = (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            self._photos[index] = (image, shape)
            while len(self._photos) > CACHED_PHOTOS:
                self._photos.popitem(last=False)
        self._photos.move_to_end(index)
        return self._photos[index]

    def mask(self, index: int) -> Floats:
        """A tracked mask at working size, (H, W) float32 in [0, 1]."""
        image, _ = self.photo(index)
        object_mask = self.masks[index].astype(np.float32)
        if object_mask.shape == image.shape[:2]:
            return object_mask
        return cv2.resize(object_mask, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_AREA)

    def align(self, reference: int, index: int) -> NDArray[np.float64]:
        """(2, 3) affine motion of the object from the reference's working pixels to the photo's."""
        if (reference, index) not in self.affines:
            first, second, scale = self._aligned_pair(reference, index)
            flow, agrees = DenseFlow(finest_scale=1)(first, second)
            affine = fit_affine(flow, agrees, self._known(reference, scale, first.shape))
            self.affines[reference, index] = rescaled(affine, 1 / scale)
        return self.affines[reference, index]

    def match(self, reference: int, index: int) -> NDArray[np.float64] | None:
        """As `align`, by features; None where they do not match."""
        first, second, scale = self._aligned_pair(reference, index)
        affine = match_affine(first, second, self._known(reference, scale, first.shape))
        return None if affine is None else rescaled(affine, 1 / scale)

    def _aligned_pair(self, reference: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], float]:
        """Both photos, small and grey, and their scale; photos of different sizes share a canvas."""
        images = [self.photo(reference)[0], self.photo(index)[0]]
        scale = self.options.flow_size / max(side for image in images for side in image.shape[:2])
        small = [_gray(_scaled(image, scale)) for image in images]
        height, width = np.maximum(small[0].shape, small[1].shape)
        first, second = (
            cv2.copyMakeBorder(image, 0, height - image.shape[0], 0, width - image.shape[1], cv2.BORDER_REPLICATE)
            for image in small
        )
        return first, second, scale

    def _known(self, reference: int, scale: float, shape: tuple[int, int]) -> BoolMask:
        """A tracked mask on the small canvas."""
        known = np.zeros(shape, np.float32)
        small = _scaled(self.mask(reference), scale)
        known[: small.shape[0], : small.shape[1]] = small
        return known > 0.5 if (known > 0.5).any() else known > 0

    def track_photo(self, index: int) -> bool:
        """Tries to find the object in a photo; whether it was tried with references not tried before, and found."""
        references = self.graph.references(index, self.options.references)
        if not references or self._tried.get(index) == references:
            return False
        self._tried[index] = references
        nearest = references[0]
        flow_affines = [self.align(nearest, index)]
        for other in references[1:]:
            known = self.affines.get((other, nearest))  # a short step composed with a known one beats one long step
            flow_affines.append(self.align(other, index) if known is None else compose(flow_affines[0], known))
        attempts = [dict(zip(references, flow_affines, strict=True))]
        best: _Prior | None = None
        while attempts:
            affines = attempts.pop(0)
            prior = self._prior(index, affines)
            if prior is not None and (best is None or prior.support > best.support):
                best = prior
            if (best is None or best.support < self.options.enough_support) and affines.get(nearest) is flow_affines[0]:
                matched = {other: self.match(other, index) for other in references}
                matched = {other: affine for other, affine in matched.items() if affine is not None}
                attempts += [matched] if matched else []
        if best is None or best.support < self.options.least_support:
            return False
        fitted = best.fitted()
        if fitted is None:
            return False
        object_mask = clean_components(fitted > self.level)
        if not object_mask.any():
            return False
        self.masks[index] = object_mask
        self.graph.add_tracked(index, object_mask, best.affines, best.support)
        self.affines.update({(other, index): affine for other, affine in best.affines.items()})
        return True

    def _prior(self, index: int, affines: dict[int, NDArray[np.float64]]) -> _Prior | None:
        """What references say about a photo, given how the object moved from them; None: out of sight."""
        nearest, base = next(iter(affines.items()))
        window = self._window(index, nearest, base)
        if window is None:
            return None
        prior = _Prior(self, index, window, affines)
        for other, affine in affines.items():
            prior.add(other, affine)
        return prior

    def _window(self, index: int, nearest: int, affine: NDArray[np.float64]) -> _Window | None:
        """A window around where the object should be in a photo, or None: out of sight."""
        image, _ = self.photo(index)
        height, width = image.shape[:2]
        rows, columns = np.nonzero(self.mask(nearest) > 0)
        moved = affine[:, :2] @ np.stack([columns, rows]) + affine[:, 2:]
        low, high = moved.min(axis=1), moved.max(axis=1)
        margin = 0.35 * float((high - low).max()) + 8
        low = np.maximum(low - margin, 0)
        high = np.minimum(high + margin, [width - 1, height - 1])
        if (high - low < 4).any():
            return None
        scale = self.options.window_size / float((high - low).max() + 1)
        width, height = (max(LEAST_WINDOW, round(float(side))) for side in (high - low + 1) * scale)
        return _Window(np.array([[scale, 0, -low[0] * scale], [0, scale, -low[1] * scale]]), (width, height))


class _Window(NamedTuple):
    """A part of a photo."""

    affine: NDArray[np.float64]
    """(2, 3) from the photo's working pixels to the window's."""
    size: tuple[int, int]
    """(width, height)."""


class _Prior:
    """What the references say about one photo, in a window of it."""

    def __init__(self, run: _Run, index: int, window: _Window, affines: dict[int, NDArray[np.float64]]) -> None:
        self.run, self.options, self.index = run, run.options, index
        self.affines = affines
        self.affine, self.size = window
        self.image = _warp(run.photo(index)[0], self.affine, self.size)
        self.gray = _gray(self.image)
        self.support = 0.0
        self.evidence: list[tuple[Image, Floats, Floats, Floats]] = []
        """Per reference: its photo and its mask, moved to this one; a weight; and where it shows anything at all."""

    def add(self, reference: int, affine: NDArray[np.float64]) -> None:
        """Moves a reference's photo and mask into the window."""
        to_window = compose(self.affine, affine)
        photo = self.run.photo(reference)[0]
        image = _warp(photo, to_window, self.size)
        known_mask = _warp(self.run.mask(reference), to_window, self.size, cv2.BORDER_CONSTANT)
        inside = _warp(np.ones(photo.shape[:2], np.float32), to_window, self.size, cv2.BORDER_CONSTANT)
        flow, agrees = DenseFlow(finest_scale=0)(self.gray, _gray(image))
        motion = fit_object_motion(flow, agrees, known_mask, smoothing=8.0)
        self.support = max(self.support, motion.support)
        where = pixel_grid(agrees.shape) + motion.flow
        image = cv2.remap(image, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        known_mask = cv2.remap(known_mask, where, None, cv2.INTER_LINEAR)
        inside = cv2.remap(inside, where, None, cv2.INTER_LINEAR)
        difference = cv2.blur(np.abs(image.astype(np.float32) - self.image).mean(axis=-1), (5, 5))
        weight = (0.1 + 0.9 * agrees) * np.exp(-difference / 15) + 0.01
        trust = max(0.02, motion.support) * self.run.graph.worth(reference)
        self.evidence.append((image, known_mask, (weight * trust * inside).astype(np.float32), inside))

    def fitted(self) -> Floats | None:
        """(H, W) probability at the photo's full size, or None if the fit went astray."""
        total = sum(weight for _, _, weight, _ in self.evidence)
        warped: Any = sum(probability * weight for _, probability, weight, _ in self.evidence) / (total + 1e-6)
        unseen = np.max([inside for *_, inside in self.evidence], axis=0) < 0.5  # outside of all the references' frames
        probability = self._fit(warped.astype(np.float32), unseen)
        before, after = float((warped > 0.5).sum()), float(((probability > 0.5) & ~unseen).sum())
        limit = self.options.largest_change
        if before == 0 or not 1 / limit <= after / before <= limit:
            return None
        return self._to_photo(probability)

    def _fit(self, warped: Floats, unseen: BoolMask) -> Floats:
        options = self.options
        lab = to_lab(self.image)
        palette = build_palette(lab, options.colours)
        own = apply_palette(lab, palette)
        distance = signed_distance(warped > 0.5)
        # The object may be narrower than the band: what is deepest in it stays object all the same.
        depth = min(float(options.band), 0.6 * max(1.0, float(distance.max())))
        surely_object = (distance > depth) & ~unseen
        # What comes into the frame may be more of the object, but only next to it.
        surely_background = distance < np.where(unseen, -2 * options.band, -options.band)
        evidence = [(own, (warped > 0.5).astype(np.float32), (surely_object | surely_background).astype(np.float32))]
        for image, probability, _, inside in self.evidence:
            evidence.append((apply_palette(to_lab(image), palette), probability, inside))
        colour, _ = local_colour_probability(own, evidence, options.colour_radius)
        blurred = cv2.GaussianBlur(warped, (0, 0), 3.0)
        prior = sigmoid(np.where(unseen, UNSEEN_ODDS, log_odds(blurred)) + log_odds(colour)).astype(np.float32)
        return random_walk(lab, prior, np.abs(2 * prior - 1), surely_object, surely_background, options.smoothness)

    def _to_photo(self, probability: Floats) -> Floats:
        _, (height, width) = self.run.photo(self.index)
        work = self.run.photo(self.index)[0].shape[:2]
        back = cv2.invertAffineTransform(self.affine)
        across, down = width / work[1], height / work[0]
        full = np.array([[across, 0, 0.5 * across - 0.5], [0, down, 0.5 * down - 0.5]])
        return _warp(probability, compose(full, back), (width, height), cv2.BORDER_CONSTANT)


def _gray(image: Image) -> NDArray[np.uint8]:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _scaled(image: NDArray, scale: float) -> NDArray:
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _warp(image: NDArray, affine: NDArray[np.float64], size: tuple[int, int], border: int = cv2.BORDER_REPLICATE) -> NDArray:
    """Warps by an affine map from the image's pixels to the result's, without aliasing where it shrinks."""
    scale = abs(float(np.linalg.det(affine[:, :2]))) ** 0.5
    if scale < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
    method = cv2.INTER_CUBIC if image.dtype == np.uint8 else cv2.INTER_LINEAR
    return cv2.warpAffine(image, affine, size, flags=method, borderMode=border)
