"""ns-spinnerf export: the export of a trained spinnerf-seg run, again, with other settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from spinnerf_ns.removal.config import ExportConfig


@dataclass
class Export:
    """Renders masks and depth of every photo from a trained spinnerf-seg run and writes the object-free capture."""

    load_config: Path
    """The run's config.yml."""
    export: Annotated[ExportConfig, tyro.conf.arg(name="")] = field(default_factory=ExportConfig)
    """How photos and depth are cleaned."""

    def main(self) -> None:
        """Runs the export."""
        from spinnerf_ns.pipelines import export_run, next_command
        from spinnerf_ns.runs import read_config

        folder = export_run(self.load_config, self.export)
        print(f"Object-free capture: {folder}\nNext: {next_command(read_config(self.load_config))}")
