"""Splats refined by gsplat's rasteriser, where there is a GPU. Not tested: this was written on machines without one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from spinnerf_ns.scene.splat_fusion import Shot
from spinnerf_ns.scene.splats import Splats

RATES = {"means": 1e-4, "scales": 5e-3, "quaternions": 1e-3, "opacities": 5e-2, "colors": 2.5e-3}
"""Adam's learning rates, as in 3DGS; that of the means in units of the scene's size."""


def refine(splats: Splats, shots: Sequence[Shot], steps: int) -> Splats:
    """All parameters of the splats trained on pictures, one picture a step; none is added and none removed.

    Raises:
        ImportError, RuntimeError: gsplat or its kernels cannot be had.
    """
    from gsplat import rasterization

    device = torch.device("cuda")
    size = float(np.linalg.norm(np.ptp(np.array([shot.view.c2w[:, 3] for shot in shots]), axis=0))) or 1.0
    values = {
        "means": splats.means,
        "scales": np.log(splats.scales),
        "quaternions": splats.quaternions,
        "opacities": np.log(splats.opacities / (1 - splats.opacities)),
        "colors": splats.colors,
    }
    parameters = {name: torch.nn.Parameter(torch.from_numpy(value).float().to(device)) for name, value in values.items()}
    groups = [{"params": [p], "lr": RATES[name] * (size if name == "means" else 1)} for name, p in parameters.items()]
    optimizer = torch.optim.Adam(groups, eps=1e-15)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.01 ** (1 / max(steps, 1)))
    order = np.random.default_rng(0)
    for _ in range(steps):
        shot = shots[int(order.integers(len(shots)))]
        view = shot.view
        world_to_camera = np.eye(4)
        world_to_camera[:3, :3] = (view.c2w[:, :3] * [1, -1, -1]).T
        world_to_camera[:3, 3] = -world_to_camera[:3, :3] @ view.c2w[:, 3]
        intrinsics = np.array([[view.fx, 0, view.cx], [0, view.fy, view.cy], [0, 0, 1]])
        found, _, _ = rasterization(
            parameters["means"],
            parameters["quaternions"],
            parameters["scales"].exp(),
            parameters["opacities"].sigmoid(),
            parameters["colors"].clamp(0, 1),
            torch.from_numpy(world_to_camera).float().to(device)[None],
            torch.from_numpy(intrinsics).float().to(device)[None],
            view.width,
            view.height,
        )
        loss = (found[0] - torch.from_numpy(shot.image).to(device)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    found = {name: value.detach().cpu().numpy() for name, value in parameters.items()}
    return Splats(
        found["means"],
        np.exp(found["scales"]),
        found["quaternions"] / np.linalg.norm(found["quaternions"], axis=1, keepdims=True),
        np.clip(1 / (1 + np.exp(-found["opacities"])), 1e-6, 1 - 1e-6),
        np.clip(found["colors"], 0, 1),
    )
