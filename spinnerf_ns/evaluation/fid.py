"""Fréchet inception distance of object removal, by torchmetrics, in the variants of `metrics`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from spinnerf_ns.conventions import resize_mask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.nerf.metrics import Bool, Picture, _crop, _picture, _same_size, _tensor, bounding_box


def load_fid_features(weights: Path | None = None, allow_download: bool = True) -> torch.nn.Module:
    """The Inception network of FID (torch-fidelity's, 2048 features) from a file, a cache or a download.

    Raises:
        SpinnerfError: the weights cannot be had or do not fit, or torch-fidelity is not installed.
    """
    if weights is None:
        from spinnerf_ns.weights.store import ensure_weights

        weights = ensure_weights("inception-fid", allow_download=allow_download)
    weights = Path(weights)
    if not weights.is_file():
        raise SpinnerfError(f"{weights}: this weights file is missing; correct the path")
    try:
        # torch-fidelity unpickles the file without restriction: let through only what is plain tensors.
        torch.load(weights, map_location="cpu", weights_only=True)
        from torchmetrics.image.fid import NoTrainInceptionV3

        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpinnerfError(
            f"{weights}: cannot be used as FID's Inception network ({reason}); "
            "get pt_inception-2015-12-05-6726825d.pth and install torchmetrics[image]"
        ) from error
    network.num_features = 2048
    return network


def evaluate_fid(
    renders: Sequence[Picture],
    truths: Sequence[Picture | None],
    object_masks: Sequence[Bool | None] | None = None,
    features: torch.nn.Module | None = None,
    device: str | torch.device = "cpu",
) -> tuple[dict[str, float], dict[str, str]]:
    """Fréchet inception distance (Heusel et al. 2017) of the renders from the truths, by torchmetrics.

    Few pictures make it large and noisy: compare only figures over the same number of pictures.

    Args:
        renders, truths: pictures in the same order; a pair without truth is left out.
        object_masks: a mask per picture, for the bbox variant.
        features: uint8 [b, 3, h, w] -> [b, n] with an attribute `num_features` (`load_fid_features`).
        device: where it runs.

    Returns:
        "fid_full" and "fid_bbox" where they exist, and for those that do not, why.
    """
    if features is None:
        return {}, dict.fromkeys(("fid_full", "fid_bbox"), "no weights of FID's Inception network")
    from torchmetrics.image.fid import FrechetInceptionDistance

    figures, reasons = {}, {}
    masks = object_masks if object_masks is not None else [None] * len(renders)
    for variant in ("full", "bbox"):
        distance = FrechetInceptionDistance(feature=features).to(device)
        pairs = 0
        for render, truth, object_mask in zip(renders, truths, masks, strict=True):
            if truth is None:
                continue
            a, b = _same_size(_picture(render, "render"), _picture(truth, "truth"))
            if variant == "bbox":
                mask = None if object_mask is None else resize_mask(np.asarray(object_mask).astype(bool), a.shape[:2])
                box = bounding_box(mask)
                if box is None:
                    continue
                a, b = _crop(a, box), _crop(b, box)
            pairs += 1
            for picture, real in ((a, False), (b, True)):
                distance.update((_tensor(picture, device) * 255).round().byte(), real=real)
        value = float(distance.compute()) if pairs >= 2 else math.nan
        if math.isfinite(value):
            figures[f"fid_{variant}"] = value
        elif pairs < 2:
            reasons[f"fid_{variant}"] = f"only {pairs} of the pictures can be compared; two at least are needed"
        else:
            reasons[f"fid_{variant}"] = f"the distance of {pairs} pictures is not finite"
    return figures, reasons
