"""The data manager's ray generator against nerfstudio's, bit by bit."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.model_components.ray_generators import RayGenerator

from spinnerf_ns.accel import ray_generator
from spinnerf_ns.accel.ray_generator import PerspectiveRayGenerator

NUM_CAMERAS, HEIGHT, WIDTH = 4, 30, 40
NO_LENS, LENS = torch.zeros(6), torch.tensor([0.1, -0.05, 0.01, 0.0, 0.002, -0.001])


def cameras(**settings) -> Cameras:
    generator = torch.Generator().manual_seed(0)
    poses = torch.randn(NUM_CAMERAS, 3, 4, generator=generator)
    focal = 50 + torch.rand(NUM_CAMERAS, 2, generator=generator)
    return Cameras(poses, focal[:, :1], focal[:, 1:], 20.3, 14.8, width=WIDTH, height=HEIGHT, **settings)


def indices(num_rays: int = 500) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    sizes = (NUM_CAMERAS, HEIGHT, WIDTH)
    return torch.stack([torch.randint(size, (num_rays,), generator=generator) for size in sizes], dim=-1)


def assert_equal_rays(seen_by: Cameras, chosen: torch.Tensor) -> None:
    found, truth = PerspectiveRayGenerator(seen_by)(chosen), RayGenerator(seen_by)(chosen)
    assert found.shape == truth.shape == chosen.shape[:1]
    for name in ("origins", "directions", "pixel_area", "camera_indices", "times", "nears", "fars"):
        ours, theirs = getattr(found, name), getattr(truth, name)
        assert (ours is None and theirs is None) or (ours.dtype == theirs.dtype and torch.equal(ours, theirs)), name
    assert set(found.metadata) == set(truth.metadata)
    assert all(torch.equal(found.metadata[name], value) for name, value in truth.metadata.items())


@pytest.mark.parametrize("most_points", [0, ray_generator.MOST_POINTS], ids=["anew", "kept"])
@pytest.mark.parametrize("lens", [None, NO_LENS.repeat(4, 1), LENS.repeat(4, 1), torch.stack([NO_LENS, LENS, NO_LENS, 2 * LENS])])
def test_rays_equal_nerfstudio(lens, most_points, monkeypatch):
    monkeypatch.setattr(ray_generator, "MOST_POINTS", most_points)
    seen_by = cameras(distortion_params=lens)
    with mock.patch.object(RayGenerator, "forward", side_effect=AssertionError("nerfstudio was asked")):
        generator = PerspectiveRayGenerator(seen_by)
        generator(indices())
    assert (generator._undistorted is not None) == (most_points > 0 and lens is not None and bool(lens.any()))
    assert_equal_rays(seen_by, indices())
    assert_equal_rays(seen_by, indices(1))
    assert_equal_rays(seen_by, indices()[:0])


def test_cameras_of_one_kind_share_what_is_kept():
    poses, lens = cameras().camera_to_worlds, LENS.repeat(4, 1)
    same = Cameras(poses, 50.0, 51.0, 20.3, 14.8, width=WIDTH, height=HEIGHT, distortion_params=lens)
    assert PerspectiveRayGenerator(same)._undistorted.shape == (1, HEIGHT + 1, WIDTH + 1, 2)
    assert_equal_rays(same, indices())


@pytest.mark.parametrize(
    "settings",
    [
        {"camera_type": CameraType.FISHEYE, "distortion_params": LENS.repeat(4, 1)},
        {"camera_type": torch.tensor([[CameraType.PERSPECTIVE.value], [CameraType.FISHEYE.value]] * 2)},
        {"times": torch.rand(NUM_CAMERAS, 1)},
        {"metadata": {"exposure": torch.rand(NUM_CAMERAS, 1)}},
    ],
    ids=["fisheye", "mixed", "times", "metadata"],
)
def test_other_cameras_are_left_to_nerfstudio(settings):
    assert_equal_rays(cameras(**settings), indices())
