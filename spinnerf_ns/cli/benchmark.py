"""ns-spinnerf benchmark: scenes x methods x seeds, with one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from spinnerf_ns.evaluation.matrix.benchmark import BenchmarkConfig


@dataclass
class Benchmark:
    """Removes objects whose background is known, with each method, and says how well each did.

    All methods of a scene and seed share one segmentation run, its grid, samples, rays and steps. The same command goes on
    where an interrupted one stopped.
    """

    benchmark: Annotated[BenchmarkConfig, tyro.conf.arg(name="")]
    """What is compared."""

    def main(self) -> None:
        """Runs the benchmark and prints its table."""
        from spinnerf_ns.evaluation.matrix.benchmark import run_benchmark

        run_benchmark(self.benchmark)
        print((self.benchmark.output / "benchmark.md").read_text(encoding="utf-8"))
        print(f"Results: {self.benchmark.output / 'benchmark.json'}, benchmark.md, and a sheet of pictures per scene")
