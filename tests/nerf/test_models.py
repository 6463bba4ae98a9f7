"""The models against nerfacto, every stopped gradient, and construction without a network."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.models.nerfacto import NerfactoModelConfig

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.nerf.base_model import TRAINS_GEOMETRY
from spinnerf_ns.nerf.data.pixel_samplers import RayLayout
from spinnerf_ns.nerf.image_metrics import CachedLpips
from spinnerf_ns.nerf.inpaint_model import SpinnerfInpaintModelConfig
from spinnerf_ns.nerf.seg_model import SpinnerfSegModelConfig
from tests.nerf.conftest import build, bundle


def nerfacto(**settings):
    with mock.patch("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", CachedLpips):
        return build(
            NerfactoModelConfig(
                use_appearance_embedding=False,
                camera_optimizer=CameraOptimizerConfig(mode="off"),
                average_init_density=0.01,
            ),
            **settings,
        )


def gradients(model) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def is_zero(gradient: torch.Tensor | None) -> bool:
    return gradient is None or bool((gradient == 0).all())


# ---------------------------------------------------------------------------------------------------------------- parity
@pytest.mark.parametrize("config", [SpinnerfSegModelConfig(objectness=False), SpinnerfInpaintModelConfig()])
@pytest.mark.parametrize("background_color", ["last_sample", "random"])
@pytest.mark.parametrize("predict_normals", [False, True])
def test_equal_to_nerfacto_in_evaluation(config, predict_normals, background_color):
    settings = {"predict_normals": predict_normals, "background_color": background_color}
    stock, ours = nerfacto(**settings).eval(), build(config, **settings).eval()
    expected, found = stock(bundle()), ours(bundle())
    assert set(expected) <= set(found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("config", [SpinnerfSegModelConfig(objectness=False), SpinnerfInpaintModelConfig()])
@pytest.mark.parametrize("background_color", ["last_sample", "random"])
def test_equal_to_nerfacto_in_training(config, background_color):
    batch = {"image": torch.rand(32, 3, generator=torch.Generator().manual_seed(2))}
    results = []
    settings = {"background_color": background_color}
    for model in (nerfacto(**settings).train(), build(config, **settings).train()):
        torch.manual_seed(3)
        outputs = model(bundle())
        losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
        sum(losses.values()).backward()
        results.append((outputs, losses, gradients(model)))
    (stock, stock_losses, stock_gradients), (ours, our_losses, our_gradients) = results
    for name in ("rgb", "accumulation", "expected_depth"):
        torch.testing.assert_close(ours[name], stock[name], rtol=1e-5, atol=1e-6)
    assert set(our_losses) == set(stock_losses)
    for name, value in stock_losses.items():
        torch.testing.assert_close(our_losses[name], value, rtol=1e-4, atol=1e-7)
    for name, gradient in stock_gradients.items():
        if gradient is not None:
            torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_objectness_does_not_change_nerfacto():
    """One seed gives the same colour and density with and without an objectness field."""
    plain = build(SpinnerfSegModelConfig(objectness=False)).eval()(bundle())
    with_objectness = build(SpinnerfSegModelConfig()).eval()(bundle())
    for name, value in plain.items():
        assert torch.equal(with_objectness[name], value), name


# ------------------------------------------------------------------------------------------------------------ objectness
@pytest.mark.parametrize("predict_normals", [False, True])
def test_objectness_output_is_a_probability_per_ray(predict_normals, rays):
    outputs = build(SpinnerfSegModelConfig(), predict_normals=predict_normals).eval()(rays)
    assert outputs["objectness"].shape == (32, 1)
    assert 0 <= float(outputs["objectness"].min()) and float(outputs["objectness"].max()) <= 1
    for name, value in outputs.items():
        assert len(value) == 32, name  # viewer and ns-render want one row per ray of every output


def test_a_run_whose_objectness_reads_geometry_features_is_refused_in_one_line():
    """Its config.yml sets an attribute that the class no longer has."""
    config = SpinnerfSegModelConfig()
    config.objectness_source = "grid"
    build(config)
    for predict_normals in (False, True):  # which crashed together with predict_normals
        config.objectness_source = "geometry"
        with pytest.raises(SpinnerfError, match="train it again") as raised:
            build(config, predict_normals=predict_normals)
        assert "\n" not in str(raised.value)


def test_objectness_loss_leaves_colour_and_density_alone(rays):
    model = build(SpinnerfSegModelConfig()).train()
    outputs = model(rays)
    batch = {"image": torch.rand(32, 3), "object_label": torch.randint(2, (32,), dtype=torch.uint8)}
    losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
    losses["objectness_loss"].backward()
    found = gradients(model)
    assert not all(is_zero(g) for name, g in found.items() if name.startswith("objectness_field"))
    assert all(is_zero(g) for name, g in found.items() if name.startswith(("proposal_networks", "field.")))


def test_objectness_is_trained_every_so_many_steps_and_always_rendered():
    model = build(SpinnerfSegModelConfig(average_init_density=3.0, objectness_every=3)).train()
    batch = {"image": torch.rand(32, 3), "object_label": torch.randint(0, 2, (32,))}
    trained = []
    for _ in range(6):
        outputs = model(bundle())
        losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
        trained.append("objectness_loss" in losses)
    assert trained == [False, False, True] * 2
    model.eval()
    assert all("objectness" in model(bundle()) for _ in range(3))


def test_logit_is_composited_like_a_colour(rays):
    model = build(SpinnerfSegModelConfig()).train()
    torch.manual_seed(0)
    outputs = model(rays)
    weights, samples = outputs["weights_list"][-1], outputs["ray_samples_list"][-1]
    logits = model.objectness_logits(samples.frustums.get_positions())
    by_hand = (weights * logits).sum(1) + model.config.empty_space_logit * (1 - weights.sum(1))
    torch.testing.assert_close(outputs["objectness_logit"], by_hand, rtol=1e-4, atol=1e-5)


def test_carving_removes_the_object_and_ends_with_the_context(rays):
    model = build(SpinnerfSegModelConfig(average_init_density=5.0)).eval()
    before = model(rays)["accumulation"]
    with torch.no_grad():  # everything is object: nothing is left
        model.objectness_field.mlp.layers[-1].bias.fill_(50.0)
    with model.showing("rest"):
        assert float(model(rays)["accumulation"].max()) == 0.0
    torch.testing.assert_close(model(rays)["accumulation"], before)


# ------------------------------------------------------------------------------------------------------------ inpainting
LAYOUT = RayLayout(uniform=8, patches=(1, 3, 4), depth=6, reference=6)


def inpaint_step(name: str | None, **settings):
    """One training step of the inpainting model; backward of the loss called `name` alone, or of all."""
    model = build(SpinnerfInpaintModelConfig(perceptual_loss="ssim"), **settings).train()
    rays = bundle(LAYOUT.num_rays)
    rays.metadata[TRAINS_GEOMETRY] = torch.arange(LAYOUT.num_rays)[:, None] < LAYOUT.uniform
    torch.manual_seed(0)
    outputs = model(rays)
    outputs["rgb"].retain_grad()
    for weights in outputs["weights_list"]:
        weights.retain_grad()
    batch = {
        "image": torch.rand(LAYOUT.num_rays, 3),
        "disparity": torch.rand(6, 1) + 0.1,
        "disparity_scale": 0.5,
        "layout": LAYOUT,
    }
    losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
    assert {"rgb_loss", "perceptual_loss", "disparity_loss", "reference_loss"} <= set(losses)
    (sum(losses.values()) if name is None else losses[name]).backward()
    return model, outputs


@pytest.mark.parametrize("name", ["perceptual_loss", "reference_loss"])
def test_patches_and_reference_leave_the_rendering_weights_alone(name):
    model, outputs = inpaint_step(name)
    assert is_zero(outputs["weights_list"][-1].grad), "a gradient reached the rendering weights"
    found = gradients(model)
    assert all(is_zero(g) for n, g in found.items() if n.startswith("proposal_networks"))
    assert not all(is_zero(g) for n, g in found.items() if n.startswith("field.mlp_head"))
    uniform = outputs["rgb"].grad[: LAYOUT.uniform]
    assert is_zero(uniform)


@pytest.mark.parametrize("name", ["perceptual_loss", "reference_loss"])
def test_without_patch_geometry_patches_and_reference_move_no_density(name):
    for patch_geometry in (False, True):
        model, _ = inpaint_step(name, patch_geometry=patch_geometry)
        density = {n: g for n, g in gradients(model).items() if n.startswith(("field.mlp_base", "proposal_networks"))}
        assert density and all(is_zero(g) for g in density.values()) is not patch_geometry
    head = {n: g for n, g in gradients(model).items() if n.startswith("field.mlp_head")}
    assert not all(is_zero(g) for g in head.values())


@pytest.mark.parametrize("predict_normals", [False, True])
@pytest.mark.parametrize("fast_hash_grid", [False, True])
def test_without_patch_geometry_no_loss_sees_the_weights_of_patches_and_reference(predict_normals, fast_hash_grid):
    rows = torch.cat([torch.arange(LAYOUT.num_rays)[LAYOUT.rows(family)] for family in ("patches", "reference")])
    for patch_geometry in (False, True):
        settings = {"predict_normals": predict_normals, "fast_hash_grid": fast_hash_grid, "average_init_density": 3.0}
        _, outputs = inpaint_step(None, patch_geometry=patch_geometry, **settings)
        found = [not is_zero(weights.grad[rows]) for weights in outputs["weights_list"]]
        assert any(found) is found[-1] is patch_geometry
        assert not is_zero(outputs["weights_list"][-1].grad[: LAYOUT.uniform])


def test_perceptual_loss_leaks_no_gradient_through_the_background():
    """`last_sample` adds colour * (1 - accumulation): with detached weights that share is stopped too."""
    for background in ("last_sample", "white", "black"):
        model = build(SpinnerfInpaintModelConfig(perceptual_loss="ssim", background_color=background)).train()
        rays = bundle(8)
        rays.metadata[TRAINS_GEOMETRY] = torch.zeros(8, 1, dtype=torch.bool)
        outputs = model(rays)
        outputs["weights_list"][-1].retain_grad()
        outputs["rgb"].sum().backward()
        assert is_zero(outputs["weights_list"][-1].grad), background


def test_disparity_loss_trains_geometry():
    model, outputs = inpaint_step("disparity_loss")
    gradient = outputs["weights_list"][-1].grad
    start = LAYOUT.uniform + LAYOUT.patch_rays
    assert not is_zero(gradient[start : start + LAYOUT.depth])
    assert is_zero(gradient[:start]) and is_zero(gradient[start + LAYOUT.depth :])
    assert is_zero(outputs["rgb"].grad)


def test_pixel_loss_sees_the_uniform_rays_alone():
    _, outputs = inpaint_step("rgb_loss")
    assert not is_zero(outputs["rgb"].grad[: LAYOUT.uniform])
    assert is_zero(outputs["rgb"].grad[LAYOUT.uniform :])


def test_the_perceptual_network_is_no_part_of_the_checkpoint():
    model, _ = inpaint_step("perceptual_loss")
    assert model.perceptual_name == "ssim"
    assert not [name for name in model.state_dict() if "perceptual" in name or "lpips" in name]


def test_a_model_that_goes_on_from_a_trained_field_samples_by_its_proposals_at_once():
    from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation

    annealed, updates = {}, {}
    for warm in (True, False):
        model = build(SpinnerfInpaintModelConfig())
        if warm:
            model.skip_warm_up()
        attributes = TrainingCallbackAttributes(optimizers=None, grad_scaler=None, pipeline=None, trainer=None)
        for callback in model.get_training_callbacks(attributes):
            callback.run_callback_at_location(1, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        annealed[warm] = model.proposal_sampler._anneal
        updates[warm] = model.proposal_sampler.update_sched(1)
    assert annealed[True] == 1 and annealed[False] < 0.1
    assert updates[True] == model.config.proposal_update_every and updates[False] < 2
