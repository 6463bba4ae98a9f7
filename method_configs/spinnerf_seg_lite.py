"""spinnerf-seg-lite: spinnerf-seg for laptops and CPUs."""

from nerfstudio.plugins.types import MethodSpecification

from spinnerf_ns.method_configs.spinnerf_seg import spinnerf_seg
from spinnerf_ns.nerf.lite import lite

spinnerf_seg_lite = MethodSpecification(
    config=lite(
        spinnerf_seg.config,
        "spinnerf-seg-lite",
        steps=800,
        # So short a training ends better with a higher rate: by 1.6 dB, and 0.005 of objectness' IoU, on the twin scene.
        rates=(2e-2, 1e-3),
        model={
            "objectness_num_levels": 6,
            "objectness_max_res": 512,
            "objectness_log2_hashmap_size": 16,
            "objectness_samples_per_ray": 4,
            "objectness_every": 6,
        },
    ),
    description="spinnerf-seg with small grids and few samples, for laptops and CPUs",
)
spinnerf_seg_lite.config.pipeline.mask_round_steps = (500,)
