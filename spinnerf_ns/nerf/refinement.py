"""Which of a photo's two masks is right, the tracked one or the field's: pure functions on arrays.

A field's mask is better than a tracked one where the field has learnt the scene, and worthless where it has not: too few steps,
wrong depth, a photo at the capture's edge. And tracked masks are wrong in a photo here and there, which is what the field is
for. Neither is believed by itself. What decides is what the *other* photos' tracked masks say: the part of space that lies
inside (most of) them, seen from this photo. It needs poses alone, no depth and no field. Where both masks are nearly the
same, nothing has to be decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import OBJECTNESS_THRESHOLD, BoolMask
from spinnerf_ns.scene.consensus import LEAST_SUPPORT, Consensus, agreement
from spinnerf_ns.scene.view import View

SURE = 0.8
"""Objectness above this, or below 1 minus this, overrules a tracked mask."""

DEPTH_TOLERANCE = 0.05
"""Relative error of rendered depth at a sparse point up to which the field knows it."""

LEAST_DEPTHS = 20
"""Fewer points of a photo say nothing of its depth."""

LEAST_DEPTH = 0.5
"""Share of points that the field must know to have learnt the scene; trained ones know over nine tenths."""

LEAST_EXPLAINED = 0.6
"""IoU from which a rendered mask is the tracked one, blurred by the grid."""

LEAST_AGREEMENT = 0.9
"""Without others to ask, IoU with the tracked mask from which the field's is taken."""

MARGIN = 0.01
"""By how much more the others must speak for the field's mask than for the tracked one: what they say is as coarse."""

LEAST_ALIKE = 0.88
"""IoU of tracked and refined mask from which they differ by an outline alone."""

OUTLINE_MARGIN = 0.03
"""The same where they differ by an outline alone: a tracked outline follows the photo's edges and a field's is blurred by its grid.
Taking the field's wherever the others did not clearly speak against it made the masks worse in four of five scenes (garden 0.963
-> 0.948, desk 0.806 -> 0.796, terrace 0.990 -> 0.988, twin-orbit by 0.0003; the twin 0.971 -> 0.976)."""


def refined(objectness: npt.NDArray[np.floating], label: npt.NDArray[np.uint8]) -> BoolMask:
    """A photo's mask after a mask round, and in the export, where the field is believed.

    Where the field is sure, it overrules the tracked mask. At the outline it is not, being blurred by its grid: there the
    tracked mask, which followed the photo's edges, stays. Taking the field's own outline would wear the object away.

    Args:
        objectness: (H, W) rendered, in [0, 1].
        label: (H, W) uint8, 1 object, 0 not, other values unknown.

    Returns:
        (H, W) bool.
    """
    tracked = np.where(label <= 1, label == 1, objectness > OBJECTNESS_THRESHOLD)
    return np.where(np.abs(objectness - 0.5) > SURE - 0.5, objectness > OBJECTNESS_THRESHOLD, tracked)


def depth_agreement(z: npt.NDArray[np.floating], pixels: npt.NDArray[np.int64], known: npt.NDArray[np.floating]) -> float:
    """Share of a photo's sparse points at which rendered depth is right within `DEPTH_TOLERANCE`; NaN where it has too few.

    Args:
        z: (H, W) rendered planar depth, 0 = unknown.
        pixels: (K, 2) rows and columns of points.
        known: (K,) their planar depth, same units.
    """
    if len(pixels) < LEAST_DEPTHS:
        return float("nan")
    return float((np.abs(z[pixels[:, 0], pixels[:, 1]] / known - 1) <= DEPTH_TOLERANCE).mean())


@dataclass(frozen=True)
class FieldCheck:
    """Whether a field has learnt the scene, from some of its photos."""

    explained: float
    """Median IoU of rendered and tracked masks."""
    depth: float
    """Median of `depth_agreement`; NaN without points."""
    photos: int
    """Photos with a tracked mask that were looked at."""
    unexplained: int
    """Those of them whose rendered mask is not the tracked one (IoU below `LEAST_EXPLAINED`)."""

    @classmethod
    def of(cls, agreements: Sequence[float], depths: Sequence[float]) -> FieldCheck:
        """From the photos' IoU and depth agreements."""
        known = [share for share in depths if share == share]
        return cls(
            float(np.median(agreements)) if len(agreements) else 1.0,
            float(np.median(known)) if known else float("nan"),
            len(agreements),
            sum(value < LEAST_EXPLAINED for value in agreements),
        )

    @property
    def trusted(self) -> bool:
        """Whether it may overrule any mask."""
        return self.explained >= LEAST_EXPLAINED and not self.depth < LEAST_DEPTH


@dataclass(frozen=True)
class Choice:
    """The mask that is taken of a photo."""

    object_mask: BoolMask
    """(H, W)"""
    source: Literal["tracked", "field", "others"]
    """Whose mask it is; others: that of the other photos' masks, where neither of this photo's is theirs."""
    agreement: float
    """IoU of the tracked and the field's mask; NaN without a tracked one."""
    tracked: float
    """IoU of the tracked mask with what the other photos' masks say; NaN without either."""
    field: float
    """IoU of the field's mask with it."""
    doubtful: bool
    """Whether somebody should look at it."""

    def record(self) -> dict[str, float | str | None]:
        """What the manifest says of it; null where nobody knows."""
        figures = {"agreement": self.agreement, "tracked_with_others": self.tracked, "field_with_others": self.field}
        return {"mask": self.source, **{name: round(value, 4) if value == value else None for name, value in figures.items()}}


def choose(
    view: View,
    objectness: npt.NDArray[np.floating],
    label: npt.NDArray[np.uint8] | None,
    others: Consensus,
    trusted: bool,
) -> Choice:
    """The better one of a photo's masks.

    The field's mask is taken where the other photos' masks speak for it more than for the tracked one, by more still where the two
    differ by an outline alone. Where they say
    nothing, it is taken if it is nearly the tracked one. Where there is no tracked mask, or one of something else, the field's
    keeps the outline that the others say.

    Args:
        view: the photo.
        objectness: (H, W) rendered, in [0, 1].
        label: (H, W) the tracked mask as uint8, 1 object, 0 not; None for a photo in which the object was lost.
        others: what the tracked masks say.
        trusted: whether the field has learnt the scene (`FieldCheck`).
    """
    knows = others.knows(view)
    if label is None:
        outline = others.full(view).astype(np.uint8) if knows else np.full(objectness.shape, 2, np.uint8)
        rendered = refined(objectness, outline)
        by_field = others.support(view, rendered)
        # Where a field that knows the scene shows nothing, something may stand before the object.
        if trusted or not knows:
            return Choice(rendered, "field", float("nan"), float("nan"), by_field, doubtful=not trusted)
        return Choice(others.full(view), "others", float("nan"), float("nan"), by_field, True)
    tracked, rendered = label == 1, refined(objectness, label)
    same, by_tracked = agreement(tracked, rendered), others.support(view, tracked)
    if by_tracked < LEAST_SUPPORT and agreement(objectness > OBJECTNESS_THRESHOLD, tracked) < LEAST_EXPLAINED:
        # A mask of something else has no outline to keep.
        rendered = refined(objectness, others.full(view).astype(np.uint8))
    by_field = others.support(view, rendered)
    if not knows:
        by_field_alone = trusted and same >= LEAST_AGREEMENT
        chosen, source = (rendered, "field") if by_field_alone else (tracked, "tracked")
        return Choice(chosen, source, same, by_tracked, by_field, doubtful=same < LEAST_EXPLAINED)
    margin = OUTLINE_MARGIN if same >= LEAST_ALIKE else MARGIN
    if trusted and by_field >= by_tracked + margin:
        return Choice(rendered, "field", same, by_tracked, by_field, doubtful=by_field < LEAST_SUPPORT)
    if by_tracked < LEAST_SUPPORT and not trusted:
        return Choice(others.full(view), "others", same, by_tracked, by_field, True)
    return Choice(tracked, "tracked", same, by_tracked, by_field, doubtful=by_tracked < LEAST_SUPPORT)
