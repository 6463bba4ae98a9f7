"""Nerfstudio pipelines: where training meets what lies on disk."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils import comms
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track

from spinnerf_ns.accel.cpu import prepare_cpu
from spinnerf_ns.accel.replaced import replaced
from spinnerf_ns.conventions import OBJECTNESS_THRESHOLD
from spinnerf_ns.errors import STOPPED, SpinnerfError, interrupts_raised, last_line, one_line_at_the_end, stop_in_one_line
from spinnerf_ns.files import load_depth, load_object_mask, write_json
from spinnerf_ns.hints import command, say
from spinnerf_ns.nerf.data.datamanager import SpinnerfSegDataManager, SpinnerfSegDataManagerConfig
from spinnerf_ns.nerf.data.inpaint_data import SpinnerfInpaintDataManagerConfig
from spinnerf_ns.nerf.inpaint_model import SpinnerfInpaintModel, SpinnerfInpaintModelConfig
from spinnerf_ns.nerf.seg_model import SpinnerfSegModel, SpinnerfSegModelConfig
from spinnerf_ns.removal.config import BACKGROUND, ExportConfig
from spinnerf_ns.runs import data_of, load_run, read_config, restore

if TYPE_CHECKING:
    from spinnerf_ns.nerf.display import Provenance

RUN_RECORD = "spinnerf_run.json"
"""In a run's folder: what the run used that its config.yml does not say."""


class SpinnerfPipeline(VanillaPipeline):
    """Loads only checkpoints of its own kind."""

    def __init__(self, config: VanillaPipelineConfig, device: str, *args: Any, **kwargs: Any) -> None:
        one_line_at_the_end(Path(sys.argv[0]).name)  # ns-train and its like show a traceback for what a user can mend
        if torch.device(device).type == "cpu":
            prepare_cpu()
        super().__init__(config, device, *args, **kwargs)
        self.model.find_provenance = self._find_provenance

    def _find_provenance(self) -> Provenance | None:
        """Which surfaces were invented, by the masks that an export wrote; None without one."""
        from spinnerf_ns.nerf.display import Provenance, some_views
        from spinnerf_ns.scene.removed import FILES, read_removed

        manager = self.datamanager
        if not (manager.workspace.removed / FILES["unseen_mask"][0]).is_dir():
            return None
        try:
            files = read_removed(manager.workspace.removed)
            views = some_views([view for view in manager.workspace.views_with_object(manager.capture) if view.photo in files])
            depths = [load_depth(files[view.photo].depth) for view in views]
            masks = [load_object_mask(files[view.photo].unseen_mask, (view.height, view.width)) for view in views]
        except SpinnerfError as error:  # a picture for looking at: the field can be looked at without it
            say(f"Not shown where things were invented: {error}")
            return None
        return Provenance(views, masks, depths, manager.capture.world_to_training)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool | None = None) -> None:
        """Loads a checkpoint; nerfstudio alone would take a foreign one in silence and leave the model untrained.

        Raises:
            SpinnerfError: keys are missing, unexpected, or of another shape.
        """
        own, given = (
            {key.removeprefix("_model.").removeprefix("module."): value.shape for key, value in state.items()}
            for state in (self.state_dict(), state_dict)
        )
        missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
        other = sorted(key for key in own.keys() & given.keys() if own[key] != given[key])
        if missing or unexpected or other:
            raise SpinnerfError(
                f"the checkpoint is not one of {type(self.model).__name__} with this configuration: {_some('missing', missing)}"
                f"{_some('unexpected', unexpected)}{_some('of another size', other)}use the config.yml that lies beside it"
            )
        super().load_state_dict(state_dict, strict=True)

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        """The model's and data manager's, and the pipeline's own (`own_callbacks`), after `before_training`."""
        # Nerfstudio asks for callbacks once: after a checkpoint was loaded, before the first step. It has no hook for that.
        self.before_training(resumed=attributes.trainer._start_step > 0)
        if Path(sys.argv[0]).name == "ns-train":  # and not where ns-spinnerf trains
            stop_in_one_line("ns-train", lambda: _how_to_go_on(attributes.trainer))
        callbacks = [*super().get_training_callbacks(attributes), *self.own_callbacks(attributes)]
        # On several GPUs every process trains, and one of them writes.
        return callbacks + self.main_callbacks(attributes) if comms.is_main_process() else callbacks

    def before_training(self, resumed: bool) -> None:
        """Hook: called once before the first step.

        Args:
            resumed: whether a checkpoint was loaded.
        """

    def own_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        """Hook: what the pipeline does while it is trained, in every process of a training on several GPUs."""
        return []

    def main_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        """Hook: what one process does for all."""
        return []

    def get_average_image_metrics(
        self,
        data_loader: Any,
        image_prefix: str,
        step: int | None = None,
        output_path: Path | None = None,
        get_std: bool = False,
    ) -> dict[str, float]:
        """Stock nerfstudio's, but each figure is averaged over the photos that have it; `views_*` says over how many, where
        these are not all. Stock nerfstudio takes the first photo's names for all."""
        rows: list[dict[str, float]] = []
        measure = self.model.get_image_metrics_and_images

        def keep(outputs: Any, batch: Any) -> tuple[dict, dict]:
            metrics, images = measure(outputs, batch)
            rows.append(metrics)
            return {}, images

        with replaced(self.model, get_image_metrics_and_images=keep):
            result = super().get_average_image_metrics(data_loader, image_prefix, step, output_path, get_std)
        for name in dict.fromkeys(name for row in rows for name in row):
            values = torch.tensor([float(row[name]) for row in rows if name in row])
            result[name] = float(values.mean())
            if get_std:
                result[f"{name}_std"] = float(values.std()) if len(values) > 1 else 0.0
            if len(values) < len(rows):
                result[f"views_{name}"] = len(values)
        return result


def _how_to_go_on(trainer: Any) -> str:
    """What is said of a training that was stopped."""
    folder = Path(trainer.checkpoint_dir)
    if not any(folder.glob("step-*.ckpt")):
        return "stopped before the first checkpoint: the same command starts again"
    return f"stopped; to go on from the last checkpoint, the same command with: --load-dir {shlex.quote(str(folder))}"


def _some(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    return f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}); "


# ------------------------------------------------------------------------------------------------------------ segmentation
@dataclass
class SpinnerfSegPipelineConfig(VanillaPipelineConfig):
    """The segmentation stage."""

    _target: type = field(default_factory=lambda: SpinnerfSegPipeline)
    datamanager: SpinnerfSegDataManagerConfig = field(default_factory=SpinnerfSegDataManagerConfig)
    """specifies the datamanager config"""
    model: SpinnerfSegModelConfig = field(default_factory=SpinnerfSegModelConfig)
    """specifies the model config"""
    refine_masks: bool = True
    """Whether, at `mask_round_steps`, rendered masks overrule the tracked ones where the field is sure (the paper's second
    stage)."""
    mask_round_steps: tuple[int, ...] = ()
    """Steps at which they do."""
    mask_round_downscale: int = 2
    """Masks of a round are rendered at 1/N of the photos' resolution and interpolated."""
    export_on_completion: bool = True
    """Whether masks, depth and the object-free capture are exported when training ends."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """How they are."""


def next_command(segmentation: TrainerConfig) -> str:
    """What follows the export of a segmentation run: the other method of the same size, on the same scene."""
    method = segmentation.method_name.replace("-seg", "-inpaint")
    return command("ns-train", method, data=data_of(segmentation), workspace=segmentation.pipeline.datamanager.workspace)


def said_of_export(folder: Path, config: ExportConfig, segmentation: TrainerConfig) -> list[str]:
    """Lines that say what was exported, and what follows."""
    if config.keep:
        from spinnerf_ns.removal.kept import next_commands

        return [f"The object alone: {folder}", *(f"Next: {line}" for line in next_commands(folder, torch.cuda.is_available()))]
    return [f"Object-free capture: {folder}", f"Next: {next_command(segmentation)}"]


class SpinnerfSegPipeline(SpinnerfPipeline):
    """Trains colour, density and objectness; refines the masks on the way; exports the object-free capture at the end."""

    config: SpinnerfSegPipelineConfig
    datamanager: SpinnerfSegDataManager
    model: SpinnerfSegModel
    refined_labels: torch.Tensor
    """(K,) uint8: the labels of all training photos after the last mask round, packed; empty before the first one. A buffer, so
    that a resumed run trains on what it trained on."""

    def __init__(self, config: SpinnerfSegPipelineConfig, device: str, test_mode: Any = "val", *args: Any, **kwargs: Any) -> None:
        from spinnerf_ns.removal.clean_photos import name_for_export

        if test_mode == "val":  # a training, and no run that is looked at
            name_for_export(config.datamanager, config.export)
        super().__init__(config, device, test_mode, *args, **kwargs)
        self.register_buffer("refined_labels", torch.zeros(0, dtype=torch.uint8))
        self.model.take_clicks(self.datamanager.capture, self.datamanager.workspace)

    def before_training(self, resumed: bool) -> None:
        """What the export would refuse is said now, not after the training.

        Raises:
            SpinnerfError: the export's reference view cannot be one.
        """
        from spinnerf_ns.removal.reference import check_reference

        super().before_training(resumed)
        check_reference(self.datamanager.capture, self.datamanager.workspace, self.config.export.reference_view)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool | None = None) -> None:
        """As the other stage's, and the refined masks; checkpoints from before these were kept are taken too."""
        packed = state_dict.get("refined_labels", torch.zeros(0, dtype=torch.uint8))
        super().load_state_dict({**state_dict, "refined_labels": self.refined_labels}, strict)
        if len(packed) and hasattr(self.datamanager, "labels") and not self.datamanager.unpack_labels(packed):
            CONSOLE.print("[yellow]The checkpoint's refined masks are of other photos: training starts from the masks on disk")
            return
        self.refined_labels = packed.to(self.device)

    def own_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        """Mask rounds: the processes have the same field, so they find the same masks."""
        if not (self.config.refine_masks and self.config.mask_round_steps):
            return []
        return [
            TrainingCallback(
                [TrainingCallbackLocation.AFTER_TRAIN_ITERATION],
                lambda step: self.refine_masks() if step in self.config.mask_round_steps else None,
                update_every_num_iters=1,
            )
        ]

    def main_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        """The export."""
        if not self.config.export_on_completion:
            return []
        return [TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], lambda step: self._export_at_end(attributes, step))]

    def refine_masks(self) -> None:
        """Renders every training photo's mask and, where it is the better one (`refinement.choose`), trains on it from now on.

        A photo whose rendered mask is empty keeps the mask it had: an early field may have lost the object there.
        """
        from spinnerf_ns.nerf.mask_choice import MaskChoice
        from spinnerf_ns.nerf.rendering import render_objectness

        manager = self.datamanager
        choice = MaskChoice(self.model, manager)
        cameras = manager.train_dataset.cameras
        say(f"Masks of the training photos are rendered at 1/{self.config.mask_round_downscale} of their size")
        for index in track(range(len(cameras)), "Refining masks", transient=True):
            objectness = render_objectness(self.model, cameras[index : index + 1], self.config.mask_round_downscale)
            if not (objectness > OBJECTNESS_THRESHOLD).any():
                continue
            label = manager.object_label(index).numpy()
            view = manager.view_of(manager.train_dataset.image_filenames[index])
            chosen = choice.choose(view, objectness, None if (label > 1).all() else label)
            if chosen.source == "field" and not chosen.doubtful:
                manager.set_object_mask(index, torch.from_numpy(chosen.object_mask))
        self.refined_labels = manager.packed_labels().to(self.device)

    def _export_at_end(self, attributes: TrainingCallbackAttributes, step: int) -> None:
        trainer = attributes.trainer
        checkpoint = trainer.checkpoint_dir / f"step-{step:09d}.ckpt"
        config_path = trainer.base_dir / "config.yml"
        later = command("ns-spinnerf", "export", load_config=config_path)
        try:
            with interrupts_raised():
                folder = self.export(checkpoint, self.config.export)
        except KeyboardInterrupt:  # ns-train shows a traceback of it
            say(f"Export stopped; it goes on where it was: {later}")
            raise SystemExit(STOPPED) from None
        except Exception as error:  # the trained field is safe on disk: say how to go on instead of a traceback
            said = last_line(error)
            if said is None:
                raise
            say(f"Not exported: {said[0]}")
            say(f"Export later: {later}" + (" --overwrite" if "--overwrite" in said[0] else ""))
            return
        for line in said_of_export(folder, self.config.export, trainer.config):
            say(line)

    def export(self, checkpoint: Path, config: ExportConfig) -> Path:
        """Renders masks and depth of every photo and writes the object-free capture.

        Args:
            checkpoint: the file that the model's weights are in; its content decides what is fresh.

        Returns:
            The folder of the object-free capture.
        """
        from spinnerf_ns.progress import logged
        from spinnerf_ns.removal.from_field import export_field

        with logged(self.datamanager.workspace.log):
            return export_field(self.model, self.datamanager, checkpoint, config)


def export_run(load_config: Path, config: ExportConfig, data: Path | None = None) -> Path:
    """Exports a run.

    Args:
        load_config: its config.yml.
        config: how.
        data: where its capture is, if it was moved away from its runs.

    Raises:
        SpinnerfError: there is no such run, it is of another method, or its capture or checkpoint is gone or damaged.
    """
    from spinnerf_ns.removal.clean_photos import name_for_export
    from spinnerf_ns.scene.workspace import Workspace
    from spinnerf_ns.segmentation.clean_photos import unless_refused

    wanted = "give the config.yml of the run that ns-train spinnerf-seg wrote"
    found = read_config(load_config, wanted)
    if not isinstance(found.pipeline, SpinnerfSegPipelineConfig):
        raise SpinnerfError(f"{load_config}: a run of {found.method_name}, not of spinnerf-seg; {wanted}")
    run = load_run(load_config, data)
    with unless_refused(Workspace.open(data_of(run), run.pipeline.datamanager.workspace)):
        name_for_export(run.pipeline.datamanager, config)
        pipeline = run.pipeline.setup(device="cuda" if torch.cuda.is_available() else "cpu", test_mode="test")
        return pipeline.export(restore(run, pipeline), config)


# -------------------------------------------------------------------------------------------------------------- inpainting
@dataclass
class SpinnerfInpaintPipelineConfig(VanillaPipelineConfig):
    """The inpainting stage."""

    _target: type = field(default_factory=lambda: SpinnerfInpaintPipeline)
    datamanager: SpinnerfInpaintDataManagerConfig = field(default_factory=SpinnerfInpaintDataManagerConfig)
    """specifies the datamanager config"""
    model: SpinnerfInpaintModelConfig = field(default_factory=SpinnerfInpaintModelConfig)
    """specifies the model config"""
    start_from_background: bool = True
    """Whether to start from the field that the export fitted to the photos outside the regions, where its grids fit; off, or
    without such an export: from scratch."""


class SpinnerfInpaintPipeline(SpinnerfPipeline):
    """Fits the object-free field; records which perceptual loss and reference view it used."""

    config: SpinnerfInpaintPipelineConfig
    model: SpinnerfInpaintModel

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool | None = None) -> None:
        """As the other stage's; checkpoints from before a model knew what it was started from are taken too."""
        prefix = "_model.module." if any(key.startswith("_model.module.") for key in state_dict) else "_model."  # several GPUs'
        super().load_state_dict({f"{prefix}started_from_field": torch.tensor(False), **state_dict}, strict)

    def before_training(self, resumed: bool) -> None:
        """Starts from the export's field of what stays; a resumed run goes on as it was started. Builds the perceptual loss."""
        if self.model.started_from_field if resumed else self._start_from_background():
            self.model.skip_warm_up()
        if self.datamanager.layout.patch_rays:
            self.model.prepare_perceptual()

    def main_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        """The run's record."""
        return [TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], lambda step: self._record(attributes))]

    def _start_from_background(self) -> bool:
        """Starts from the export's field of what stays, if there is one that fits; whether it did."""
        if not self.config.start_from_background:
            return False
        from spinnerf_ns.nerf.background_field import BackgroundField

        path = self.datamanager.workspace.root / BACKGROUND / "field.pt"
        if not path.is_file():
            return False
        reason = BackgroundField.load(path).start(self.model, self.datamanager.capture.world_to_training)
        text = f"Started from the export's field of what stays, {path}"
        CONSOLE.print(text if reason is None else f"[yellow]Not started from {path}: {reason}", soft_wrap=True)
        return reason is None

    def _record(self, attributes: TrainingCallbackAttributes) -> None:
        manager = self.datamanager
        record = {
            "perceptual_loss": self.model.perceptual_name,
            "reference_view": manager.view_of(manager.train_dataset.image_filenames[manager.reference_index]).photo,
            "layout": vars(manager.layout),
        }
        write_json(attributes.trainer.base_dir / RUN_RECORD, record)
