"""What the plugin adds to the time of `ns-train --help`: the same command with the plugin's entry points and without them.

    python benchmarks/help.py

Each is a fresh process; the two take turns. Processor seconds of the whole process, imports included: other loads on the
machine change wall time far more than the plugin does. `_without_gc`: with Python's garbage collector off. A full collection
over all that nerfstudio imports takes a quarter of a second, and a few hundred objects decide whether there is one more of them.
Prints one JSON line last.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass

import tyro
from harness import machine

COMMAND = """
import gc, sys
if sys.argv.pop(1) == "off":
    gc.disable()
import nerfstudio.plugins.registry as registry
if sys.argv.pop(1) == "without":
    every = registry.entry_points
    def others(**wanted):
        found = every(**wanted)
        return type(found)([point for point in found if not point.value.startswith("spinnerf_ns")])
    registry.entry_points = others
from nerfstudio.scripts.train import entrypoint
sys.argv[0] = "ns-train"
entrypoint()
"""


@dataclass
class Help:
    """Compare `ns-train --help` with and without the plugin."""

    repeats: int = 7
    """Runs of each that are counted; one more comes first, to fill the disk's cache."""

    def main(self) -> None:
        found = self._compare("on", "") | self._compare("off", "_without_gc")
        print(json.dumps({name: round(value, 3) for name, value in found.items()} | {"machine": machine()}))

    def _compare(self, collector: str, suffix: str) -> dict[str, float]:
        seconds: dict[str, list[float]] = {"with": [], "without": []}
        for turn in range(self.repeats + 1):
            for name, times in seconds.items():
                found = run(name, collector)
                if turn > 0:
                    times.append(found)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        added = [a - b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
        print(f"collector {collector}: " + ", ".join(f"{name} {sorted(round(x, 2) for x in seconds[name])}" for name in seconds))
        return {f"help_ratio{suffix}": medians["with"] / medians["without"], f"help_added_s{suffix}": statistics.median(added)}


def run(name: str, collector: str) -> float:
    """Processor seconds of one process.

    Raises:
        SystemExit: the plugin's methods are not in its output although they should be, or the other way round.
    """
    command = [sys.executable, "-W", "ignore", "-c", COMMAND, collector, name, "--help"]
    # nerfstudio's bytecode was written as it was installed: the plugin's may be kept after the first run too.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    before = os.times()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    after = os.times()
    if done.returncode != 0 or ("spinnerf-seg" in done.stdout) != (name == "with"):
        raise SystemExit(f"ns-train --help {name} the plugin: exit {done.returncode}\n{done.stdout[-500:]}{done.stderr[-500:]}")
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    tyro.cli(Help).main()
