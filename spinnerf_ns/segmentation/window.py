"""A part of a photo around an object, at a fixed size: lengths in it depend neither on the photo's resolution nor on the object."""

from __future__ import annotations

import cv2
import numpy as np

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.refine import to_lab

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in continuous pixels of a photo."""

LEAST_SIDE = 16
"""Least side of a window in its own pixels: thin boxes leave too little to look at."""
SHRINKS, BLUR = 0.6, 0.4
"""Below this scale a photo is blurred before it is reduced, by this many of the window's pixels (standard deviation): against
aliasing."""


class Window:
    """A part of a photo around a box, scaled so that its longest side has a fixed length."""

    def __init__(self, image: Image, box: Box, margin: float, size: int) -> None:
        height, width = image.shape[:2]
        x0, y0, x1, y1 = box
        around = margin * max(x1 - x0, y1 - y0)
        left, top = max(0.0, x0 - around), max(0.0, y0 - around)
        right, bottom = min(float(width), x1 + around), min(float(height), y1 + around)
        scale = size / max(right - left, bottom - top)
        self.photo_shape = (height, width)
        self.size = (max(LEAST_SIDE, round((right - left) * scale)), max(LEAST_SIDE, round((bottom - top) * scale)))
        # From indices of pixels to indices of pixels: their centres lie half a pixel off the corners.
        self.affine = np.array([[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]])
        if scale < SHRINKS:
            image = cv2.GaussianBlur(image, (0, 0), BLUR / scale)
        pixels = cv2.warpAffine(image, self.affine, self.size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        self.lab = to_lab(pixels)

    def locate(self, x: float, y: float) -> tuple[float, float]:
        """Continuous photo pixels -> indices of window pixels."""
        moved = self.affine[:, :2] @ [x - 0.5, y - 0.5] + self.affine[:, 2]
        return float(moved[0]), float(moved[1])

    def inside(self, box: Box) -> BoolMask:
        """(h, w) window pixels whose centre lies in a box of the photo."""
        (left, top), (right, bottom) = self.locate(*box[:2]), self.locate(*box[2:])
        rows, columns = np.mgrid[: self.size[1], : self.size[0]]
        return (columns >= left) & (columns <= right) & (rows >= top) & (rows <= bottom)

    def discs(self, prompt: Prompt, label: int, radius: int) -> BoolMask:
        """(h, w) window pixels close to the prompt's points of a label."""
        drawn = np.zeros((self.size[1], self.size[0]), np.uint8)
        for (x, y), other in zip(prompt.points, prompt.labels, strict=True):
            if other == label:
                column, row = self.locate(x, y)
                cv2.circle(drawn, (round(column), round(row)), radius, 1, -1)
        return drawn > 0

    def warp(self, object_mask: BoolMask) -> BoolMask:
        """(H, W) of the photo -> (h, w) of the window."""
        return cv2.warpAffine(object_mask.astype(np.float32), self.affine, self.size) > 0.5

    def to_photo(self, object_mask: BoolMask) -> BoolMask:
        """(h, w) of the window -> (H, W) of the photo, False outside of the window."""
        height, width = self.photo_shape
        back = cv2.invertAffineTransform(self.affine)
        return cv2.warpAffine(object_mask.astype(np.float32), back, (width, height)) > 0.5


def grown_box(object_mask: BoolMask, part: float) -> Box:
    """A mask's bounding box, grown by a part of its longer side, within the photo."""
    rows, columns = np.nonzero(object_mask)
    height, width = object_mask.shape
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    by = part * max(right - left, bottom - top)
    return (
        float(max(0, left - by)),
        float(max(0, top - by)),
        float(min(width, right + by)),
        float(min(height, bottom + by)),
    )
