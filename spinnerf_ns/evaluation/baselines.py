"""Methods that a removal is compared with: same grid, samples, rays, steps and seed.

Each is a `Method`: which export it trains on, and how its configuration comes from the one it is compared with. Whatever is
not the method's own idea (scene placement, sparse points, rates) is the same, stock nerfacto excepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig

from spinnerf_ns.accel.nerfacto import accelerate_nerfacto
from spinnerf_ns.accel.replaced import replaced
from spinnerf_ns.nerf.background_field import LAST_RATE, RATE
from spinnerf_ns.nerf.base_model import TRAINS_GEOMETRY
from spinnerf_ns.nerf.data.inpaint_data import SpinnerfInpaintDataManager, SpinnerfInpaintDataManagerConfig
from spinnerf_ns.nerf.image_metrics import without_lpips_download
from spinnerf_ns.runs import apply, load_run, method_config, restore, with_steps
from spinnerf_ns.scene.removed import TRANSFORMS_MASKED

SHARED_MODEL_SETTINGS = (
    "implementation", "hidden_dim", "hidden_dim_color", "num_levels", "base_res", "max_res", "log2_hashmap_size",
    "features_per_level", "num_proposal_samples_per_ray", "num_nerf_samples_per_ray", "proposal_net_args_list",
    "proposal_warmup", "proposal_weights_anneal_max_num_iters", "average_init_density", "eval_num_rays_per_chunk",
    "use_appearance_embedding", "camera_optimizer", "near_plane", "far_plane", "background_color",
)  # fmt: skip
"""Settings that a baseline takes over from the method that it is compared with."""


def masked_nerf(like: TrainerConfig) -> TrainerConfig:
    """Masked NeRF: stock nerfacto that never sees the removed region; train it on an export's `transforms_masked.json`.

    Args:
        like: the configuration that it is compared with; grid, samples, rays, steps, rates and seed are taken from it.
    """
    config = deepcopy(method_config("nerfacto"))
    model = NerfactoModelConfig()
    for name in SHARED_MODEL_SETTINGS:
        setattr(model, name, deepcopy(getattr(like.pipeline.model, name)))
    rays = like.pipeline.datamanager.train_num_rays_per_batch
    config.pipeline = VanillaPipelineConfig(  # nerfacto's own data manager starts processes
        datamanager=VanillaDataManagerConfig(
            dataparser=NerfstudioDataParserConfig(load_3D_points=False), train_num_rays_per_batch=rays
        ),
        model=model,
    )
    for name in ("max_num_iterations", "mixed_precision", "machine", "steps_per_save"):
        setattr(config, name, deepcopy(getattr(like, name)))
    config.optimizers = {name: deepcopy(like.optimizers[name]) for name in ("proposal_networks", "fields")}
    return config


@dataclass
class PerViewDataManagerConfig(SpinnerfInpaintDataManagerConfig):
    """The data manager of per-view inpainting with a pixel loss."""

    _target: type = field(default_factory=lambda: PerViewDataManager)
    train_geometry_in_region: bool = True
    """Whether the pixel loss inside the removed region may change density; off: its rendering weights are detached."""


class PerViewDataManager(SpinnerfInpaintDataManager):
    """Uniform rays over all pixels of the inpainted photos, the removed region included, as if they were photographs."""

    config: PerViewDataManagerConfig

    def _read_regions(self) -> None:
        usable = self.train_pool.usable
        super()._read_regions()
        self.train_pool.usable = usable
        self._in_region = torch.zeros(self.train_pool.num_pixels, dtype=torch.bool)
        self._in_region[self.region_pixels] = True

    def next_train(self, step: int) -> tuple[RayBundle, dict]:
        """The inpainting stage's bundle; geometry is let alone by rays into the removed region, if so configured."""
        bundle, batch = super().next_train(step)
        if "layout" in batch and not self.config.train_geometry_in_region:
            uniform = batch["layout"].uniform
            trains = bundle.metadata[TRAINS_GEOMETRY].clone()
            trains[:uniform, 0] = ~self._in_region[batch["flat"][:uniform]].to(trains.device)
            bundle.metadata[TRAINS_GEOMETRY] = trains
        return bundle, batch


def per_view(like: TrainerConfig, detached: bool = False) -> TrainerConfig:
    """Per-view inpainting and a pixel loss on all pixels: train it on an export that fills nothing from other photos.

    Args:
        like: the configuration that it is compared with.
        detached: whether rendering weights are detached inside the removed region, so that only colour is trained there.
    """
    config = deepcopy(like)
    given = config.pipeline.datamanager
    settings = {f.name: getattr(given, f.name) for f in fields(given) if f.init and f.name != "_target"}
    settings |= {"to_fill": "object", "num_patches": 0, "depth_num_rays": 0, "reference_num_rays": 0}
    config.pipeline.datamanager = PerViewDataManagerConfig(**settings, train_geometry_in_region=not detached)
    return config


RELEASE_MODEL = (
    "perceptual_loss_mult", "disparity_loss_mult", "disparity_tolerance", "reference_loss_mult", "sparse_depth_loss_mult",
)  # fmt: skip
RELEASE_DATA = ("to_fill", "patch_size_fraction", "patch_stride", "patch_start_step", "reference_photos")
"""What the release's preset brings into a comparison: its losses. Rays a step and rates stay those of the others."""


def release(like: TrainerConfig) -> TrainerConfig:
    """The losses of the method's published release, on the grid, samples, rays and steps of `like`."""
    config, preset = deepcopy(like), method_config("spinnerf-inpaint-release").pipeline
    for name in RELEASE_MODEL:
        setattr(config.pipeline.model, name, getattr(preset.model, name))
    for name in RELEASE_DATA:
        setattr(config.pipeline.datamanager, name, getattr(preset.datamanager, name))
    return config


def no_region_losses(like: TrainerConfig) -> TrainerConfig:
    """Ours without any loss inside the removed region: what the field extrapolates by itself."""
    config = deepcopy(like)
    apply(config, {f"pipeline.datamanager.{name}": 0 for name in ("num_patches", "depth_num_rays", "reference_num_rays")})
    return config


@dataclass(frozen=True)
class Method:
    """A method of the comparison."""

    what: str
    """What it is, in a few words."""
    make: Callable[[TrainerConfig], TrainerConfig]
    """From the configuration of ours to its own."""
    export: Literal["shared", "per-view"] = "shared"
    """Which object-free capture it trains on: the one filled from other photos, or each photo inpainted alone."""
    file: str = "transforms.json"
    """Which of the export's datasets."""


METHODS = {
    "masked-nerf": Method("stock nerfacto that never sees the removed region", masked_nerf, file=TRANSFORMS_MASKED),
    "per-view": Method("per-view inpainting, pixel loss on all pixels", per_view, "per-view"),
    "per-view-detached": Method(
        "the same with detached rendering weights in the removed region", partial(per_view, detached=True), "per-view"
    ),
    "release": Method("the losses of SPIn-NeRF's release", release),
    "no-hole-losses": Method("ours without a loss in the removed region", no_region_losses),
    "ours": Method("this package's default", deepcopy),
}
"""By name, in the order shown."""


def from_scratch(ours: TrainerConfig, before: int) -> TrainerConfig:
    """What a method is given that does not start from the export's field of what stays.

    Args:
        ours: the configuration of ours; it is left as it is.
        before: steps of that field: ours has had them, so the others get them too, at that field's learning rates.
    """
    config = with_steps(deepcopy(ours), ours.max_num_iterations + before)
    for name in ("proposal_warmup", "proposal_weights_anneal_max_num_iters"):  # a start from scratch needs no longer one for it
        setattr(config.pipeline.model, name, getattr(ours.pipeline.model, name))
    config.pipeline.start_from_background = False
    for group in config.optimizers.values():
        group["optimizer"].lr, group["scheduler"].lr_final = RATE, LAST_RATE
    return config


@contextmanager
def stock_models_without_download() -> Iterator[None]:
    """Within this context stock nerfacto is built without its LPIPS download, with ours' fast grid, networks and losses.

    These equal the stock torch path but for rounding (see `accelerate_nerfacto`), so only the time changes.
    """
    from spinnerf_ns.accel import ray_weights

    original = NerfactoModel.populate_modules

    def populate(self: NerfactoModel) -> None:
        with without_lpips_download():
            original(self)
        accelerate_nerfacto(self, verbose=False)

    with replaced(NerfactoModel, populate_modules=populate), ray_weights.fast_losses():
        yield


def load_pipeline(config_path: Path, data: Path | None = None) -> Any:
    """A finished run's pipeline on the test split, ours or a baseline's, in evaluation mode.

    Args:
        config_path: its config.yml.
        data: as `runs.load_run`.

    Raises:
        SpinnerfError: as `runs.load_run`.
    """
    # eval_setup would give stock nerfacto its registered data manager's class in place of the one that the run used.
    config = load_run(config_path, data, "evaluate")
    with stock_models_without_download():
        pipeline: VanillaPipeline = config.pipeline.setup(device="cuda" if torch.cuda.is_available() else "cpu", test_mode="test")
    restore(config, pipeline)
    return pipeline
