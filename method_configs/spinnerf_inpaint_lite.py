"""spinnerf-inpaint-lite: spinnerf-inpaint for laptops and CPUs."""

from nerfstudio.plugins.types import MethodSpecification

from spinnerf_ns.method_configs.spinnerf_inpaint import spinnerf_inpaint
from spinnerf_ns.nerf.lite import lite

spinnerf_inpaint_lite = MethodSpecification(
    config=lite(
        spinnerf_inpaint.config,
        "spinnerf-inpaint-lite",
        steps=600,
        # It starts from the export's field of what stays; 400 steps at a third of this rate left up to 1.8 dB to gain.
        rates=(1e-2, 1e-3),
        model={"perceptual_loss_mult": 0.003},  # four times fewer rays hold the rest of the scene in place
        num_patches=1,
        depth_num_rays=128,
        reference_num_rays=64,
        patch_start_step=100,
    ),
    description="spinnerf-inpaint with small grids and few samples, for laptops and CPUs",
)
