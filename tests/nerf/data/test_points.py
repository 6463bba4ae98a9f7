"""A capture without sparse points trains with its own: their pixels, their depth, and where the scene lies."""

from __future__ import annotations

import numpy as np

from spinnerf_ns.nerf.data.datamanager import SpinnerfDataManagerConfig
from spinnerf_ns.scene.workspace import Workspace
from tests.stereo.test_sparse import capture  # noqa: F401


def test_own_points_place_the_scene_and_give_rays_their_depth(capture, tmp_path):  # noqa: F811
    config = SpinnerfDataManagerConfig(data=capture.data, train_num_rays_per_batch=8, sparse_num_rays=16)
    config.workspace = tmp_path / "work"
    config.dataparser.data = capture.data
    manager = config.setup(device="cpu", test_mode="val", world_size=1, local_rank=0)
    center, radius, near = manager.train_dataset.metadata["scene_bounds"]
    assert radius > 0 and near > 0 and np.isfinite(center).all()
    assert len(manager.sparse_pixels) > 100 * len(manager.train_dataset)
    bundle, batch = manager.next_train(0)
    assert manager.layout.sparse == 16 and len(bundle) == 24 and batch["sparse_disparity"].shape == (16, 1)
    # The rays through points end on the floor or the wall, in the source frame at z = 0 and y = 2.
    sparse, view = bundle[8:], capture.views[0]
    directions = sparse.directions * sparse.metadata["directions_norm"]
    ends = (sparse.origins + directions / batch["sparse_disparity"]).double().numpy()
    pose = capture.cameras([view]).camera_to_worlds[0].double().numpy()
    rotation = view.c2w[:, :3] @ pose[:, :3].T
    source = (ends - pose[:, 3]) @ rotation.T / capture.world_scale + view.c2w[:, 3]
    assert np.median(np.minimum(np.abs(source[:, 2]), np.abs(source[:, 1] - 2))) < 0.02
    assert (Workspace.open(capture.data, tmp_path / "work").points / "points.npz").is_file()
