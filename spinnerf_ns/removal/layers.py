"""What is known about one photo before anything is filled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.scene.view import View

Floats = npt.NDArray[np.float32]


@dataclass
class ViewLayers:
    """What is known about one photo before its region is filled."""

    view: View
    """The photo's camera."""
    image: Image
    """(H, W, 3) uint8 RGB, the photo."""
    region: BoolMask
    """(H, W) bool: the dilated object mask, where the photo may be used."""
    z_visible: Floats
    """(H, W) planar depth of what the photo shows, object included; 0 = unknown."""
    z_background: Floats
    """(H, W) planar depth of what lies behind the object; may be wrong where no photo ever looked, 0 = unknown."""
    valid_mask: BoolMask | None = None
    """(H, W) bool, True = use (`View.valid_mask`); None: all. What may not be used has no depth here, and is no source."""
    is_source: bool = True
    """Whether other photos may be filled from this one: held-out photos are measured against, so nothing is taken from them."""
