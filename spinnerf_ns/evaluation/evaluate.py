"""All figures of a finished run on its test photos: what `ns-spinnerf evaluate` prints and writes.

Works for this package's two stages and for any nerfstudio method that was trained on an export (`removed/`). What is known
of a photo decides which figures it has: an object-free photo is truth everywhere, one that shows the object only outside it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spinnerf_ns.conventions import BoolMask, resize_mask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.baselines import load_pipeline
from spinnerf_ns.evaluation.measure import (
    Known,
    Measured,
    load_networks,
    measure_masks,
    measure_renders,
    render_objectness,
    render_views,
)
from spinnerf_ns.evaluation.report import ReportRow, outlined, write_report
from spinnerf_ns.files import load_object_mask, read_image, write_json
from spinnerf_ns.runs import read_config
from spinnerf_ns.scene.capture import Capture, capture_from_dataparser
from spinnerf_ns.scene.labels import label_path
from spinnerf_ns.scene.removed import TRANSFORMS_MASKED, read_removed
from spinnerf_ns.scene.view import View
from spinnerf_ns.scene.workspace import Workspace

REPORT_VIEWS = 8
"""Views that the report shows, spread over those measured."""

TRAINING_VIEWS = 4
"""Training photos that a segmentation run's report shows, spread over those with the object."""


@dataclass
class Evaluation:
    """What was measured."""

    method: str
    """The run's method."""
    split: str
    """Which photos."""
    masks: dict[str, float] = field(default_factory=dict)
    """"iou_object_*" and "accuracy_full_*" of tracked and refined masks of training photos, and of test photos (heldout)."""
    measured: Measured = field(default_factory=Measured)
    """Figures of the renders."""
    rows: list[ReportRow] = field(default_factory=list)
    """The report's views."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock time per part."""


class _Scene:
    """What lies around a run: its capture, its workspace, the original photos, the true masks."""

    def __init__(self, pipeline: Any, labels: Path | None) -> None:
        self.capture: Capture = capture_from_dataparser(pipeline.datamanager.dataparser)
        data = Path(self.capture.data)
        folder = data.parent if data.suffix == ".json" else data
        exported = (folder / "object_masks").is_dir() and (folder / TRANSFORMS_MASKED).is_file()
        self.removed = folder if exported else None
        root = folder.parent if exported else getattr(pipeline.datamanager.config, "workspace", None)
        self.workspace = Workspace.at(folder.parent) if exported else Workspace.open(folder, root)
        self.labels = labels
        self.original: Capture = self.capture
        if self.removed is not None:
            from spinnerf_ns.scene.capture import load_capture

            self.original = load_capture(self.removed / TRANSFORMS_MASKED)
        self.files = read_removed(self.removed) if self.removed is not None else {}
        self.folder = _scene_folder(self.original.views[0].path, self.workspace.scene)

    def label(self, view: View) -> BoolMask | None:
        """The true object mask of a photo, at the photo's size."""
        path = label_path(self.folder, view.photo, self.labels)
        if path is None:
            return None
        return resize_mask(load_object_mask(path), (view.height, view.width))

    def known(self, view: View) -> Known:
        """What is known of a photo."""
        # The original's own mask is that of the masked baseline, which leaves out what was removed.
        original, valid = self.original.view(view.photo), view.valid_mask()
        if view.photo in self.workspace.object_free:
            return Known(view, original.read_image(), self.label(view), object_free=True, valid_mask=valid)
        mask = load_object_mask(self.files[view.photo].object_mask) if view.photo in self.files else self.label(view)
        return Known(view, original.read_image(), mask, object_free=False, valid_mask=valid)

    def with_object(self, view: View) -> np.ndarray | None:
        """The photo with the object in it: of an object-free one, if its twin exists."""
        if view.photo not in self.workspace.object_free:
            return self.original.view(view.photo).read_image()
        path = self.folder / "truth" / "images_with_object" / f"{view.photo}.png"
        image = read_image(path) if path.is_file() else None
        return image if image is None or image.shape[:2] == (view.height, view.width) else None


def evaluate_run(
    config_path: Path,
    split: str = "test",
    labels: Path | None = None,
    lpips_weights: Sequence[Path] = (),
    fid_weights: Path | None = None,
    data: Path | None = None,
) -> Evaluation:
    """Measures a finished run.

    Args:
        config_path: its config.yml.
        split: train, val or test.
        labels: folder of true object masks (<photo>.png), in place of the scene's own (`scene.labels`).
        lpips_weights, fid_weights: as `measure.load_networks`.
        data: as `runs.load_run`.

    Returns:
        The figures. A segmentation run has only those of masks.

    Raises:
        SpinnerfError: no such run, no photo in the split, a folder of labels that is absent.
    """
    method = read_config(config_path).method_name
    if labels is not None and not labels.is_dir():
        raise SpinnerfError(f"{labels}: no such folder; --labels wants a folder of object masks called like the photos")
    start = time.monotonic()
    pipeline = load_pipeline(config_path, data)
    scene = _Scene(pipeline, labels)
    views = scene.capture.split(split)
    if not views:
        raise SpinnerfError(f"{scene.capture.data}: no photo is in the split '{split}'; choose another --split")
    result = Evaluation(method, split, _figures_of_masks(scene))
    known = [scene.known(view) for view in views]
    result.seconds["load"] = time.monotonic() - start

    start = time.monotonic()
    is_segmentation = hasattr(pipeline.model, "objectness_logits")
    if is_segmentation:
        _measure_segmentation(pipeline.model, scene, views, result)
        result.seconds["render"] = time.monotonic() - start
        return result
    renders = render_views(pipeline.model, scene.capture, known)
    result.seconds["render"] = time.monotonic() - start
    start = time.monotonic()
    lpips, fid, absent = load_networks(lpips_weights, fid_weights, pipeline.device)
    result.measured = measure_renders(renders, known, lpips, fid, pipeline.device)
    result.measured.absent = {**absent, **result.measured.absent}
    result.seconds["figures"] = time.monotonic() - start
    for index in _spread(len(views)):
        each, render = known[index], renders[index]
        pictures: dict[str, np.ndarray] = {}
        before = scene.with_object(each.view)
        if before is not None:
            pictures["before"] = before
        pictures["after"] = (render.image * 255).round().astype(np.uint8)
        if each.object_free and each.photo is not None:
            pictures["truth"] = each.photo
            pictures["squared error"] = ((render.image - each.photo / 255.0) ** 2).mean(axis=-1).clip(1e-6, None) ** 0.5
        pictures["depth"] = render.z
        figures = result.measured.per_view[each.view.photo]
        shown = {name: value for name, value in figures.items() if not name.startswith(("mse_", "pixels_"))}
        kind = "without the object" if each.object_free else "shows the object"
        result.rows.append(ReportRow(f"{each.view.photo} ({kind})", pictures, shown))
    return result


def _measure_segmentation(model: Any, scene: _Scene, views: Sequence[View], result: Evaluation) -> None:
    found = {view.photo: render_objectness(model, scene.capture, view) & view.valid_mask() for view in views}
    true = _true_masks(scene, views)
    result.masks |= {f"{name}_heldout": value for name, value in measure_masks(found, true).items()}
    if not true:
        result.measured.absent["iou_object_heldout"] = "no true object mask of these photos (labels/, or --labels)"
    for index in _spread(len(views)):
        view = views[index]
        photo = scene.with_object(view)
        photo = scene.original.view(view.photo).read_image() if photo is None else photo
        pictures = {"photo": photo, "rendered mask": outlined(photo, found[view.photo])}
        if view.photo in true:
            pictures["true mask"] = outlined(photo, true[view.photo])
        figures = measure_masks({view.photo: found[view.photo]}, true)
        result.rows.append(ReportRow(view.photo, pictures, figures))
    result.rows = _training_rows(scene) + result.rows


def _training_rows(scene: _Scene) -> list[ReportRow]:
    """What became of some training photos, as far as it is there: masks, what nobody saw, the clean photo."""
    views = scene.workspace.views_with_object(scene.capture)
    removed = scene.workspace.removed
    rows = []
    for index in _spread(len(views), TRAINING_VIEWS):
        view = views[index]
        photo, file = view.read_image(), f"{view.photo}.png"
        pictures = {"photo": photo}
        masks = {
            "tracked mask": scene.workspace.masks_2d,
            "refined mask": scene.workspace.masks_3d,
            "never seen": removed / "unseen_masks",
        }
        for name, folder in masks.items():
            if (folder / file).is_file():
                pictures[name] = outlined(photo, load_object_mask(folder / file))
        others = {"clean photo": removed / "images" / file, "truth": scene.folder / "truth" / "images" / file}
        pictures |= {name: read_image(path) for name, path in others.items() if path.is_file()}
        rows.append(ReportRow(f"training photo {view.photo}", pictures))
    return rows


def _figures_of_masks(scene: _Scene) -> dict[str, float]:
    """Of the training photos' tracked and refined masks, where their true masks are known."""
    views = [view for view in scene.capture.views if view.photo not in scene.workspace.object_free]
    true = _true_masks(scene, views)
    figures: dict[str, float] = {}
    for name, folder in (("tracked", scene.workspace.masks_2d), ("refined", scene.workspace.masks_3d)):
        files = {photo: folder / f"{photo}.png" for photo in true}
        found = {photo: load_object_mask(path) for photo, path in files.items() if path.is_file()}
        found = {photo: mask & scene.capture.view(photo).valid_mask() for photo, mask in found.items()}
        figures |= {f"{key}_{name}": value for key, value in measure_masks(found, true).items()}
    return figures


def _true_masks(scene: _Scene, views: Sequence[View]) -> dict[str, BoolMask]:
    """Photo -> its true object mask where the photo may be used, of the photos that have one."""
    labels = {view: scene.label(view) for view in views}
    return {view.photo: mask & view.valid_mask() for view, mask in labels.items() if mask is not None}


def _scene_folder(photo: Path, fallback: Path) -> Path:
    """The folder of the capture that a photo belongs to: the nearest one above it that holds poses."""
    for folder in photo.resolve().parents:
        if (folder / "transforms.json").is_file():
            return folder
    return fallback


def _spread(count: int, most: int = REPORT_VIEWS) -> list[int]:
    """Indices of at most so many views, spread over all."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


# ----------------------------------------------------------------------------------------------------------------- output
def as_json(evaluation: Evaluation, config_path: Path) -> dict[str, Any]:
    """What evaluation.json holds."""
    return {
        "config": str(config_path),
        "method": evaluation.method,
        "split": evaluation.split,
        "figures": {**evaluation.masks, **evaluation.measured.figures},
        "per_view": evaluation.measured.per_view,
        "absent": evaluation.measured.absent,
        "seconds": evaluation.seconds,
    }


def write_evaluation(evaluation: Evaluation, config_path: Path, output: Path) -> tuple[Path, Path]:
    """Writes evaluation.json and report.html into a folder; returns both paths."""
    content = as_json(evaluation, config_path)
    write_json(output / "evaluation.json", content, float)
    shown = content["figures"]
    tiles = {name: shown[name] for name in TILES if name in shown}
    title = f"{evaluation.method}, {evaluation.split} photos"
    # A row per figure: figures of different variants are not to be compared, nor the best of them marked.
    by_figure: dict[str, dict[str, float]] = {}
    for variant, figures in variant_table(shown).items():
        for name, value in figures.items():
            by_figure.setdefault(name, {})[variant] = value
    write_report(output / "report.html", title, evaluation.rows, {**tiles, **by_figure}, evaluation.seconds)
    return output / "evaluation.json", output / "report.html"


TILES = ("iou_object_refined", "iou_object_heldout", "psnr_mask", "psnr_outside", "views_mask", "consistency_psnr_mask")
"""Figures that the report shows largest."""


def variant_table(figures: dict[str, float]) -> dict[str, dict[str, float]]:
    """Figures named "<figure>_<variant>" as variant -> figure -> value, variants in metrics' order; the rest is left out."""
    from spinnerf_ns.nerf.metrics import VARIANTS

    table: dict[str, dict[str, float]] = {}
    for variant in VARIANTS:
        names = [name for name in figures if name.endswith(f"_{variant}") and not name.startswith(("accuracy", "mse"))]
        names = [name for name in names if "_mse_" not in name]
        if names:
            table[variant] = {name.removesuffix(f"_{variant}"): figures[name] for name in names}
    return table
