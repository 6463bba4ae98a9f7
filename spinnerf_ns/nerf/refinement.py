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
from spinnerf_ns.scene.cameras import project, ray_directions
from spinnerf_ns.scene.view import View

SURE = 0.8
"""Objectness above this, or below 1 minus this, overrules a tracked mask."""

CELLS = 56
"""Cells along a side of the cube in which the object is looked for."""

BOX = 1.4
"""Half the cube's side, in half the object's extent."""

VOTERS = 60
"""At most so many photos vote on a cell."""

LEAST_VOTERS = 3
"""Photos that must show a cell."""

CALIBRATED = 20
"""Photos by which that part is chosen: about so many."""

LARGEST_TURN = np.deg2rad(35)
"""Between two viewing axes, for one photo's mask to have a say on the other's."""

PARTS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Parts of the photos that must see a cell inside their masks: the one that explains most photos' masks best is taken."""


DEPTH_TOLERANCE = 0.05
"""Relative error of rendered depth at a sparse point up to which the field knows it."""

LEAST_DEPTHS = 20
"""Fewer points of a photo say nothing of its depth."""

LEAST_DEPTH = 0.5
"""Share of points that the field must know to have learnt the scene; trained ones know over nine tenths."""

LEAST_EXPLAINED = 0.6
"""IoU from which a rendered mask is the tracked one, blurred by the grid."""

LEAST_SUPPORT = 0.5
"""IoU with what the other photos' masks say, under which a mask is of something else."""

LEAST_CONSENSUS = 0.7
"""Median IoU of the tracked masks with what the others say, from which that means something."""

LEAST_AGREEMENT = 0.9
"""Without others to ask, IoU with the tracked mask from which the field's is taken."""

MARGIN = 0.01
"""By how much more the others must speak for the field's mask than for the tracked one: what they say is as coarse."""


FINE = 0.92
"""Median IoU of rendered and tracked masks from which a field is fine enough to mend outlines: below, its own blur is larger than
what it could mend (desk 0.90, refined worse by 0.004; terrace 0.93, better by 0.022; the twin 0.97, better by 0.001)."""

LEAST_ALIKE = 0.88
"""IoU of tracked and refined mask from which they differ by an outline alone."""

SLACK = 0.08
"""By how much less the others may then speak for the refined one: a part that many tracked masks lack they lack, too."""


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


def agreement(a: BoolMask, b: BoolMask) -> float:
    """IoU of two masks; 1 for two empty ones."""
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


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

    @property
    def fine(self) -> bool:
        """Whether it may mend outlines."""
        return self.trusted and self.explained >= FINE


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
    fine: bool = False,
) -> Choice:
    """The better one of a photo's masks.

    The field's mask is taken where the other photos' masks speak for it more than for the tracked one, and a fine field's also
    where it differs from it by an outline that they do not clearly speak against. Where they say
    nothing, it is taken if it is nearly the tracked one. Where there is no tracked mask, or one of something else, the field's
    keeps the outline that the others say.

    Args:
        view: the photo.
        objectness: (H, W) rendered, in [0, 1].
        label: (H, W) the tracked mask as uint8, 1 object, 0 not; None for a photo in which the object was lost.
        others: what the tracked masks say.
        trusted: whether the field has learnt the scene (`FieldCheck`).
        fine: whether it may mend outlines (the same).
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
    mends_outline = fine and same >= LEAST_ALIKE and by_field >= by_tracked - SLACK
    if mends_outline or (trusted and by_field >= by_tracked + MARGIN):
        return Choice(rendered, "field", same, by_tracked, by_field, doubtful=by_field < LEAST_SUPPORT)
    if by_tracked < LEAST_SUPPORT and not trusted:
        return Choice(others.full(view), "others", same, by_tracked, by_field, True)
    return Choice(tracked, "tracked", same, by_tracked, by_field, doubtful=by_tracked < LEAST_SUPPORT)


class Consensus:
    """Where a photo shows the object, by the tracked masks of all others.

    Args:
        views: photos with a tracked mask.
        masks: per photo (H, W) bool, empty where the object is not in it.
    """

    def __init__(self, views: Sequence[View], masks: Sequence[BoolMask]) -> None:
        chosen = np.unique(np.linspace(0, len(views) - 1, min(VOTERS, len(views))).round().astype(int)) if views else []
        self.views = [views[i] for i in chosen]
        self._place = {view.photo: i for i, view in enumerate(self.views)}
        masks = [masks[i] for i in chosen]
        box = _box(self.views, masks)
        self.cell = 0.0
        self._cells = np.zeros((0, 3))
        self._shown = self._inside = np.zeros((len(self.views), 0), bool)
        self.part, self.explained = PARTS[0], 0.0
        if box is None:
            return
        center, half = box
        self.cell = 2 * half / CELLS
        steps = (np.arange(CELLS) + 0.5) * self.cell - half
        self._cells = center + np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
        self._shown, self._inside = (np.zeros((len(self.views), len(self._cells)), bool) for _ in range(2))
        for index, (view, object_mask) in enumerate(zip(self.views, masks, strict=True)):
            xy, z = project(view, self._cells)
            with np.errstate(invalid="ignore"):
                shown = (z > 0) & (xy[:, 0] >= 0) & (xy[:, 0] < view.width) & (xy[:, 1] >= 0) & (xy[:, 1] < view.height)
            which = np.flatnonzero(shown)
            self._shown[index] = shown
            self._inside[index, which] = object_mask[xy[which, 1].astype(np.int64), xy[which, 0].astype(np.int64)]
        self._count = self._shown.sum(axis=0, dtype=np.int32)
        self._votes = self._inside.sum(axis=0, dtype=np.int32)
        # Without any one photo's vote, too, the others can never count as inside.
        possible = (self._count >= LEAST_VOTERS) & (self._votes >= PARTS[0] * (self._count - 1) - 1e-6)
        self._cells, self._count, self._votes = self._cells[possible], self._count[possible], self._votes[possible]
        self._shown, self._inside = self._shown[:, possible], self._inside[:, possible]
        some = list(zip(self.views, masks, strict=True))[:: max(1, len(self.views) // CALIBRATED)]
        explained = [np.median([agreement(*self.compared(view, mask, part)) for view, mask in some]) for part in PARTS]
        self.part = PARTS[int(np.argmax(explained))]
        self.explained = float(max(explained))

    @property
    def trusted(self) -> bool:
        """Whether the masks agree with one another well enough to judge one."""
        return self.explained >= LEAST_CONSENSUS and len(self.views) > LEAST_VOTERS

    def knows(self, view: View) -> bool:
        """Whether they have a say on a photo: they agree with one another, and some look from about there. From elsewhere what
        lies inside all masks is longer than the object."""
        near = [each.photo != view.photo and each.c2w[:, 2] @ view.c2w[:, 2] >= np.cos(LARGEST_TURN) for each in self.views]
        return self.trusted and sum(near) >= LEAST_VOTERS

    def support(self, view: View, object_mask: BoolMask) -> float:
        """IoU of a mask of a photo with what the others say; NaN where they have no say."""
        return agreement(*self.compared(view, object_mask)) if self.knows(view) else float("nan")

    def full(self, view: View) -> BoolMask:
        """(H, W) bool: what the others say of a photo, at its own resolution."""
        import cv2

        said = self.of(view).astype(np.float32)
        return cv2.resize(said, (view.width, view.height), interpolation=cv2.INTER_LINEAR) > 0.5

    def compared(self, view: View, object_mask: BoolMask, part: float | None = None) -> tuple[BoolMask, BoolMask]:
        """A mask of a photo and what the others say, both at the cells' resolution."""
        import cv2

        said = self.of(view, part)
        size = (said.shape[1], said.shape[0])
        return cv2.resize(object_mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5, said

    def of(self, view: View, part: float | None = None) -> BoolMask:
        """What the masks of the other photos say of a photo, at the resolution of the cells.

        Returns:
            (h, w) bool; h and w are at most the photo's.
        """
        import cv2

        if not len(self._cells):
            return np.zeros((view.height, view.width), bool)
        own = self._place.get(view.photo)
        count = self._count if own is None else self._count - self._shown[own]
        votes = self._votes if own is None else self._votes - self._inside[own]
        cells = self._cells[(count >= LEAST_VOTERS) & (votes >= (self.part if part is None else part) * count - 1e-6)]
        xy, z = project(view, cells)
        with np.errstate(invalid="ignore"):
            kept = (z > 0) & (xy[:, 0] >= 0) & (xy[:, 0] < view.width) & (xy[:, 1] >= 0) & (xy[:, 1] < view.height)
        xy, z = xy[kept], z[kept]
        if not len(z):
            return np.zeros((view.height, view.width), bool)
        shrink = max(1.0, view.fx * self.cell / float(np.median(z)))
        said = np.zeros((max(1, round(view.height / shrink)), max(1, round(view.width / shrink))), np.uint8)
        x = np.minimum((xy[:, 0] * said.shape[1] / view.width).astype(np.int64), said.shape[1] - 1)
        y = np.minimum((xy[:, 1] * said.shape[0] / view.height).astype(np.int64), said.shape[0] - 1)
        said[y, x] = 1
        return cv2.morphologyEx(said, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0


def _box(views: Sequence[View], masks: Sequence[BoolMask]) -> tuple[npt.NDArray[np.float64], float] | None:
    """Centre and half side of a cube around the object: where most photos' rays through their masks' middles meet."""
    origins, rays, sizes = [], [], []
    for view, object_mask in zip(views, masks, strict=True):
        rows, columns = np.nonzero(object_mask)
        if len(rows) < 4:
            continue
        low = np.percentile(np.stack([columns, rows], axis=1), 2, axis=0)
        high = np.percentile(np.stack([columns, rows], axis=1), 98, axis=0)
        ray = ray_directions(view, ((low + high) / 2 + 0.5)[None])[0]
        origins.append(view.c2w[:, 3])
        rays.append(ray / np.linalg.norm(ray))
        sizes.append(float((high - low).max()) / 2 / view.fx)
    if len(rays) < LEAST_VOTERS:
        return None
    origins, rays, sizes = np.array(origins), np.array(rays), np.array(sizes)
    weight = np.ones(len(rays))
    across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    center = np.zeros(3)
    for _ in range(10):  # a mask of something else must not move it: rays that pass far off count little
        weighted = across * weight[:, None, None]
        normal = weighted.sum(axis=0) + 1e-9 * np.trace(weighted.sum(axis=0)) * np.eye(3)
        center = np.linalg.solve(normal, (weighted @ origins[:, :, None]).sum(axis=0)[:, 0])
        off = np.linalg.norm((across @ (center - origins)[:, :, None])[..., 0], axis=1)
        weight = 1 / (off + 0.1 * np.median(off) + 1e-12)
    distance = ((center - origins) * rays).sum(axis=1)
    if not (distance > 0).any():
        return None
    return center, BOX * float(np.median((sizes * distance)[distance > 0]))
