"""ns-spinnerf plant: a made-up object in a real capture, so that what is behind it is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from spinnerf_ns.evaluation.truth.planted import PlantConfig


@dataclass
class Plant:
    """Write a capture with a made-up object in it as a nerfstudio dataset, with the original photos as truth."""

    data: Path
    """The posed capture: a nerfstudio, COLMAP or LLFF folder with sparse points."""
    output: Path
    """The dataset's folder, made by this command."""
    config: Annotated[PlantConfig, tyro.conf.arg(name="")] = field(default_factory=PlantConfig)

    def main(self) -> None:
        """Runs the command."""
        from spinnerf_ns.evaluation.truth.planted import plant
        from spinnerf_ns.hints import command, say

        scene = plant(self.data, self.output, self.config)
        box = ",".join(f"{value:g}" for value in scene.prompt_box)
        view = scene.prompt_view.removeprefix("images/")
        say(
            f"{scene.root}: {len(scene.photos)} photos, {len(scene.object_free)} of them without the object for tests; it "
            f"fills {scene.figures['area']:.1%} of a photo and is seen whole in {scene.figures['seen_by']:.0%}\n"
            f"next: {command('ns-spinnerf', 'segment', data=scene.root, view=view, box=box)}"
        )
