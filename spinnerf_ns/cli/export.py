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
    data: Path | None = None
    """Where the capture is now, if it was moved away from the run."""
    export: Annotated[ExportConfig, tyro.conf.arg(name="")] = field(default_factory=ExportConfig)
    """How photos and depth are cleaned."""

    def main(self) -> None:
        """Runs the export."""
        from spinnerf_ns.hints import say
        from spinnerf_ns.pipelines import export_run, said_of_export
        from spinnerf_ns.runs import load_run

        folder = export_run(self.load_config, self.export, self.data)
        for line in said_of_export(folder, self.export, load_run(self.load_config, self.data)):
            say(line)
