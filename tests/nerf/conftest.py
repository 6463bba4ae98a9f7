"""Small models and bundles."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox

SMALL = {
    "implementation": "torch",
    "fast_hash_grid": False,
    "hidden_dim": 16,
    "hidden_dim_color": 16,
    "num_levels": 4,
    "max_res": 64,
    "log2_hashmap_size": 10,
    "num_proposal_samples_per_ray": (16, 8),
    "num_nerf_samples_per_ray": 8,
    "proposal_net_args_list": [
        {"hidden_dim": 16, "log2_hashmap_size": 9, "num_levels": 3, "max_res": 32, "use_linear": False},
        {"hidden_dim": 16, "log2_hashmap_size": 9, "num_levels": 3, "max_res": 32, "use_linear": False},
    ],
}


@contextmanager
def no_network():
    """Any attempt to open a connection fails the test."""

    def refuse(*args: Any, **kwargs: Any):
        raise AssertionError("a network connection was attempted")

    with mock.patch("socket.socket.connect", refuse), mock.patch("socket.create_connection", refuse):
        with mock.patch("socket.getaddrinfo", refuse):
            yield


def build(config: Any, seed: int = 0, **settings: Any):
    """A model of a config with the small settings; no network request is let through."""
    for name, value in {**SMALL, **settings}.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    box = SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    with no_network():
        return config.setup(scene_box=box, num_train_data=3, metadata={})


def bundle(num_rays: int = 32, seed: int = 1) -> RayBundle:
    """Random rays from around the origin."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(num_rays, 3, generator=generator)
    norm = 1.0 + torch.rand(num_rays, 1, generator=generator)
    return RayBundle(
        origins=torch.rand(num_rays, 3, generator=generator) - 0.5,
        directions=directions / directions.norm(dim=-1, keepdim=True),
        pixel_area=torch.full((num_rays, 1), 1e-4),
        camera_indices=torch.zeros(num_rays, 1, dtype=torch.long),
        metadata={"directions_norm": norm},
    )


@pytest.fixture
def rays() -> RayBundle:
    return bundle()
