"""A tracker and a segmenter whose answers are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Shift:
    """A tracker that moves the mask a pixel per photo, and loses it after `reach` photos."""

    reach: int = 99
    name = "shift"

    def track(self, images, source_masks, progress=None):
        source, mask = next((index, mask) for index, mask in source_masks.items() if mask.any())
        masks = [np.roll(mask, index - source, axis=1) for index in range(len(images))]
        masks = [found if abs(index - source) <= self.reach else None for index, found in enumerate(masks)]
        return [source_masks.get(index, found) for index, found in enumerate(masks)]


class Paints:
    """A segmenter that takes the box, or a square around the first point, for the object."""

    name = "paints"

    def segment(self, image, prompt):
        mask = np.zeros(image.shape[:2], bool)
        x, y = prompt.points[0] if prompt.points else (0, 0)
        x0, y0, x1, y1 = (int(value) for value in prompt.box or (x - 5, y - 5, x + 5, y + 5))
        mask[max(0, y0) : y1, max(0, x0) : x1] = True
        return mask
