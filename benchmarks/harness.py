"""What the benchmarks of training and rendering share: a made-up scene, trainers, steps in turn, the machine's name."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from unittest import mock

import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig

from spinnerf_ns.evaluation.baselines import masked_nerf
from spinnerf_ns.evaluation.truth.twin import TwinConfig, TwinScene, write_twin
from spinnerf_ns.files import load_object_mask, save_object_mask
from spinnerf_ns.nerf.image_metrics import CachedLpips
from spinnerf_ns.runs import NEVER, apply, method_config, seed_everything
from spinnerf_ns.scene.workspace import Workspace

LATE = 6000
"""A step after every warm-up: proposal networks learn in one step of six, as for most of a run."""
CYCLE = 12
"""Steps of such a cycle, which holds as many of objectness too (one in six); what is timed is always whole ones."""


def small_twin(photos: int = 10) -> TwinConfig:
    """A twin scene that is quickly made: what is timed does not depend on how it looks."""
    return TwinConfig(num_train=photos, num_test=2, supersampling=1)


def write_scene(root: Path, config: TwinConfig) -> TwinScene:
    """A twin scene with its true masks as the tracked ones."""
    scene = write_twin(root, config)
    workspace = Workspace.open(root)
    workspace.set_object_free([Path(photo).stem for photo in scene.object_free])
    give_masks(workspace, [scene.truth(photo, "object_masks") for photo in scene.train_photos])
    return scene


def give_masks(workspace: Workspace, masks: list[Path]) -> None:
    """True masks, files named as their photos, as the tracked ones."""
    for path in masks:
        save_object_mask(workspace.mask_path("masks_2d", path.stem), load_object_mask(path))


def ours(method: str, **settings: object) -> TrainerConfig:
    """A registered method on the CPU without what interrupts training; "__" in a setting's name stands for a dot."""
    config = method_config(method)
    config.machine.device_type = "cpu"
    config.mixed_precision = False
    config.pipeline.model.implementation = "torch"
    if hasattr(config.pipeline, "refine_masks"):
        config.pipeline.refine_masks = config.pipeline.export_on_completion = False
    return apply(config, {name.replace("__", "."): value for name, value in settings.items()})


def stock_nerfacto(like: TrainerConfig) -> TrainerConfig:
    """nerfstudio's nerfacto with the same grid, samples, rays and rates, and nothing of this plugin's."""
    return with_stock_optimizers(masked_nerf(like))


def with_stock_optimizers(config: TrainerConfig) -> TrainerConfig:
    """nerfstudio's Adam at the same rates. In place."""
    for group in config.optimizers.values():
        group["optimizer"] = AdamOptimizerConfig(lr=group["optimizer"].lr, eps=group["optimizer"].eps)
    return config


def make_trainer(config: TrainerConfig, data: Path, output: Path, name: str, seed: int = 0) -> Trainer:
    """A trainer that is ready for `train_steps`; no download, no viewer."""
    config = deepcopy(config)
    config.data = config.pipeline.datamanager.data = data
    config.output_dir, config.experiment_name, config.vis = output, name, "tensorboard"
    for name in ("steps_per_save", "steps_per_eval_batch", "steps_per_eval_image", "steps_per_eval_all_images"):
        setattr(config, name, NEVER)
    config.logging.local_writer.enable = False
    config.set_timestamp()
    seed_everything(seed)
    with mock.patch("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", CachedLpips):
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
    trainer.pipeline.train()
    return trainer


def train_steps(trainer: Trainer, first: int, count: int) -> None:
    """Steps as the trainer's own loop makes them, callbacks included, without its logging."""
    for step in range(first, first + count):
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, location=TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        trainer.train_iteration(step)
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, location=TrainingCallbackLocation.AFTER_TRAIN_ITERATION)


def take_turns(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each task, in turn so that all meet the same load; the first turn is not counted.

    Processor time of all threads: beside another load it is steadier than wall time. With one thread the two are the same.
    """
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats + 1):
        for name, task in tasks.items():
            start = _clock()
            task()
            if turn > 0:
                times[name].append(_clock() - start)
    return times


def ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    """One task's median time divided by another's."""
    return statistics.median(times[above]) / statistics.median(times[below])


def _clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


@contextmanager
def replaced(owner: list, item: object):
    """Within this context the list holds `item` alone."""
    before = list(owner)
    owner[:] = [item]
    try:
        yield
    finally:
        owner[:] = before


def machine() -> str:
    """The processor, its cores, threads and torch's version."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = named[0] if named else platform.processor() or platform.machine()
    return f"{processor} x{os.cpu_count()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
