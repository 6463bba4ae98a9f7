"""Baselines that a removal is compared with: same grid, samples, rays, steps and seed."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Iterator
from unittest import mock

from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig

from spinnerf_ns.nerf.base_model import CachedLpips
from spinnerf_ns.runs import method_config

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


@contextmanager
def stock_models_without_download() -> Iterator[None]:
    """Within this context stock nerfacto is built without its LPIPS download and with the fast hash grid.

    The grid is numerically equal to the stock torch path (see nerf/hash_grid.py), so only the time changes.
    """
    from spinnerf_ns.nerf.hash_grid import accelerate

    original = NerfactoModel.populate_modules

    def populate(self: NerfactoModel) -> None:
        with mock.patch("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", CachedLpips):
            original(self)
        accelerate(self, verbose=False)

    with mock.patch.object(NerfactoModel, "populate_modules", populate):
        yield


def load_pipeline(config_path: Path) -> Any:
    """A finished run's pipeline on the test split, ours or a baseline's, in evaluation mode."""
    import torch
    import yaml
    from nerfstudio.utils.eval_utils import eval_load_checkpoint

    # eval_setup would give stock nerfacto its registered data manager's class in place of the one that the run used.
    config = yaml.load(config_path.read_text(), Loader=yaml.Loader)
    config.load_dir = config.get_checkpoint_dir()
    with stock_models_without_download():
        pipeline: VanillaPipeline = config.pipeline.setup(
            device="cuda" if torch.cuda.is_available() else "cpu", test_mode="test"
        )
    pipeline.eval()
    eval_load_checkpoint(config, pipeline)
    return pipeline
