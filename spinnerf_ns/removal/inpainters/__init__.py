"""2-D inpainters: a photo and a gap -> the photo without the gap.

What every one of them keeps, and the contract test asks of each registered one:
* a photo is (H, W, 3) uint8 RGB, a gap (H, W) bool, True = to be filled; the answer has the photo's shape and type;
* pixels outside the gap are identical, and nothing given is changed;
* the same input gives the same answer, whatever was filled before;
* nothing heavy is imported, read or downloaded until `prepare` (optional) or the first photo;
* an empty gap gives the photo back; a gap that leaves nothing to continue from is a `SpinnerfError` naming the photo.
"""

from __future__ import annotations

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

    def inpaint(self, image: Image, to_fill: BoolMask, photo: str = "photo") -> Image:
        """Fills a photo's gap.

        Args:
            image: (H, W, 3) uint8 RGB.
            to_fill: (H, W) bool, True = to be filled.
            photo: the photo's key, for messages and for backends that look photos up.

        Returns:
            (H, W, 3) uint8, a new array.

        Raises:
            SpinnerfError: shapes or types differ from the above, or the gap leaves nothing to continue from.
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
