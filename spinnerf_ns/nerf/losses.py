"""Losses of the method, on rendered values; pure functions. Source of each: SPIn-NeRF (CVPR 2023), sections 3.1 and 3.2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

UNKNOWN = 255
"""Object label of a pixel about which nothing is known; 0 = not the object, 1 = the object."""


def objectness_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of rendered objectness logits against object labels; 0 where nothing is known.

    Args:
        logits: (R, 1) rendered logits.
        labels: (R,) uint8: 0, 1 or `UNKNOWN`.

    Returns:
        The mean over the rays with a label: a scalar, exactly 0 (with a zero gradient) when there is none.
    """
    known = labels != UNKNOWN
    losses = F.binary_cross_entropy_with_logits(logits[:, 0], (labels == 1).float(), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def expected_disparity(weights: Tensor, t: Tensor, directions_norm: Tensor) -> Tensor:
    """Disparity of the rendered surface, composited along the ray like a colour.

    Compositing 1 / z is bounded and does not let one far sample outweigh the rest, as compositing z does; rays that end in
    nothing contribute disparity 0, which is infinity.

    Args:
        weights: (R, S, 1) rendering weights.
        t: (R, S, 1) distances of the samples along the ray.
        directions_norm: (R, 1).

    Returns:
        (R, 1) disparity of planar depth, 1 / z.
    """
    return (weights * (directions_norm[:, None] / t.clamp(min=1e-6))).sum(dim=1)


def disparity_loss(disparity: Tensor, target: Tensor, scale: float, tolerance: float = 0.0) -> Tensor:
    """Mean squared error of disparity beyond a tolerance, in units of `scale`; targets of 0 (unknown) are left out.

    Args:
        disparity: (R, 1) rendered, 1 / z.
        target: (R, 1), same units.
        scale: the disparity that counts as 1, a scene's typical one: makes the loss independent of the scene's unit.
        tolerance: part of the target by which a disparity may be off for nothing. Completed depth is a guess: within its
            error the photos that see past the gap know better.

    Returns:
        A scalar, exactly 0 when no target is known.
    """
    known = target > 0
    beyond = ((disparity - target).abs() - tolerance * target).clamp(min=0.0)
    squared = (beyond / scale).square() * known
    return squared.sum() / known.sum().clamp(min=1)


def sparse_depth_loss(weights: Tensor, t: Tensor, directions_norm: Tensor, target: Tensor, scale: float) -> Tensor:
    """Squared disparity error of every sample, composited: also draws together what lies around the known depth.

    A sparse point's depth is exact, so a ray's whole weight belongs there (the reasoning of DS-NeRF, Deng et al. 2022); the
    error of the expected disparity alone would be met by something before and something behind the surface.

    Args:
        weights: (R, S, 1) rendering weights.
        t: (R, S, 1) distances of the samples along the ray.
        directions_norm: (R, 1).
        target: (R, 1) disparity of planar depth.
        scale: the disparity that counts as 1.

    Returns:
        A scalar.
    """
    disparity = directions_norm[:, None] / t.clamp(min=1e-6)
    squared = ((disparity - target[:, None]) / scale).square()
    missed = (target / scale).square() * (1.0 - weights.sum(dim=1)).clamp(min=0)
    return ((weights * squared).sum(dim=1) + missed).mean()


def dense_depth_loss(weights: Tensor, t: Tensor, directions_norm: Tensor, target: Tensor, tolerance: float) -> Tensor:
    """Composited error of every sample's disparity, from 0 at the known depth to 1 far from it.

    A measured depth may be wrong, and then a squared error is largest where the field is right. Here (Geman and McClure's function
    of the relative error) a sample costs at most 1, so that what photos agree on outweighs a wrong depth; a ray's weight is drawn
    to the depth all the same, as a sample's cost moves its weight alone.

    Args:
        weights: (R, S, 1) rendering weights.
        t: (R, S, 1) distances of the samples along the ray.
        directions_norm: (R, 1).
        target: (R, 1) disparity of planar depth, 0 = unknown.
        tolerance: relative error at which a sample costs a half.

    Returns:
        A scalar: the mean over all rays, those without a depth counting 0.
    """
    known = target > 0
    disparity = directions_norm[:, None] / t.clamp(min=1e-6)
    squared = (disparity / torch.where(known, target, 1.0)[:, None] - 1).square()
    missed = (1.0 - weights.sum(dim=1)).clamp(min=0)
    cost = (weights * (squared / (squared + tolerance**2))).sum(dim=1) + missed
    return (cost * known).mean()


def as_patches(values: Tensor, patches: tuple[int, int, int]) -> Tensor:
    """(B * h * w, 3) values of patch rays -> (B, 3, h, w)."""
    return values.view(*patches, 3).permute(0, 3, 1, 2)


def stop_geometry(values: Tensor, trains_geometry: Tensor | None) -> Tensor:
    """Values through which only chosen rays pass a gradient.

    Args:
        values: (R, S, C), rendering weights or features of density.
        trains_geometry: (R, 1) bool, or None for all.

    Returns:
        (R, S, C), equal to `values`.
    """
    if trains_geometry is None:
        return values
    return torch.where(trains_geometry[:, None], values, values.detach())
