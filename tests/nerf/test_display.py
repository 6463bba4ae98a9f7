"""What a viewer opens on, and the outputs that are rendered only for looking at."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from spinnerf_ns.nerf.display import OnDemand, Provenance
from spinnerf_ns.nerf.inpaint_model import SpinnerfInpaintModelConfig
from spinnerf_ns.nerf.rendering import render_pixels
from spinnerf_ns.nerf.seg_model import SpinnerfSegModelConfig
from tests.nerf.conftest import build, bundle
from tests.scene.test_capture import look_at, synthetic_view

SEG, INPAINT = SpinnerfSegModelConfig, SpinnerfInpaintModelConfig
EXTRA = {SEG: {"rgb_removed", "rgb_object", "provenance"}, INPAINT: {"provenance"}}


@pytest.fixture
def camera() -> Cameras:
    pose = torch.eye(4)[:3]
    pose[2, 3] = 1.0
    return Cameras(pose[None], fx=20.0, fy=20.0, cx=6.0, cy=4.0, width=12, height=8)


def everything_invented():
    return SimpleNamespace(invented=lambda points: np.ones(len(points), bool))


def make(config, **settings):
    model = build(config(), average_init_density=30.0, **settings).eval()
    model.find_provenance = everything_invented
    return model


@pytest.mark.parametrize("config", [SEG, INPAINT])
def test_viewers_open_on_rgb(config, camera):
    """They show the first output that there is."""
    model = make(config)
    assert next(iter(model(bundle()))) == "rgb"
    assert next(iter(model.get_outputs_for_camera(camera))) == "rgb"


@pytest.mark.parametrize("config", [SEG, INPAINT])
def test_outputs_for_looking_at_have_a_row_per_ray_and_cost_nothing_unasked(config, camera):
    model = make(config)
    assert not EXTRA[config] & set(model(bundle()))
    for name in EXTRA[config]:
        with model.rendering_only((name,)), torch.no_grad():
            values = model(bundle(20))[name]
        assert values.shape == (20, 3 if name.startswith("rgb") else 1) and 0 <= values.min() and values.max() <= 1
        assert render_pixels(model, camera, (name,))[name].shape[:2] == (8, 12)
    assert set(model.display_outputs()) == EXTRA[config]


def test_the_object_and_the_rest_are_told_apart_by_the_threshold(camera):
    model = make(SEG)
    outputs = model.get_outputs_for_camera(camera)
    low, high = (float(outputs["objectness"].quantile(q)) for q in (0.0, 1.0))
    model.viewer_threshold.value = low - 0.01  # everything is the object
    outputs = model.get_outputs_for_camera(camera)
    torch.testing.assert_close(outputs["rgb_object"], outputs["rgb"])
    assert float(outputs["rgb_removed"].max()) == 0
    model.viewer_threshold.value = min(high + 0.2, 0.99)  # nothing is
    outputs = model.get_outputs_for_camera(camera)
    torch.testing.assert_close(outputs["rgb_removed"], outputs["rgb"])
    assert float(outputs["rgb_object"].max()) == 0
    model.viewer_object.value, model.viewer_rest.value = True, False
    assert float(model.get_outputs_for_camera(camera)["accumulation"].max()) == 0
    assert float(model(bundle())["accumulation"].max()) > 0  # figures and exports are of everything


def test_ns_render_can_name_them(camera):
    outputs = make(SEG).get_outputs_for_camera(camera)
    assert EXTRA[SEG] | {"rgb", "objectness", "depth"} <= set(outputs)
    assert outputs["provenance"].shape == (8, 12, 1) and outputs["rgb_object"].shape == (8, 12, 3)
    assert outputs["provenance"].max() == 1


def test_a_viewer_renders_what_is_chosen_in_it(camera, monkeypatch):
    model, rendered = make(SEG), []
    display = type(model).display
    monkeypatch.setattr(type(model), "display", lambda self, name, rays: rendered.append(name) or display(self, name, rays))
    panel = SimpleNamespace(output_render="rgb_removed", split_output_render="not set")
    model.viewer_control.viewer = SimpleNamespace(control_panel=panel)
    outputs = model.get_outputs_for_camera(camera)
    assert rendered == ["rgb_removed"]
    assert outputs["rgb_object"].shape == (8, 12, 3) and float(outputs["rgb_object"].abs().max()) == 0
    assert all(isinstance(value, torch.Tensor) for value in outputs.values()) and rendered == ["rgb_removed"]


def test_without_an_export_nothing_is_said_of_provenance(camera):
    model = make(INPAINT)
    model.find_provenance = lambda: None
    assert "provenance" not in model.get_outputs_for_camera(camera)


def test_later_outputs_are_made_once():
    made = []
    outputs = OnDemand(rgb=torch.ones(1))
    outputs.later("costly", lambda: made.append(1) or torch.zeros(1))
    assert list(outputs) == ["rgb", "costly"] and not made
    assert float(outputs["costly"]) == float(outputs.get("costly")) == 0 and made == [1]
    assert outputs.get("absent") is None and len(dict(outputs.items())) == 2


def test_invented_is_what_no_photo_shows():
    """Two cameras look at a wall from two places; a point counts as invented where both have it in their masks. A third one has
    something else before it."""
    views = [synthetic_view(photo=str(x), c2w=look_at((x, 0, 0), (0, 5, 0))[:3]) for x in (-1.0, 1.0, 0.5)]
    shape = (views[0].height, views[0].width)
    points = np.array([[0.0, 5.0, 0.0], [0.3, 5.0, 0.0], [0.0, -5.0, 0.0]])
    full, nothing = np.ones(shape, bool), np.zeros(shape, bool)
    world_to_training = np.diag([2.0, 2.0, 2.0, 1.0])
    depths = [np.full(shape, z) for z in (5.1, 5.1, 2.0)]
    for masks, expected in (((full, full, nothing), [True, True, False]), ((full, nothing, nothing), [False, False, False])):
        assert Provenance(views, masks, depths, world_to_training).invented(2 * points).tolist() == expected
