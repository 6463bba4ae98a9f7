"""spinnerf-inpaint-release: the inpainting stage with the figures of the method's published release."""

from copy import deepcopy

from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.plugins.types import MethodSpecification

from spinnerf_ns.accel.optimizers import FastAdamOptimizerConfig
from spinnerf_ns.method_configs.spinnerf_inpaint import spinnerf_inpaint

_config = deepcopy(spinnerf_inpaint.config)
_config.method_name = "spinnerf-inpaint-release"
_config.optimizers = {
    name: {
        "optimizer": FastAdamOptimizerConfig(lr=3e-2, eps=1e-15),
        "scheduler": ExponentialDecaySchedulerConfig(lr_final=3e-3, max_steps=10000),
    }
    for name in ("proposal_networks", "fields")
}
_config.pipeline.start_from_background = False
_data = _config.pipeline.datamanager
_data.to_fill = "object"
_data.train_num_rays_per_batch = 1024
_data.reference_num_rays = 1024
_data.reference_photos = "one"
_data.depth_num_rays = 1024
_data.num_patches = 4
_data.patch_size_fraction = 1 / 16
_data.patch_stride = 2
_data.patch_start_step = 300
_data.sparse_num_rays = 1024
_model = _config.pipeline.model
_model.perceptual_loss = "lpips-vgg"
_model.perceptual_loss_mult = 0.01
_model.disparity_loss_mult = 1.0
_model.disparity_tolerance = 0.0
_model.reference_loss_mult = 1.0
_model.sparse_depth_loss_mult = 0.1
_model.num_levels = 16
_model.features_per_level = 2
_model.log2_hashmap_size = 19
_model.hidden_dim = 64
_model.hidden_dim_color = 64
_model.num_proposal_samples_per_ray = (64, 64)
_model.num_nerf_samples_per_ray = 64

spinnerf_inpaint_release = MethodSpecification(
    config=_config, description="spinnerf-inpaint with the figures of the method's published release"
)
