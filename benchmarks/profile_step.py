"""Where a training step's time goes: torch.profiler's operations of both stages, as Markdown.

    python benchmarks/profile_step.py

The -lite methods on a made-up scene on the CPU; time in the operation itself, per step, after every warm-up. Native kernels
show under their autograd functions' names.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from harness import CYCLE, LATE, machine, make_trainer, ours, small_twin, train_steps, write_scene
from nerfstudio.engine.trainer import Trainer
from torch.profiler import ProfilerActivity, profile

from spinnerf_ns.removal.config import ExportConfig


@dataclass
class Profile:
    """Profile training steps."""

    rows: int = 15
    """Operations to list."""
    cycles: int = 3
    """Profiled cycles of twelve steps."""
    warm_up: int = 150
    """Steps before."""

    def main(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            data = write_scene(root / "scene", small_twin()).root
            seg = make_trainer(ours("spinnerf-seg-lite"), data, root / "runs", "seg")
            tables = [self._profile("spinnerf-seg-lite", seg)]
            seg.save_checkpoint(LATE)
            checkpoint = next(seg.checkpoint_dir.glob("*.ckpt"))
            removed = seg.pipeline.export(checkpoint, ExportConfig(inpainter="opencv", downscale=4))
            config = ours("spinnerf-inpaint-lite", pipeline__model__perceptual_loss="ssim")
            inpaint = make_trainer(config, removed, root / "runs", "inpaint")
            tables.append(self._profile("spinnerf-inpaint-lite", inpaint))
        print("\n\n".join([f"Machine: {machine()}", *tables]))

    def _profile(self, name: str, trainer: Trainer) -> str:
        train_steps(trainer, 0, 2)
        train_steps(trainer, LATE, self.warm_up)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            train_steps(trainer, LATE, self.cycles * CYCLE)
        steps = self.cycles * CYCLE
        events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
        total = sum(event.self_cpu_time_total for event in events)
        lines = [
            f"{name}: {total / 1e3 / steps:.1f} ms a step, profiler included",
            "",
            "| operation | ms a step | share | calls a step |",
            "|---|---|---|---|",
        ]
        for event in events[: self.rows]:
            own = event.self_cpu_time_total
            lines.append(f"| `{event.key}` | {own / 1e3 / steps:.2f} | {own / total:.1%} | {event.count / steps:.1f} |")
        return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(Profile).main()
