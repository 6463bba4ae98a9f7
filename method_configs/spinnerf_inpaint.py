"""spinnerf-inpaint: a field fitted to the photos without the object."""

from copy import deepcopy

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.types import MethodSpecification

from spinnerf_ns.accel.optimizers import FastAdamOptimizerConfig
from spinnerf_ns.nerf.data.inpaint_data import SpinnerfInpaintDataManagerConfig
from spinnerf_ns.nerf.inpaint_model import SpinnerfInpaintModelConfig
from spinnerf_ns.pipelines import SpinnerfInpaintPipelineConfig

_schedule = ExponentialDecaySchedulerConfig(lr_final=1e-3, max_steps=10000)
_group = {"optimizer": FastAdamOptimizerConfig(lr=1e-2, eps=1e-15), "scheduler": _schedule}

spinnerf_inpaint = MethodSpecification(
    config=TrainerConfig(
        method_name="spinnerf-inpaint",
        steps_per_eval_batch=500,
        steps_per_save=2000,
        max_num_iterations=10000,
        mixed_precision=True,
        pipeline=SpinnerfInpaintPipelineConfig(datamanager=SpinnerfInpaintDataManagerConfig(), model=SpinnerfInpaintModelConfig()),
        optimizers={name: deepcopy(_group) for name in ("proposal_networks", "fields")},
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15, quit_on_train_completion=True),
        vis="viewer",
    ),
    description="SPIn-NeRF: fits the scene without the object to the exported photos and depth",
)
