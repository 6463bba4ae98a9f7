"""The cost of planes and slanted patches in torch: what plane_sweep.cpp does in one pass, on any device.

The costs are 1 - NCC, cut at 1: the same at another exposure. What a neighbour does not show costs 1 as well. Of the neighbours
only the better half counts: at an edge, those on one side do not see what lies behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

Tensor = torch.Tensor

NEAREST = 1e-6
"""Third components below: behind the neighbour. The same in plane_sweep.cpp."""


@dataclass(frozen=True, eq=False)
class Photos:
    """A photo and its neighbours, grey, as float32 tensors on one device."""

    reference: Tensor
    """(H, W)."""
    neighbours: Sequence[Tensor]
    """Each (h, w)."""
    poses: Tensor
    """(K, 12) of `rig.relative_pose`."""
    best: int
    """So many of the neighbours count for a pixel, the best ones."""
    noise: float
    """Variance of grey that is no texture."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The pixels of a slanted patch."""

    dx: Tensor
    """(S,) from its centre, S a multiple of 8."""
    dy: Tensor
    """(S,)."""
    near: Tensor
    """(S,) what each weighs; 0 for those that only fill up."""
    contrast: float
    """A pixel whose grey is so far from the centre's weighs half: it may lie on another surface."""


def sweep(photos: Photos, inverses: Tensor, radius: int) -> Tensor:
    """The costs of planes that face the camera.

    Args:
        photos: the photo and its neighbours.
        inverses: (P,) inverse depths.
        radius: of the window, in pixels.

    Returns:
        (H, W, P).
    """
    height, width = photos.reference.shape
    y, x = torch.meshgrid(*(torch.arange(n, device=inverses.device, dtype=torch.float32) for n in (height, width)), indexing="ij")
    mean = _box(photos.reference, radius)
    variance = _box(photos.reference**2, radius) - mean**2
    planes = []
    for w in inverses:
        costs = []
        for grey, pose in zip(photos.neighbours, photos.poses, strict=True):
            values, shown = _look(grey, *_homogeneous(pose, x, y, w))
            other = _box(values, radius)
            covariance = _box(photos.reference * values, radius) - mean * other
            cost = _cost(covariance, variance, _box(values**2, radius) - other**2, photos.noise)
            costs.append(torch.where(shown, cost, 1.0))
        planes.append(_best(costs, photos.best))
    return torch.stack(planes, dim=-1).contiguous()


def aggregate(volume: Tensor, guide: Tensor, small: float, large: float, contrast: float) -> tuple[Tensor, Tensor]:
    """Semi-global matching in four directions (Hirschmueller 2008).

    Args:
        volume: (H, W, P) costs.
        guide: (H, W) grey: a jump costs less where it changes.
        small: the price of a step to the next plane.
        large: the price of a jump where the photo is even.
        contrast: a change of grey that halves it.

    Returns:
        (H, W) the best plane's number, between planes, and (H, W) the volume's cost there.
    """
    sums = torch.zeros_like(volume)
    for dim in (1, 0):
        lines, greys, totals = (tensor.movedim(dim, 0) for tensor in (volume, guide, sums))
        for order in (range(len(lines)), range(len(lines) - 1, -1, -1)):
            path, before = None, 0
            for i in order:
                if path is None:
                    path = lines[i].clone()
                else:
                    jump = (large / (1.0 + (greys[i] - greys[before]).abs() / contrast)).clamp(min=small)[:, None]
                    least = path.min(dim=1, keepdim=True).values
                    ends = F.pad(path, (1, 1), value=1e9)
                    beside = torch.minimum(ends[:, :-2], ends[:, 2:]) + small
                    path = lines[i] + torch.minimum(torch.minimum(path, beside), least + jump) - least
                totals[i] += path
                before = i
    best = sums.argmin(dim=2, keepdim=True)
    around = [sums.gather(2, (best + step).clamp(0, sums.shape[2] - 1))[..., 0] - sums.gather(2, best)[..., 0] for step in (-1, 1)]
    inner = (best[..., 0] > 0) & (best[..., 0] < sums.shape[2] - 1)
    between = torch.where(inner, 0.5 * (around[0] - around[1]) / (around[0] + around[1]).clamp(min=1e-6), 0.0)
    return best[..., 0] + between, volume.gather(2, best)[..., 0]


def refine(
    photos: Photos,
    samples: Samples,
    planes: Tensor,
    anchor: Tensor,
    offsets: Sequence[tuple[int, int]],
    reach: float,
    tilt: float,
    pull: float,
    unit: float,
) -> tuple[Tensor, Tensor]:
    """One round of slanted patches: planes of pixels near by, then inverse depths to both sides, then slopes.

    The last two look at the photos that were best before. Where a patch is even nothing is changed.

    Args:
        photos: the photo and its neighbours.
        samples: the patch.
        planes: (H, W, 3) inverse depth and its slopes along x and y.
        anchor: (H, W) inverse depth that a patch leaves at a price.
        offsets: (down, right) of the pixels whose planes are tried.
        reach: how far inverse depths are tried; a parabola through the three costs finds the place between.
        tilt: how far slopes are tried; 0 for not at all.
        pull: the price of `unit` away from the anchor; twice that at most.
        unit: an inverse depth.

    Returns:
        (H, W, 3) planes after the round, and (H, W) their costs.
    """
    patches = _Patches(photos, samples)

    def leaving(w: Tensor) -> Tensor:
        return pull * ((w - anchor).abs() / unit).clamp(max=2.0)

    def take(better: Tensor, *pairs: tuple[Tensor, Tensor]) -> list[Tensor]:
        return [torch.where(better, new, old) for new, old in pairs]

    w, gx, gy = planes.unbind(dim=2)
    best, which = patches.cost(w, gx, gy)
    best = torch.where(w > 0, best + leaving(w), 3.0)
    height, width = w.shape
    for down, right in offsets:
        rows = torch.arange(height, device=w.device) + down
        columns = torch.arange(width, device=w.device) + right
        exists = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
        ow, ox, oy = planes[rows.clamp(0, height - 1)][:, columns.clamp(0, width - 1)].unbind(dim=2)
        ow = ow - ox * right - oy * down
        same = ((ow - w).abs() < 0.2 * reach) & ((ox - gx).abs() < 2 * tilt) & ((oy - gy).abs() < 2 * tilt)
        cost, others = patches.cost(ow, ox, oy)
        cost = cost + leaving(ow)
        better = exists & ~same & (ow > 0) & (cost < best)
        best, w, gx, gy, which = take(better, (cost, best), (ow, w), (ox, gx), (oy, gy), (others, which))

    def price(w: Tensor, gx: Tensor, gy: Tensor) -> Tensor:
        return torch.where(w > 0, patches.cost_of_these(w, gx, gy, which) + leaving(w), 3.0)

    low, high = price(w - reach, gx, gy), price(w + reach, gx, gy)
    bend = low + high - 2.0 * best
    aside = (low < best) | (high < best)
    between = w + torch.where(bend > 1e-6, 0.5 * reach * (low - high) / bend.clamp(min=1e-6), 0.0)
    cost = price(between, gx, gy)
    inner = ~aside & (bend > 1e-6) & (cost < best)
    best, w = take(inner, (cost, best), (between, w))
    best, w = take(aside, (torch.minimum(low, high), best), (torch.where(low < high, w - reach, w + reach), w))
    for sign_x, sign_y in ((1, 0), (-1, 0), (0, 1), (0, -1)) if tilt > 0 else ():
        tx, ty = gx + sign_x * tilt, gy + sign_y * tilt
        cost = price(w, tx, ty)
        best, gx, gy = take(cost < best, (cost, best), (tx, gx), (ty, gy))
    even = patches.variance < photos.noise  # nothing to measure
    return torch.where(even[..., None], planes, torch.stack([w, gx, gy], dim=2)), torch.where(even, 1.0, best)


class _Patches:
    """A patch around every pixel: what of the reference is in it."""

    def __init__(self, photos: Photos, samples: Samples) -> None:
        self.photos, self.samples = photos, samples
        reference = photos.reference
        height, width = reference.shape
        self.y, self.x = torch.meshgrid(
            *(torch.arange(n, device=reference.device, dtype=torch.float32) for n in (height, width)), indexing="ij"
        )
        weights, greys = [], []
        for dx, dy, near in zip(samples.dx, samples.dy, samples.near, strict=True):
            x, y = (self.x + dx).clamp(0, width - 1), (self.y + dy).clamp(0, height - 1)
            grey = reference[y.long(), x.long()]
            weight = near / (1.0 + ((grey - reference) / samples.contrast) ** 2)
            weights.append(torch.where((x == self.x + dx) & (y == self.y + dy), weight, 0.0))
            greys.append(grey)
        weight, grey = torch.stack(weights), torch.stack(greys)
        self.weights = weight / weight.sum(dim=0)
        self.weighted = self.weights * grey
        self.mean = self.weighted.sum(dim=0)
        self.variance = (self.weighted * grey).sum(dim=0) - self.mean**2

    def cost(self, w: Tensor, gx: Tensor, gy: Tensor) -> tuple[Tensor, Tensor]:
        """(H, W) the mean of the best photos, and (K, H, W) 1 for these, the first ones of equal cost."""
        costs = self._costs(w, gx, gy)
        order = costs.sort(dim=0, stable=True).indices[: self.photos.best]
        which = torch.zeros_like(costs).scatter_(0, order, 1.0)
        return self._mean(costs, which), which

    def cost_of_these(self, w: Tensor, gx: Tensor, gy: Tensor, which: Tensor) -> Tensor:
        """(H, W) the mean of given photos."""
        return self._mean(self._costs(w, gx, gy), which)

    def _mean(self, costs: Tensor, which: Tensor) -> Tensor:
        best = self.photos.best
        return ((costs * which).sum(dim=0) + best - min(best, len(costs))) / best

    def _costs(self, w: Tensor, gx: Tensor, gy: Tensor) -> Tensor:
        """(K, H, W)."""
        costs = []
        dx, dy = self.samples.dx[:, None, None], self.samples.dy[:, None, None]
        inverse = w + gx * dx + gy * dy
        for grey, pose in zip(self.photos.neighbours, self.photos.poses, strict=True):
            height, width = grey.shape
            cx, cy, cz = _homogeneous(pose, self.x, self.y, w)
            u, v = cx / cz, cy / cz
            shown = (cz > NEAREST) & (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
            values, _ = _look(grey, *_homogeneous(pose, self.x + dx, self.y + dy, inverse))
            other = (self.weights * values).sum(dim=0)
            covariance = (self.weighted * values).sum(dim=0) - self.mean * other
            spread = (self.weights * values**2).sum(dim=0) - other**2
            costs.append(torch.where(shown, _cost(covariance, self.variance, spread, self.photos.noise), 1.0))
        return torch.stack(costs)


def _homogeneous(pose: Tensor, x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, b = pose[:9], pose[9:]
    return tuple(a[3 * i] * x + a[3 * i + 1] * y + a[3 * i + 2] + w * b[i] for i in range(3))


def _look(grey: Tensor, hx: Tensor, hy: Tensor, hz: Tensor) -> tuple[Tensor, Tensor]:
    """What a neighbour shows, bilinear, and whether it shows it."""
    height, width = grey.shape
    inverse = 1.0 / hz.clamp(min=NEAREST)
    u, v = hx * inverse, hy * inverse
    shown = (hz > NEAREST) & (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
    u, v = u.clamp(0, width - 1), v.clamp(0, height - 1)
    x, y = u.long().clamp(max=width - 2), v.long().clamp(max=height - 2)
    fx, fy = u - x, v - y
    flat, at = grey.reshape(-1), y * width + x
    top = flat[at] + fx * (flat[at + 1] - flat[at])
    low = flat[at + width] + fx * (flat[at + width + 1] - flat[at + width])
    return top + fy * (low - top), shown


def _box(values: Tensor, radius: int) -> Tensor:
    """(H, W) means over a window; beyond the photo its edge goes on."""
    padded = F.pad(values[None, None], (radius,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1)[0, 0]


def _cost(covariance: Tensor, variance: Tensor, other: Tensor, noise: float) -> Tensor:
    spread = ((variance.clamp(min=0) + noise) * (other.clamp(min=0) + noise)).sqrt()
    return (1.0 - covariance / spread).clamp(max=1.0)


def _best(costs: Sequence[Tensor], best: int) -> Tensor:
    """The mean of the `best` least; neighbours that are wanting cost 1."""
    every = list(costs) + [torch.ones_like(costs[0])] * max(0, best - len(costs))
    return torch.stack(every).sort(dim=0).values[:best].mean(dim=0)
