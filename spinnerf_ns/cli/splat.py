"""ns-spinnerf splat: a trained field as Gaussian splats, without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from spinnerf_ns.errors import SpinnerfError

if TYPE_CHECKING:
    from spinnerf_ns.nerf.splat import SplatFigures
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.splat_fusion import Shot
    from spinnerf_ns.scene.splats import Splats

PICTURES = 4
"""Pictures from training cameras, and from between them, that the splats are compared in."""


@dataclass
class Splat:
    """Writes a trained field as a .ply of Gaussian splats that 3DGS's viewers open, and says how near it is to the field.

    Splats come from the field's depth and colour in the training views. Of any method that renders depth: this package's, and
    nerfacto. A splatfacto run is a splat already: ns-export gaussian-splat.
    """

    load_config: Path
    """The run's config.yml."""
    output: Path | None = None
    """The file. Default: splat.ply beside the config.yml."""
    downscale: float | None = None
    """Work at 1/N of the photos' resolution; by default as finely as minutes and some GB allow."""
    frame: Literal["colmap", "source"] = "colmap"
    """colmap: that of removed/colmap, where splats trained by 3DGS or gsplat would lie. source: transforms.json's. They are the
    same for a capture without applied_transform."""
    sh_degree: Literal[0, 3] = 0
    """Most viewers read files of degree 0. 3: with 45 columns of zeros, 3.6 times as large, for 3DGS's own viewer and load_ply."""
    refine_steps: int | None = None
    """Steps of gsplat's training afterwards; by default 2000 on a GPU and none without. Not tested on one; what is no better
    is not taken."""

    def main(self) -> None:
        """Runs the command."""
        output = self.load_config.parent / "splat.ply" if self.output is None else self.output
        if output.suffix != ".ply":
            raise SpinnerfError(f"{output}: a name that ends with .ply was expected; for example --output {output}.ply")
        if self.downscale is not None and self.downscale < 1:
            raise SpinnerfError(f"--downscale {self.downscale:g}: 1 or more was expected (4 works at a quarter of the width)")
        splats, figures, frame = make_splat(self, output)
        said = [f"{np.mean(values):.1f} dB in {len(values)} {where}" for values, where in _parts(figures)]
        print(f"{len(splats)} Gaussians, {output.stat().st_size / 1e6:.1f} MB, in {frame}: {output}")
        print(f"PSNR against the field's renders: {', '.join(said)}; beside each other: {output.with_suffix('.png')}")


def make_splat(command: Splat, output: Path) -> tuple[Splats, SplatFigures, str]:
    """Makes and writes the splats, and a picture of the field's renders beside theirs.

    Returns:
        The splats as written, the figures, and what their frame is called.

    Raises:
        SpinnerfError: no such run, or one whose field renders no depth.
    """
    from nerfstudio.utils.rich_utils import CONSOLE

    from spinnerf_ns.evaluation.baselines import load_pipeline
    from spinnerf_ns.nerf.splat import MOST_PIXELS, between, compare, pinhole, render_shots, some, splats_of
    from spinnerf_ns.runs import read_config
    from spinnerf_ns.scene.capture import capture_from_dataparser
    from spinnerf_ns.scene.splats import write_splats

    method = read_config(command.load_config).method_name
    pipeline = load_pipeline(command.load_config)
    model = pipeline.model
    if not hasattr(model, "renderer_expected_depth"):
        mend = "ns-export gaussian-splat writes it" if "splat" in method else "train nerfacto or spinnerf-inpaint"
        raise SpinnerfError(f"{command.load_config}: {method} renders no expected depth to make splats from; {mend}")
    capture = capture_from_dataparser(pipeline.datamanager.dataparser)
    views = capture.split("train")
    pixels = sum(view.width * view.height for view in views)
    downscale = command.downscale or max(1.0, float(np.sqrt(pixels / MOST_PIXELS)))
    if command.downscale is None and downscale > 1:
        CONSOLE.print(f"Working at 1/{downscale:.2f} of the photos' resolution (finer: --downscale N)", highlight=False)
    cameras = [pinhole(view, downscale) for view in views]
    shots = render_shots(model, capture, cameras, "Rendering training views")
    halfway = render_shots(model, capture, between(cameras, PICTURES), "Rendering between them")
    CONSOLE.print("Fusing surfaces and fitting colours")
    training = some(shots, PICTURES)
    splats = splats_of(shots)
    figures = compare(splats, training, halfway)
    splats, figures = _refined(command.refine_steps, splats, figures, shots, (training, halfway))
    _write_picture(output.with_suffix(".png"), splats, (halfway or training)[:2])
    splats, frame = _in_frame(splats, capture, command.frame)
    write_splats(output, splats, command.sh_degree)
    return splats, figures, frame


def _refined(steps: int | None, splats: Splats, figures: SplatFigures, shots: list[Shot], judged: tuple) -> tuple:
    """The splats after gsplat's training, if that can be had and made them better."""
    import torch
    from nerfstudio.utils.rich_utils import CONSOLE

    from spinnerf_ns.nerf.splat import compare

    if steps == 0 or (steps is None and not torch.cuda.is_available()):
        return splats, figures
    try:
        from spinnerf_ns.nerf.splat_refinement import refine

        better = refine(splats, shots, 2000 if steps is None else steps)
    except (ImportError, RuntimeError, AssertionError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        CONSOLE.print(f"Not refined: gsplat needs a GPU and its kernels ({reason})", markup=False, highlight=False)
        return splats, figures
    found = compare(better, *judged)
    if np.mean(found.training + found.between) <= np.mean(figures.training + figures.between):
        CONSOLE.print("Not refined: gsplat's training made the splats no better")
        return splats, figures
    return better, found


def _in_frame(splats: Splats, capture: Capture, frame: str) -> tuple[Splats, str]:
    from spinnerf_ns.scene.colmap_out import frame_from_colmap
    from spinnerf_ns.scene.splats import moved

    if frame == "source":
        return splats, "the source's frame"
    scale, rotation, shift = frame_from_colmap(capture.source_meta)
    return moved(splats, 1 / scale, rotation.T, -rotation.T @ shift / scale), "COLMAP's frame"


def _write_picture(path: Path, splats: Splats, shots: list[Shot]) -> None:
    """The field's renders (above) and the splats' (below)."""
    from spinnerf_ns.files import write_png
    from spinnerf_ns.scene.splats import render_splats

    rows = ([shot.image for shot in shots], [np.clip(render_splats(splats, shot.view), 0, 1) for shot in shots])
    write_png(path, (np.vstack([np.hstack(row) for row in rows]) * 255).round().astype(np.uint8))


def _parts(figures: SplatFigures) -> list[tuple[list[float], str]]:
    parts = [(figures.training, "training views"), (figures.between, "views between them")]
    return [(values, where) for values, where in parts if values]
