"""The masks of a trained segmentation field, each weighed against the tracked one; what `refinement` decides, with a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from nerfstudio.utils.rich_utils import CONSOLE

from spinnerf_ns.conventions import OBJECTNESS_THRESHOLD
from spinnerf_ns.nerf.refinement import (
    LEAST_AGREEMENT,
    LEAST_DEPTH,
    Choice,
    Consensus,
    FieldCheck,
    agreement,
    choose,
    depth_agreement,
)
from spinnerf_ns.nerf.rendering import render_objectness_and_depth
from spinnerf_ns.scene.points import visible_points
from spinnerf_ns.scene.view import View

if TYPE_CHECKING:
    from spinnerf_ns.nerf.data.datamanager import SpinnerfSegDataManager
    from spinnerf_ns.nerf.seg_model import SpinnerfSegModel

CHECKED = 12
"""Photos, evenly spread, by which the field is judged."""

CHECK_WIDTH = 200
"""They are rendered at about this width."""


MANY = 0.25
"""Part of the photos in which the field's mask was not taken, beyond which that is said."""


class MaskChoice:
    """Chooses photos' masks.

    Args:
        model: the field as it is now.
        manager: its data manager: capture, points, tracked masks.
    """

    def __init__(self, model: SpinnerfSegModel, manager: SpinnerfSegDataManager) -> None:
        self.model, self.manager = model, manager
        object_free = set(manager.workspace.object_free)
        self.views = [view for view in manager.capture.views if view.photo not in object_free]
        self.others = manager.consensus
        self.check = self._check()
        self.doubtful: list[str] = []
        self.emptied: list[str] = []
        self.refused: list[str] = []

    def _check(self) -> FieldCheck:
        labelled = [view for view in self.views if self.manager.mask_file(view) is not None]
        chosen = np.unique(np.linspace(0, len(labelled) - 1, min(CHECKED, len(labelled))).round().astype(int)) if labelled else []
        agreements, depths = [], []
        for view in (labelled[index] for index in chosen):
            label = self.manager.read_label(view)
            objectness, z = self._rendered(view, max(1, round(view.width / CHECK_WIDTH)))
            depths.append(self.depth_agreement(view, z))
            if (label == 1).any():
                agreements.append(agreement(objectness > OBJECTNESS_THRESHOLD, label == 1))
        return FieldCheck.of(agreements, depths)

    def depth_agreement(self, view: View, z: npt.NDArray[np.floating]) -> float:
        """`refinement.depth_agreement` of a photo's rendered depth (H, W) with the capture's points."""
        points = self.manager.points
        if points is None:
            return float("nan")
        _, pixels, known = visible_points(view, view.read_image(), points)
        return depth_agreement(z, pixels, known)

    def _rendered(self, view: View, downscale: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        capture = self.manager.capture
        return render_objectness_and_depth(self.model, capture.cameras([view]), capture.world_scale, downscale)

    def choose(self, view: View, objectness: npt.NDArray[np.floating], label: npt.NDArray[np.uint8] | None) -> Choice:
        """A photo's mask; arguments as of `refinement.choose`."""
        choice = choose(view, objectness, label, self.others, self.check.trusted)
        if choice.doubtful:
            self.doubtful.append(view.photo)
        if choice.source == "tracked" and choice.agreement < LEAST_AGREEMENT and self.check.trusted:
            self.refused.append(view.photo)
        if label is not None and (label == 1).any() and not choice.object_mask.any():
            self.emptied.append(view.photo)
        return choice

    def say_check(self) -> None:
        """One line where the field is not believed."""
        check = self.check
        if check.trusted:
            return
        depth = "" if check.depth != check.depth or check.depth >= LEAST_DEPTH else (
            f"; its depth is right at {check.depth:.0%} of the sparse points"
        )  # fmt: skip
        CONSOLE.print(
            f"The field's masks are not used: in {check.unexplained} of {check.photos} photos looked at they are not the tracked "
            f"ones (IoU {check.explained:.2f} in the middle one){depth}; the tracked masks stay, and what lies behind the object "
            "may be wrong: train longer (--max-num-iterations), or look at the poses",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip

    def say_photos(self) -> None:
        """A line each for photos whose mask should be looked at, for photos whose tracked mask was taken away, and for many in
        which the field's was not taken."""
        many = self.refused if len(self.refused) > MANY * len(self.views) else []
        for photos, what in (
            (many, "keep the tracked mask, which the field does not confirm: what lies behind the object may be wrong there, too"),
            (self.doubtful, "have a mask that the other photos' masks do not confirm; look at them"),
            (self.emptied, "lost their tracked mask: by the other photos the object is not there; look at them"),
        ):
            if photos:
                named = ", ".join(photos[:8]) + (", ..." if len(photos) > 8 else "")
                text = f"{len(photos)} of {len(self.views)} photos {what}: {named}"
                CONSOLE.print(text, markup=False, highlight=False, soft_wrap=True)


def consensus_of(manager: SpinnerfSegDataManager) -> Consensus:
    """What the tracked masks on disk say."""
    views = [view for view in manager.capture.views if manager.mask_file(view) is not None]
    return Consensus(views, [lambda view=view: manager.read_label(view) == 1 for view in views])
