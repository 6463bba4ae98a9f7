"""What makes a method's configuration one for laptops and CPUs: smaller grids, fewer samples, fewer steps."""

from __future__ import annotations

from copy import deepcopy

import torch
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig

LITE_MODEL = {
    "implementation": "torch",
    "hidden_dim": 32,
    "hidden_dim_color": 32,
    "num_levels": 8,
    "max_res": 512,
    "log2_hashmap_size": 16,
    "num_proposal_samples_per_ray": (48, 24),
    "num_nerf_samples_per_ray": 24,
    "proposal_net_args_list": [
        {"hidden_dim": 16, "log2_hashmap_size": 14, "num_levels": 4, "max_res": 64, "use_linear": False},
        {"hidden_dim": 16, "log2_hashmap_size": 14, "num_levels": 4, "max_res": 128, "use_linear": False},
    ],
    "proposal_warmup": 500,
    "proposal_weights_anneal_max_num_iters": 200,
}
"""Nerfacto's settings for a CPU; also what a baseline is given that shall be compared with a -lite method."""


def lite(
    config: TrainerConfig,
    method_name: str,
    steps: int,
    rates: tuple[float, float],
    model: dict | None = None,
    **datamanager: object,
) -> TrainerConfig:
    """A copy of `config` with `LITE_MODEL`, 1024 rays a step (and a few for other losses) and `steps` steps.

    Args:
        config: the method at full size; it is left as it is.
        method_name: the copy's name.
        steps: iterations.
        rates: learning rate of all groups at the first and the last step; between them it falls exponentially.
        model: further settings of the model.
        datamanager: further settings of the data manager.
    """
    config = deepcopy(config)
    config.method_name = method_name
    config.max_num_iterations = steps
    config.mixed_precision = False
    if not torch.cuda.is_available():
        config.machine.device_type = "cpu"
    for name, value in {**LITE_MODEL, **(model or {})}.items():
        setattr(config.pipeline.model, name, deepcopy(value))
    for name, value in {"train_num_rays_per_batch": 1024, "sparse_num_rays": 128, **datamanager}.items():
        setattr(config.pipeline.datamanager, name, value)
    first, last = rates
    for group in config.optimizers.values():
        group["optimizer"].lr = first
        group["scheduler"] = ExponentialDecaySchedulerConfig(lr_final=last, max_steps=steps)
    return config
