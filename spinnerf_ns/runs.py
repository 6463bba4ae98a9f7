"""Training runs in this process: what `ns-train METHOD --data ...` does, without a viewer and findable again."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
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
from spinnerf_ns.files import atomic_path

KEY_FILE = "spinnerf_key.json"
"""In a finished run's folder: the key of what it was made from. A killed run has none."""

NEVER = 1 << 60
"""A step that no run reaches."""


@dataclass
class Run:
    """A finished run."""

    config_path: Path
    """Its config.yml, what stock commands take as --load-config."""
    seconds: float
    """How long its training took, export at its end included; 0 for a run found on disk."""


def method_config(name: str) -> TrainerConfig:
    """A copy of a registered method's configuration, this plugin's or nerfstudio's."""
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
        digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
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
    seconds = _train_with_progress(trainer)
    config_path = config.get_base_dir() / "config.yml"
    if digest is not None:
        with atomic_path(config_path.parent / KEY_FILE) as temporary:
            temporary.write_text(json.dumps({"sha256": digest}))
    return Run(config_path, seconds)


def find(folder: Path, digest: str) -> Path | None:
    """The config.yml of the latest finished run below `folder` that was made from the key with this digest."""
    for file in sorted(folder.glob(f"*/{KEY_FILE}"), reverse=True):
        if json.loads(file.read_text()).get("sha256") == digest and (file.parent / "config.yml").is_file():
            return file.parent / "config.yml"
    return None


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _train_with_progress(trainer: Trainer) -> float:
    """Runs the trainer's loop under a progress bar; seconds that it took."""
    import time

    from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    total = trainer.config.max_num_iterations
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    start = time.monotonic()
    with Progress(*columns, console=CONSOLE) as progress:
        task = progress.add_task(f"Training {trainer.config.method_name}", total=total)

        def advance(step: int) -> None:
            progress.update(task, completed=step + 1)
            if step + 1 >= total:
                progress.stop()  # what follows training (an export) has bars of its own

        trainer.callbacks.append(
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], advance, update_every_num_iters=1)
        )
        trainer.train()
    return time.monotonic() - start
