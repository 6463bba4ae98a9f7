"""spinnerf-seg: masks that agree in 3-D."""

from copy import deepcopy

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.types import MethodSpecification

from spinnerf_ns.accel.optimizers import FastAdamOptimizerConfig
from spinnerf_ns.nerf.data.datamanager import SpinnerfSegDataManagerConfig
from spinnerf_ns.nerf.seg_model import SpinnerfSegModelConfig
from spinnerf_ns.pipelines import SpinnerfSegPipelineConfig

# The release decays by 10 in 10 000 steps; its rate 0.01 is nerfacto's too.
_schedule = ExponentialDecaySchedulerConfig(lr_final=1e-3, max_steps=10000)
_group = {"optimizer": FastAdamOptimizerConfig(lr=1e-2, eps=1e-15), "scheduler": _schedule}

spinnerf_seg = MethodSpecification(
    config=TrainerConfig(
        method_name="spinnerf-seg",
        steps_per_eval_batch=500,
        steps_per_save=2000,
        max_num_iterations=10000,
        mixed_precision=True,
        pipeline=SpinnerfSegPipelineConfig(
            datamanager=SpinnerfSegDataManagerConfig(), model=SpinnerfSegModelConfig(), mask_round_steps=(4000, 7000)
        ),
        optimizers={name: deepcopy(_group) for name in ("proposal_networks", "fields", "objectness")},
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15, quit_on_train_completion=True),
        vis="viewer",
    ),
    description="SPIn-NeRF: cleans an object's masks in 3-D and exports the photos without it",
)
