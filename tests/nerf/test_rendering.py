"""Rendering photos: only what is asked for, in chunks; and objectness from some of a ray's samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.fields.nerfacto_field import NerfactoField

from spinnerf_ns.accel import fast_field
from spinnerf_ns.nerf import rendering
from spinnerf_ns.nerf.rendering import rays_per_chunk, render_pixels
from spinnerf_ns.nerf.seg_model import SpinnerfSegModelConfig, draw_by_weight
from tests.nerf.conftest import build, bundle


@pytest.fixture
def model():
    return build(SpinnerfSegModelConfig(average_init_density=3.0)).eval()


@pytest.fixture
def camera() -> Cameras:
    pose = torch.eye(4)[None, :3]
    return Cameras(camera_to_worlds=pose, fx=20.0, fy=20.0, cx=9.5, cy=6.0, width=19, height=12)


def test_asking_for_less_changes_no_value(model):
    with torch.no_grad():
        everything = model(bundle())
        for names in (("rgb",), ("objectness", "depth"), ("prop_depth_1",)):
            with model.rendering_only(names):
                found = model(bundle())
            assert set(names) <= set(found) < set(everything)
            for name, value in found.items():
                assert torch.equal(value, everything[name]), name
        assert set(model(bundle())) == set(everything)  # the context has ended


def test_masks_are_rendered_without_colour(model, camera, monkeypatch):
    expected = render_pixels(model, camera, ("rgb", "objectness", "z"))
    monkeypatch.setattr(NerfactoField, "get_outputs", lambda *_, **__: pytest.fail("colour was computed"))
    found = render_pixels(model, camera, ("objectness", "z"))
    for name, values in found.items():
        assert values.shape == (12, 19) and np.array_equal(values, expected[name])


def test_training_renders_everything_that_losses_use(model):
    with model.rendering_only(("objectness",)):
        assert {"rgb", "objectness_logit", "expected_depth"} <= set(model.train()(bundle()))


def test_chunks_do_not_show(model, camera, monkeypatch):
    expected = render_pixels(model, camera, ("rgb", "z"))
    monkeypatch.setattr(rendering, "RAYS_ON_CPU", 50)
    assert rays_per_chunk(model) == 50
    for name, values in render_pixels(model, camera, ("rgb", "z")).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6)
    model.config.eval_num_rays_per_chunk = 7
    assert rays_per_chunk(model) == 7


@pytest.mark.parametrize("appearance", [False, True])
def test_directions_encoded_once_per_ray_give_the_same_colours(appearance):
    stock = build(SpinnerfSegModelConfig(use_appearance_embedding=appearance)).eval()
    fast = build(SpinnerfSegModelConfig(use_appearance_embedding=appearance)).eval()
    assert fast_field.accelerate(fast) == 1 and list(fast.state_dict()) == list(stock.state_dict())
    encoded = []
    fast.field.direction_encoding.register_forward_hook(lambda module, inputs, output: encoded.append(len(output)))
    assert torch.equal(fast(bundle())["rgb"], stock(bundle())["rgb"])
    assert encoded == [32 * 8] if appearance else encoded == [32]
    for model in (stock, fast):
        model.train()
        torch.manual_seed(0)
        model(bundle())["rgb"].sum().backward()
    for ours, theirs in zip(fast.field.parameters(), stock.field.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            assert torch.equal(ours.grad, theirs.grad)


# ------------------------------------------------------------------------------------------------------------ objectness
@pytest.mark.parametrize(("samples", "groups"), [(24, 8), (25, 8), (7, 3), (5, 4), (9, 2)])
def test_drawn_samples_stand_for_all(samples, groups):
    torch.manual_seed(0)
    weights = torch.rand(1, samples) ** 4
    weights[0, -2:] = 0.0  # a group may have no weight at all
    values = torch.randn(samples)
    draws = 40_000
    drawn, chosen = draw_by_weight(weights.expand(draws, -1), groups)
    assert drawn.shape == chosen.shape and drawn.shape[1] <= groups
    torch.testing.assert_close(drawn.sum(dim=1), weights.sum(dim=1, keepdim=True)[:1].expand(draws, 1))
    assert int(chosen.min()) >= 0 and int(chosen.max()) < samples
    size = -(-samples // groups)
    assert torch.equal(chosen[..., 0] // size, torch.arange(drawn.shape[1]).expand(draws, -1))
    mean = float((drawn * values[chosen]).sum(dim=1).mean())
    assert mean == pytest.approx(float((weights * values).sum()), abs=0.03)
    used = torch.bincount(chosen.flatten(), minlength=samples)
    assert (used[: samples - 2][weights[0, : samples - 2] > 0.01] > 0).all()


def test_objectness_in_training_uses_some_samples_and_in_evaluation_all():
    model = build(SpinnerfSegModelConfig(average_init_density=3.0, objectness_samples_per_ray=3))
    seen = []
    model.objectness_field.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    model.train()(bundle())
    model.eval()(bundle())
    model.config.objectness_samples_per_ray = 0
    model.train()(bundle())
    assert seen == [3, 8, 8]


# ------------------------------------------------------------------------------------------------------- at 1/N and enlarged
@pytest.mark.parametrize("downscale", [2, 3, 4])
@pytest.mark.parametrize("size", [(64, 48), (41, 31), (67, 50)])
def test_rendering_at_a_part_of_the_resolution_shows_the_same_place(monkeypatch, size, downscale):
    """The camera's edges stay where they are, whatever is left over: a plane's depth is that of a full render."""
    width, height = size
    camera = Cameras(torch.eye(4)[None, :3], fx=50.0, fy=52.0, cx=width / 2 + 1, cy=height / 2 - 2, width=width, height=height)

    def plane(model, camera, names, pixels=None):
        rays = camera.generate_rays(camera_indices=0, keep_shape=True)
        directions = rays.directions * rays.metadata["directions_norm"]  # planar depth 1
        disparity = 0.5 + 0.1 * directions[..., 0] / 0.4 + 0.1 * directions[..., 1] / 0.3
        return {name: (1 / disparity if name == "z" else disparity).numpy() for name in names}

    expected = plane(None, camera, ("z",))["z"]
    monkeypatch.setattr(rendering, "render_pixels", plane)
    np.testing.assert_allclose(rendering.render_depth(None, camera, 1.0, downscale), expected, rtol=1e-4)
    assert abs(rendering.render_objectness(None, camera, downscale) - 1 / expected)[4:-4, 4:-4].max() < 1e-3


def test_a_sparse_rendering_is_the_full_one_in_fewer_rays(monkeypatch):
    """A slanted wall and a box before it, known in closed form: planes are interpolated, edges are rendered."""
    asked = []

    def analytic(model, camera, names, pixels=None):
        height, width = int(camera.height), int(camera.width)
        x = (np.arange(width) + 0.5 - float(camera.cx)) / float(camera.fx)
        y = (np.arange(height)[:, None] + 0.5 - float(camera.cy)) / float(camera.fy)
        wall = 1 / (0.25 + 0.05 * x + 0.02 * y)
        box = (np.abs(x + 0.1) < 0.2) & (np.abs(y - 0.05) < 0.15)
        z = np.where(box, 2.5, np.where(y > -0.4, wall, 0)).astype(np.float32)
        everything = {"z": z, "objectness": np.where(box, 0.99, 0.01).astype(np.float32)}
        pixels = np.ones(z.shape, bool) if pixels is None else pixels
        asked.append(int(pixels.sum()))
        return {name: np.where(pixels, everything[name], 0) for name in names}

    monkeypatch.setattr(rendering, "render_pixels", analytic)
    pose = torch.eye(4)[None, :3]
    camera = Cameras(camera_to_worlds=pose, fx=1000.0, fy=1000.0, cx=502.0, cy=283.0, width=1008, height=567)
    found = rendering.render_sparsely(None, camera, ("objectness", "z"))
    assert sum(asked) < 0.35 * 1008 * 567
    exact = analytic(None, camera, ("objectness", "z"))
    assert ((found["objectness"] > 0.5) == (exact["objectness"] > 0.5)).all()
    assert ((found["z"] > 0) == (exact["z"] > 0)).all()
    known = exact["z"] > 0
    np.testing.assert_allclose(found["z"][known], exact["z"][known], rtol=2e-4)
    asked.clear()
    object_mask = exact["objectness"] > 0.5
    around = rendering.render_depth(None, camera, 1.0, region=object_mask)
    assert sum(asked) < 0.2 * 1008 * 567
    rows, columns = np.nonzero(object_mask)
    near = np.s_[rows.min() - 100 : rows.max() + 100, columns.min() - 100 : columns.max() + 100]
    np.testing.assert_allclose(around[near], found["z"][near], rtol=1e-6)
    objectness, with_object = rendering.render_objectness_and_depth(None, camera, 1.0, around_object=True)
    np.testing.assert_array_equal(objectness, found["objectness"])
    near = np.s_[rows.min() - 40 : rows.max() + 40, columns.min() - 40 : columns.max() + 40]
    np.testing.assert_allclose(with_object[near], found["z"][near], rtol=1e-6)
    asked.clear()
    nowhere = rendering.render_depth(None, camera, 1.0, region=np.zeros_like(object_mask))
    np.testing.assert_allclose(nowhere, found["z"], rtol=1e-6)
    asked.clear()
    small = Cameras(camera_to_worlds=pose, fx=300.0, fy=300.0, cx=150.0, cy=80.0, width=300, height=160)
    rendering.render_sparsely(None, small, ("z",))
    assert asked == [300 * 160], "a small photo is rendered in full"
