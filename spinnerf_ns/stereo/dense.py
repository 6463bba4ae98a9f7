"""Depth of a photo from its neighbours: a plane sweep, semi-global matching, then slanted patches.

The range is found from coarse to fine: a small copy of the photo is swept from infinity to where neighbours no longer overlap,
and what it finds bounds the sweep of the photo itself. So nothing has to be known but the poses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from spinnerf_ns.stereo import plane_sweep
from spinnerf_ns.stereo.matching import Photos, Samples
from spinnerf_ns.stereo.neighbours import axes_depth, choose_neighbours, plane_inverses
from spinnerf_ns.stereo.rig import Floats, Pinhole, half, relative_pose


@dataclass(frozen=True)
class StereoOptions:
    """How depth is measured."""

    width: int = 504
    """Photos are worked on so many pixels wide, or at their own width if that is less: even stone is held by its fine grain."""
    neighbours: int = 6
    """Photos that a photo is matched with; the better half counts at each pixel."""
    witnesses: int = 8
    """Photos that a photo's depth is compared with afterwards."""
    planes: int = 128
    """Planes of the sweep at most."""
    radius: int = 2
    """Of the sweep's window, in pixels."""
    small: float = 0.03
    """Price of a step to the next plane, where a pixel's cost is 1 at most."""
    large: float = 0.4
    """Price of a jump between planes in an even part of the photo."""
    contrast: float = 8.0
    """Change of grey (of 255) that halves that price."""
    noise: float = 2.0
    """Variance of grey (of 255) that is no texture."""
    rounds: tuple[float, ...] = (0.5,)
    """Rounds of slanted patches: how far inverse depths are tried, in planes of the sweep. A second one
    finds hardly anything (terrace, share of textured pixels within 1 %: 0.849 after one, 0.852 after two)."""
    pull: float = 0.02
    """Price of a plane away from what the sweep found."""


LEAST_WIDTH = 64
"""Narrower photos say nothing of a depth."""
FEWEST_PLANES = 32
COARSE_WIDTH = 126
COARSE_PLANES = 96
COARSE_COST = 0.5
"""A pixel of the coarse sweep counts when its cost is below."""
MARGIN = 0.25
"""The range of the coarse sweep is widened by this part of its ends."""


@dataclass(frozen=True, eq=False)
class RawDepth:
    """What a photo's own sweep says, before it is compared with others."""

    planes: Floats
    """(H, W, 3) inverse depth and its slopes along x and y per pixel."""
    cost: Floats
    """(H, W) 0: the neighbours show the same, 1: nothing alike."""
    neighbours: list[int]
    """The photos that it was matched with."""
    step: float
    """Inverse depth between two planes of the sweep."""


class Sweeper:
    """Depth photo by photo.

    Args:
        cameras: the photos' cameras.
        read: index -> (H, W) float32 grey of a photo.
        options: how.
        depth: how far content lies, where that is known (sparse points, bounds).
    """

    def __init__(
        self, cameras: Sequence[Pinhole], read: Callable[[int], Floats], options: StereoOptions, depth: float | None = None
    ) -> None:
        self.cameras, self.read, self.options = cameras, read, options
        self.coarse = [half(camera, max(1, round(camera.width / COARSE_WIDTH))) for camera in cameras]
        self._coarse_photos: dict[int, torch.Tensor] = {}
        self.depth = self._probe(axes_depth(cameras)) if depth is None else depth

    def measure(self, index: int) -> RawDepth | None:
        """A photo's depth; None where no photo shows the same."""
        options = self.options
        found = self._coarse_range(index, self.depth)
        if found is None:
            return None
        near, far, depth = found
        chosen = choose_neighbours(self.cameras, index, depth, options.neighbours)
        camera, others = self.cameras[index], [self.cameras[other] for other in chosen]
        inverses = plane_inverses(camera, others, near, far, FEWEST_PLANES, options.planes)
        photos = self._photos(camera, others, [torch.from_numpy(self.read(i)) for i in (index, *chosen)])
        step = float(inverses[1] - inverses[0])
        inverse, cost = self._sweep(photos, inverses)
        planes = _with_slopes(inverse, step)
        samples = patch_samples()
        anchor = inverse
        for reach, apart in zip(options.rounds, (3, 1, 2, 1), strict=False):
            offsets = [(-apart, 0), (apart, 0), (0, -apart), (0, apart)]
            tilt = reach * step / 6
            planes, cost = plane_sweep.refine(photos, samples, planes, anchor, offsets, reach * step, tilt, options.pull, step)
        return RawDepth(planes.numpy(), cost.numpy(), chosen, step)

    def _sweep(self, photos: Photos, inverses: npt.NDArray) -> tuple[torch.Tensor, torch.Tensor]:
        options = self.options
        volume = plane_sweep.sweep(photos, torch.tensor(inverses, dtype=torch.float32), options.radius)
        place, cost = plane_sweep.aggregate(volume, photos.reference, options.small, options.large, options.contrast)
        return float(inverses[0]) + place * float(inverses[1] - inverses[0]), cost

    def _photos(self, camera: Pinhole, others: Sequence[Pinhole], greys: Sequence[torch.Tensor]) -> Photos:
        poses = torch.tensor(np.stack([relative_pose(camera, other) for other in others]), dtype=torch.float32)
        return Photos(greys[0], greys[1:], poses, max(1, (self.options.neighbours + 1) // 2), self.options.noise)

    # ----------------------------------------------------------------------------------------------------------- the range
    def _probe(self, depth: float) -> float:
        """How far content lies, from some photos spread over all."""
        probes = np.unique(np.linspace(0, len(self.cameras) - 1, 5).round().astype(int))
        for _ in range(3):
            found = [self._coarse_range(int(index), depth) for index in probes]
            depths = [one[2] for one in found if one is not None]
            if not depths:
                return depth
            before, depth = depth, float(np.median(depths))
            if abs(depth - before) < 0.2 * before:
                break
        return depth

    def _coarse_range(self, index: int, depth: float) -> tuple[float, float, float] | None:
        """Inverse depths of the nearest and the farthest content of a photo, and its median depth."""
        chosen = choose_neighbours(self.coarse, index, depth, self.options.neighbours)
        if not chosen:
            return None
        camera, others = self.coarse[index], [self.coarse[other] for other in chosen]
        baseline = float(np.median([np.linalg.norm(other.center - camera.center) for other in others]))
        nearest = camera.width / 2 / (camera.focal * baseline)  # nearer, and half the neighbours show other things
        photos = self._photos(camera, others, [self._coarse_photo(i) for i in (index, *chosen)])
        inverse, cost = self._sweep(photos, np.linspace(0, nearest, COARSE_PLANES))
        sure = inverse[(cost < COARSE_COST) & (inverse > 0)].numpy()
        if sure.size < 50:
            return None
        far, middle, near = np.percentile(sure, [1, 50, 99])
        return float(near * (1 + MARGIN)), float(far * (1 - MARGIN)), 1 / float(middle)

    def _coarse_photo(self, index: int) -> torch.Tensor:
        if index not in self._coarse_photos:
            import cv2

            camera = self.coarse[index]
            small = cv2.resize(self.read(index), (camera.width, camera.height), interpolation=cv2.INTER_AREA)
            self._coarse_photos[index] = torch.from_numpy(small)
        return self._coarse_photos[index]


def patch_samples(radius: int = 3) -> Samples:
    """Every second pixel of a window, as on a chess board: as wide as all of them at half the price."""
    d = np.arange(-radius, radius + 1)
    dx, dy = (a.ravel() for a in np.meshgrid(d, d))
    kept = (dx + dy) % 2 == 0
    dx, dy = dx[kept], dy[kept]
    near = np.exp(-(dx**2 + dy**2) / (2 * (0.6 * radius) ** 2))
    fill = -len(dx) % 8
    dx, dy, near = (torch.tensor(np.pad(a, (0, fill)), dtype=torch.float32) for a in (dx, dy, near))
    return Samples(dx, dy, near, 12.0)


def _with_slopes(inverse: torch.Tensor, step: float) -> torch.Tensor:
    """(H, W) inverse depth -> (H, W, 3) with slopes: of both sides the flatter one, so that none leads over an edge."""
    import cv2

    smooth = cv2.medianBlur(inverse.numpy(), 5)
    slopes = []
    for axis in (1, 0):
        apart = 3
        ahead = np.diff(smooth, axis=axis, n=1)
        total = np.cumsum(np.concatenate([np.zeros_like(smooth.take([0], axis)), ahead], axis=axis), axis=axis)
        index = np.arange(smooth.shape[axis])
        after = (total.take(np.minimum(index + apart, len(index) - 1), axis) - total) / apart
        before = (total - total.take(np.maximum(index - apart, 0), axis)) / apart
        slopes.append(np.where(np.abs(after) < np.abs(before), after, before))
    planes = np.stack([inverse.numpy(), *slopes], axis=2).astype(np.float32)
    planes[..., 1:] = np.clip(planes[..., 1:], -step, step)
    return torch.from_numpy(planes)
