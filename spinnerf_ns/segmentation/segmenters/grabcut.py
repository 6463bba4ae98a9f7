"""The embedded segmenter: clicks or a box -> an object mask, with OpenCV's GrabCut at its heart and no weights.

Bare GrabCut (Rother et al., SIGGRAPH 2004) has one colour model for all of the background, and so takes a dark bush for a
part of a dark statue. Around it, in a window scaled to a fixed size:

1. A random walk from what is sure (clicks, the middle of the box against everything outside of it) says where the object may
   be; colours that are common around the box, each near where it occurs, say where it is not.
2. GrabCut in Lab, started from that.
3. Rounds of local colour models and a random walk to the edges (see `refine`), each closer to the contour.

A box that is drawn as closely on all sides says more: where the mask stays away from one side, it is looked for again there.

Without a box, a first pass over the whole photo finds roughly what the clicks mean; the second pass looks at it closely.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.files import load_object_mask
from spinnerf_ns.segmentation.prompts import BACKGROUND_LABEL, OBJECT_LABEL, Prompt
from spinnerf_ns.segmentation.refine import (
    apply_palette,
    build_palette,
    clean_components,
    local_colour_probability,
    log_odds,
    random_walk,
    sigmoid,
    signed_distance,
)
from spinnerf_ns.segmentation.segmenters.clicks import on_edges, part_of_click, says
from spinnerf_ns.segmentation.segmenters.memory import Memory
from spinnerf_ns.segmentation.window import Box, Window, grown_box

Floats = NDArray[np.float32]

# Numbers without a scale of their own. `benchmarks/grabcut.py` halves and doubles each; docs/benchmarks.md says what that does.
ROUGH_MARGIN, CLOSE_MARGIN, CORRECTION_MARGIN = 0.4, 0.12, 0.25
"""Growth of the box around what was found, by its longer side: for the second rough look, the close one, a correction."""
CREDIT = 0.8
"""Log odds of the object that a walk from few seeds gets: it is timid, and shrinks towards them."""
MOST_ODDS = 3.0
"""Position and colour alone are never surer than this (log odds)."""
TRUST, LEAST_TRUST = 0.3, 0.02
"""How far the first guess holds a pixel against its neighbours: with its certainty, and at least."""
GUESS_SHARE = 0.5
"""Weight of the first guess beside GrabCut's answer."""
COLOUR_SHARE = 0.3
"""Weight of the colours around the box in the local rounds."""
PULL = 2.0
"""Log odds at a click."""
GUESS_BLUR, GRABCUT_BLUR, ROUND_BLUR, POSITION_BLUR = 1.0, 2.0, 5.0, 2.0
"""Pixels (standard deviation) over which a contour is uncertain: of the photo for the first guess, of GrabCut's mask, of a local
round's mask, of the photo for the walk by position."""
DEEPEST = 0.6
"""An object narrower than the band keeps what is deeper inside than this part of its depth."""
BOX_MIDDLE = 0.15, 0.25
"""Half axes of the ellipse in a box's middle that holds the object, by the box's width and height."""
CORE = 0.5
"""What lies deeper inside a mask than this part of its depth is its core."""
BACKGROUND_WEIGHT = 2.0
"""Of what is known to be background, in the local rounds."""
NOVELTY_RADIUS = 40.0
"""Gaussian radius in which colours of the background are its own."""
CLICKED_WEIGHT = 10.0
"""Of a clicked pixel among the known background's."""
NEAR_SHARE = 0.7
"""Weight of the background's colours nearby; the rest is for those everywhere."""
COMMON, LEAST_SURPLUS = 0.4, 0.1
"""A colour counts by what the window has more of it than this part of the background's share, and at least by this part of it."""
LITTLE = 1e-3
"""A share of colours that means nothing."""

LOCAL_ROUNDS = ((24.0, 24), (18.0, 16), (14.0, 12))
"""Per round of the local fit: radius of the colour models and half width of the band that may change, window pixels."""

MISSED_ODDS = 6.0
"""Log odds of the object where a box says that there must be more of it."""
UNEVEN_BOX = 0.05
"""A side of the box is missed if the mask keeps this much more distance from it than from the others, in box sides."""


def _up_to(prompt: Prompt, count: int) -> Prompt:
    """The first clicks of a prompt."""
    return dataclasses.replace(prompt, points=prompt.points[:count], labels=prompt.labels[:count])


@dataclass
class GrabCutSegmenter:
    """GrabCut with local colour models (OpenCV, no weights). Lengths are in pixels of the window around the object."""

    window_size: int = 320
    """Longest side to which the window around the object is scaled."""
    rough_size: int = 160
    """As `window_size`, for the first looks, which find where the object is from clicks alone."""
    margin: float = 0.5
    """Photo around the box that is looked at, in units of the box's longer side."""
    click_radius: int = 4
    """Pixels so close to a click are what the click says."""
    click_reach: float = 26.0
    """Gaussian radius in which a click makes its label more probable."""
    colours: int = 64
    """Clusters of the local colour models."""
    iterations: int = 4
    """Rounds of GrabCut."""
    smoothness: float = 8.0
    """How far the mask follows the photo's flat areas against the colour models."""

    name = "grabcut"

    def segment(self, image: Image, prompt: Prompt) -> BoolMask:
        """Finds what was pointed at.

        Args:
            image: (H, W, 3) uint8 RGB.
            prompt: points with labels, a box, or both.

        Returns:
            (H, W) bool, True = object; the same input gives the same mask. Only parts that hold a point on the object, if
            there is one; else the largest part.

        Raises:
            SpinnerfError: the prompt does not fit the photo.
        """
        height, width = image.shape[:2]
        prompt.check(width, height)
        given = None if prompt.mask_path is None else load_object_mask(prompt.mask_path, (height, width))
        first = 0 if given is not None or prompt.box is not None else 1 + prompt.labels.index(OBJECT_LABEL)
        memory = Memory(image, given, self)
        known, found = memory.longest(prompt, first)
        if found is None:
            look = self._from_clicks if prompt.box is None else self._from_box
            found = look(image, _up_to(prompt, first)) if given is None else given
            memory.keep(prompt, first, found)
        for count in range(known + 1, len(prompt.points) + 1):
            found = self._corrected(image, found, _up_to(prompt, count))
            memory.keep(prompt, count, found)
        return found.copy()

    def _from_box(self, image: Image, prompt: Prompt) -> BoolMask:
        found = self._close_look(image, prompt, prompt.box, None, None)
        missed = _missed_sides(found, prompt.box)
        return self._close_look(image, prompt, prompt.box, None, missed) if missed is not None else found

    def _from_clicks(self, image: Image, prompt: Prompt) -> BoolMask:
        height, width = image.shape[:2]
        rough = self._rough_look(image, prompt, (0.0, 0.0, float(width), float(height)))
        if rough.any():
            rough = self._rough_look(image, prompt, grown_box(rough, ROUGH_MARGIN))
        return self._close_look(image, prompt, grown_box(rough, CLOSE_MARGIN), rough, None) if rough.any() else rough

    def _corrected(self, image: Image, found: BoolMask, prompt: Prompt) -> BoolMask:
        """The mask after the last click of a prompt; as it is where the click says what it says."""
        (x, y), label = prompt.points[-1], prompt.labels[-1]
        if says(found, x, y) == (label == OBJECT_LABEL):
            return found
        around = found.copy()
        around[min(int(y), found.shape[0] - 1), min(int(x), found.shape[1] - 1)] = True
        window = Window(image, grown_box(around, CORRECTION_MARGIN), 0.0, self.window_size)
        now = window.warp(found)
        click = window.discs(Prompt("", (prompt.points[-1],), (label,)), label, self.click_radius)
        others = window.discs(prompt, BACKGROUND_LABEL if label == OBJECT_LABEL else OBJECT_LABEL, self.click_radius)
        adds = label == OBJECT_LABEL

        def local() -> BoolMask:
            part = window.to_photo(part_of_click(window.lab, ~now if adds else now, click, others, self.smoothness, adds))
            return clean_components(found | part, least_part=0.0) if adds else found & ~part

        if prompt.mask_path is not None:
            return local()
        # All clicks at once know more of colours, and sometimes take something else altogether: the edges decide.
        with ThreadPoolExecutor(1) as pool:  # somebody waits for it: both at a time
            later = pool.submit(self._from_clicks if prompt.box is None else self._from_box, image, prompt)
            changed, anew = local(), later.result()
        if not all(says(anew, *at) == (label == OBJECT_LABEL) for at, label in zip(prompt.points, prompt.labels, strict=True)):
            return changed
        return max(changed, anew, key=lambda mask: on_edges(window.lab, window.warp(mask)))

    # ------------------------------------------------------------------------------------------------------------ passes
    def _rough_look(self, image: Image, prompt: Prompt, box: Box) -> BoolMask:
        """What clicks mean, if the object lies within a box that may be much too large."""
        window = Window(image, box, 0.0, self.rough_size)
        on, beside = self._clicked(window, prompt)
        surely_background = (beside | _border(on.shape)) & ~on
        where = self._where(window.lab, on, surely_background)
        found = self._grabcut(window.lab, where > 0, on, surely_background)
        own = apply_palette(window.lab, build_palette(window.lab, self.colours))
        found = self._fit_locally(window.lab, own, found, np.zeros_like(where), on, beside)
        return clean_components(window.to_photo(found))

    def _close_look(self, image: Image, prompt: Prompt, box: Box, rough: BoolMask | None, missed: BoolMask | None) -> BoolMask:
        """The object in a box around it, outside of which there is none of it.

        Args:
            image: (H, W, 3) uint8 RGB.
            prompt: its clicks count.
            box: around the object.
            rough: (H, W) what it may be, where that is known.
            missed: (H, W) where there must be more of it than an earlier look found.
        """
        window = Window(image, box, self.margin, self.window_size)
        outside = ~window.inside(box)
        on, beside = self._clicked(window, prompt)
        surely_object = on & ~outside
        surely_background = (outside | beside) & ~surely_object
        inner = _ellipse(window, box) if rough is None else _core(window.warp(rough))
        wary = window.discs(prompt, BACKGROUND_LABEL, 3 * self.click_radius)
        inner = (inner & ~wary & ~surely_background) | surely_object

        own = apply_palette(window.lab, build_palette(window.lab, self.colours))
        colour = _novelty(own, surely_background, beside)
        where = self._where(window.lab, inner, surely_background) + CREDIT
        more = np.zeros_like(where) if missed is None else MISSED_ODDS * window.warp(missed)
        prior = sigmoid(np.clip(where, -MOST_ODDS, MOST_ODDS) + colour + more + self._pull(window, prompt)).astype(np.float32)
        smooth = cv2.GaussianBlur(window.lab, (0, 0), GUESS_BLUR)
        confidence = TRUST * np.abs(2 * prior - 1) + LEAST_TRUST
        walked = random_walk(smooth, prior, confidence, surely_object, surely_background, self.smoothness)
        found = _keep_clicked(walked > 0.5, surely_object)

        said = self._grabcut(window.lab, found, surely_object | _core(found), surely_background).astype(np.float32)
        prior = sigmoid(log_odds(cv2.GaussianBlur(said, (0, 0), GRABCUT_BLUR)) + GUESS_SHARE * log_odds(prior) + more)
        prior = prior.astype(np.float32)
        walked = random_walk(window.lab, prior, np.abs(2 * prior - 1), surely_object, surely_background, self.smoothness)
        found = _keep_clicked(walked > 0.5, surely_object)
        extra = COLOUR_SHARE * np.clip(colour, -MOST_ODDS, MOST_ODDS) + more
        found = self._fit_locally(window.lab, own, found, extra, surely_object, surely_background)
        return clean_components(window.to_photo(found))

    def _clicked(self, window: Window, prompt: Prompt) -> tuple[BoolMask, BoolMask]:
        """(h, w) window pixels that clicks say are object, and background; the later word is the background's."""
        beside = window.discs(prompt, BACKGROUND_LABEL, self.click_radius)
        return window.discs(prompt, OBJECT_LABEL, self.click_radius) & ~beside, beside

    def _pull(self, window: Window, prompt: Prompt) -> Floats:
        """Log odds from clicks: `PULL` at a click, less around it."""
        rows, columns = np.mgrid[: window.size[1], : window.size[0]].astype(np.float32)
        odds = np.zeros(rows.shape, np.float32)
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
            x, y = window.locate(x, y)
            near = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * self.click_reach**2))
            odds += (PULL if label == OBJECT_LABEL else -PULL) * near
        return odds

    def _where(self, lab: Image, inner: BoolMask, surely_background: BoolMask) -> Floats:
        """Log odds of the object by position: a random walk from the seeds over the smoothed photo."""
        nothing = np.full(inner.shape, 0.5, np.float32)
        smooth = cv2.GaussianBlur(lab, (0, 0), POSITION_BLUR)
        reached = random_walk(smooth, nothing, np.full_like(nothing, 1e-4), inner, surely_background, 1.0)
        return log_odds(reached)

    def _grabcut(self, lab: Image, found: BoolMask, surely_object: BoolMask, surely_background: BoolMask) -> BoolMask:
        """GrabCut from a first guess; what is sure stays."""
        labels = np.where(found, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[surely_object] = cv2.GC_FGD
        labels[surely_background] = cv2.GC_BGD
        is_object = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
        if is_object.any() and not is_object.all() and self.iterations > 0:  # it needs samples of both
            cv2.setRNGSeed(0)  # its k-means draws
            models = np.zeros((1, 65)), np.zeros((1, 65))
            cv2.grabCut(lab, labels, None, *models, self.iterations, cv2.GC_INIT_WITH_MASK)
            is_object = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
        return _keep_clicked(is_object, surely_object)

    def _fit_locally(
        self,
        lab: Image,
        own: NDArray[np.int64],
        found: BoolMask,
        extra: Floats,
        surely_object: BoolMask,
        surely_background: BoolMask,
    ) -> BoolMask:
        """Local colour models of the mask so far, and a random walk in a band around its contour, several times."""
        weight = np.where(surely_background, BACKGROUND_WEIGHT, 1.0).astype(np.float32)
        for radius, band in LOCAL_ROUNDS:
            if not found.any():
                break
            distance = signed_distance(found)
            local, _ = local_colour_probability(own, [(own, found.astype(np.float32), weight)], radius)
            near = log_odds(cv2.GaussianBlur(found.astype(np.float32), (0, 0), ROUND_BLUR))
            prior = sigmoid(near + log_odds(local) + extra).astype(np.float32)
            depth = min(float(band), DEEPEST * float(distance.max()))
            held = ((distance > depth) | surely_object) & ~surely_background
            dropped = ((distance < -band) | surely_background) & ~held
            walked = random_walk(lab, prior, np.abs(2 * prior - 1), held, dropped, self.smoothness)
            found = _keep_clicked(walked > 0.5, surely_object)
        return found


def _novelty(own: NDArray[np.int64], known_background: BoolMask, clicked: BoolMask) -> Floats:
    """Log odds of the object by colour, from the known background alone: its colours, each near where it occurs.

    Colours of the object are what the rest of the window has more of than the background does.
    """
    weight = known_background.astype(np.float32) + CLICKED_WEIGHT * clicked
    # "Object" evidence is all ones, so that the amount of evidence is that of the pixel's own colour.
    _, same = local_colour_probability(own, [(own, np.ones_like(weight), weight)], NOVELTY_RADIUS)
    around = cv2.GaussianBlur(weight, (0, 0), NOVELTY_RADIUS, borderType=cv2.BORDER_CONSTANT)
    count = int(own.max()) + 1
    everywhere = np.bincount(own.ravel(), weight.ravel(), count) / max(1e-6, float(weight.sum()))
    background = NEAR_SHARE * same / (around + LITTLE) + (1 - NEAR_SHARE) * everywhere[own]
    rest = np.bincount(own[~known_background], minlength=count) / max(1, int((~known_background).sum()))
    surplus = np.maximum(rest[own] - COMMON * everywhere[own], LEAST_SURPLUS * rest[own])
    return np.log((surplus + 1.1 * LITTLE) / (background + LITTLE)).astype(np.float32)


def _ellipse(window: Window, box: Box) -> BoolMask:
    """The middle of a box: what is drawn around holds the object in its middle."""
    (left, top), (right, bottom) = window.locate(*box[:2]), window.locate(*box[2:])
    rows, columns = np.mgrid[: window.size[1], : window.size[0]]
    across = (columns - (left + right) / 2) / (BOX_MIDDLE[0] * (right - left) + 1)
    down = (rows - (top + bottom) / 2) / (BOX_MIDDLE[1] * (bottom - top) + 1)
    return across**2 + down**2 < 1


def _missed_sides(object_mask: BoolMask, box: Box) -> BoolMask | None:
    """Where a mask should reach farther, or None: people draw a box as closely on one side as on the others.

    After the bounding box prior of Lempitsky et al., "Image segmentation with a bounding box prior", ICCV 2009.

    Args:
        object_mask: (H, W) what was found in the box.
        box: as it was drawn.

    Returns:
        (H, W) the part of the box's ellipse beyond the mask, on at most two sides that the mask does not come near.
    """
    if not object_mask.any():
        return None
    rows, columns = np.nonzero(object_mask)
    x0, y0, x1, y1 = box
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)
    gaps = np.abs(found - box)
    sides = np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
    open_sides = gaps > np.median(gaps) + np.maximum(2.0, UNEVEN_BOX * sides)
    if not 1 <= open_sides.sum() <= 2:
        return None
    y, x = np.mgrid[: object_mask.shape[0], : object_mask.shape[1]] + 0.5
    margin = float(np.median(gaps))
    half_width, half_height = max(1.0, (x1 - x0) / 2 - margin), max(1.0, (y1 - y0) / 2 - margin)
    inside = ((x - (x0 + x1) / 2) / half_width) ** 2 + ((y - (y0 + y1) / 2) / half_height) ** 2 < 1
    beyond = [x < found[0], y < found[1], x > found[2], y > found[3]]
    return inside & np.any([part for part, is_open in zip(beyond, open_sides, strict=True) if is_open], axis=0)


def _core(object_mask: BoolMask) -> BoolMask:
    """The part of a mask that is deepest inside."""
    distance = signed_distance(object_mask)
    return object_mask & (distance > CORE * float(distance.max()))


def _border(shape: tuple[int, int]) -> BoolMask:
    """The outermost pixels: a whole photo rarely cuts its subject on all sides."""
    border = np.ones(shape, bool)
    border[2:-2, 2:-2] = False
    return border


def _keep_clicked(object_mask: BoolMask, surely_object: BoolMask) -> BoolMask:
    """The parts that hold a click; without clicks, the largest part."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(object_mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return object_mask
    clicked = np.unique(labels[surely_object & object_mask])
    if len(clicked) == 0:
        clicked = [1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())]
    return np.isin(labels, clicked)
