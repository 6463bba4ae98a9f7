"""What the object masks of all other photos say of a photo: pure functions on masks and poses.

The part of space that lies inside (most of) the other photos' masks, seen from a photo, is what its own mask should be. It needs
poses alone, no depth and no field, so whatever made a mask cannot vouch for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.scene.cameras import project, ray_directions
from spinnerf_ns.scene.view import View

CELLS = 56
"""Cells along a side of the cube in which the object is looked for."""

BOX = 1.4
"""Half the cube's side, in half the object's extent."""

VOTERS = 60
"""At most so many photos vote on a cell."""

LEAST_VOTERS = 3
"""Photos that must show a cell."""

LARGEST_TURN = np.deg2rad(35)
"""Between two viewing axes, for one photo's mask to have a say on the other's."""

PARTS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Parts of the photos that must see a cell inside their masks: the one that explains most photos' masks best is taken."""

CALIBRATED = 20
"""Photos by which this part is chosen: about so many."""

LEAST_CONSENSUS = 0.7
"""Median IoU of the tracked masks with what the others say, from which that means something."""

LEAST_SUPPORT = 0.5
"""IoU with what the other photos' masks say, under which a mask is of something else."""


def agreement(a: BoolMask, b: BoolMask) -> float:
    """IoU of two masks; 1 for two empty ones."""
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


class Consensus:
    """Where a photo shows the object, by the tracked masks of all others.

    Args:
        views: photos with a tracked mask.
        masks: per photo (H, W) bool, empty where the object is not in it; or a function that reads it: not all are asked for.
    """

    def __init__(self, views: Sequence[View], masks: Sequence[BoolMask | Callable[[], BoolMask]]) -> None:
        chosen = np.unique(np.linspace(0, len(views) - 1, min(VOTERS, len(views))).round().astype(int)) if views else []
        self.views = [views[i] for i in chosen]
        self._place = {view.photo: i for i, view in enumerate(self.views)}
        kept = [mask() if callable(mask := masks[i]) else mask for i in chosen]
        box = _box(self.views, kept)
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
        for index, (view, object_mask) in enumerate(zip(self.views, kept, strict=True)):
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
        some = list(zip(self.views, kept, strict=True))[:: max(1, len(self.views) // CALIBRATED)]
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
