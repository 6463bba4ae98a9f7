"""Losses against hand-computed values, and their gradients."""

from __future__ import annotations

import pytest
import torch

from spinnerf_ns.nerf.losses import (
    UNKNOWN,
    as_patches,
    dense_depth_loss,
    disparity_loss,
    expected_disparity,
    objectness_loss,
    stop_geometry,
)


def test_objectness_loss_is_cross_entropy_over_the_labelled_rays():
    logits = torch.tensor([[2.0], [-1.0], [5.0]])
    labels = torch.tensor([1, 0, UNKNOWN], dtype=torch.uint8)
    probability = torch.sigmoid(logits[:2, 0])
    by_hand = -(torch.log(probability[0]) + torch.log(1 - probability[1])) / 2
    assert objectness_loss(logits, labels) == pytest.approx(float(by_hand), abs=1e-6)


def test_views_without_a_mask_train_colour_only():
    logits = torch.randn(4, 1, requires_grad=True)
    loss = objectness_loss(logits, torch.full((4,), UNKNOWN, dtype=torch.uint8))
    loss.backward()
    assert float(loss) == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_expected_disparity_of_a_surface_is_one_over_planar_depth():
    t = torch.tensor([[[1.0], [2.0], [4.0]]])
    weights = torch.tensor([[[0.0], [1.0], [0.0]]])
    norm = torch.tensor([[1.25]])  # z = t / norm = 1.6
    assert float(expected_disparity(weights, t, norm)) == pytest.approx(1 / 1.6)
    halves = torch.tensor([[[0.5], [0.0], [0.5]]])
    assert float(expected_disparity(halves, t, torch.ones(1, 1))) == pytest.approx(0.5 * 1 + 0.5 * 0.25)


def test_disparity_loss_leaves_unknown_targets_out_and_knows_no_unit():
    disparity = torch.tensor([[0.5], [0.9]], requires_grad=True)
    target = torch.tensor([[0.4], [0.0]])
    loss = disparity_loss(disparity, target, scale=0.4)
    loss.backward()
    assert float(loss) == pytest.approx((0.1 / 0.4) ** 2, rel=1e-5)
    assert float(disparity.grad[1]) == 0.0
    in_millimetres = disparity_loss(disparity.detach() / 1000, target / 1000, scale=0.4 / 1000)
    assert float(in_millimetres) == pytest.approx(float(loss), rel=1e-4)


def test_disparity_within_the_tolerance_costs_nothing():
    target = torch.tensor([[1.0], [1.0]])
    disparity = torch.tensor([[1.04], [1.2]], requires_grad=True)
    loss = disparity_loss(disparity, target, scale=1.0, tolerance=0.05)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.15**2 / 2, rel=1e-4)
    assert float(disparity.grad[0]) == 0.0 and float(disparity.grad[1]) > 0


def test_a_measured_depth_draws_a_rays_weight_to_itself_and_a_wrong_one_costs_no_more_than_one():
    t = torch.tensor([[[1.0], [2.0], [4.0]]]).expand(3, 3, 1)
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.2, 0.3, 0.4], [0.5, 0.5, 0.0]])[..., None].requires_grad_()
    norm, target = torch.full((3, 1), 2.0), torch.tensor([[1.0], [1.0], [0.0]])  # z = 1 at the middle sample; the last is unknown
    loss = dense_depth_loss(weights, t, norm, target, tolerance=0.1)
    cost = [1 / 1.01, 0.0, 0.25 / 0.26]  # relative errors of disparity 1 and 0.5
    assert float(loss.detach()) == pytest.approx((0.2 * cost[0] + 0.4 * cost[2] + 0.1) / 3, rel=1e-5)
    loss.backward()
    assert weights.grad[1, 1] < weights.grad[1, 0] < weights.grad[1, 2] + 1 and not weights.grad[2].any()
    assert torch.isfinite(weights.grad).all()
    far = dense_depth_loss(weights.detach(), t, norm, torch.tensor([[100.0], [1e-3], [0.0]]), tolerance=0.1)
    assert float(far) < 2 / 3 + 1e-6


def test_as_patches_keeps_rows_and_columns():
    values = torch.arange(2 * 3 * 4 * 3.0).view(-1, 3)
    patches = as_patches(values, (2, 3, 4))
    assert patches.shape == (2, 3, 3, 4)
    assert torch.equal(patches[1, :, 2, 1], values[1 * 12 + 2 * 4 + 1])


def test_stop_geometry_passes_gradients_of_chosen_rays_alone():
    weights = torch.rand(3, 5, 1, requires_grad=True)
    chosen = torch.tensor([[True], [False], [True]])
    stopped = stop_geometry(weights, chosen)
    assert torch.equal(stopped, weights)
    stopped.square().sum().backward()
    assert torch.equal(weights.grad[1], torch.zeros(5, 1))
    assert (weights.grad[[0, 2]] != 0).all()
