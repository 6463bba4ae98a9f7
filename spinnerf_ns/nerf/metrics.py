"""The field's figures for object removal, each under the name of its variant.

Papers measure the same quantity over different pixels and print it under the same name. Here the pixels are part of the
name, `<figure>_<variant>`, and figures of different variants are never to be compared:

full
    the whole picture
bbox
    the object mask's bounding box, grown by 10 % of its side on each side (SPIn-NeRF); the crop is measured on its own
mask
    a map over the whole picture, averaged inside the object mask (GScream's LPIPS)
outside
    the same map, averaged outside the object mask

A figure that is undefined (no truth, an empty mask, no weights) is absent from the dictionary: there is no NaN, no
infinity and no invented zero, and `aggregate` says how many views each variant had. Pictures are (H, W, 3), numpy or
torch, uint8 or float in [0, 1]; a pair of different sizes is compared at the smaller one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from spinnerf_ns.conventions import resize_mask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.nerf.perceptual import LpipsLoss, make_perceptual_loss

VARIANTS = ("full", "bbox", "mask", "outside")

BBOX_MARGIN = 0.1
"""How much the mask's bounding box grows on each side, as a part of its own side (SPIn-NeRF)."""

MAX_PSNR = 100.0
"""PSNR of equal pictures, in dB: infinity could be neither averaged nor written as JSON."""

SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
"""SSIM's Gaussian window, 11 x 11 with sigma 1.5 (Wang et al. 2004)."""

Picture = npt.NDArray[Any] | torch.Tensor
Bool = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


# ---------------------------------------------------------------------------------------------------------- segmentation
def evaluate_segmentation(predicted: Bool, truth: Bool | None) -> dict[str, float]:
    """Pixel accuracy and intersection over union of the object class.

    Args:
        predicted: (H, W) bool, True = object; resized to the truth's size if it has another.
        truth: (H, W) bool, or None: no label.

    Returns:
        "accuracy_full" and "iou_object", in [0, 1]. No IoU where neither mask has an object; nothing without a label.
    """
    if truth is None or truth.size == 0:
        return {}
    truth = np.asarray(truth).astype(bool)
    predicted = resize_mask(np.asarray(predicted).astype(bool), truth.shape)
    figures = {"accuracy_full": float(np.mean(predicted == truth))}
    union = np.count_nonzero(predicted | truth)
    if union:
        figures["iou_object"] = np.count_nonzero(predicted & truth) / union
    return figures


# ------------------------------------------------------------------------------------------------------------ inpainting
def evaluate_pair(
    render: Picture,
    truth: Picture | None,
    object_mask: Bool | None = None,
    lpips: LpipsLoss | Sequence[LpipsLoss] = (),
    device: str | torch.device = "cpu",
    valid_mask: Bool | None = None,
) -> dict[str, float]:
    """All figures of one picture against its truth, in all variants that exist for it.

    Args:
        render: (H, W, 3) picture.
        truth: (H, W, 3) picture without the object, or None.
        object_mask: (H, W) bool, True = where the object was. None or empty: no bbox and no mask variant.
        lpips: one or several LPIPS networks (`available_lpips`), or none.
        device: where LPIPS runs.
        valid_mask: (H, W) bool, True = measure; None: all. Pixels that are not measured are in no variant, and count as equal
            where SSIM's and LPIPS' windows reach into them, and in "ssim_bbox" and the LPIPS of whole pictures.

    Returns:
        For each variant "mse_*" (of values in [0, 1]), "pixels_*" (how many it covers), "psnr_*" in dB, "ssim_*", and
        per network "<network's name>_*", as in "lpips-squeeze_bbox". Empty without truth.

    Raises:
        SpinnerfError: no picture, other proportions, or values that are not finite.

    Example:
        >>> truth, object_mask = np.full((40, 60, 3), 0.5), np.zeros((40, 60), bool)
        >>> object_mask[10:20, 10:20] = True
        >>> render = np.where(object_mask[..., None], truth + 0.1, truth)
        >>> figures = evaluate_pair(render, truth, object_mask)
        >>> round(figures["psnr_mask"], 3), round(figures["psnr_full"], 3), figures["pixels_mask"]
        (20.0, 33.802, 100.0)
    """
    if truth is None:
        return {}
    a, b = _same_size(_picture(render, "render"), _picture(truth, "truth"))
    object_mask = None if object_mask is None else resize_mask(np.asarray(object_mask).astype(bool), a.shape[:2])
    valid = np.ones(a.shape[:2], bool) if valid_mask is None else resize_mask(np.asarray(valid_mask).astype(bool), a.shape[:2])
    if not valid.any():
        return {}
    if not valid.all():
        b = np.where(valid[..., None], b, a)
        object_mask = None if object_mask is None else object_mask & valid
    regions = {name: region & valid for name, region in _regions(a.shape[:2], object_mask).items() if (region & valid).any()}
    box = bounding_box(object_mask)
    networks = [lpips] if isinstance(lpips, LpipsLoss) else list(lpips)

    figures: dict[str, float] = {}
    squared = ((a - b) ** 2).mean(axis=-1)
    for variant, region in regions.items():
        figures[f"mse_{variant}"] = float(squared[region].mean())
        figures[f"pixels_{variant}"] = float(np.count_nonzero(region))
        figures[f"psnr_{variant}"] = psnr_from_mse(figures[f"mse_{variant}"])
    measures: list[tuple[str, Callable]] = [("ssim", _ssim)]
    measures += [(network.name, partial(_lpips, network, device)) for network in networks]
    for name, measure in measures:
        figures[f"{name}_full"], spatial = measure(a, b)
        if not valid.all() and name == "ssim":
            figures["ssim_full"] = float(spatial[valid].mean())
        if box is not None:
            figures[f"{name}_bbox"], _ = measure(_crop(a, box), _crop(b, box))
        for variant in ("mask", "outside"):
            if variant in regions:
                figures[f"{name}_{variant}"] = float(spatial[regions[variant]].mean())
    return figures


def evaluate_partly_true(
    render: Picture,
    photo: Picture,
    object_mask: Bool | None,
    is_truth: Bool,
    lpips: LpipsLoss | Sequence[LpipsLoss] = (),
    device: str | torch.device = "cpu",
    valid_mask: Bool | None = None,
) -> dict[str, float]:
    """Figures of one picture against a photo that is truth in some of its pixels alone (it shows the object, say).

    Args:
        render, photo: (H, W, 3) pictures.
        object_mask: as `evaluate_pair`; used where the photo is truth everywhere.
        is_truth: (H, W) bool.
        lpips, device, valid_mask: as `evaluate_pair`.

    Returns:
        `evaluate_pair`'s figures where the photo is truth everywhere; else those of the true pixels, named "*_outside". What
        is not true counts as equal: SSIM's and LPIPS' windows reach into it.
    """
    is_truth = np.asarray(is_truth).astype(bool)
    if is_truth.all():
        return evaluate_pair(render, photo, object_mask, lpips, device, valid_mask)
    a, b = _same_size(_picture(render, "render"), _picture(photo, "photo"))
    is_truth = resize_mask(is_truth, a.shape[:2])
    figures = evaluate_pair(a, np.where(is_truth[..., None], b, a), ~is_truth, lpips, device, valid_mask)
    return {name: value for name, value in figures.items() if name.endswith("_outside")}


def _ssim(a: Floats, b: Floats) -> tuple[float, Floats]:
    """SSIM of two pictures and its map."""
    similarity = ssim_map(a, b)
    inner = similarity[SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]  # where the window lies inside the picture
    return float((inner if inner.size else similarity).mean()), similarity


def _lpips(network: LpipsLoss, device: str | torch.device, a: Floats, b: Floats) -> tuple[float, Floats]:
    """LPIPS of two pictures and its map."""
    value, spatial = network.with_map(_tensor(a, device), _tensor(b, device))
    return float(value), spatial[0].double().cpu().numpy()


def psnr_from_mse(mse: float) -> float:
    """-10 log10(mse) for values in [0, 1], in dB; at most `MAX_PSNR`."""
    return min(MAX_PSNR, -10 * math.log10(mse)) if mse > 0 else MAX_PSNR


def bounding_box(object_mask: Bool | None, margin: float = BBOX_MARGIN) -> tuple[int, int, int, int] | None:
    """The mask's bounding box, grown by `margin` of its side on each side and cut at the picture's border.

    Returns:
        (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None for no mask or an empty one.
    """
    if object_mask is None or not object_mask.any():
        return None
    rows, columns = np.flatnonzero(object_mask.any(axis=1)), np.flatnonzero(object_mask.any(axis=0))
    height, width = object_mask.shape
    x0, x1, y0, y1 = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
    grow_x, grow_y = round(margin * (x1 - x0)), round(margin * (y1 - y0))
    return max(0, x0 - grow_x), max(0, y0 - grow_y), min(width, x1 + grow_x), min(height, y1 + grow_y)


def ssim_map(a: Floats, b: Floats) -> Floats:
    """Structural similarity (Wang et al. 2004) per pixel, the mean over channels.

    Gaussian window 11 x 11, sigma 1.5, population covariance, values in [0, 1], mirrored at the border: the map of
    skimage's `structural_similarity(..., gaussian_weights=True, use_sample_covariance=False, full=True)`.

    Args:
        a, b: (H, W, 3) in [0, 1].

    Returns:
        (H, W) in [-1, 1].
    """
    taps = np.exp(-0.5 * (np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1) / SSIM_SIGMA) ** 2)
    taps /= taps.sum()

    def blur(values: Floats) -> Floats:
        # cv2 mirrors only once: a picture smaller than the radius is padded by numpy, which goes back and forth.
        padding = ((SSIM_RADIUS, SSIM_RADIUS), (SSIM_RADIUS, SSIM_RADIUS), (0, 0))
        padded = cv2.sepFilter2D(np.pad(values, padding, mode="symmetric"), cv2.CV_64F, taps, taps)
        return padded[SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]

    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * (2 * covariance + c2) / (variance_a + variance_b + c2)).mean(axis=-1)


def aggregate(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Figures of several views, as `evaluate_pair` (or `evaluate_segmentation`, ...) returns them, as one.

    Returns:
        The mean over the views that have the figure, under its own name: "psnr_mask" is the mean of the views' PSNR.
        Beside it "psnr_mask_pooled", the PSNR of the mean squared error over all pixels of all views, and
        "views_mask", the number of views that have the variant.
    """
    rows = list(rows)
    keys = dict.fromkeys(key for row in rows for key in row)
    result: dict[str, float] = {}
    for key in keys:
        values = [row[key] for row in rows if row.get(key) is not None]
        if not values or key.startswith("pixels_"):
            continue
        result[key] = float(np.mean(values))
        if key.startswith("mse_"):
            variant = key.removeprefix("mse_")
            weights = [row[f"pixels_{variant}"] for row in rows if row.get(key) is not None]
            pooled = float(np.average(values, weights=weights))
            result[f"psnr_{variant}_pooled"] = psnr_from_mse(pooled)
            result[f"views_{variant}"] = len(values)
    return result


def available_lpips(
    networks: Sequence[str] = ("vgg", "alex", "squeeze"),
    weights: Mapping[str, Path] | None = None,
    allow_download: bool = True,
    device: str | torch.device = "cpu",
) -> tuple[list[LpipsLoss], dict[str, str]]:
    """The LPIPS networks whose weights can be had, and per network that cannot, why.

    Args:
        networks: of vgg, alex, squeeze.
        weights: per network, a file with its backbone's weights instead of the cached one.
        allow_download: whether missing weights may be downloaded.
        device: where to put them.
    """
    found, reasons = [], {}
    for network in networks:
        try:
            path = (weights or {}).get(network)
            found.append(make_perceptual_loss(f"lpips-{network}", path, device, allow_download))
        except SpinnerfError as error:
            reasons[f"lpips-{network}"] = str(error)
    return found, reasons


# -------------------------------------------------------------------------------------------------------------- pictures
def _picture(values: Picture, what: str) -> Floats:
    """Any picture as (H, W, 3) float64 in [0, 1]."""
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.ndim != 3 or array.shape[-1] != 3 or array.size == 0:
        raise SpinnerfError(f"{what}: a picture of shape (height, width, 3) was expected, found {array.shape}")
    if array.dtype == np.uint8:
        return array / 255.0
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise SpinnerfError(f"{what}: values that are not finite; the model that made it has diverged, train it again")
    return array.clip(0, 1)


def _same_size(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Both pictures at the smaller one's size, by area averaging."""
    if a.shape == b.shape:
        return a, b
    (height_a, width_a), (height_b, width_b) = a.shape[:2], b.shape[:2]
    if abs(width_a * height_b - width_b * height_a) > max(width_a, width_b) + max(height_a, height_b):
        raise SpinnerfError(
            f"the render is {width_a}x{height_a} and the truth {width_b}x{height_b}: other proportions, so one of them "
            "is of another camera; give pictures of the same view"
        )
    size = (width_a, height_a) if width_a * height_a < width_b * height_b else (width_b, height_b)
    return tuple(x if x.shape[1::-1] == size else cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (a, b))


def _regions(shape: tuple[int, int], object_mask: Bool | None) -> dict[str, Bool]:
    """Per variant that exists, its pixels."""
    regions = {"full": np.ones(shape, dtype=bool)}
    box = bounding_box(object_mask)
    if box is not None:
        inside = np.zeros(shape, dtype=bool)
        _crop(inside, box)[:] = True
        regions |= {"bbox": inside, "mask": object_mask}
    if object_mask is not None and not object_mask.all():
        regions["outside"] = ~object_mask
    return regions


def _crop(values: npt.NDArray, box: tuple[int, int, int, int]) -> npt.NDArray:
    x0, y0, x1, y1 = box
    return values[y0:y1, x0:x1]


def _tensor(picture: Floats, device: str | torch.device) -> torch.Tensor:
    """(H, W, 3) -> float32 [1, 3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float().to(device)
