"""A field of what stays: fitted to the photos outside the removed region alone.

The segmentation field knows the object, and around its silhouette every rendered depth is a mixture of it and of what stands
behind. A field that never saw the object has no such halo: where one photo's region is another photo's wall, it learns the
wall. The export takes its depth to carry colours from photo to photo, and the inpainting stage starts from it.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.field_components.field_heads import FieldHeadNames
from rich.progress import track
from torch import Tensor, nn

from spinnerf_ns.accel.optimizers import FastAdamOptimizerConfig
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.nerf.base_model import SpinnerfModel, SpinnerfModelConfig
from spinnerf_ns.nerf.data.datamanager import SpinnerfDataManager
from spinnerf_ns.scene.frames import same_frame
from spinnerf_ns.scene.hull import VisualHull
from spinnerf_ns.scene.workspace import Workspace

MOST_STEPS = 3000
"""Steps beyond which the field shows no more of the background."""
RATE, LAST_RATE = 1e-2, 1e-3
"""Learning rate at the first and the last step, as in the other stages; it falls exponentially."""
SEED = 0
"""Of the field's first values and of its rays."""
PARTS = ("field", "proposal_networks")
"""What is kept of the model."""


def background_steps(configured: int | None, segmentation_steps: int) -> int:
    """Training steps of the field: what is configured, or else as many as the segmentation was trained, up to `MOST_STEPS`."""
    return min(segmentation_steps, MOST_STEPS) if configured is None else configured


class BackgroundModel(SpinnerfModel):
    """Nerfacto that renders nothing inside a visual hull: no photo trains what is in there, so whatever it holds is fog."""

    hull: Tensor | None = None
    """(X, Y, Z) bool cells."""

    def populate_modules(self) -> None:
        """Builds nerfacto."""
        super().populate_modules()
        self.accelerate()

    def empty_hull(self, hull: VisualHull, world_to_training: npt.NDArray[np.float64]) -> None:
        """Takes everything inside the hull out of the density, from now on.

        Args:
            hull: in the world frame.
            world_to_training: (4, 4) similarity, `Capture.world_to_training`.
        """
        self.hull = torch.from_numpy(hull.inside).to(self.device)
        cell = np.diag([*np.full(3, 1 / hull.cell), 1.0])
        cell[:3, 3] = -hull.origin / hull.cell
        to_cells = torch.from_numpy(cell @ np.linalg.inv(world_to_training)).float().to(self.device)
        self._to_cells, self._cells_start = to_cells[:3, :3].T.contiguous(), to_cells[:3, 3]
        self.density_fns = [self._emptied(density_fn) for density_fn in self.density_fns]

    def outside_hull(self, positions: Tensor) -> Tensor:
        """(..., 3) positions in the training frame -> (..., 1), 0 inside the hull, 1 elsewhere."""
        assert self.hull is not None
        cells = torch.floor(positions.detach() @ self._to_cells + self._cells_start).long()
        size = torch.tensor(self.hull.shape, device=cells.device)
        known = ((cells >= 0) & (cells < size)).all(dim=-1)
        x, y, z = cells.clamp(min=0).minimum(size - 1).unbind(-1)
        return (~(self.hull[x, y, z] & known)).to(positions.dtype)[..., None]

    def _emptied(self, density_fn: Any) -> Any:
        return lambda positions, *args, **kwargs: density_fn(positions, *args, **kwargs) * self.outside_hull(positions)

    def _query_field(self, ray_samples: RaySamples, trains_geometry: Tensor | None = None) -> tuple[dict, Tensor]:
        outputs, positions = super()._query_field(ray_samples, trains_geometry)
        if self.hull is not None:
            kept = self.outside_hull(ray_samples.frustums.get_positions())
            outputs[FieldHeadNames.DENSITY] = outputs[FieldHeadNames.DENSITY] * kept
        return outputs, positions


@torch.random.fork_rng()
def fit_background(like: SpinnerfModel, manager: SpinnerfDataManager, outside: Tensor, steps: int) -> BackgroundModel:
    """Fits a field to the training photos outside the regions.

    Args:
        like: a model of the same scene, whose grid, samples and losses are taken; it is left as it is.
        manager: the data manager, whose photos and sparse points are used; it is left as it was found.
        outside: (P,) bool over the pixels of the manager's pool: those outside the regions, which alone are looked at.
        steps: training steps.

    Returns:
        The model, in evaluation mode.

    Raises:
        SpinnerfError: the regions leave no pixel.
    """
    torch.manual_seed(SEED)  # the same export whatever ran before it
    settings = {f.name: getattr(like.config, f.name) for f in fields(SpinnerfModelConfig) if f.name != "_target"}
    model: BackgroundModel = SpinnerfModelConfig(_target=BackgroundModel, **settings).setup(
        scene_box=like.scene_box, num_train_data=len(manager.train_pool), metadata=like.kwargs.get("metadata")
    )
    model.to(like.device).train()
    nothing = TrainingCallbackAttributes(optimizers=None, grad_scaler=None, pipeline=None, trainer=None)  # type: ignore[arg-type]
    callbacks = model.get_training_callbacks(nothing)
    parameters = [parameter for part in PARTS for parameter in getattr(model, part).parameters()]
    optimizer = FastAdamOptimizerConfig(lr=RATE, eps=1e-15).setup(parameters)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, (LAST_RATE / RATE) ** (1 / max(steps, 1)))
    with _only(manager, outside):
        for step in track(range(steps), "Fitting what stays"):
            for callback in callbacks:
                callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
            rays, batch = manager.next_train(step)
            outputs = model(rays)
            losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
            optimizer.zero_grad()
            sum(losses.values()).backward()  # type: ignore[union-attr]
            optimizer.step()
            schedule.step()
            for callback in callbacks:
                callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
    return model.eval()


@contextmanager
def _only(manager: SpinnerfDataManager, outside: Tensor) -> Iterator[None]:
    """Within this context the data manager draws rays through these pixels alone."""
    before = {name: getattr(manager, name) for name in ("train_pool", "sparse_pixels", "sparse_disparity", "layout")}
    pool = manager.train_pool
    usable = outside if pool.usable is None else pool.usable & outside
    if not usable.any():
        raise SpinnerfError("the object masks cover all photos: nothing is left to fit what stays to; look at masks_3d")
    seen = outside[manager.sparse_pixels]
    manager.train_pool = replace(pool, usable=usable)
    manager.sparse_pixels, manager.sparse_disparity = manager.sparse_pixels[seen], manager.sparse_disparity[seen]
    if not seen.any():
        manager.layout = replace(manager.layout, sparse=0)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(manager, name, value)


@dataclass
class BackgroundField:
    """A fitted field as it lies on disk."""

    state: dict[str, Tensor]
    """Parameters of `PARTS`, by name."""
    world_to_training: Tensor
    """(4, 4) float64 similarity from the capture's world to the training frame that it was fitted in."""

    @classmethod
    def of(cls, model: nn.Module, world_to_training: npt.NDArray[np.float64]) -> BackgroundField:
        """What is kept of a model."""
        state = {name: value.cpu() for name, value in model.state_dict().items() if name.split(".")[0] in PARTS}
        return cls(state, torch.from_numpy(np.array(world_to_training, dtype=np.float64)))

    def save(self, path: Path) -> None:
        """Writes it."""
        torch.save(vars(self), path)

    @classmethod
    def load(cls, path: Path) -> BackgroundField:
        """Reads it.

        Raises:
            SpinnerfError: it was cut short, is none, or was written by a version that took another frame for the world's.
        """
        again = Workspace.at(path.parents[1]).export_command(overwrite=True)
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
            if kept.keys() != cls.__dataclass_fields__.keys():
                raise SpinnerfError(f"{path}: written by an earlier version; export again: {again}")
            return cls(**kept)
        except SpinnerfError:
            raise
        except (RuntimeError, EOFError, TypeError, AttributeError, pickle.UnpicklingError) as error:
            what = " ".join(str(error).split())[:100]
            raise SpinnerfError(f"{path}: cannot be read as a field ({what}); export again: {again}") from error

    def start(self, model: nn.Module, world_to_training: npt.NDArray[np.float64]) -> str | None:
        """Puts its parameters into a model.

        Returns:
            None, or why they do not fit (the model is then left as it was): another frame, or grids of another size.
        """
        if not same_frame(self.world_to_training.numpy(), world_to_training):
            return "it was fitted in another training frame"
        own = {name: value for name, value in model.state_dict().items() if name.split(".")[0] in PARTS}
        other = sorted(name for name in own.keys() | self.state.keys() if _shape(own, name) != _shape(self.state, name))
        if other:
            return f"its grids are of another size ({other[0]}{', …' if len(other) > 1 else ''})"
        model.load_state_dict(self.state, strict=False)
        return None


def _shape(state: dict[str, Tensor], name: str) -> Any:
    return state[name].shape if name in state else None
