"""How much faster the hash grid is than nerfstudio's torch path on this CPU, in one run on the same inputs.

    python benchmarks/hash_grid.py

65 536 random points, 16 levels, 2^19 rows of 2 features: the grid of nerfacto's field. The two paths take turns, so that they
meet the same load; each figure is a ratio of medians. Prints what it measured and, last, one JSON line.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from harness import machine
from nerfstudio.field_components.encodings import HashEncoding

from spinnerf_ns.accel.hash_grid import FastHashEncoding, hash_grid_backend


@dataclass
class Benchmark:
    """Compare the hash grid with nerfstudio's torch path, forward and backward."""

    points: int = 65_536
    """Points per pass."""
    levels: int = 16
    """Levels of the grid."""
    log2_table: int = 19
    """Base-2 logarithm of a level's rows."""
    features: int = 2
    """Features per level."""
    repeats: int = 5
    """Timed turns of each path; one more of each comes first, untimed."""

    def main(self) -> None:
        torch.manual_seed(0)
        options = {"max_res": 2048, "log2_hashmap_size": self.log2_table, "features_per_level": self.features}
        stock = HashEncoding(self.levels, **options, implementation="torch")
        fast = FastHashEncoding(self.levels, **options, implementation="torch")
        fast.load_state_dict(stock.state_dict())
        points = torch.rand(self.points, 3)
        upstream = torch.randn(self.points, self.levels * self.features)
        backend = hash_grid_backend()
        setup = f"{machine()}, {backend}"
        print(f"{setup}; {self.points} points, {self.levels} levels of 2^{self.log2_table} x {self.features}")

        def forward(encoding: HashEncoding) -> torch.Tensor:
            with torch.no_grad():
                return encoding(points)

        def forward_backward(encoding: HashEncoding) -> None:
            encoding.hash_table.grad = None
            encoding(points).backward(upstream)

        if not torch.equal(forward(stock), forward(fast)):
            sys.exit("the two paths give different features: nothing was measured")
        ratios = {}
        for name, step in (("forward_backward", forward_backward), ("forward", forward)):
            slow_s, fast_s = take_turns(step, stock, fast, self.repeats)
            ratios[f"{name}_ratio"] = round(slow_s / fast_s, 1)
            print(f"{name}: torch path {slow_s * 1e3:.1f} ms, here {fast_s * 1e3:.1f} ms")
        print(json.dumps({**ratios, "machine": setup}))


def take_turns(step: Callable, first: HashEncoding, second: HashEncoding, repeats: int) -> tuple[float, float]:
    """Median seconds of `step` on either encoding, timed alternately."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for encoding, found in zip((first, second), times, strict=True):
            start = time.perf_counter()
            step(encoding)
            if turn > 0:
                found.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
