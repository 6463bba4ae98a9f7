"""Rendering a 252x142 photo against stock nerfacto on this CPU: the same field, the same samples, in one run, in turn.

    python benchmarks/render.py

The field is trained for a moment on a made-up scene and loaded into nerfstudio's model, whose colours have to be the same.
Stock renders as ns-render does. `render_ratio` is for colour and depth as the plugin renders them, `ns_render_ratio` for all
of nerfacto's outputs through the stock command; `render_mask_ratio` for what the export needs, objectness and depth, against
stock's photo. Prints what it measured and, last, one JSON line.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from harness import (
    LATE,
    machine,
    make_trainer,
    ours,
    ratio,
    small_twin,
    stock_nerfacto,
    take_turns,
    train_steps,
    write_scene,
)
from nerfstudio.cameras.cameras import Cameras

from spinnerf_ns.nerf.rendering import render_pixels
from spinnerf_ns.nerf.seg_model import SpinnerfSegModel

WIDTH, HEIGHT = 252, 142
TOLERANCE = 2e-3  # of a colour: a sample that rounding puts on the other side of a cell's border


@dataclass
class Benchmark:
    """Compare renders."""

    method: str = "spinnerf-seg-lite"
    """Whose grid and samples are used; spinnerf-seg for nerfacto's default ones."""
    repeats: int = 3
    """Timed turns."""
    steps: int = 60
    """Training steps before."""

    def main(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            data = write_scene(root / "scene", small_twin(photos=6)).root
            config = ours(self.method, pipeline__datamanager__sparse_num_rays=0)
            trainer = make_trainer(config, data, root / "runs", "ours")
            place_as_stock(trainer.pipeline.model)
            train_steps(trainer, 0, 2)
            train_steps(trainer, LATE, self.steps)
            model = trainer.pipeline.model.eval()
            stock = make_trainer(stock_nerfacto(config), data, root / "runs", "stock").pipeline.model.eval()
            camera = trainer.pipeline.datamanager.train_dataset.cameras[:1]
        state = model.state_dict()
        stock.load_state_dict({name: state[name] for name in stock.state_dict()})
        camera = resized(camera)

        def render_stock() -> torch.Tensor:
            return stock.get_outputs_for_camera(camera)["rgb"]

        difference = (torch.from_numpy(render_pixels(model, camera, ("rgb",))["rgb"]) - render_stock()).abs().mean()
        if difference > TOLERANCE:
            sys.exit(f"the two models render different photos (mean difference {difference:.4f}): nothing was measured")
        seconds = take_turns(
            {
                "stock": render_stock,
                "ours": lambda: render_pixels(model, camera, ("rgb", "z")),
                "masks": lambda: render_pixels(model, camera, ("objectness", "z")),
                "ns-render": lambda: model.get_outputs_for_camera(camera),
            },
            self.repeats,
        )
        listed = ", ".join(f"{name} {statistics.median(values):.2f}" for name, values in seconds.items())
        print(f"{self.method}, {WIDTH}x{HEIGHT}, seconds: {listed}")
        ratios = {
            "render_ratio": ratio(seconds, "stock", "ours"),
            "render_mask_ratio": ratio(seconds, "stock", "masks"),
            "ns_render_ratio": ratio(seconds, "stock", "ns-render"),
        }
        print(json.dumps({name: round(value, 2) for name, value in ratios.items()} | {"machine": machine()}))


def place_as_stock(model: SpinnerfSegModel) -> None:
    """Puts the scene where nerfstudio puts it, so that the two fields are one."""
    model.kwargs = {**model.kwargs, "metadata": {}}
    model._place_scene()
    model.collider.near_plane, model.collider.far_plane = model.config.near_plane, model.config.far_plane


def resized(camera: Cameras) -> Cameras:
    """The camera with a photo of WIDTH x HEIGHT of about the same field of view."""
    scale = WIDTH / int(camera.width)
    return Cameras(
        camera_to_worlds=camera.camera_to_worlds,
        fx=camera.fx * scale,
        fy=camera.fy * scale,
        cx=torch.tensor([[WIDTH / 2]]),
        cy=torch.tensor([[HEIGHT / 2]]),
        width=torch.tensor([[WIDTH]]),
        height=torch.tensor([[HEIGHT]]),
        camera_type=camera.camera_type,
    )


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
