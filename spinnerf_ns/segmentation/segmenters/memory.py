"""Masks of the clicks before the last: a segmenter that takes clicks one by one need not take those again that it knows."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Any

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.segmentation.prompts import Prompt

KEPT = 16
"""Masks in memory."""

_masks: OrderedDict[str, BoolMask] = OrderedDict()
_lock = threading.Lock()


class Memory:
    """The last masks of a photo, by what was said of it. Several threads may use it.

    Args:
        image: (H, W, 3) uint8.
        given: (H, W) bool, the mask that clicks correct, if there is one.
        segmenter: whose masks they are; its repr says its settings.
    """

    def __init__(self, image: Image, given: BoolMask | None, segmenter: Any) -> None:
        content = hashlib.blake2b(repr((image.shape, segmenter, given is None)).encode())
        content.update(image.tobytes())
        if given is not None:
            content.update(given.tobytes())
        self._content = content.hexdigest()

    def longest(self, prompt: Prompt, first: int) -> tuple[int, BoolMask | None]:
        """How many of a prompt's clicks are known together, at least `first`, and their mask; None where none is."""
        with _lock:
            for count in range(len(prompt.points), first - 1, -1):
                key = self._key(prompt, count)
                if key in _masks:
                    _masks.move_to_end(key)
                    return count, _masks[key]
        return first, None

    def keep(self, prompt: Prompt, count: int, object_mask: BoolMask) -> None:
        """Keeps the mask of a prompt's first clicks."""
        with _lock:
            _masks[self._key(prompt, count)] = object_mask.copy()
            while len(_masks) > KEPT:
                _masks.popitem(last=False)

    def _key(self, prompt: Prompt, count: int) -> str:
        return self._content + repr((prompt.points[:count], prompt.labels[:count], prompt.box))
