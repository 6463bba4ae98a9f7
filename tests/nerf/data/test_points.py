"""A capture without sparse points trains with its own: their pixels, their depth, and where the scene lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spinnerf_ns.nerf.data.datamanager import SpinnerfDataManagerConfig
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.stereo import maps
from spinnerf_ns.stereo.maps import stereo_of
from tests.stereo.test_sparse import capture  # noqa: F401


def manager_of(capture, tmp_path, **settings):  # noqa: F811
    config = SpinnerfDataManagerConfig(data=capture.data, train_num_rays_per_batch=8, **settings)
    config.workspace = tmp_path / "work"
    config.dataparser.data = capture.data
    return config.setup(device="cpu", test_mode="val", world_size=1, local_rank=0)


def source_points(capture, bundle, disparity):  # noqa: F811
    """(R, 3) where rays with (R, 1) disparities of the training frame end, in the source frame."""
    view = capture.views[0]
    ends = (bundle.origins + bundle.directions * bundle.metadata["directions_norm"] / disparity).double().numpy()
    pose = capture.cameras([view]).camera_to_worlds[0].double().numpy()
    rotation = view.c2w[:, :3] @ pose[:, :3].T
    return (ends - pose[:, 3]) @ rotation.T / capture.world_scale + view.c2w[:, 3]


def off_surface(points):
    """(R,) distance from the floor, z = 0, or the wall, y = 2."""
    return np.minimum(np.abs(points[:, 2]), np.abs(points[:, 1] - 2))


def test_own_points_place_the_scene_and_give_rays_their_depth(capture, tmp_path):  # noqa: F811
    manager = manager_of(capture, tmp_path, sparse_num_rays=16, stereo=False)
    center, radius, near = manager.train_dataset.metadata["scene_bounds"]
    assert radius > 0 and near > 0 and np.isfinite(center).all()
    assert len(manager.sparse_pixels) > 100 * len(manager.train_dataset)
    bundle, batch = manager.next_train(0)
    assert manager.layout.sparse == 16 and len(bundle) == 24 and batch["sparse_disparity"].shape == (16, 1)
    points = source_points(capture, bundle[8:], batch["sparse_disparity"])
    assert np.median(off_surface(points)) < 0.02
    assert "stereo_disparity" not in batch
    assert (Workspace.open(capture.data, tmp_path / "work").points / "points.npz").is_file()


def test_plain_rays_know_their_measured_depth(capture, tmp_path, monkeypatch):  # noqa: F811
    assert stereo_of(capture, Workspace.open(capture.data, tmp_path / "work"))
    monkeypatch.setattr(maps._Run, "make", lambda *_: pytest.fail("it is there already, whoever read the capture"))
    manager = manager_of(capture, tmp_path, sparse_num_rays=0)
    manager.layout = replace(manager.layout, uniform=500)
    bundle, batch = manager.next_train(0)
    known = batch["stereo_disparity"][:, 0] > 0
    assert batch["stereo_disparity"].shape == (500, 1) and known.float().mean() > 0.4
    off = off_surface(source_points(capture, bundle[known], batch["stereo_disparity"][known]))
    assert np.median(off) < 0.02 and (off < 0.1).mean() > 0.95
