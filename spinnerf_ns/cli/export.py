"""ns-spinnerf export: the export of a trained spinnerf-seg run, again, with other settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

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
        from spinnerf_ns.runs import read_config

        folder = export_run(self.load_config, self.export)
        print(f"Object-free capture: {folder}\nNext: {next_command(read_config(self.load_config))}")


def export_run(load_config: Path, config: ExportConfig) -> Path:
    """Exports a run.

    Raises:
        SpinnerfError: there is no such run, or it is of another method.
    """
    from nerfstudio.utils.eval_utils import eval_setup

    from spinnerf_ns.pipelines import SpinnerfSegPipelineConfig
    from spinnerf_ns.runs import read_config

    wanted = "give the config.yml of the run that ns-train spinnerf-seg wrote"
    found = read_config(load_config, wanted)
    if not isinstance(found.pipeline, SpinnerfSegPipelineConfig):
        raise SpinnerfError(f"{load_config}: a run of {found.method_name}, not of spinnerf-seg; {wanted}")
    _, pipeline, checkpoint, _ = eval_setup(load_config, test_mode="test")
    return pipeline.export(checkpoint, config)
