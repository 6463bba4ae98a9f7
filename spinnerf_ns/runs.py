"""Training runs in this process: what `ns-train METHOD --data ...` does, without a viewer and findable again."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import zipfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import digest_of, write_json
from spinnerf_ns.hints import command, say

KEY_FILE = "spinnerf_key.json"
"""In a finished run's folder: the key of what it was made from. A killed run has none."""

NEVER = 1 << 60
"""A step that no run reaches."""

PAUSE = 8.0
"""Times of a usual step from which a time between two steps is no step's."""


@dataclass
class Run:
    """A finished run."""

    config_path: Path
    """Its config.yml, what stock commands take as --load-config."""
    seconds: float
    """How long its training took, export at its end included; 0 for a run found on disk."""
    step_ends: tuple[float, ...] = ()
    """Moments at which its steps ended, in seconds since whenever; none for a run found on disk."""


def method_config(name: str) -> TrainerConfig:
    """A copy of a registered method's configuration, this plugin's or nerfstudio's.

    Example:
        >>> config = apply(method_config("spinnerf-inpaint-lite"), {"pipeline.model.perceptual_loss": "ssim"})
        >>> with_steps(config, 20).max_num_iterations, config.pipeline.model.perceptual_loss
        (20, 'ssim')
    """
    from nerfstudio.configs.method_configs import all_methods

    return deepcopy(all_methods[name])


def read_config(path: Path, wanted: str = "give the config.yml that ns-train wrote") -> TrainerConfig:
    """A run's configuration.

    Args:
        path: its config.yml.
        wanted: what an error asks for.

    Raises:
        SpinnerfError: there is no such file, or it is no run's.
    """
    if not path.is_file():
        raise SpinnerfError(f"{path}: no such file; {wanted}")
    try:
        config = yaml.load(path.read_text(), Loader=yaml.Loader)  # nerfstudio's own files name classes
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpinnerfError(f"{path}: not a run's config.yml ({str(error).splitlines()[0]}); {wanted}") from error
    if not isinstance(config, TrainerConfig):
        raise SpinnerfError(f"{path}: not a run's config.yml; {wanted}")
    return config


def load_run(path: Path, data: Path | None = None, program: str = "export") -> TrainerConfig:
    """A finished run's configuration, ready to be loaded: its checkpoint is named, and its capture found where it is now.

    A capture that was moved or renamed together with its runs is found by where it lay relative to them; so is one that was
    named by a path relative to another working directory.

    Args:
        path: the run's config.yml.
        data: where the capture is, if it was moved away from its runs.
        program: ns-spinnerf's sub-command, for what an error advises.

    Raises:
        SpinnerfError: as `read_config`; no capture, no checkpoint, or one that was cut short.
    """
    config = read_config(path)
    checkpoint = find_checkpoint(path, config)
    config.load_dir, config.load_step = checkpoint.parent, int(checkpoint.stem.removeprefix("step-"))
    manager = config.pipeline.datamanager
    was = Path(data_of(config))
    runs = Path(os.path.abspath(path)).parents[3:4]  # <runs>/<experiment>/<method>/<time>/config.yml

    def moved(place: Path | str) -> Path:
        return Path(os.path.normpath(runs[0] / os.path.relpath(place, config.output_dir))) if runs else Path(place)

    elsewhere = bool(runs) and runs[0] != Path(os.path.abspath(config.output_dir))
    if data is None and (not was.exists() or (elsewhere and moved(was).exists())):  # of a copy, the copy's own capture
        data = moved(was)
    if data is not None:
        if not data.exists():
            again = command("ns-spinnerf", program, load_config=path, data="FOLDER")
            raise SpinnerfError(f"{path}: the capture of this run is not at {was} any more; say where it is: {again}")
        config.data = manager.data = data
        if getattr(manager.dataparser, "data", None) is not None:
            manager.dataparser.data = data
        for name in ("workspace", "masks"):
            place = getattr(manager, name, None)
            if place is not None:
                candidates = (Path(os.path.normpath(data / os.path.relpath(place, was))), moved(place), Path(place))
                setattr(manager, name, next((found for found in candidates if found.exists()), candidates[0]))
    return config


def data_of(config: TrainerConfig) -> Path:
    """What a run was trained on."""
    manager = config.pipeline.datamanager
    return Path(config.data or manager.data or manager.dataparser.data)


def find_checkpoint(config_path: Path, config: TrainerConfig) -> Path:
    """The last checkpoint beside a config.yml.

    Raises:
        SpinnerfError: there is none, or it was cut short.
    """
    folder = config_path.parent / config.relative_model_dir
    steps = sorted(path for path in folder.glob("step-*.ckpt") if re.fullmatch(r"step-\d+", path.stem))
    again = command("ns-train", config.method_name, data=data_of(config))
    if not steps:
        raise SpinnerfError(f"{folder}: no checkpoint (step-*.ckpt) is there; train again: {again}")
    if not zipfile.is_zipfile(steps[-1]):
        earlier = f"delete it, so that {steps[-2].name} is taken, or train again" if len(steps) > 1 else "train again"
        raise SpinnerfError(f"{steps[-1]}: cut short or damaged ({steps[-1].stat().st_size} bytes); {earlier}: {again}")
    return steps[-1]


def restore(config: TrainerConfig, pipeline: Any) -> Path:
    """Puts a run's checkpoint into its pipeline; the checkpoint.

    Args:
        config: of `load_run`.
        pipeline: set up from it.

    Raises:
        SpinnerfError: the checkpoint is damaged, or of another kind.
    """
    from nerfstudio.utils.eval_utils import eval_load_checkpoint

    pipeline.eval()
    try:
        return eval_load_checkpoint(config, pipeline)[0]
    except SpinnerfError:
        raise
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        path = config.load_dir / f"step-{config.load_step:09d}.ckpt"
        what = " ".join(str(error).split())[:200]
        again = command("ns-train", config.method_name, data=data_of(config))
        raise SpinnerfError(f"{path}: cannot be read as a checkpoint ({what}); train again: {again}") from error


def with_steps(config: TrainerConfig, steps: int) -> TrainerConfig:
    """Another number of steps; whatever else is said in steps moves in proportion. In place.

    These are: learning rates' schedules, mask rounds, the proposal networks' warm-up and annealing, and the first patches.

    Raises:
        SpinnerfError: less than one step.
    """
    check_steps(steps)
    factor = steps / config.max_num_iterations
    config.max_num_iterations = steps

    def scaled(step: int, least: int = 1) -> int:
        return max(least, round(step * factor))

    for scheduler in {id(group["scheduler"]): group["scheduler"] for group in config.optimizers.values()}.values():
        if getattr(scheduler, "max_steps", None):
            scheduler.max_steps = scaled(scheduler.max_steps)
    model, data, pipeline = config.pipeline.model, config.pipeline.datamanager, config.pipeline
    for name in ("proposal_warmup", "proposal_weights_anneal_max_num_iters"):
        if hasattr(model, name):
            setattr(model, name, scaled(getattr(model, name)))
    if hasattr(data, "patch_start_step"):
        data.patch_start_step = scaled(data.patch_start_step, 0)
    if hasattr(pipeline, "mask_round_steps"):
        pipeline.mask_round_steps = tuple(dict.fromkeys(scaled(step) for step in pipeline.mask_round_steps))
    return config


def check_steps(steps: int | None, option: str = "steps") -> None:
    """Raises SpinnerfError for a number of steps that is none; None is the method's own."""
    if steps is not None and steps < 1:
        raise SpinnerfError(
            f"{option} {steps}: a number of training steps of at least 1 was expected; leave it out for the default"
        )


def apply(config: TrainerConfig, settings: Mapping[str, Any]) -> TrainerConfig:
    """Sets dotted fields, as ns-train's flags do: {"pipeline.model.near_plane": 0.1}. In place.

    Raises:
        AttributeError: there is no such field.
    """
    for path, value in settings.items():
        *parents, name = path.split(".")
        owner: Any = config
        for parent in parents:
            owner = owner[parent] if isinstance(owner, dict) else getattr(owner, parent)
        if not hasattr(owner, name):
            raise AttributeError(f"{type(owner).__name__} has no field '{name}' ({path})")
        setattr(owner, name, value)
    return config


def train(config: TrainerConfig, data: Path, output_dir: Path, name: str, key: Mapping[str, Any] | None = None) -> Run:
    """Trains a configuration, or finds the finished run that the same key made.

    Args:
        config: the method's configuration; changed in place.
        data: the --data folder or file.
        output_dir: runs are written to <output_dir>/<name>/<method>/<time>.
        name: the experiment's name.
        key: what the run is made from; None trains in any case.

    Returns:
        The run.
    """
    digest = None
    if key is not None:
        digest = digest_of(key)
        found = find(output_dir / name / config.method_name, digest)
        if found is not None:
            CONSOLE.print(f"[green]Found the finished run {found.parent}", soft_wrap=True)
            return Run(found, 0.0)
    config.data = Path(data)
    config.pipeline.datamanager.data = Path(data)
    config.output_dir = Path(output_dir)
    config.experiment_name = name
    config.vis = "tensorboard"  # the one setting of nerfstudio without a viewer and without an account
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = NEVER
    config.viewer.quit_on_train_completion = True
    config.logging.local_writer.enable = False
    config.set_timestamp()
    config.save_config()
    seed_everything(config.machine.seed)
    writer.EVENT_WRITERS.clear()  # nerfstudio's writers are global: a second run would write into the first one's files
    writer.GLOBAL_BUFFER.clear()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    seconds, step_ends = _train_with_progress(trainer)
    config_path = config.get_base_dir() / "config.yml"
    if digest is not None:
        write_json(config_path.parent / KEY_FILE, {"sha256": digest})
    return Run(config_path, seconds, step_ends)


def mean_step(moments: Sequence[float]) -> float:
    """Mean time between steps, from the moments at which they ended; what takes `PAUSE` times as long as most is no step.

    Example:
        >>> mean_step([10.0, 11.0, 12.0, 52.0, 53.5])
        1.1666666666666667
    """
    gaps = np.diff(np.asarray(moments, np.float64))
    if len(gaps) == 0:
        return 0.0
    return float(gaps[gaps <= PAUSE * np.median(gaps)].mean())


def find(folder: Path, digest: str) -> Path | None:
    """The config.yml of the latest finished run below `folder` that was made from the key with this digest.

    One whose configuration or checkpoint is gone or damaged is passed over, and said.
    """
    for file in sorted(folder.glob(f"*/{KEY_FILE}"), reverse=True):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, TypeError, KeyError):  # damaged: of an unknown key
            continue
        if found != digest:
            continue
        try:
            find_checkpoint(file.parent / "config.yml", read_config(file.parent / "config.yml"))
        except SpinnerfError as error:
            say(f"Not used: {error}")
            continue
        return file.parent / "config.yml"
    return None


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _train_with_progress(trainer: Trainer) -> tuple[float, tuple[float, ...]]:
    """Runs the trainer's loop under a progress bar; seconds that it took, and when its steps ended."""
    import time

    from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    total = trainer.config.max_num_iterations
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    start = time.monotonic()
    ends: list[float] = []
    with Progress(*columns, console=CONSOLE) as progress:
        task = progress.add_task(f"Training {trainer.config.method_name}", total=total)

        def advance(step: int) -> None:
            ends.append(time.monotonic())
            progress.update(task, completed=step + 1)
            if step + 1 >= total:
                progress.stop()  # what follows training (an export) has bars of its own

        trainer.callbacks.append(
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], advance, update_every_num_iters=1)
        )
        trainer.train()
    return time.monotonic() - start, tuple(ends)
