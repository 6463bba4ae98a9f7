"""A small removal with exact masks: a twin, its export, and a field that has seen a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.evaluation.truth.twin import TwinConfig, TwinScene, write_twin
from spinnerf_ns.files import load_object_mask, save_depth, save_object_mask
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.export import export_removed
from spinnerf_ns.removal.plan import layers_path
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from tests.nerf.conftest import SMALL, no_network

EXPORT = ExportConfig(inpainter="opencv")


@pytest.fixture(scope="package")
def twin(tmp_path_factory) -> TwinScene:
    """A twin of six small photos, two of them object-free."""
    root = tmp_path_factory.mktemp("twin") / "tiny"
    scene = write_twin(root, TwinConfig(width=64, height=48, num_train=4, num_test=2, supersampling=1))
    Workspace.open(root).set_object_free([Path(photo).stem for photo in scene.object_free])
    return scene


@pytest.fixture(scope="package")
def removed(twin) -> Path:
    """Its export, from true masks and depth."""
    return export_truth(twin, Workspace.open(twin.root), EXPORT)


@pytest.fixture(scope="package")
def inpaint_run(removed, tmp_path_factory) -> Path:
    """config.yml of a spinnerf-inpaint run of two steps on it."""
    from spinnerf_ns.runs import train

    return train(tiny("spinnerf-inpaint-lite"), removed, tmp_path_factory.mktemp("runs"), "tiny").config_path


def export_truth(twin: TwinScene, workspace: Workspace, config: ExportConfig) -> Path:
    """Writes true masks and depth where the segmentation field's would be, and exports them."""
    for photo in twin.train_photos:
        key = Path(photo).stem
        save_object_mask(workspace.mask_path("masks_3d", key), load_object_mask(twin.truth(photo, "object_masks")))
        save_depth(layers_path(workspace, key), np.load(twin.truth(photo, "depths_with_object")))
    return export_removed(load_capture(twin.root), workspace, config)


def tiny(method: str):
    """A method's configuration with a tiny grid and two steps."""
    from spinnerf_ns.runs import method_config

    config = method_config(method)
    config.max_num_iterations = 2
    for name, value in SMALL.items():
        setattr(config.pipeline.model, name, value)
    config.pipeline.datamanager.train_num_rays_per_batch = 64
    if hasattr(config.pipeline.model, "perceptual_loss"):
        config.pipeline.model.perceptual_loss = "ssim"
    return config


__all__ = ["EXPORT", "export_truth", "no_network", "tiny"]
