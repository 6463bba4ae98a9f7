"""Pixels that the capture says not to use are in no ray that is trained on, in no loss and in no figure."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from spinnerf_ns.files import load_object_mask, save_object_mask
from spinnerf_ns.method_configs.spinnerf_inpaint_lite import spinnerf_inpaint_lite
from spinnerf_ns.method_configs.spinnerf_seg_lite import spinnerf_seg_lite
from spinnerf_ns.nerf.base_model import SpinnerfModel
from spinnerf_ns.nerf.data.datamanager import SpinnerfDataManagerConfig
from spinnerf_ns.nerf.data.pixel_samplers import RayLayout
from spinnerf_ns.nerf.inpaint_model import SpinnerfInpaintModelConfig
from spinnerf_ns.nerf.metrics import evaluate_pair, evaluate_partly_true
from tests.nerf.conftest import build
from tests.removal.test_valid import PINK, export, twin  # noqa: F401  a fixture
from tests.scene.captures import SIZE, make_capture


def is_pink(batch: dict, rays: slice) -> torch.Tensor:
    return ((batch["image"][rays] * 255 - torch.tensor(PINK)).abs() < 1).all(dim=-1)


def test_no_ray_of_any_family_is_drawn_there(twin, tmp_path) -> None:  # noqa: F811
    capture, workspace = export(twin, tmp_path, fill_from_views=False)  # all that was removed is unseen: most patches
    for view in capture.views:
        save_object_mask(workspace.mask_path("masks_2d", view.photo), load_object_mask(twin.truth(view.photo, "object_masks")))
    segmentation, inpainting = (deepcopy(c.config.pipeline.datamanager) for c in (spinnerf_seg_lite, spinnerf_inpaint_lite))
    segmentation.data, segmentation.workspace, inpainting.data = twin.root, workspace.root, workspace.removed
    for config in (segmentation, inpainting):
        manager = config.setup(device="cpu")
        assert 0.5 < manager.train_pool.usable.float().mean() < 0.95
        pink = 0
        for step in (0, 1000, 1001):
            _, batch = manager.next_train(step)
            layout = batch["layout"]
            for family in ("uniform", "depth", "reference", "sparse"):
                assert not is_pink(batch, layout.rows(family)).any(), family
            if layout.patch_rays:
                invalid = ~batch["patch_valid"]
                assert torch.equal(invalid, is_pink(batch, layout.rows("patches")))
                pink += int(invalid.sum())
        assert pink > 0 or config is segmentation
        _, data = manager.next_eval_image(0)
        assert np.array_equal(data["mask"][..., 0].cpu().numpy(), ~is_pink(data, ...).cpu().numpy())


def test_a_patch_teaches_nothing_there(monkeypatch) -> None:
    monkeypatch.setattr(SpinnerfModel, "get_loss_dict", lambda *_: {})
    model = build(SpinnerfInpaintModelConfig()).train()
    monkeypatch.setattr(model, "perceptual", lambda rendered, target: (rendered - target).abs().mean((1, 2, 3)))
    rendered = torch.rand(257, 3, requires_grad=True)
    valid = torch.ones(256, dtype=torch.bool)
    valid[:100] = False
    batch = {"image": torch.rand(257, 3), "layout": RayLayout(uniform=1, patches=(1, 16, 16)), "patch_valid": valid}
    model.get_loss_dict({"rgb": rendered}, batch)["perceptual_loss"].backward()
    assert (rendered.grad[1:101] == 0).all() and (rendered.grad[101:] != 0).all()


def test_figures_leave_it_out() -> None:
    rng = np.random.default_rng(0)
    truth, render = rng.random((40, 50, 3)), rng.random((40, 50, 3))
    valid = np.ones((40, 50), bool)
    valid[:, 30:] = False
    mask = np.zeros((40, 50), bool)
    mask[10:20, 25:35] = True
    spoilt = truth.copy()
    spoilt[:, 30:] = 1 - render[:, 30:]
    expected = evaluate_pair(render, truth, mask, valid_mask=valid)
    assert evaluate_pair(render, spoilt, mask, valid_mask=valid) == expected
    for name, pixels in (("full", valid), ("mask", mask & valid), ("outside", ~mask & valid)):
        assert np.isclose(expected[f"mse_{name}"], ((render - truth) ** 2)[pixels].mean())
        assert expected[f"pixels_{name}"] == pixels.sum()
    partly = evaluate_partly_true(render, spoilt, mask, ~mask, valid_mask=valid)
    assert np.isclose(partly["mse_outside"], expected["mse_outside"]) and "mse_mask" not in partly
    assert evaluate_pair(render, truth, mask, valid_mask=np.zeros((40, 50), bool)) == {}


@pytest.mark.parametrize("off", [(-1, 0), (0, 1), (1, -1)])
def test_a_camera_one_pixel_off_gives_a_step_its_rays(tmp_path, off) -> None:
    """Mip-NeRF 360's images_4: photos rounded up, the camera down."""
    root = make_capture(tmp_path / "scene", 6, w=SIZE[0] + off[0], h=SIZE[1] + off[1])
    manager = SpinnerfDataManagerConfig(data=root, sparse_num_rays=0, train_num_rays_per_batch=4000).setup(device="cpu")
    bundle, batch = manager.next_train(0)
    assert bundle.origins.shape == batch["image"].shape == (4000, 3)
    rows, columns = batch["indices"][:, 1], batch["indices"][:, 2]
    assert int(rows.max()) == SIZE[1] - 1 and int(columns.max()) == SIZE[0] - 1
