"""A small made-up scene, and short runs of both stages on it; each file has its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from spinnerf_ns.evaluation.truth.twin import TwinConfig, TwinScene, write_twin
from spinnerf_ns.files import load_object_mask, save_object_mask
from spinnerf_ns.scene.workspace import Workspace
from tests.nerf.conftest import SMALL, no_network

STEPS = 80


def small_config(method: str, **settings):
    """A registered method with a tiny grid and few steps."""
    from spinnerf_ns.runs import apply, method_config

    config = method_config(method)
    config.max_num_iterations = STEPS
    for name, value in SMALL.items():
        setattr(config.pipeline.model, name, value)
    config.pipeline.datamanager.train_num_rays_per_batch = 128
    return apply(config, settings)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> TwinScene:
    """A twin of eight small photos with exact masks as the tracked ones."""
    root = tmp_path_factory.mktemp("twin") / "scene"
    twin = write_twin(root, TwinConfig(width=64, height=48, num_train=6, num_test=2, supersampling=1))
    workspace = Workspace.open(root)
    workspace.set_object_free([Path(photo).stem for photo in twin.object_free])
    for photo in twin.train_photos:
        mask = load_object_mask(twin.truth(photo, "object_masks"))
        save_object_mask(workspace.mask_path("masks_2d", Path(photo).stem), mask)
    return twin


@pytest.fixture(scope="module")
def seg_run(scene, tmp_path_factory) -> Path:
    """A short spinnerf-seg run on it, exported; its config.yml."""
    from spinnerf_ns.runs import train

    # So few steps have none to spare: objectness learns in each.
    settings = {"pipeline.mask_round_steps": (STEPS // 2,), "pipeline.model.objectness_every": 1}
    config = small_config("spinnerf-seg-lite", **settings)
    with no_network():
        return train(config, scene.root, tmp_path_factory.mktemp("runs"), "test").config_path


@pytest.fixture(scope="module")
def inpaint_run(scene, seg_run) -> Path:
    """A short spinnerf-inpaint run on the export; its config.yml. --data is the scene, not the export."""
    from spinnerf_ns.runs import train

    config = small_config("spinnerf-inpaint-lite", **{"pipeline.datamanager.patch_start_step": 2})
    config.pipeline.model.perceptual_loss = "ssim"
    with no_network():
        return train(config, scene.root, seg_run.parents[3], "test").config_path
