"""ns-spinnerf convert-llff: an LLFF or SPIn-NeRF folder -> a nerfstudio dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

COMMAND = "convert-llff"


@dataclass
class ConvertLlff:
    """Write an LLFF or SPIn-NeRF folder (poses_bounds.npy, images_N/) as a nerfstudio dataset."""

    data: Path
    """The folder with poses_bounds.npy, images/ or images_N/, and where there are any images_N/label/ and sparse/0/."""
    output: Path
    """The dataset's folder, made by this command."""
    factor: float | None = None
    """Which images_N to use (1: images/). Default: the lowest N there is."""
    split: Literal["none", "spin-nerf", "interval"] = "none"
    """none: nerfstudio's parser splits. interval: every eighth photo is held out. spin-nerf: the first 40 of 100 photos show
    no object; they are val and test photos, named as object-free in the workspace, and never trained on."""
    num_test: int | None = None
    """With --split spin-nerf: how many of the first photos (by name) are object-free. Default: 40, of exactly 100."""
    link: bool = False
    """Link to the photos in place of copying them."""
    overwrite: bool = False
    """Replace a dataset that this command wrote before."""

    def main(self) -> None:
        """Runs the command."""
        from spinnerf_ns.hints import command, say
        from spinnerf_ns.scene.llff import convert_llff

        output = convert_llff(self.data, self.output, self.factor, self.split, self.num_test, self.link, self.overwrite)
        say(f"{output} is written; next: {command('ns-spinnerf', 'segment', data=output)}")
