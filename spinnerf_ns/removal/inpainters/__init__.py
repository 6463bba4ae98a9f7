"""2-D inpainters: photos and gaps -> photos without gaps.

What every one of them keeps, and the contract test asks of each registered one:
* a photo is (H, W, 3) uint8 RGB, a gap (H, W) bool, True = to be filled; the answer has the photo's shape and type;
* pixels outside the gap are identical, and nothing given is changed;
* the same input gives the same answer, and a batch the same as its photos one by one;
* nothing heavy is imported, read or downloaded until `prepare` (optional) or the first photo;
* an empty gap gives the photo back; a gap that leaves nothing to continue from is a `SpinnerfError` naming the photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.registry import Registry


@runtime_checkable
class Inpainter(Protocol):
    """Fills gaps in photos and in disparity maps. A small dataclass whose fields are its options."""

    name: str
    """What the registry calls it."""

    def inpaint(self, images: Sequence[Image], all_to_fill: Sequence[BoolMask], photos: Sequence[str] | None = None) -> list[Image]:
        """Fills each photo's gap.

        Args:
            images: (H, W, 3) uint8 RGB each; sizes may differ.
            all_to_fill: (H, W) bool each, True = to be filled.
            photos: the photos' keys, for messages and for backends that look photos up; by default their numbers.

        Returns:
            (H, W, 3) uint8 each, in the order given.

        Raises:
            SpinnerfError: shapes or types differ from the above, or a gap leaves nothing to continue from.
        """
        ...

    def inpaint_disparity(self, disparity: npt.NDArray[np.float32], to_fill: BoolMask) -> npt.NDArray[np.float32]:
        """Fills a gap in (H, W) float32 disparity (1 / planar depth; 0 = unknown) in floats, at the rim's scale.

        Raises:
            SpinnerfError: shapes differ, or the gap leaves no known disparity to continue from.
        """
        ...


INPAINTERS = Registry(
    "inpainter",
    "spinnerf_ns.inpainters",
    {
        "opencv": "spinnerf_ns.removal.inpainters.opencv:OpenCVInpainter",
        "patchmatch": "spinnerf_ns.removal.inpainters.patchmatch:PatchMatchInpainter",
        "folder": "spinnerf_ns.removal.inpainters.folder:FolderInpainter",
        "lama": "spinnerf_ns.removal.inpainters.lama:LamaInpainter",
        "diffusion": "spinnerf_ns.removal.inpainters.diffusion:DiffusionInpainter",
    },
)
