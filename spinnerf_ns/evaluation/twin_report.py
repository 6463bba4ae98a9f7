"""Figures and pictures of a removal from the twin scene, on its held-out views, where the truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spinnerf_ns.evaluation.baselines import load_pipeline
from spinnerf_ns.evaluation.report import ReportRow
from spinnerf_ns.evaluation.truth.twin import TwinScene
from spinnerf_ns.files import load_object_mask, read_image
from spinnerf_ns.nerf.metrics import evaluate_segmentation, psnr_from_mse
from spinnerf_ns.nerf.rendering import render_object_mask, render_pixels
from spinnerf_ns.scene.capture import Capture, load_capture
from spinnerf_ns.scene.workspace import Workspace


def evaluate_twin(
    scene: TwinScene, workspace: Workspace, seg: Path, inpaint: Path, masked_nerf: Path
) -> tuple[dict[str, float], list[ReportRow]]:
    """Measures the three runs.

    Returns:
        Figures (`iou_*` of masks; `psnr_mask*` in dB, mean over held-out views of the PSNR inside the object's mask, against
        the photo without the object) and one row of pictures per view.
    """
    capture = load_capture(scene.root)
    test = [capture.view(photo) for photo in scene.object_free]
    train = [view for view in capture.views if view.photo not in {v.photo for v in test}]
    figures: dict[str, float] = {}

    seg_model = load_pipeline(seg).model
    true_masks = {view.photo: load_object_mask(scene.truth(view.photo, "object_masks")) for view in capture.views}
    held_out = [mask_iou(render_object_mask(seg_model, capture.cameras([v])), true_masks[v.photo]) for v in test]
    figures["iou_heldout"] = float(np.mean(held_out))
    for name, folder in (("iou_tracked", "masks_2d"), ("iou_refined", "masks_3d")):
        paths = [(workspace.mask_path(folder, view.photo), view.photo) for view in train]
        figures[name] = float(
            np.mean([mask_iou(load_object_mask(path), true_masks[photo]) for path, photo in paths if path.is_file()])
        )

    renders = {}
    for name, run in (("psnr_mask", inpaint), ("psnr_mask_masked_nerf", masked_nerf)):
        renders[name] = _render(load_pipeline(run).model, capture, test)
        truth = [read_image(scene.truth(view.photo, "images")) / 255.0 for view in test]
        scores = [
            psnr_mask(render, true, true_masks[view.photo]) for render, true, view in zip(renders[name], truth, test, strict=True)
        ]
        figures[name] = float(np.mean(scores))
        outside = [
            psnr_mask(render, true, ~true_masks[view.photo]) for render, true, view in zip(renders[name], truth, test, strict=True)
        ]
        figures[name.replace("psnr_mask", "psnr_outside", 1)] = float(np.mean(outside))
    return figures, _rows(scene, workspace, test, train, renders, true_masks, held_out)


def _render(model: Any, capture: Capture, views: list) -> list[npt.NDArray[np.float32]]:
    return [np.clip(render_pixels(model, capture.cameras([view]), ("rgb",))["rgb"], 0, 1) for view in views]


def _rows(
    scene: TwinScene, workspace: Workspace, test: list, train: list, renders: dict, true_masks: dict, held_out: list
) -> list[ReportRow]:
    rows = []
    for view in train[:: max(1, len(train) // 4)][:4]:
        tracked = load_object_mask(workspace.mask_path("masks_2d", view.photo))
        refined = load_object_mask(workspace.mask_path("masks_3d", view.photo))
        photo = view.read_image()
        rows.append(
            ReportRow(
                f"training photo {view.photo}",
                {
                    "photo": photo,
                    "tracked mask": outlined(photo, tracked),
                    "refined mask": outlined(photo, refined),
                    "never seen": outlined(photo, load_object_mask(workspace.removed / "unseen_masks" / f"{view.photo}.png")),
                    "clean photo": read_image(workspace.removed / "images" / f"{view.photo}.png"),
                    "truth": read_image(scene.truth(view.photo, "images")),
                },
                {
                    "iou tracked": mask_iou(tracked, true_masks[view.photo]),
                    "iou refined": mask_iou(refined, true_masks[view.photo]),
                },
            )
        )
    for index, view in enumerate(test):
        truth = read_image(scene.truth(view.photo, "images"))
        ours, masked = renders["psnr_mask"][index], renders["psnr_mask_masked_nerf"][index]
        mask = true_masks[view.photo]
        rows.append(
            ReportRow(
                f"held-out view {view.photo}",
                {
                    "before": read_image(scene.truth(view.photo, "images_with_object")),
                    "after": (ours * 255).round().astype(np.uint8),
                    "masked NeRF": (masked * 255).round().astype(np.uint8),
                    "truth": truth,
                },
                {
                    "iou": held_out[index],
                    "psnr_mask": psnr_mask(ours, truth / 255.0, mask),
                    "psnr_mask masked NeRF": psnr_mask(masked, truth / 255.0, mask),
                },
            )
        )
    return rows


def outlined(photo: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """The photo with the mask tinted red."""
    tinted = photo.astype(np.float32)
    tinted[mask] = 0.45 * tinted[mask] + 0.55 * np.array([255, 40, 40], np.float32)
    return tinted.astype(np.uint8)


def mask_iou(found: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> float:
    """Intersection over union; 1 where both are empty."""
    return evaluate_segmentation(found, true).get("iou_object", 1.0)


def psnr_mask(render: npt.NDArray, truth: npt.NDArray, region: npt.NDArray[np.bool_]) -> float:
    """PSNR in dB over a region of (H, W, 3) pictures in [0, 1]."""
    return psnr_from_mse(float(np.mean((render[region] - truth[region]) ** 2)))
