"""What SAM and SAM 2 have in common: a costly image encoder, run once per photo, and a cheap decoder, run per click.

The encoder's result is kept in `cache_folder` (the workspace's, when the segment stage runs it), a file per photo: named by
the photo's contents, the model and the checkpoint's contents, so that it invalidates itself.

Clicks are replayed in the order given: a first single click is ambiguous, so that three candidates are asked for and the
best one by the network's own score is taken; each further click corrects, with the low-resolution logits of the mask so far
fed back. The answer depends on the prompt alone, not on what was asked before.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.files import atomic_path, load_object_mask
from spinnerf_ns.segmentation.prompts import OBJECT_LABEL, Prompt

Embedding = dict[str, NDArray[np.float32]]
"""What the image encoder says of a photo, by name."""
Box = tuple[float, float, float, float]

CACHE_FORMAT = "1"
"""Part of the cached file's name; raised when its contents change their meaning."""
MASK_LOGIT = 10.0
"""A mask as a prompt: logit of a pixel that is surely object, and less that of one that surely is not (as in SAM 2)."""


@dataclass
class Click:
    """What the decoder is asked: all that was pointed at up to one click."""

    points: NDArray[np.float32]
    """(N, 2) x, y in the photo's pixels; (0, 0) is the outer corner of the top-left one."""
    labels: NDArray[np.int32]
    """(N,) 1 on the object, 0 beside it."""
    box: Box | None
    """x0, y0, x1, y1 in the same pixels."""
    ambiguous: bool
    """Whether candidates are asked for."""


@dataclass
class Candidates:
    """What the decoder answers."""

    masks: BoolMask
    """(C, H, W) at the photo's size."""
    scores: NDArray[np.float32]
    """(C,) how good the network thinks they are."""
    logits: NDArray[np.float32]
    """(C, h, w) at the decoder's size, for the next click."""


class PromptableSegmenter(ABC):
    """A segmenter with an image encoder and a prompt decoder. Subclasses are dataclasses of their options."""

    name: str
    cache_folder: ClassVar[Path | None] = None
    """Where encoded photos are kept; None: only the last one, in memory. Set on an instance; no option, as no mask depends
    on it."""

    # ------------------------------------------------------------------------------------------------- for subclasses
    @abstractmethod
    def ensure(self) -> None:
        """Raises SpinnerfError if the package or the weights can't be had."""

    @abstractmethod
    def _identity(self) -> str:
        """Model and contents of its checkpoint."""

    @abstractmethod
    def _encode(self, image: Image) -> Embedding:
        """Runs the image encoder on (H, W, 3) uint8 RGB."""

    @abstractmethod
    def _decode(self, embedding: Embedding, size: tuple[int, int], click: Click, logits: NDArray[np.float32] | None) -> Candidates:
        """Runs the decoder, for a photo of (height, width); `logits` (h, w) is the mask so far."""

    @abstractmethod
    def _mask_to_logits(self, object_mask: NDArray[np.float32]) -> NDArray[np.float32]:
        """(H, W) in [0, 1] -> (h, w) logits at the decoder's size."""

    # -------------------------------------------------------------------------------------------------------- for users
    def segment(self, image: Image, prompt: Prompt) -> BoolMask:
        """Finds what was pointed at.

        Args:
            image: (H, W, 3) uint8 RGB.
            prompt: points with labels, a box, or both; or a rough mask (`mask_path`), which is refined.

        Returns:
            (H, W) bool, True = object; the same input gives the same mask. Empty for an empty rough mask.

        Raises:
            SpinnerfError: the prompt does not fit the photo; the package or the weights can't be had.
        """
        height, width = image.shape[:2]
        prompt.check(width, height)
        box, logits = prompt.box, None
        if prompt.mask_path is not None:
            rough = load_object_mask(prompt.mask_path, (height, width), prompt.mask_id)
            if not rough.any():
                return rough
            box, logits = _box_of(rough), self._mask_to_logits(rough.astype(np.float32))
        embedding = self.embed(image)
        for click in replay(prompt, box):
            candidates = self._decode(embedding, (height, width), click, logits)
            best = int(np.argmax(candidates.scores))
            found, logits = candidates.masks[best], candidates.logits[best]
        return found

    def embed(self, image: Image) -> Embedding:
        """What the encoder says of a photo, from memory or the cache where it has been asked before.

        Args:
            image: (H, W, 3) uint8 RGB.

        Raises:
            SpinnerfError: the package or the weights can't be had.
        """
        photo = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
        key = "/".join([CACHE_FORMAT, self.name, self._identity(), str(image.shape), photo])
        last: tuple[str, Embedding] | None = getattr(self, "_last", None)
        if last is not None and last[0] == key:
            return last[1]
        file = None
        if self.cache_folder is not None:
            file = Path(self.cache_folder) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
        embedding = _read(file) if file is not None else None
        if embedding is None:
            embedding = self._encode(image)
            if file is not None:
                with atomic_path(file) as temporary, open(temporary, "wb") as stream:
                    np.savez(stream, **embedding)
        self._last = (key, embedding)
        return embedding


def replay(prompt: Prompt, box: Box | None) -> Iterator[Click]:
    """The clicks of a prompt, one after the other; each holds all before it.

    A box, where there is one, comes first and alone. Without one the first step goes up to the first point on the object:
    points beside it say nothing by themselves.
    """
    points = np.array(prompt.points, np.float32).reshape(-1, 2)
    labels = np.array(prompt.labels, np.int32)
    start = 0 if box is not None else 1 + prompt.labels.index(OBJECT_LABEL)
    for count in range(start, len(points) + 1):
        ambiguous = box is None and count == 1
        yield Click(points[:count], labels[:count], box, ambiguous)


def shrunk(object_mask: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.float32]:
    """(H, W) in [0, 1] -> (h, w) logits, by the part of each pixel that is covered."""
    height, width = size
    part = cv2.resize(object_mask, (width, height), interpolation=cv2.INTER_AREA)
    return (MASK_LOGIT * (2 * part - 1)).astype(np.float32)


def _box_of(object_mask: BoolMask) -> Box:
    """The bounding box, by outer corners."""
    rows, columns = np.nonzero(object_mask)
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def _read(file: Path) -> Embedding | None:
    """A cached embedding; None where there is none or it is damaged: then it is made again."""
    try:
        with np.load(file, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except Exception:  # zip's, numpy's and the operating system's errors, by the kind of damage
        return None
