"""One click on a mask that is wrong there: which part is meant. Pure functions, no weights.

A click says that the mask is wrong at one place, and nothing of how far. Its influence is spread from there by diffusion that edges
of the photo hold up (a random walk with restarts; Grady 2006) over the pixels that may change: those outside of the mask for a
click on the object, those inside for one beside it. Where that influence is cut at a level, the part above it is a
candidate, and of all levels the one is taken whose new contour lies best on the photo's edges. So a click changes
the part that it lies in and nothing else: what was right stays right.
"""

from __future__ import annotations

import cv2
import numpy as np

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.segmentation.refine import Floats, random_walk

RESTARTS = (0.03, 0.004, 0.0005)
"""How soon a walk gives up, per pixel of the window: the parts that are looked for are small, middling and large."""
LEVELS = np.geomspace(0.9, 0.002, 28)
"""Levels at which the influence is cut."""
TYPICAL, SPREAD = 1.5, 0.5
"""People click into the middle of what is wrong: the click's distance from the mask's contour tells how large that is. The
radius of the part is expected to be so many of these distances, give or take a factor of exp(SPREAD)."""
APART = 1.2
"""As `SPREAD`, for parts that are smaller and that a click on the object adds: they may lie apart from the mask."""
ALL = 0.2
"""What a part that is all of the mask counts, as it has no new contour: less than a weak edge."""
SHALLOWEST = 2.0
"""Least distance from the contour, in pixels of the window, that is believed."""
EDGE_BLUR = 1.0
"""Gaussian radius, in pixels of the window, of the photo in which edges are looked for."""


def part_of_click(lab: Image, domain: BoolMask, click: BoolMask, others: BoolMask, smoothness: float, adds: bool) -> BoolMask:
    """The part that a click means.

    Args:
        lab: (H, W, 3) uint8 Lab of a window around the object.
        domain: (H, W) the pixels that may change.
        click: (H, W) those so close to the click that they are what it says.
        others: (H, W) those that must not change: other clicks of the other label.
        smoothness: how far influence goes through flat areas.
        adds: whether the click is on the object and `domain` what is no part of the mask yet.

    Returns:
        (H, W) bool, within `domain`, `click` in it as far as it is.
    """
    click = click & domain & ~others
    if not click.any():
        return click
    domain = _connected(domain & ~others, click)
    smooth = cv2.GaussianBlur(lab, (0, 0), EDGE_BLUR)
    edges = _edges(smooth)
    distance = cv2.distanceTransform(np.pad(domain, 1, constant_values=True).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    expected = TYPICAL * max(SHALLOWEST, float(distance[1:-1, 1:-1][click].max()))

    def score(part: BoolMask) -> float:
        off = np.log(np.sqrt(part.sum() / np.pi) / expected)
        spread = APART if adds and off < 0 else SPREAD
        return _score(part, domain, edges, 0.0 if adds else ALL) * np.exp(-((off / spread) ** 2) / 2)

    best, best_score = click, -np.inf
    for restart in RESTARTS:
        influence = _influence(smooth, domain, click, restart, smoothness)
        for level in LEVELS * float(influence[click].min()):
            part = _filled(_connected(influence >= level, click), domain)
            if (now := score(part)) > best_score:
                best, best_score = part, now
    return best


def on_edges(lab: Image, object_mask: BoolMask) -> float:
    """How well a mask's contour lies on the photo's edges, in [0, 1]: to choose between masks.

    Args:
        lab: (H, W, 3) uint8 Lab.
        object_mask: (H, W).
    """
    if not object_mask.any() or object_mask.all():
        return 0.0
    return _score(object_mask, np.ones_like(object_mask), _edges(cv2.GaussianBlur(lab, (0, 0), EDGE_BLUR)), ALL)


def says(object_mask: BoolMask, x: float, y: float) -> bool:
    """What a mask says at a place of the photo, in continuous pixels."""
    return bool(object_mask[min(int(y), object_mask.shape[0] - 1), min(int(x), object_mask.shape[1] - 1)])


def _influence(lab: Image, domain: BoolMask, click: BoolMask, restart: float, smoothness: float) -> Floats:
    """(H, W) in [0, 1]: 1 at the click, 0 outside the domain."""
    height, width = domain.shape
    rows, columns = np.nonzero(domain)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    inside = (slice(top, bottom), slice(left, right))
    result = np.zeros((height, width), np.float32)
    nothing = np.zeros((bottom - top, right - left), np.float32)
    result[inside] = random_walk(lab[inside], nothing, np.full_like(nothing, restart), click[inside], ~domain[inside], smoothness)
    return result * domain


def _edges(lab: Image) -> tuple[Floats, Floats]:
    """Strength in [0, 1] of the edge between each pixel and its neighbour to the right, (H, W - 1), and below, (H - 1, W)."""
    colours = lab.astype(np.float32)
    right = np.sqrt(((colours[:, 1:] - colours[:, :-1]) ** 2).sum(axis=-1))
    below = np.sqrt(((colours[1:] - colours[:-1]) ** 2).sum(axis=-1))
    typical = float(np.concatenate([right.ravel(), below.ravel()]).mean()) + 0.5
    return 1 - np.exp(-right / (2 * typical)), 1 - np.exp(-below / (2 * typical))


def _score(part: BoolMask, domain: BoolMask, edges: tuple[Floats, Floats], everything: float) -> float:
    """How well the new contour of a part lies on edges: their mean strength along it, less for a short contour.

    Where the part ends because the domain does, the contour is not new; `everything` is what a part without a new one counts.
    """
    across = (part[:, 1:] != part[:, :-1]) & domain[:, 1:] & domain[:, :-1]
    down = (part[1:] != part[:-1]) & domain[1:] & domain[:-1]
    length = int(across.sum() + down.sum())
    if length == 0:
        return everything
    return float(edges[0][across].sum() + edges[1][down].sum()) / length


def _connected(mask: BoolMask, seed: BoolMask) -> BoolMask:
    """The parts of a mask that hold a seed."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    found = np.unique(labels[seed & mask])
    return np.isin(labels, found[found > 0])


def _filled(part: BoolMask, domain: BoolMask) -> BoolMask:
    """A part with the pixels of the domain that it encloses."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((domain & ~part).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < 0.1 * part.sum()
    small[0] = False
    return part | small[labels]
