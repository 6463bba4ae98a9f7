"""ns-spinnerf export: the export of a trained spinnerf-seg run, again, with other settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.inpainting.config import ExportConfig


@dataclass
class Export:
    """Renders masks and depth of every photo from a trained spinnerf-seg run and writes the object-free capture."""

    load_config: Path
    """The run's config.yml."""
    export: Annotated[ExportConfig, tyro.conf.arg(name="")] = field(default_factory=ExportConfig)
    """How photos and depth are cleaned."""

    def main(self) -> None:
        """Runs the export."""
        from spinnerf_ns.pipelines import next_command

        folder = export_run(self.load_config, self.export)
        print(f"Object-free capture: {folder}\nNext: {next_command(read_config(self.load_config))}")


def export_run(load_config: Path, config: ExportConfig) -> Path:
    """Exports a run.

    Raises:
        SpinnerfError: there is no such run, or it is of another method.
    """
    from nerfstudio.utils.eval_utils import eval_setup

    from spinnerf_ns.pipelines import SpinnerfSegPipelineConfig

    found = read_config(load_config)
    if not isinstance(found.pipeline, SpinnerfSegPipelineConfig):
        raise SpinnerfError(
            f"{load_config}: a run of {found.method_name}, not of spinnerf-seg; give the config.yml of the "
            "run that ns-train spinnerf-seg wrote"
        )
    _, pipeline, checkpoint, _ = eval_setup(load_config, test_mode="test")
    return pipeline.export(checkpoint, config)


def read_config(path: Path) -> TrainerConfig:
    """A run's configuration.

    Raises:
        SpinnerfError: there is no such file, or it is no run's.
    """
    import yaml
    from nerfstudio.engine.trainer import TrainerConfig

    if not path.is_file():
        raise SpinnerfError(f"{path}: no such file; give the config.yml that ns-train spinnerf-seg wrote")
    try:
        config = yaml.load(path.read_text(), Loader=yaml.Loader)  # nerfstudio's own files name classes
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpinnerfError(f"{path}: not a run's config.yml ({str(error).splitlines()[0]})") from error
    if not isinstance(config, TrainerConfig):
        raise SpinnerfError(f"{path}: not a run's config.yml; give the one that ns-train spinnerf-seg wrote")
    return config
