"""Brush strokes on masks, and pictures of masks over their photos. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from spinnerf_ns.conventions import BoolMask, Image, scale_pixels
from spinnerf_ns.segmentation.prompts import OBJECT_LABEL, Prompt, Stroke

SUBPIXEL_BITS = 4
"""OpenCV draws at places of 1/16 pixel."""
TINT = 0.45
"""How much of the object's colour lies over its photo."""
LINE, DOT = 3.0, 7.0
"""Width of lines and radius of points in a picture, in a 1000-pixel-wide photo."""
COLOURS = ((230, 60, 60), (60, 130, 240), (60, 180, 80), (240, 170, 40), (170, 80, 220), (40, 190, 200))
"""RGB of the first, second, ... object."""


def paint(object_mask: BoolMask, brush: Sequence[Stroke]) -> BoolMask:
    """A mask after strokes, each over those before it.

    Args:
        object_mask: (H, W) bool.
        brush: in pixels of the mask; (0, 0) is the outer corner of the top-left one.

    Returns:
        (H, W) bool, another array.
    """
    drawn = object_mask.astype(np.uint8)
    for stroke in brush:
        _draw(drawn, stroke)
    return drawn > 0


def covered(shape: tuple[int, int], brush: Sequence[Stroke]) -> BoolMask:
    """(H, W) bool: the pixels that any of the strokes says something about."""
    drawn = np.zeros(shape, np.uint8)
    for stroke in brush:
        _draw(drawn, Stroke(stroke.points, stroke.radius, OBJECT_LABEL))
    return drawn > 0


def _draw(canvas: np.ndarray, stroke: Stroke) -> None:
    unit = 1 << SUBPIXEL_BITS
    places = np.round((np.array(stroke.points, dtype=np.float64) - 0.5) * unit).astype(np.int32)
    places = np.clip(places, -(1 << 20), 1 << 20)
    value = int(stroke.label == OBJECT_LABEL)
    for place in places:
        cv2.circle(canvas, tuple(int(v) for v in place), round(stroke.radius * unit), value, cv2.FILLED, shift=SUBPIXEL_BITS)
    if len(places) > 1:
        thickness = max(1, round(2 * stroke.radius))
        cv2.polylines(canvas, [places.reshape(-1, 1, 2)], False, value, thickness, shift=SUBPIXEL_BITS)


def preview(image: Image, masks: Sequence[tuple[BoolMask, Prompt | None]]) -> Image:
    """The photo with masks and what was pointed at drawn over it.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: per object its (H, W) mask, and what pointed at it in pixels of the photo, if anything did.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    drawn = image.copy()
    line, dot = scale_pixels(LINE, image.shape[1]), scale_pixels(DOT, image.shape[1])
    for place, (object_mask, prompt) in enumerate(masks):
        colour = COLOURS[place % len(COLOURS)]
        tinted = drawn[object_mask].astype(np.float32) * (1 - TINT) + np.array(colour, np.float32) * TINT
        drawn[object_mask] = np.round(tinted).astype(np.uint8)
        contours, _ = cv2.findContours(object_mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, contours, -1, colour, max(1, line // 2))
        if prompt is None:
            continue
        if prompt.box is not None:
            x0, y0, x1, y1 = (round(value) for value in prompt.box)
            cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), (255, 255, 255), line)
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
            at = (int(x), int(y))
            cv2.circle(drawn, at, dot, (255, 255, 255), cv2.FILLED, cv2.LINE_AA)
            inner = (30, 160, 60) if label == OBJECT_LABEL else (200, 30, 30)
            cv2.circle(drawn, at, max(1, dot - line), inner, cv2.FILLED, cv2.LINE_AA)
    return drawn
