"""Renders of chosen views against what is known of them: the step between a trained model and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spinnerf_ns.conventions import OBJECTNESS_THRESHOLD, BoolMask, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.consistency import RenderedView, multiview_consistency
from spinnerf_ns.evaluation.fid import evaluate_fid, load_fid_features
from spinnerf_ns.nerf.metrics import aggregate, available_lpips, evaluate_partly_true, evaluate_segmentation
from spinnerf_ns.nerf.perceptual import LpipsLoss, make_perceptual_loss
from spinnerf_ns.nerf.rendering import render_pixels
from spinnerf_ns.scene.capture import Capture, order_along_path
from spinnerf_ns.scene.view import View


@dataclass(frozen=True)
class Known:
    """What is known of a view that is measured."""

    view: View
    """The camera and the photo."""
    photo: Image | None = None
    """(H, W, 3) uint8 photo, or None."""
    object_mask: BoolMask | None = None
    """(H, W) bool, True = the object is here, or would be in an object-free photo; None: not known."""
    object_free: bool = True
    """Whether the photo shows what is behind the object. If not, it is truth outside the object's mask alone."""
    valid_mask: BoolMask | None = None
    """(H, W) bool, True = measure (`View.valid_mask`); None: all."""


@dataclass
class Measured:
    """Figures of one model over several views."""

    figures: dict[str, float] = field(default_factory=dict)
    """Means over views (`metrics.aggregate`), consistency, and FID where it can be had."""
    per_view: dict[str, dict[str, float]] = field(default_factory=dict)
    """Photo -> its own figures."""
    absent: dict[str, str] = field(default_factory=dict)
    """Figure -> why it is not there."""


def load_networks(
    lpips_weights: Sequence[Path] = (), fid_weights: Path | None = None, device: str | torch.device = "cpu"
) -> tuple[list[LpipsLoss], torch.nn.Module | None, dict[str, str]]:
    """The networks that figures need, from the files given, else from what is on this machine; nothing is downloaded.

    Returns:
        LPIPS networks, FID's Inception network or None, and figure -> why it cannot be had.

    Raises:
        SpinnerfError: a file that was given is missing or does not fit.
    """
    if lpips_weights:
        lpips, absent = [make_perceptual_loss("auto", Path(path), device) for path in lpips_weights], {}
    else:
        lpips, absent = available_lpips(allow_download=False, device=device)
    try:
        return lpips, load_fid_features(fid_weights, allow_download=False), absent
    except SpinnerfError as error:
        if fid_weights is not None:
            raise
        return lpips, None, {**absent, "fid": str(error)}


def render_views(model: Any, capture: Capture, known: Sequence[Known]) -> list[RenderedView]:
    """Renders colour and planar depth of each view.

    Args:
        model: nerfacto or a model of ours.
        capture: the capture that the views are of.
        known: the views; their object masks go along.

    Returns:
        Per view (H, W, 3) float32 in [0, 1] and (H, W) depth in world units, 0 = unknown. A segmentation model renders no
        picture without the object: `render_objectness` is for it.
    """
    views = []
    for each in known:
        rendered = render_pixels(model, capture.cameras([each.view]), ("rgb", "z"))
        image = np.clip(rendered["rgb"], 0, 1)
        views.append(RenderedView(each.view, image, rendered["z"] / np.float32(capture.world_scale), each.object_mask))
    return views


def render_objectness(model: Any, capture: Capture, view: View) -> BoolMask:
    """(H, W) bool: where a segmentation model sees the object."""
    return render_pixels(model, capture.cameras([view]), ("objectness",))["objectness"] > OBJECTNESS_THRESHOLD


def measure_renders(
    renders: Sequence[RenderedView],
    known: Sequence[Known],
    lpips: Sequence[LpipsLoss] = (),
    fid_features: torch.nn.Module | None = None,
    device: str | torch.device = "cpu",
) -> Measured:
    """All figures of the renders of one model.

    Args:
        renders: the views' renders, in the order of `known`.
        known: what is known of them.
        lpips: LPIPS networks (`metrics.available_lpips`).
        fid_features: Inception network of FID, or None.
        device: where the networks run.

    Returns:
        The figures. Of a photo that shows the object only those outside its mask; of a view without a photo none.
    """
    measured = Measured()
    for render, each in zip(renders, known, strict=True):
        measured.per_view[each.view.photo] = _pair(render, each, lpips, device)
    measured.figures = aggregate(measured.per_view.values())
    truths = [each.photo if each.object_free else None for each in known]
    fid, measured.absent = evaluate_fid(
        [render.image for render in renders], truths, [each.object_mask for each in known], fid_features, device
    )
    measured.figures |= fid | consistency(renders)
    for name, reason in _reasons(known, lpips).items():
        if name not in measured.figures:
            measured.absent.setdefault(name, reason)
    return measured


def consistency(renders: Sequence[RenderedView]) -> dict[str, float]:
    """Multi-view consistency over neighbouring views along the cameras' path: the mean over pairs of each figure."""
    order = order_along_path([render.view for render in renders]) if len(renders) > 1 else []
    pairs = [multiview_consistency(renders[a], renders[b]) for a, b in zip(order[:-1], order[1:], strict=True)]
    keys = dict.fromkeys(key for pair in pairs for key in pair)
    return {key: float(np.mean([pair[key] for pair in pairs if key in pair])) for key in keys}


def measure_masks(found: Mapping[str, BoolMask], truth: Mapping[str, BoolMask]) -> dict[str, float]:
    """Mean accuracy and IoU over the photos that both have: "accuracy_full", "iou_object" (see `evaluate_segmentation`)."""
    return aggregate(evaluate_segmentation(found[photo], truth[photo]) for photo in found if photo in truth)


def _pair(render: RenderedView, known: Known, lpips: Sequence[LpipsLoss], device: str | torch.device) -> dict[str, float]:
    if known.photo is None:
        return {}
    if known.object_free:
        is_truth = np.ones(known.photo.shape[:2], dtype=bool)
    elif known.object_mask is not None and known.object_mask.any():
        is_truth = ~known.object_mask
    else:
        return {}  # the object is somewhere in this photo, and nobody knows where
    return evaluate_partly_true(render.image, known.photo, known.object_mask, is_truth, lpips, device, known.valid_mask)


def _reasons(known: Sequence[Known], lpips: Sequence[LpipsLoss]) -> dict[str, str]:
    """Why figures may be absent."""
    reasons = {}
    if not any(each.object_free and each.photo is not None for each in known):
        reasons |= dict.fromkeys(("psnr_mask", "psnr_bbox", "psnr_full"), "no photo without the object to compare with")
    elif not any(each.object_mask is not None for each in known):
        reasons |= dict.fromkeys(("psnr_mask", "psnr_bbox"), "nobody knows where the object was")
    if not lpips:
        reasons["lpips"] = "no weights of an LPIPS network"
    return reasons
