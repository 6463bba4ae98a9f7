"""The field of what stays: what it is kept as, and that nothing is rendered inside the hull."""

from __future__ import annotations

import numpy as np
import torch

from spinnerf_ns.nerf.background_field import BackgroundField, BackgroundModel, background_steps
from spinnerf_ns.nerf.base_model import SpinnerfModelConfig
from spinnerf_ns.nerf.inpaint_model import SpinnerfInpaintModelConfig
from spinnerf_ns.nerf.seg_model import SpinnerfSegModelConfig
from spinnerf_ns.scene.hull import VisualHull
from tests.nerf.conftest import build

FRAME = np.array([[0.0, -0.5, 0.0, 0.3], [0.5, 0.0, 0.0, -0.2], [0.0, 0.0, 0.5, 0.1], [0, 0, 0, 1]])
"""World to training: a quarter turn, half the size, a shift."""


def background_model(**settings):
    return build(SpinnerfModelConfig(_target=BackgroundModel), **settings)


def test_hull_is_looked_up_in_the_world_frame():
    generator = np.random.default_rng(0)
    hull = VisualHull(np.array([-0.5, -0.25, 0.0]), 0.25, generator.random((4, 5, 6)) < 0.5)
    model = background_model()
    model.empty_hull(hull, FRAME)
    world = generator.uniform([-1, -1, -0.5], [1, 1.5, 2], (400, 3))
    cells = np.floor((world - hull.origin) / hull.cell).astype(int)
    known = ((cells >= 0) & (cells < hull.inside.shape)).all(axis=1)
    inside = np.zeros(len(world), bool)
    inside[known] = hull.inside[tuple(cells[known].T)]
    assert 20 < inside.sum() < 380
    training = torch.from_numpy(world @ FRAME[:3, :3].T + FRAME[:3, 3]).float()
    assert np.array_equal(model.outside_hull(training)[:, 0].numpy() == 0, inside)


def test_nothing_is_rendered_inside_the_hull(rays):
    model = background_model().eval()
    with torch.no_grad():
        before = model(rays)["accumulation"]
        model.empty_hull(VisualHull(np.full(3, -1e4), 2e4, np.ones((1, 1, 1), bool)), np.eye(4))
        after = model(rays)["accumulation"]
    assert before.max() > 0
    assert after.abs().max() == 0


def test_survives_the_disk_and_starts_the_inpainting_model(tmp_path):
    kept = BackgroundField.of(background_model(seed=3), FRAME)
    kept.save(tmp_path / "field.pt")
    model = build(SpinnerfInpaintModelConfig(), seed=4)
    assert BackgroundField.load(tmp_path / "field.pt").start(model, FRAME) is None
    started = model.state_dict()
    assert kept.state and all(torch.equal(started[name], value) for name, value in kept.state.items())
    assert not [name for name in kept.state if name.split(".")[0] not in ("field", "proposal_networks")]


def test_another_frame_and_another_grid_are_told_and_change_nothing():
    kept = BackgroundField.of(background_model(seed=3), FRAME)
    model = build(SpinnerfInpaintModelConfig(), seed=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert "frame" in kept.start(model, FRAME @ np.diag([2, 2, 2, 1]))
    assert "frame" in kept.start(model, np.eye(4))
    larger = build(SpinnerfInpaintModelConfig(), seed=4, num_levels=5)
    assert "size" in kept.start(larger, FRAME)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_segmentation_model_s_settings_are_those_of_the_field():
    shared = {f for f in SpinnerfModelConfig.__dataclass_fields__ if f != "_target"}
    assert shared < set(SpinnerfSegModelConfig.__dataclass_fields__)


def test_steps_follow_the_segmentation_unless_configured():
    assert background_steps(None, 800) == 800
    assert background_steps(None, 10**6) == 3000
    assert background_steps(0, 800) == 0
    assert background_steps(50, 800) == 50
