"""One process of a benchmark: prepares a scene, or runs all methods of one (scene, seed) from a shared segmentation run."""

from __future__ import annotations

import gc
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from nerfstudio.engine.trainer import TrainerConfig

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.baselines import METHODS, from_scratch, load_pipeline, stock_models_without_download
from spinnerf_ns.evaluation.matrix.benchmark import (
    BenchmarkConfig,
    Paths,
    cell_settings,
    digest,
    read_cell,
    scene_key,
    shared_settings,
)
from spinnerf_ns.evaluation.matrix.scenes import BenchmarkScene, SceneSource, load_scene, prepare_scene
from spinnerf_ns.evaluation.measure import (
    Known,
    load_networks,
    measure_masks,
    measure_renders,
    render_objectness,
    render_views,
)
from spinnerf_ns.files import load_object_mask, write_json, write_png
from spinnerf_ns.nerf.background_field import background_steps
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.export import export_removed
from spinnerf_ns.removal.plan import layers_path
from spinnerf_ns.runs import Run, apply, method_config, train, with_steps
from spinnerf_ns.scene.labels import LABEL_FOLDERS
from spinnerf_ns.scene.workspace import Workspace

MASKS_FILE = "masks.json"
"""In a prepared scene's workspace: see `mask_source`."""

SEGMENTATION = "segmentation"
"""The shared cell: figures of the masks, which belong to no method."""


def read_plan(path: Path) -> tuple[BenchmarkConfig, dict[str, SceneSource]]:
    """The configuration and the scenes of plan.yml, which this package wrote (nerfstudio's config.yml is read likewise)."""
    plan = yaml.load(path.read_text(), Loader=yaml.Loader)
    return plan["config"], plan["sources"]


def prepare(config: BenchmarkConfig, source: SceneSource) -> None:
    """Prepares the scene and tracks its masks, which all seeds start from; masks.json says how well that went."""
    from spinnerf_ns.segmentation.clean_photos import name_clean_photos
    from spinnerf_ns.segmentation.segment import segment_capture

    paths = Paths(config.output, source.name)
    scene = prepare_scene(source, paths.capture, scene_key(source, config), config.downscale)
    workspace = Workspace.open(scene.root)
    workspace.set_clean_photos(())
    name_clean_photos(scene.capture, workspace, config.export.clean_photos, [scene.prompt.view], anew=True)
    if not scene.known():
        raise SpinnerfError(f"--export.clean-photos: names all test photos of {source.name}, and none is left to measure with")
    start = time.monotonic()
    segment_capture(scene.capture, workspace, scene.prompt, config.segmenter, config.tracker, overwrite=True, allow_large_mask=True)
    seconds = time.monotonic() - start
    file = workspace.root / MASKS_FILE
    backends = [config.segmenter, config.tracker]
    before = json.loads(file.read_text()) if file.is_file() else {}
    if before.get("backends") == backends:  # the masks were there already
        seconds = before["seconds"]
    views = workspace.views_with_object(scene.capture)
    tracked = sum(workspace.mask_path("masks_2d", view.photo).is_file() for view in views)
    labelled = len(scene.training_masks())
    if config.masks == "true" and not labelled:
        raise SpinnerfError(f"{scene.root / LABEL_FOLDERS[0]}: no training photo has a true mask; take --masks tracked")
    use_true = config.masks == "true" or (config.masks == "auto" and 2 * tracked < len(views) and labelled > tracked)
    content = {"source": "true" if use_true else "tracked", "tracked": tracked, "photos": len(views), "seconds": seconds}
    write_json(file, {**content, "backends": backends})


def mask_source(scene: Path) -> dict[str, Any]:
    """What `prepare` found out about a scene's masks: "source" ("tracked" or "true"), "tracked" of "photos", "seconds"."""
    return json.loads((Workspace.open(scene).root / MASKS_FILE).read_text())


class Seed:
    """One (scene, seed): the shared run, its two exports, and the cells."""

    def __init__(self, config: BenchmarkConfig, source: SceneSource, seed: int) -> None:
        self.config, self.seed = config, seed
        self.scene: BenchmarkScene
        self.paths = Paths(config.output, source.name, seed)
        self.scene = load_scene(self.paths.capture)
        self.scene_key = scene_key(source, config)
        self.shared_key = digest(shared_settings(config), self.scene_key, seed)
        if (self.paths.shared / "key.json").is_file():
            if json.loads((self.paths.shared / "key.json").read_text()) != self.shared_key:
                shutil.rmtree(self.paths.shared)
        write_json(self.paths.shared / "key.json", self.shared_key)
        self.capture = self.scene.capture
        self.known: list[Known] = self.scene.known()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.lpips, self.fid, self.absent = load_networks(config.lpips_weights, config.fid_weights, self.device)

    # ------------------------------------------------------------------------------------------------------------ shared
    @property
    def masks(self) -> Path:
        """The folder of masks that the segmentation run starts from."""
        true = mask_source(self.scene.root)["source"] == "true"
        return self.scene.root / LABEL_FOLDERS[0] if true else Workspace.open(self.scene.root).masks_2d

    def workspace(self, kind: str) -> Workspace:
        """The workspace of an export kind ("shared" or "per-view")."""
        workspace = Workspace.open(self.scene.root, self.paths.shared / kind)
        clean = Workspace.open(self.scene.root).clean_photos
        if workspace.clean_photos != clean:
            workspace.set_clean_photos(clean)
        if tuple(workspace.manifest["object_free"]) != self.scene.object_free:
            workspace.set_object_free(self.scene.object_free)
        return workspace

    def shared_run(self) -> Run:
        """The segmentation run."""
        config = self._seg_config()
        settings = {
            "pipeline.export_on_completion": False,
            "pipeline.datamanager.workspace": self.workspace("shared").root,
            "pipeline.datamanager.masks": self.masks,
            "machine.seed": self.seed,
        }
        apply(config, settings)
        return train(config, self.scene.root, self.paths.shared / "runs", "shared", {"key": self.shared_key})

    def _seg_config(self) -> TrainerConfig:
        config = method_config("spinnerf-seg-lite" if self.config.lite else "spinnerf-seg")
        return with_steps(config, self.config.seg_steps) if self.config.seg_steps else config

    def export(self, run: Run) -> float:
        """Both exports; seconds of the one that ours uses."""
        from spinnerf_ns.pipelines import export_run
        from spinnerf_ns.stereo.maps import stereo_if_possible

        start = time.monotonic()
        shared = self.workspace("shared")
        export_run(run.config_path, self._export_config())
        seconds = time.monotonic() - start
        if "per-view" in {METHODS[method].export for method in self.config.methods}:
            alone = self.workspace("per-view")
            for view in self.capture.views:  # the same masks and depth
                for path in (shared.mask_path("masks_3d", view.photo), layers_path(shared, view.photo)):
                    target = alone.root / path.relative_to(shared.root)
                    if path.is_file() and not target.is_file():
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(path, target)
            stereo_if_possible(self.capture, alone)  # depth around the region is no part of the comparison: all have it
            config = self._export_config()
            config.fill_from_views = config.carry = False  # each photo is inpainted alone
            export_removed(self.capture, alone, config)
        return seconds

    def _export_config(self) -> ExportConfig:
        return replace(self.config.export, overwrite=True, clean_photos=())  # the workspaces know them

    def segmentation_cell(self) -> dict[str, Any]:
        """Runs or finds the shared run; its cell: figures of the masks, seconds, and where the run is."""
        found = read_cell(self.paths, SEGMENTATION, self.shared_key)
        if found is not None and Path(found["run"]).is_file():
            return found
        run = self.shared_run()
        seconds_export = self.export(run)
        truth = self.scene.training_masks()
        figures: dict[str, float] = {}
        folders = (("tracked", Workspace.open(self.scene.root).masks_2d), ("refined", self.workspace("shared").masks_3d))
        for name, folder in folders:
            files = {photo: folder / f"{photo}.png" for photo in truth}
            masks = {photo: load_object_mask(path) for photo, path in files.items() if path.is_file()}
            figures |= {f"{key}_{name}": value for key, value in measure_masks(masks, truth).items()}
        true_test = {each.view.photo: each.object_mask for each in self.known if each.object_mask is not None}
        model = load_pipeline(run.config_path).model
        seen = {each.view.photo: render_objectness(model, self.capture, each.view) for each in self.known}
        held_out = measure_masks(seen, true_test)
        figures |= {f"{key}_heldout": value for key, value in held_out.items()}
        folder = self.paths.cell(SEGMENTATION).with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        for photo, mask in seen.items():  # where labels are missing, this says where the object was
            write_png(folder / f"{photo}.png", mask.astype(np.uint8) * 255)
        source = mask_source(self.scene.root)
        figures["tracked_part"] = source["tracked"] / source["photos"]
        seconds = {"segment": source["seconds"], "train_seg": run.seconds, "export": seconds_export}
        cell = {"key": self.shared_key, "run": str(run.config_path), "masks": source["source"], "figures": figures}
        cell["seconds"] = seconds
        self._write(SEGMENTATION, cell)
        return cell

    # ------------------------------------------------------------------------------------------------------------- cells
    def method_cell(self, method: str, shared: dict[str, Any]) -> None:
        """Trains a method on its export, measures it and writes its cell; nothing if the cell is there."""
        key = digest(cell_settings(self.config, method), self.scene_key, self.seed)
        if read_cell(self.paths, method, key) is not None:
            return
        spec = METHODS[method]
        ours = method_config("spinnerf-inpaint-lite" if self.config.lite else "spinnerf-inpaint")
        ours.machine.seed = self.seed
        if self.config.steps:
            with_steps(ours, self.config.steps)
        ours.pipeline.model.perceptual_loss = self.config.perceptual_loss
        ours.pipeline.model.perceptual_weights = self.config.perceptual_weights
        before = background_steps(self._export_config().background_steps, self._seg_config().max_num_iterations)
        config = ours if method == "ours" else spec.make(from_scratch(ours, before))
        data = self.workspace(spec.export).removed / spec.file
        if spec.file == "transforms.json":
            data = data.parent
        with stock_models_without_download():
            run = train(config, data, self.paths.shared / "runs", method, {"key": key})
        if run.seconds == 0:  # killed between training and measuring
            run.seconds = float("nan")
        start = time.monotonic()
        model = load_pipeline(run.config_path).model
        renders = render_views(model, self.capture, self._known_or_rendered())
        measured = measure_renders(renders, self._known_or_rendered(), self.lpips, self.fid, self.device)
        folder = self.paths.cell(method).with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        for render in renders:
            write_png(folder / f"{render.view.photo}.png", (render.image * 255).round().astype(np.uint8))
        seconds = {"train": run.seconds, "evaluate": time.monotonic() - start, **shared["seconds"]}
        cell = {
            "key": key, "method": method, "scene": self.paths.scene, "seed": self.seed,
            "settings": {**cell_settings(self.config, method), "steps": config.max_num_iterations},
            "figures": measured.figures, "absent": {**self.absent, **measured.absent}, "per_view": measured.per_view,
            "seconds": {name: value for name, value in seconds.items() if value == value},
        }  # fmt: skip
        self._write(method, cell)
        psnr = {name: round(value, 2) for name, value in measured.figures.items() if name in ("psnr_mask", "psnr_outside")}
        print(f"{self.paths.scene}, seed {self.seed}, {method}: {psnr}", flush=True)
        del model
        gc.collect()

    def _known_or_rendered(self) -> list[Known]:
        """The test views; where nobody labelled the object, where the shared segmentation field sees it."""
        folder = self.paths.cell(SEGMENTATION).with_suffix("")
        return [
            each if each.object_mask is not None else replace(each, object_mask=load_object_mask(folder / f"{each.view.photo}.png"))
            for each in self.known
        ]

    def _write(self, method: str, cell: dict[str, Any]) -> None:
        write_json(self.paths.cell(method), cell, float)


def main(arguments: list[str]) -> None:
    """plan.yml, scene, and "prepare" or a seed; an error that the user can mend is the log's last line."""
    plan, scene, what = arguments
    try:
        config, sources = read_plan(Path(plan))
        if what == "prepare":
            prepare(config, sources[scene])
            return
        seed = Seed(config, sources[scene], int(what))
        shared = seed.segmentation_cell()
        for method in config.methods:
            seed.method_cell(method, shared)
    except SpinnerfError as error:
        print(error, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
