"""The placed contraction against nerfstudio's, and the sampler against its inverse."""

from __future__ import annotations

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.model_components.ray_samplers import UniformLinDispPiecewiseSampler

from spinnerf_ns.accel.scene_placement import PlacedContraction, PlacedPiecewiseSampler


def test_equals_nerfstudios_contraction_of_the_moved_scene():
    points = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 5
    points[0] = 0.0
    center, radius = torch.tensor([1.0, -2.0, 0.5]), 3.0
    expected = SceneContraction(order=float("inf"))((points - center) / radius)
    torch.testing.assert_close(PlacedContraction(center, radius)(points), expected, rtol=1e-5, atol=1e-6)


def test_gradients_are_finite_at_the_centre():
    points = torch.zeros(1, 3, requires_grad=True)
    PlacedContraction(torch.zeros(3), 1.0)(points).sum().backward()
    assert torch.isfinite(points.grad).all()


def test_radius_one_is_nerfactos_sampler():
    rays = RayBundle(
        origins=torch.zeros(4, 3),
        directions=torch.ones(4, 3),
        pixel_area=torch.ones(4, 1),
        nears=torch.full((4, 1), 0.05),
        fars=torch.full((4, 1), 1000.0),
    )
    ours, stock = PlacedPiecewiseSampler(1.0).eval()(rays, 32), UniformLinDispPiecewiseSampler().eval()(rays, 32)
    torch.testing.assert_close(ours.frustums.starts, stock.frustums.starts)
    wide = PlacedPiecewiseSampler(4.0).eval()
    t = torch.tensor([0.1, 3.9, 4.1, 80.0])
    torch.testing.assert_close(wide.spacing_fn_inv(wide.spacing_fn(t)), t, rtol=1e-4, atol=1e-5)
    assert float(wide.spacing_fn(torch.tensor(4.0))) == 0.5
