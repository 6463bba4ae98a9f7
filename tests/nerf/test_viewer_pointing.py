"""A click in nerfstudio's viewer: no browser, the elements' callbacks are called."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerClick, ViewerElement

from spinnerf_ns.nerf.seg_model import SpinnerfSegModelConfig
from spinnerf_ns.nerf.viewer_pointing import BESIDE, NEAREST, NOTHING, ON
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.segmentation.prompts_file import load_prompts
from tests.nerf.conftest import build
from tests.scene.test_capture import look_at, synthetic_view

SCALE = 0.5  # of the training frame, by the world's


def sphere(rays) -> dict:
    """Where rays end on a ball of radius 0.5 (1 in the world) around the middle."""
    origins, directions = rays.origins, rays.directions
    half = (origins * directions).sum(-1)
    inner = half**2 - (origins**2).sum(-1) + 0.25
    depth = -half - inner.clamp(min=0).sqrt()
    return {"expected_depth": depth[:, None], "accumulation": ((inner > 0) & (depth > 0)).float()[:, None]}


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model whose field is a ball, with eight photos around it and one far away, and a viewer that is told what to do."""
    angles = np.arange(8) * np.pi / 4
    views = [
        synthetic_view(photo=str(i), c2w=look_at((4 * np.cos(a), 4 * np.sin(a), 0.5), (0, 0, 0))[:3]) for i, a in enumerate(angles)
    ]
    views.append(synthetic_view(photo="far", c2w=look_at((40, 0, 0), (0, 0, 0))[:3]))
    (tmp_path / "scene").mkdir()
    workspace = Workspace.open(tmp_path / "scene", tmp_path / "work")
    built = build(SpinnerfSegModelConfig())
    capture = SimpleNamespace(data=tmp_path / "scene", views=views, world_to_training=np.diag([SCALE, SCALE, SCALE, 1.0]))
    built.take_clicks(capture, workspace)
    monkeypatch.setattr(type(built), "forward", lambda self, rays: sphere(rays))
    registered, marks = [], []
    control = built.viewer_control
    monkeypatch.setattr(control, "register_pointer_cb", lambda kind, cb: registered.append(cb))
    monkeypatch.setattr(control, "unregister_pointer_cb", registered.clear)
    control.viewer = SimpleNamespace(train_lock=None)
    control.viser_server = SimpleNamespace(scene=SimpleNamespace(add_icosphere=lambda name, **how: marks.append(how)))
    return SimpleNamespace(
        model=built, workspace=workspace, views={view.photo: view for view in views}, registered=registered, marks=marks
    )


def choose(model, what: str) -> None:
    element = model.model.viewer_touch
    element.default_value = what  # what a viewer that is not there would show
    element.cb_hook(element)


def test_a_viewer_finds_the_elements(model) -> None:
    names = [element.name for _, element in parse_object(model.model, ViewerElement, "Custom Elements")]
    assert {"A click", "Object", "Pointed at", "Objectness threshold", "Show the object"} <= set(names)


def test_a_click_is_a_prompt_in_the_nearest_photos_that_show_the_place(model) -> None:
    choose(model, ON)
    (clicked,) = model.registered
    clicked(ViewerClick((1.5, 0.3, 0.1), (-1.0, -0.2, 0.0), (0.5, 0.5)))
    prompts = load_prompts(model.workspace.prompts_path)
    assert [one.view for one in prompts] == ["0", "1", "7"] and len(prompts) == NEAREST  # and not "far", nor those behind the ball
    place = np.array(model.marks[0]["position"]) / 10 / SCALE
    assert abs(np.linalg.norm(place) - 1) < 1e-3
    from spinnerf_ns.scene.cameras import project

    for one in prompts:
        xy, _ = project(model.views[one.view], place[None])
        np.testing.assert_allclose(one.points[0], xy[0], atol=0.01)
        assert one.labels == (1,) and one.object == "object"
    assert model.model.viewer_touch_said.value == "0, 1, 7"
    choose(model, BESIDE)
    (clicked,) = model.registered
    clicked(ViewerClick((1.5, 0.3, 0.1), (-1.0, -0.2, 0.0), (0.5, 0.5)))
    assert all(one.labels == (1, 0) for one in load_prompts(model.workspace.prompts_path))
    choose(model, NOTHING)
    assert not model.registered


def test_what_hits_nothing_is_said_and_nothing_is_written(model) -> None:
    choose(model, ON)
    model.registered[0](ViewerClick((1.5, 0.3, 0.1), (1.0, 0.2, 0.0), (0.5, 0.5)))
    assert "hits nothing" in model.model.viewer_touch_said.value and not model.workspace.prompts_path.exists() and not model.marks
    choose(model, BESIDE)  # nothing is known of the object yet
    model.registered[0](ViewerClick((1.5, 0.3, 0.1), (-1.0, -0.2, 0.0), (0.5, 0.5)))
    assert "background" in model.model.viewer_touch_said.value and not model.workspace.prompts_path.exists()


def test_a_real_field_is_asked_for_where_rays_end(tmp_path) -> None:
    model = build(SpinnerfSegModelConfig(), average_init_density=30.0)
    capture = SimpleNamespace(data=tmp_path, views=[], world_to_training=np.eye(4))
    from spinnerf_ns.nerf.viewer_pointing import ViewerPointing

    pointing = ViewerPointing(model, capture, Workspace.open(tmp_path, tmp_path / "work"), model.viewer_control)
    model.train()
    depth, accumulation = pointing._ends(np.zeros((2, 3)), np.eye(3)[:2])
    assert depth.shape == accumulation.shape == (2,) and (accumulation > 0.5).all() and (depth > 0).all() and model.training
    assert torch.is_grad_enabled()
