"""Photos without the object, named for the whole way: segmentation does not see them, the field without the object does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.baselines import load_pipeline
from spinnerf_ns.files import load_depth, load_object_mask, read_image, write_png
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.runs import train
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from tests.nerf.conftest import no_network
from tests.pipelines.conftest import small_config

GAIN = 1.2


@pytest.fixture(scope="module")
def seg_run(scene, tmp_path_factory) -> Path:
    """A short spinnerf-seg run, not exported; its config.yml."""
    settings = {"pipeline.export_on_completion": False, "pipeline.model.objectness_every": 1, "pipeline.datamanager.stereo": False}
    config = small_config("spinnerf-seg-lite", max_num_iterations=20, **settings)
    with no_network():
        return train(config, scene.root, tmp_path_factory.mktemp("runs"), "test").config_path


@pytest.fixture(scope="module")
def inpaint_manager(exported):
    """The data manager of the last field."""
    settings = {"pipeline.datamanager.data": exported.removed, "pipeline.model.perceptual_loss": "ssim"}
    return small_config("spinnerf-inpaint-lite", **settings).pipeline.datamanager.setup(device="cpu")


@pytest.fixture(scope="module")
def clean(scene) -> str:
    """The first test photo, brighter; no run knows of it yet."""
    path = scene.root / scene.object_free[0]
    write_png(path, np.clip(np.round(read_image(path) * GAIN), 0, 255).astype(np.uint8))
    return Path(scene.object_free[0]).stem


@pytest.fixture(scope="module")
def exported(scene, clean, seg_run) -> Workspace:
    """The run's export with the photo as a source."""
    from spinnerf_ns.pipelines import export_run

    export_run(seg_run, ExportConfig(inpainter="opencv", clean_photos=(f"images/{clean}.png",)))
    return Workspace.open(scene.root)


def test_the_segmentation_field_does_not_see_them_and_the_field_of_what_stays_does(scene, clean, seg_run, exported, monkeypatch):
    from spinnerf_ns.removal import from_field

    manager = load_pipeline(seg_run).datamanager
    assert clean not in {path.stem for path in manager.train_dataset.image_filenames}
    drawn, model = [], load_pipeline(seg_run).model

    def fit(model, manager, outside, steps):
        pool = manager.train_pool
        drawn.append((len(pool), len(outside), outside[pool.starts[-2] :].all(), pool.colors[pool.starts[-2] :]))
        indices = torch.tensor([[len(pool) - 1, 24, 32]])
        drawn.append(manager.train_ray_generator(indices).origins)
        raise KeyboardInterrupt

    monkeypatch.setattr(from_field, "fit_background", fit)
    names = ("train_pool", "labels", "stereo_disparity", "train_ray_generator")
    before = [getattr(manager, name) for name in names]
    with pytest.raises(KeyboardInterrupt):
        from_field.fit_what_stays(model, manager, 5, ExportConfig(), lambda view: np.zeros((48, 64), bool), Path("field.pt"))
    photos, pixels, all_of_it, colours = drawn[0]
    assert photos == len(scene.train_photos) + 1 and pixels == photos * 48 * 64 and all_of_it
    assert np.array_equal(colours.view(48, 64, 3), read_image(exported.root / "clean" / f"{clean}.png"))
    capture = load_capture(scene.root)
    assert torch.allclose(drawn[1][0].cpu(), capture.cameras([capture.view(clean)]).camera_to_worlds[0, :, 3], atol=1e-5)
    assert all(getattr(manager, name) is value for name, value in zip(names, before, strict=True))


def test_the_export_takes_from_them_and_the_last_field_trains_on_them(scene, clean, exported, inpaint_manager):
    removed = exported.removed
    assert (load_depth(removed / "depths" / f"{clean}.npy") > 0).mean() > 0.5
    assert not load_object_mask(removed / "object_masks" / f"{clean}.png").any()
    (record,) = exported.records("clean").values()
    assert np.allclose(record["gain"], 1 / GAIN, atol=0.05)
    manager = inpaint_manager
    trained = [path.stem for path in manager.train_dataset.image_filenames]
    assert set(trained) == {*(Path(photo).stem for photo in scene.train_photos), clean}
    place = trained.index(clean)
    start, end = manager.train_pool.starts[place : place + 2].tolist()
    assert manager.train_pool.usable[start:end].all()
    sparse = manager.sparse_pixels
    assert not ((sparse >= start) & (sparse < end)).any(), "points of the object are among them"
    assert not (manager.stereo_disparity is not None and manager.stereo_disparity[start:end].any())


def test_what_is_refused_names_nobody_else(scene, clean, seg_run, exported):
    from spinnerf_ns.pipelines import export_run

    with pytest.raises(SpinnerfError, match="--overwrite"):
        export_run(seg_run, ExportConfig(inpainter="opencv", clean_photos=("none",)))
    assert exported.clean_photos == (clean,)
