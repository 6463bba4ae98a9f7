"""Whether the fast path learns as well: held-out PSNR after the same steps, with nerfstudio's torch path and with ours.

    python benchmarks/parity.py                      # the twin scene
    python benchmarks/parity.py --statue path/to/statue    # and a SPIn-NeRF scene, as published

Both are spinnerf-seg-lite without objectness, with the same settings, seeds and photos. `torch` has nerfstudio's hash
encoding, networks and optimizer, `fast` the plugin's kernels. They differ by rounding, and training amplifies rounding as it
does another seed; so the difference of their means is to be read beside the spread over seeds. PSNR of whole photos: of the
twin's held-out views with the object in them, of every eighth photo of the other scene. Prints one JSON line last.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from harness import give_masks, machine, make_trainer, ours, train_steps, with_stock_optimizers, write_scene
from nerfstudio.engine.trainer import TrainerConfig

from spinnerf_ns.evaluation.truth.twin import TwinConfig
from spinnerf_ns.files import read_image
from spinnerf_ns.nerf.metrics import psnr_from_mse
from spinnerf_ns.nerf.rendering import render_pixels
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.llff import convert_llff
from spinnerf_ns.scene.workspace import Workspace


@dataclass
class Benchmark:
    """Compare held-out PSNR of the two paths."""

    statue: Path | None = None
    """A SPIn-NeRF or LLFF folder to compare on, beside the twin."""
    steps: int = 300
    """Training steps of each run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One pair of runs for each."""

    def main(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            found = {"twin": self._compare(root / "twin", write_twin_scene(root / "twin"))}
            if self.statue is not None:
                convert_llff(self.statue, root / "statue", split="interval")
                found["statue"] = self._compare(root / "statue", held_out_photos(root / "statue"))
        print(json.dumps(found | {"steps": self.steps, "machine": machine()}))

    def _compare(self, data: Path, truth: dict[str, Path]) -> dict[str, float]:
        scores: dict[str, list[float]] = {"fast": [], "torch": []}
        for seed in self.seeds:
            for name, values in scores.items():
                trainer = make_trainer(configuration(name), data, data.parent / "runs", f"{data.name}-{name}", seed)
                train_steps(trainer, 0, self.steps)
                values.append(psnr(trainer.pipeline.model.eval(), data, truth))
                print(f"{data.name}, seed {seed}, {name}: {values[-1]:.2f} dB", flush=True)
        means = {name: statistics.mean(values) for name, values in scores.items()}
        spread = max(statistics.stdev(values) if len(values) > 1 else 0.0 for values in scores.values())
        difference = means["fast"] - means["torch"]
        return {name: round(value, 3) for name, value in (means | {"difference": difference, "spread": spread}).items()}


def configuration(path: str) -> TrainerConfig:
    """spinnerf-seg-lite without objectness; "torch": as nerfstudio's own parts compute it."""
    config = ours("spinnerf-seg-lite", pipeline__model__objectness=False, pipeline__model__fast_hash_grid=path == "fast")
    del config.optimizers["objectness"]
    return with_stock_optimizers(config) if path == "torch" else config


def write_twin_scene(root: Path) -> dict[str, Path]:
    """A twin scene; returns its held-out views' photos with the object."""
    scene = write_scene(root, TwinConfig())
    return {Path(photo).stem: scene.truth(photo, "images_with_object") for photo in scene.object_free}


def held_out_photos(root: Path) -> dict[str, Path]:
    """The photos of a dataset that are not trained on; the others get their labels as masks, which the data manager wants."""
    held_out = json.loads((root / "transforms.json").read_text())["test_filenames"]
    give_masks(Workspace.open(root), sorted((root / "labels").glob("*.png")))
    return {Path(name).stem: root / name for name in held_out}


def psnr(model, data: Path, truth: dict[str, Path]) -> float:
    """Mean PSNR of rendered photos, dB. Both are rendered by the fast path: `torch`'s takes minutes a photo."""
    if not model.config.fast_hash_grid:
        model.config.fast_hash_grid = True
        model.accelerate()
    capture = load_capture(data)
    scores = []
    for photo, path in truth.items():
        rendered = np.clip(render_pixels(model, capture.cameras([capture.view(photo)]), ("rgb",))["rgb"], 0, 1)
        scores.append(psnr_from_mse(float(np.mean((rendered - read_image(path) / 255.0) ** 2))))
    return float(np.mean(scores))


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
