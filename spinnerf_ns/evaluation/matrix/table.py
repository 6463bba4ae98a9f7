"""A benchmark's results: mean and spread over seeds as JSON and Markdown, and a sheet of pictures per scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import Image
from spinnerf_ns.evaluation.baselines import METHODS
from spinnerf_ns.evaluation.matrix.benchmark import OURS, BenchmarkConfig, Paths, cell_settings, digest, read_cell, scene_key
from spinnerf_ns.evaluation.matrix.scenes import SCENE_FILE, find_scenes, load_scene
from spinnerf_ns.evaluation.matrix.worker import SEGMENTATION
from spinnerf_ns.evaluation.report import direction, format_figure
from spinnerf_ns.files import atomic_path, load_object_mask, read_image, write_json, write_png
from spinnerf_ns.nerf.metrics import bounding_box

COLUMNS = ("psnr_mask", "ssim_mask", "lpips*_mask", "psnr_bbox", "lpips*_bbox", "fid_bbox", "psnr_outside", "psnr_full",
           "consistency_psnr_mask", "seconds_train")  # fmt: skip
"""Figures of the Markdown table, in order; "*" stands for a network's name. benchmark.json has all."""

MASK_COLUMNS = ("tracked_part", "iou_object_tracked", "iou_object_refined", "iou_object_heldout", "accuracy_full_refined",
                "seconds_segment", "seconds_train_seg", "seconds_export")  # fmt: skip

SHEET_VIEWS = 3
"""Views per sheet of pictures."""

SHEET_CELL = 256
"""Least width of a picture on a sheet, in pixels."""


def write_results(config: BenchmarkConfig, scenes: Sequence[str]) -> dict[str, Any]:
    """Writes benchmark.json, benchmark.md and <scene>.png from the cells that are there.

    Args:
        config: what was compared; cells of other settings are left out.
        scenes: the scenes' names, in order.

    Returns:
        What benchmark.json holds: "settings"; "scenes" -> scene -> {"segmentation": figures, method: figures}, where each
        figure is {"mean", "std", "n"} over seeds; "mean" -> method -> figures, means over the scenes that every method has;
        "true_masks" -> scene -> part of its photos in which the object was tracked, of scenes whose methods start from true
        masks; "missing", the cells that are not there; "losses", where ours is not best.
    """
    keys = {source.name: scene_key(source, config) for source in find_scenes(config.scenes)}
    result: dict[str, Any] = {"settings": _settings(config), "scenes": {}, "missing": [], "true_masks": {}}
    for scene in scenes:
        rows: dict[str, Any] = {}
        for method in (SEGMENTATION, *config.methods):
            cells = []
            for seed in config.seeds:
                paths = Paths(config.output, scene, seed)
                key = None if method == SEGMENTATION else digest(cell_settings(config, method), keys[scene], seed)
                cell = read_cell(paths, method, key)
                if cell is not None and cell.get("masks") == "true":
                    result["true_masks"][scene] = cell["figures"]["tracked_part"]
                if cell is not None:
                    cells.append({**cell["figures"], **{f"seconds_{k}": v for k, v in cell["seconds"].items()}})
                else:
                    result["missing"].append(f"{scene}, seed {seed}, {method}")
            if cells:
                rows[method] = spread(cells)
        result["scenes"][scene] = rows
    result["mean"] = _over_scenes(result["scenes"], config.methods)
    result["losses"] = where_ours_is_not_best(result)
    write_json(config.output / "benchmark.json", result, str)
    with atomic_path(config.output / "benchmark.md") as temporary:
        temporary.write_text(markdown(result), encoding="utf-8")
    for scene in scenes:
        paths = Paths(config.output, scene, config.seeds[0])
        if (paths.capture / SCENE_FILE).is_file():
            write_sheet(config.output / f"{scene}.png", paths, config.methods)
    return result


def spread(cells: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Figures of several seeds -> {"mean", "std" (of the sample; 0 for one), "n"} each."""
    names = dict.fromkeys(name for cell in cells for name in cell)
    figures = {}
    for name in names:
        values = np.array([cell[name] for cell in cells if name in cell], dtype=float)
        std = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        figures[name] = {"mean": float(values.mean()), "std": std, "n": len(values)}
    return figures


def _over_scenes(scenes: Mapping[str, Mapping[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """Mean over the scenes that all methods have; its spread is that of the seeds, not of the scenes."""
    complete = [rows for rows in scenes.values() if all(method in rows for method in methods)]
    result: dict[str, Any] = {}
    for method in methods if complete else ():
        common = set.intersection(*(set(rows[method]) for rows in complete))
        result[method] = {
            name: {
                "mean": float(np.mean([rows[method][name]["mean"] for rows in complete])),
                "std": float(np.sqrt(np.sum([rows[method][name]["std"] ** 2 for rows in complete])) / len(complete)),
                "n": min(rows[method][name]["n"] for rows in complete),
            }
            for name in complete[0][method]
            if name in common
        }
    return result


def where_ours_is_not_best(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scene by scene, the figures in which another method's mean is better than ours, and whether beyond the spread."""
    found = []
    for scene, rows in result["scenes"].items():
        if OURS not in rows:
            continue
        for name in _present(COLUMNS, [rows]):
            sign = direction(name)
            methods = [method for method in rows if method not in (OURS, SEGMENTATION) and name in rows[method]]
            others = {method: rows[method][name] for method in methods}
            if not sign or name.startswith("seconds") or name not in rows[OURS] or not others:
                continue
            best = max(others, key=lambda method: sign * others[method]["mean"])
            ours, theirs = rows[OURS][name], others[best]
            if sign * (theirs["mean"] - ours["mean"]) > 0:
                clear = abs(theirs["mean"] - ours["mean"]) > ours["std"] + theirs["std"]
                figures = {"ours": ours["mean"], "best": theirs["mean"], "beyond_spread": bool(clear)}
                found.append({"scene": scene, "figure": name, "method": best, **figures})
    return found


# -------------------------------------------------------------------------------------------------------------- markdown
def markdown(result: Mapping[str, Any]) -> str:
    """The results as Markdown: one table of all cells, one of the masks, and where ours is not best."""
    scenes, settings = result["scenes"], result["settings"]
    columns = _present(COLUMNS, scenes.values())
    head = ["scene", "method", *(f"{name} {_ARROWS[direction(name)]}".strip() for name in columns)]
    lines = [_line(head), _line(["---"] * 2 + ["---:"] * len(columns))]
    tables = {**scenes, **({"mean of scenes": result["mean"]} if len(scenes) > 1 and result["mean"] else {})}
    for scene, rows in tables.items():
        methods = [method for method in METHODS if method in rows]
        best = {name: _best(name, {m: rows[m][name]["mean"] for m in methods if name in rows[m]}) for name in columns}
        for method in methods:
            cells = [_entry(rows[method].get(name), name, method in best[name]) for name in columns]
            lines.append(_line([scene, method, *cells]))
    mask_columns = _present(MASK_COLUMNS, [{SEGMENTATION: rows.get(SEGMENTATION, {})} for rows in scenes.values()])
    masks = [_line(["scene", *mask_columns]), _line(["---"] + ["---:"] * len(mask_columns))]
    for scene, rows in scenes.items():
        masks.append(_line([scene, *(_entry(rows.get(SEGMENTATION, {}).get(name), name, False) for name in mask_columns)]))
    text = [
        "Mean ± standard deviation over the seeds; bold: best mean of the scene. A figure's name says over which pixels it "
        "is: never compare across variants.",
        "",
        f"Settings, equal for all methods: {', '.join(f'{name} {value}' for name, value in settings.items())}.",
        "", *lines, "", "The masks, which all methods share:", "", *masks, "",
    ]  # fmt: skip
    losses = [
        f"* {each['scene']}, {each['figure']}: {each['method']} {format_figure(each['best'], each['figure'])}, ours "
        f"{format_figure(each['ours'], each['figure'])}{'' if each['beyond_spread'] else ' (within the spread)'}"
        for each in result["losses"]
    ]
    for scene, part in result.get("true_masks", {}).items():
        text += [f"{scene}: tracked in {part:.0%} of the photos, so all methods start from the scene's true masks.", ""]
    if OURS in {method for rows in scenes.values() for method in rows}:
        text += ["Where ours is not best:", "", *(losses or ["* nowhere in this table"]), ""]
    if result["missing"]:
        text += [f"Not computed: {'; '.join(result['missing'])}.", ""]
    return "\n".join(text)


_ARROWS = {1: "↑", -1: "↓", 0: ""}


def _settings(config: BenchmarkConfig) -> dict[str, Any]:
    return {
        "methods": "-lite" if config.lite else "full size",
        "seeds": " ".join(map(str, config.seeds)),
        "steps": config.steps or "the preset's",
        "segmentation steps": config.seg_steps or "the preset's",
        "photos downscaled by": config.downscale,
        "2-D inpainter": config.export.inpainter,
        "perceptual loss": config.perceptual_loss if config.perceptual_weights is None else config.perceptual_weights.name,
    }


def _present(columns: Sequence[str], rows: Any) -> list[str]:
    """The columns' names that occur, "*" written out."""
    names = list(dict.fromkeys(name for methods in rows for figures in methods.values() for name in figures))
    found = []
    for column in columns:
        before, star, after = column.partition("*")
        matches = [n for n in names if (n.startswith(before) and n.endswith(after) if star else n == column)]
        found += [name for name in matches if name not in found]
    return found


def _best(name: str, means: Mapping[str, float]) -> set[str]:
    if not direction(name) or len(means) < 2 or name.startswith("seconds"):  # seconds: the machine was shared
        return set()
    best = max(direction(name) * value for value in means.values())
    return {method for method, value in means.items() if direction(name) * value == best}


def _entry(figure: Mapping[str, float] | None, name: str, best: bool) -> str:
    if figure is None:
        return "–"
    text = format_figure(figure["mean"], name)
    text = f"**{text}**" if best else text
    return f"{text} ± {format_figure(figure['std'], name)}" if figure["n"] > 1 and not name.startswith("seconds") else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# -------------------------------------------------------------------------------------------------------------- pictures
def write_sheet(path: Path, paths: Paths, methods: Sequence[str], views: int = SHEET_VIEWS) -> None:
    """Writes a sheet of one seed: per view two rows, the whole picture and the object's surroundings; columns: with the
    object, truth, each method. Views are spread over the test views in which the object would be.

    Args:
        path: the .png file.
        paths: the scene and seed.
        methods: the columns; one whose renders are absent is left grey.
        views: at most so many.
    """
    scene = load_scene(paths.capture)
    known = [each for each in scene.known() if each.object_mask is None or each.object_mask.any()]
    if not known:
        return
    chosen = [known[i] for i in np.unique(np.linspace(0, len(known) - 1, views + 2).round().astype(int)[1:-1])]
    rows = []
    for each in chosen:
        photo = each.view.photo
        mask = each.object_mask
        if mask is None:
            file = paths.cell(SEGMENTATION).with_suffix("") / f"{photo}.png"
            mask = load_object_mask(file) if file.is_file() else None
        with_object = scene.with_object_path(photo)
        columns: dict[str, Image | None] = {}
        if with_object.is_file():
            columns["with object"] = read_image(with_object)
        columns["truth"] = each.photo
        for method in methods:
            file = paths.cell(method).with_suffix("") / f"{photo}.png"
            columns[method] = read_image(file) if file.is_file() else None
        width = max(SHEET_CELL, each.view.width)
        size = (width, round(width * each.view.height / each.view.width))
        rows.append(_row(columns, size, header=not rows))
        box = bounding_box(mask, margin=0.35)
        if box is not None:
            rows.append(_row({name: _crop_to(picture, box, size) for name, picture in columns.items()}, size))
    write_png(path, np.concatenate(rows))


def _row(columns: Mapping[str, Image | None], size: tuple[int, int], header: bool = False) -> Image:
    cells = []
    for name, picture in columns.items():
        cell = np.full((size[1], size[0], 3), 128, np.uint8) if picture is None else _fit(picture, size)
        if header:
            label = np.full((22, size[0], 3), 255, np.uint8)
            cv2.putText(label, name, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
            cell = np.concatenate([label, cell])
        cells.append(np.pad(cell, ((0, 4), (0, 4), (0, 0)), constant_values=255))
    return np.concatenate(cells, axis=1)


def _fit(picture: Image, size: tuple[int, int]) -> Image:
    if picture.shape[1::-1] == size:
        return picture
    return cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC if picture.shape[1] < size[0] else cv2.INTER_AREA)


def _crop_to(picture: Image | None, box: tuple[int, int, int, int], size: tuple[int, int]) -> npt.NDArray | None:
    """The box, made as wide or as tall as the cell's shape wants, as far as the picture goes."""
    if picture is None:
        return None
    x0, y0, x1, y1 = box
    height, width = picture.shape[:2]
    scale = max((x1 - x0) / size[0], (y1 - y0) / size[1])
    crop_width, crop_height = min(width, round(scale * size[0])), min(height, round(scale * size[1]))
    left = int(np.clip((x0 + x1 - crop_width) // 2, 0, width - crop_width))
    top = int(np.clip((y0 + y1 - crop_height) // 2, 0, height - crop_height))
    return picture[top : top + crop_height, left : left + crop_width]
