"""Training rays per second against stock nerfacto on this CPU, and what objectness and patches add to a step.

    python benchmarks/train_step.py

All on a made-up scene, in one process, in turn; each figure is a ratio of medians over whole cycles of twelve steps (proposal
networks learn in one step of six, -lite objectness as well), after every warm-up:

- rays_per_s_ratio_vs_nerfacto_torch: spinnerf-seg-lite with objectness against nerfstudio's nerfacto, same grid, samples and
  1024 rays. `_default`: the same for nerfacto's default grid (spinnerf-seg). Both profit from memory that is kept.
- objectness_overhead: spinnerf-seg-lite with its objectness field against the same without.
- inpaint_step_ratio: a step of spinnerf-inpaint-lite with patches, depth and reference rays against one with as many uniform
  rays. The perceptual network's own time is left out of the ratio and printed apart.

Prints what it measured and, last, one JSON line.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from harness import (
    CYCLE,
    LATE,
    machine,
    make_trainer,
    ours,
    ratio,
    replaced,
    small_twin,
    stock_nerfacto,
    take_turns,
    train_steps,
    write_scene,
)
from nerfstudio.engine.trainer import Trainer, TrainerConfig

from spinnerf_ns.removal.config import ExportConfig

RAYS = 1024


@dataclass
class Benchmark:
    """Compare training steps."""

    repeats: int = 7
    """Timed cycles of each contestant."""
    warm_up: int = 150
    """Steps before the timed ones, -lite grid."""
    warm_up_default: int = 12
    """Steps before the timed ones, default grid."""
    default_grid: bool = True
    """Whether to measure nerfacto's default grid too; its stock path takes seconds a step."""
    perceptual_loss: str = "ssim"
    """Perceptual loss whose own time is printed: lpips-vgg, lpips-alex, lpips-squeeze or ssim."""

    def main(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.root = Path(folder)
            write_scene(self.root / "scene", small_twin())
            found: dict[str, float] = {}
            lite = self._nerfacto("spinnerf-seg-lite", self.warm_up, self.repeats, found, "")
            self._objectness(lite, found)
            self._inpaint(lite, found)
            if self.default_grid:
                self._nerfacto("spinnerf-seg", self.warm_up_default, max(2, self.repeats // 3), found, "_default")
        print(json.dumps({name: round(value, 3) for name, value in found.items()} | {"machine": machine()}))

    def _trainer(self, name: str, config: TrainerConfig, steps: int, data: Path | None = None) -> Trainer:
        trainer = make_trainer(config, data or self.root / "scene", self.root / "runs", name)
        train_steps(trainer, 0, 2)
        train_steps(trainer, LATE, steps)
        return trainer

    def _nerfacto(self, method: str, steps: int, repeats: int, found: dict[str, float], suffix: str) -> Trainer:
        config = ours(method, pipeline__datamanager__train_num_rays_per_batch=RAYS, pipeline__datamanager__sparse_num_rays=0)
        trainers = {
            "ours": self._trainer(f"seg{suffix}", config, steps),
            "nerfacto": self._trainer(f"nerfacto{suffix}", stock_nerfacto(config), steps // 6),
        }
        seconds = time_cycles(trainers, repeats)
        rays = {name: RAYS * CYCLE / statistics.median(values) for name, values in seconds.items()}
        print(f"{method}: {rays['ours']:.0f} rays/s with objectness, stock nerfacto {rays['nerfacto']:.0f}")
        found[f"rays_per_s{suffix}"] = rays["ours"]
        found[f"rays_per_s_ratio_vs_nerfacto_torch{suffix}"] = ratio(seconds, "nerfacto", "ours")
        return trainers["ours"]

    def _objectness(self, with_objectness: Trainer, found: dict[str, float]) -> None:
        config = ours("spinnerf-seg-lite", pipeline__datamanager__sparse_num_rays=0, pipeline__model__objectness=False)
        del config.optimizers["objectness"]
        plain = self._trainer("plain", config, self.warm_up)
        seconds = time_cycles({"with": with_objectness, "without": plain}, 2 * self.repeats)
        found["objectness_overhead"] = ratio(seconds, "with", "without") - 1
        print(f"objectness: {per_step(seconds['with'])} a step with, {per_step(seconds['without'])} without")

    def _inpaint(self, seg: Trainer, found: dict[str, float]) -> None:
        seg.save_checkpoint(LATE)
        checkpoint = next(seg.checkpoint_dir.glob("*.ckpt"))
        removed = seg.pipeline.export(checkpoint, ExportConfig(inpainter="opencv", downscale=4))
        seg.pipeline.train()
        config = ours("spinnerf-inpaint-lite", pipeline__model__perceptual_loss=self.perceptual_loss)
        trainers = {"patches": self._trainer("inpaint", config, self.warm_up, removed)}
        layout = trainers["patches"].pipeline.datamanager.layout
        plain = ours(
            "spinnerf-inpaint-lite",
            pipeline__datamanager__num_patches=0,
            pipeline__datamanager__depth_num_rays=0,
            pipeline__datamanager__reference_num_rays=0,
            pipeline__datamanager__train_num_rays_per_batch=layout.num_rays - layout.sparse,
        )
        trainers["plain"] = self._trainer("inpaint-plain", plain, self.warm_up, removed)
        losses = trainers["patches"].pipeline.model._perceptual

        def without_network() -> None:
            with replaced(losses, squared_distance):
                train_steps(trainers["patches"], LATE, CYCLE)

        tasks = {
            "patches": without_network,
            "plain": lambda: train_steps(trainers["plain"], LATE, CYCLE),
            "network": lambda: train_steps(trainers["patches"], LATE, CYCLE),
        }
        seconds = take_turns(tasks, 2 * self.repeats)
        added = statistics.median(seconds["network"]) - statistics.median(seconds["patches"])
        found["inpaint_step_ratio"] = ratio(seconds, "patches", "plain")
        found["perceptual_ms"] = 1e3 * added / CYCLE
        print(
            f"inpainting: {layout.num_rays} rays ({layout}); {per_step(seconds['patches'])} a step without the perceptual "
            f"network, {per_step(seconds['plain'])} with uniform rays alone; {self.perceptual_loss} adds "
            f"{found['perceptual_ms']:.1f} ms"
        )


def squared_distance(prediction, target):
    """In the perceptual network's place: next to no time."""
    return (prediction - target).square().mean(dim=(1, 2, 3))


def time_cycles(trainers: dict[str, Trainer], repeats: int) -> dict[str, list[float]]:
    """Seconds of every timed cycle of each."""
    return take_turns({name: lambda t=trainer: train_steps(t, LATE, CYCLE) for name, trainer in trainers.items()}, repeats)


def per_step(seconds: list[float]) -> str:
    """Cycles' seconds as milliseconds a step."""
    return f"{1e3 * statistics.median(seconds) / CYCLE:.1f} ms"


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
