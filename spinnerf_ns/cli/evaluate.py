"""ns-spinnerf evaluate: all figures of a finished run, as a table, JSON and a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass
class Evaluate:
    """Measures a run on its test photos: this package's two stages, or any method trained on an exported capture.

    A figure's name says over which pixels it is: full, bbox (around the object, SPIn-NeRF), mask, outside. Of a photo that
    shows the object only those outside are given.
    """

    load_config: Path
    """The run's config.yml."""
    data: Path | None = None
    """Where the capture is now, if it was moved away from the run."""
    output: Path | None = None
    """Folder for evaluation.json and report.html. Default: evaluation/ beside the config.yml."""
    split: Literal["train", "val", "test"] = "test"
    """Which photos."""
    labels: Path | None = None
    """Folder of true object masks, <photo>.png (SPIn-NeRF's images_4/test_label); by default the scene's own."""
    lpips_weights: tuple[Path, ...] = ()
    """Files of LPIPS backbones; by default every network whose weights are on this machine."""
    fid_weights: Path | None = None
    """File of FID's Inception network; by default the one on this machine, if any."""

    def main(self) -> None:
        """Runs the command."""
        from nerfstudio.utils.rich_utils import CONSOLE

        from spinnerf_ns.evaluation.evaluate import evaluate_run, write_evaluation

        evaluation = evaluate_run(self.load_config, self.split, self.labels, self.lpips_weights, self.fid_weights, self.data)
        output = self.output if self.output is not None else self.load_config.parent / "evaluation"
        data, report = write_evaluation(evaluation, self.load_config, output)
        print_tables(evaluation)
        CONSOLE.print(f"Figures: {data}\nReport:  {report}", markup=False, highlight=False, soft_wrap=True)


def print_tables(evaluation) -> None:
    """Prints an `Evaluation`: masks, renders by variant, and why what is absent is absent."""
    from nerfstudio.utils.rich_utils import CONSOLE
    from rich.table import Table

    from spinnerf_ns.evaluation.evaluate import variant_table
    from spinnerf_ns.evaluation.report import format_figure

    if evaluation.masks:
        table = Table("masks", "figure", title=f"{evaluation.method}: masks")
        for name, value in evaluation.masks.items():
            if not name.startswith("views_"):
                table.add_row(name, format_figure(value, name))
        CONSOLE.print(table)
    variants = variant_table(evaluation.measured.figures)
    if variants:
        names = list(dict.fromkeys(name for figures in variants.values() for name in figures))
        table = Table("figure", *variants, title=f"{evaluation.method}: {evaluation.split} photos")
        for name in names:
            table.add_row(name, *(format_figure(f[name], name) if name in f else "–" for f in variants.values()))
        CONSOLE.print(table)
    for name, reason in evaluation.measured.absent.items():
        CONSOLE.print(f"No {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
