"""Adam as nerfstudio configures it, in one pass over memory on a CPU."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from torch.nn import Parameter


@dataclass
class FastAdamOptimizerConfig(AdamOptimizerConfig):
    """nerfstudio's Adam; for parameters on a CPU torch's fused version of it, where there is one.

    Steps differ by rounding alone, and checkpoints of either load into the other.
    """

    def setup(self, params: Iterable[Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters."""
        params = list(params)
        optimizer = super().setup(params)
        if all(parameter.device.type == "cpu" for parameter in params) and _fused_on_cpu():
            settings = {name: value for name, value in optimizer.defaults.items() if name != "fused"}
            return type(optimizer)(params, fused=True, **settings)
        return optimizer


@functools.cache
def _fused_on_cpu() -> bool:
    """Whether this torch has it: since 2.4."""
    try:
        torch.optim.Adam([Parameter(torch.zeros(1))], fused=True)
    except RuntimeError:
        return False
    return True
