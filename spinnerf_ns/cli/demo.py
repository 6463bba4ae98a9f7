"""ns-spinnerf demo: the whole way on a made-up scene whose truth is known, with a report."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import write_json

if TYPE_CHECKING:
    from spinnerf_ns.evaluation.report import ReportRow


@dataclass
class Demo:
    """Makes a room with a vase, removes the vase, and compares with the same room without it.

    Needs no download, no GPU and no photos. Beside our field it trains masked NeRF (stock nerfacto that never sees the
    removed region) with the same grid, samples and steps.
    """

    output: Path = Path("demo")
    """Folder for the scene, the runs, report.html and report.json."""
    layout: Literal["forward", "orbit"] = "forward"
    """How the cameras stand."""
    seg_steps: int | None = None
    """Iterations of the segmentation stage; by default the -lite method's."""
    inpaint_steps: int | None = None
    """Iterations of the inpainting stage and of the baseline; by default the -lite method's."""
    inpainter: str = "opencv"
    """2-D inpainter for what no photo shows. OpenCV's is quick, and enough for a room of soft textures."""
    overwrite: bool = False
    """Replace an earlier demo in the output folder."""

    def main(self) -> None:
        """Runs the demo and prints its figures."""
        report = run_demo(self)
        figures = {name: value for name, value in report.items() if isinstance(value, float)}
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}, indent=2))
        print(f"Report: {self.output / 'report.html'}")


def run_demo(demo: Demo) -> dict[str, Any]:
    """Runs all stages; returns what report.json says.

    Raises:
        SpinnerfError: the output folder holds something else, or an earlier demo and `overwrite` is off.
    """
    from nerfstudio.utils.rich_utils import CONSOLE

    from spinnerf_ns.cli.segment import Segment
    from spinnerf_ns.evaluation.baselines import from_scratch, masked_nerf, stock_models_without_download
    from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
    from spinnerf_ns.nerf.background_field import background_steps
    from spinnerf_ns.runs import check_steps, method_config, train, with_steps
    from spinnerf_ns.scene.workspace import Workspace

    check_steps(demo.seg_steps, "--seg-steps")
    check_steps(demo.inpaint_steps, "--inpaint-steps")
    prepare_folder(demo)
    seconds: dict[str, float] = {}
    scene_folder, runs = demo.output / "scene", demo.output / "runs"
    with timed(seconds, "scene"):
        CONSOLE.rule("1/6 a room with a vase")
        scene = write_twin(scene_folder, TwinConfig(layout=demo.layout))
        workspace = Workspace.open(scene_folder)
        workspace.set_object_free([Path(photo).stem for photo in scene.object_free])
    with timed(seconds, "segment"):
        CONSOLE.rule("2/6 a box on one photo -> masks in every photo")
        box = ",".join(f"{value:g}" for value in scene.prompt_box)
        # By name: the demo shows what the package does by itself, and downloads nothing.
        Segment(scene_folder, scene.prompt_view, box=box, segmenter="grabcut", tracker="flow").main()
    with timed(seconds, "train_seg"):
        CONSOLE.rule("3/6 masks that agree in 3-D")
        config = method_config("spinnerf-seg-lite")
        config.pipeline.export_on_completion = False
        if demo.seg_steps is not None:
            with_steps(config, demo.seg_steps)
        seg = train(config, scene_folder, runs, "demo")
    with timed(seconds, "export"):
        CONSOLE.rule("4/6 photos and depth without the vase")
        from spinnerf_ns.pipelines import export_run

        config.pipeline.export.inpainter = demo.inpainter
        removed = export_run(seg.config_path, config.pipeline.export)
        field_steps = background_steps(config.pipeline.export.background_steps, config.max_num_iterations)
    with timed(seconds, "train_inpaint"):
        CONSOLE.rule("5/6 the field without the vase")
        config = method_config("spinnerf-inpaint-lite")
        if demo.inpaint_steps is not None:
            with_steps(config, demo.inpaint_steps)
        config.pipeline.model.perceptual_loss = "ssim"  # "auto" would download
        ours = train(config, removed, runs, "demo")
    with timed(seconds, "train_masked_nerf"):
        CONSOLE.rule("6/6 masked NeRF, for comparison")
        like = from_scratch(config, field_steps)
        with stock_models_without_download():
            baseline = train(masked_nerf(like), removed / "transforms_masked.json", runs, "demo-masked-nerf")
    with timed(seconds, "evaluate"):
        figures, rows = measure(seg.config_path, ours.config_path, baseline.config_path)
    seconds["total"] = sum(seconds.values())
    report = {
        **figures,
        **{f"seconds_{name}": value for name, value in seconds.items()},
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "methods": {"spinnerf-seg-lite": str(seg.config_path), "spinnerf-inpaint-lite": str(ours.config_path)},
    }
    from spinnerf_ns.evaluation.report import write_report

    write_report(demo.output / "report.html", "A vase removed from a room", rows, figures, seconds)
    write_json(demo.output / "report.json", report, _plain)
    return report


def measure(seg: Path, ours: Path, baseline: Path) -> tuple[dict[str, float], list[ReportRow]]:
    """Figures of the three runs, and the report's views: `evaluate_run`'s, ours and the baseline's side by side."""
    from spinnerf_ns.evaluation.evaluate import evaluate_run

    masks, field, masked = (evaluate_run(run) for run in (seg, ours, baseline))
    figures = {f"iou_{name}": masks.masks[f"iou_object_{name}"] for name in ("heldout", "tracked", "refined")}
    for name in ("psnr_mask", "psnr_outside"):
        figures |= {name: field.measured.figures[name], f"{name}_masked_nerf": masked.measured.figures[name]}
    for row, other in zip(field.rows, masked.rows, strict=True):
        row.pictures["masked NeRF"] = other.pictures["after"]
        row.figures = {**row.figures, "psnr_mask masked NeRF": other.figures.get("psnr_mask")}
    return figures, masks.rows + field.rows


def prepare_folder(demo: Demo) -> None:
    """Makes way for a new demo; removes nothing but an earlier demo's own files."""
    own = ("scene", "runs", "report.html", "report.json")
    found = [name for name in own if (demo.output / name).exists()]
    if found and not demo.overwrite:
        raise SpinnerfError(f"{demo.output}: holds an earlier demo ({', '.join(found)}); replace it with --overwrite")
    for name in found:
        path = demo.output / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Enters the block's wall-clock seconds under `name`."""
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return str(value)
