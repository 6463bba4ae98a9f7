"""From masks to the object-free capture and back into nerfstudio, on a small made-up scene."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask, read_image
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from tests.pipelines.conftest import STEPS


def test_export_writes_a_dataset_with_equal_poses_and_untouched_pixels(scene, seg_run):
    capture, workspace = load_capture(scene.root), Workspace.open(scene.root)
    removed = load_capture(workspace.removed)
    assert removed.photos == capture.photos
    for view in capture.views:
        twin = removed.view(view.photo)
        np.testing.assert_allclose(twin.c2w, view.c2w, atol=1e-5)
        np.testing.assert_allclose(removed.cameras([twin]).camera_to_worlds, capture.cameras([view]).camera_to_worlds, atol=1e-5)
        region = load_object_mask(workspace.removed / "object_masks" / f"{view.photo}.png")
        assert np.array_equal(twin.read_image()[~region], view.read_image()[~region])
        if view.photo in workspace.object_free:
            assert not region.any()
    names = json.loads((workspace.removed / "transforms.json").read_text())
    assert {Path(name).stem for name in names["train_filenames"]} == {Path(photo).stem for photo in scene.train_photos}


def test_exported_depth_reads_back_through_nerfstudio(scene, seg_run):
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from nerfstudio.data.datasets.depth_dataset import DepthDataset

    from spinnerf_ns.files import load_depth

    removed = Workspace.open(scene.root).removed
    outputs = NerfstudioDataParserConfig(data=removed, load_3D_points=False).setup().get_dataparser_outputs("train")
    dataset = DepthDataset(outputs)
    for index, path in enumerate(outputs.image_filenames):
        expected = load_depth(removed / "depths" / f"{path.stem}.npy") * outputs.dataparser_scale
        np.testing.assert_allclose(dataset[index]["depth_image"][..., 0].numpy(), expected, rtol=1e-4)


def test_export_fits_a_field_of_what_stays_and_leaves_the_data_manager_as_it_was(scene, seg_run):
    """The regions are not looked at; the same export gives the same field, bit by bit."""
    from spinnerf_ns.evaluation.baselines import load_pipeline
    from spinnerf_ns.nerf.background_field import BackgroundField, fit_background

    workspace = Workspace.open(scene.root)
    kept = BackgroundField.load(workspace.root / "background" / "field.pt")
    assert {path.stem for path in (workspace.root / "background" / "depths").iterdir()} == {
        Path(photo).stem for photo in scene.train_photos
    }
    pipeline = load_pipeline(seg_run)
    manager = pipeline.datamanager
    before = (manager.train_pool, manager.sparse_pixels, manager.layout)
    files = [workspace.removed / "object_masks" / path.name for path in manager.train_dataset.image_filenames]
    regions = torch.from_numpy(np.concatenate([load_object_mask(file).reshape(-1) for file in files]))
    drawn, plain = [], manager.rays
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manager, "rays", lambda pool, flat, *rest: drawn.append(flat) or plain(pool, flat, *rest))
        model = fit_background(pipeline.model, manager, ~regions, STEPS)
    assert not regions[torch.cat(drawn)].any()
    assert before == (manager.train_pool, manager.sparse_pixels, manager.layout)
    assert not model.training
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in kept.state.items())


def test_second_export_is_fresh_and_other_settings_want_overwrite(scene, seg_run):
    from spinnerf_ns.pipelines import export_run

    removed = Workspace.open(scene.root).removed
    before = (removed / "transforms.json").stat().st_mtime_ns
    export_run(seg_run, ExportConfig())
    assert (removed / "transforms.json").stat().st_mtime_ns == before
    with pytest.raises(SpinnerfError, match="--overwrite"):
        export_run(seg_run, ExportConfig(dilation=20.0))
    assert (removed / "transforms.json").stat().st_mtime_ns == before


SLOW_EXPORT = """
import sys, time
from pathlib import Path
from spinnerf_ns.removal.inpainters.opencv import OpenCVInpainter
plain = OpenCVInpainter.inpaint
def slow(self, *args, **kwargs):
    time.sleep(0.7)
    print("inpainted", flush=True)
    return plain(self, *args, **kwargs)
OpenCVInpainter.inpaint = slow
from spinnerf_ns.pipelines import export_run
from spinnerf_ns.removal.config import ExportConfig
settings = {"inpainter": "opencv", "fill_from_views": False, "by_surface": False, "carry": False}
export_run(Path(sys.argv[1]), ExportConfig(**settings, overwrite=True))
"""


def test_export_killed_midway_leaves_nothing_finished_and_resumes(scene, seg_run):
    """kill -9 while photos are being inpainted: the old export stands; the next run goes on where it was."""
    from spinnerf_ns.pipelines import export_run

    workspace = Workspace.open(scene.root)
    before = {path: path.read_bytes() for path in workspace.removed.rglob("*") if path.is_file()}
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_EXPORT, str(seg_run)], stdout=subprocess.PIPE, text=True, env=environment
    )
    deadline, lines = time.monotonic() + 120, 0
    assert process.stdout is not None
    for line in process.stdout:
        lines += line.strip() == "inpainted"
        if lines == 4 or time.monotonic() > deadline:  # the reference view comes first, and is kept with its turn
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lines == 4
    assert {path: path.read_bytes() for path in workspace.removed.rglob("*") if path.is_file()} == before
    resumed = []
    from spinnerf_ns.removal.inpainters.opencv import OpenCVInpainter

    plain = OpenCVInpainter.inpaint

    def counted(self, image, region, photo=None):
        resumed.append(photo)
        return plain(self, image, region, photo)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenCVInpainter, "inpaint", counted)
        settings = {"inpainter": "opencv", "fill_from_views": False, "by_surface": False, "carry": False}
        export_run(seg_run, ExportConfig(**settings, overwrite=True))
    assert 0 < len(resumed) <= len(scene.train_photos) - 2  # two photos at least were done; the reference view is drawn again
    for view in load_capture(workspace.removed).views:
        assert read_image(view.path).shape == (48, 64, 3)


def test_an_applied_transform_moves_nothing_in_the_export(scene, seg_run, tmp_path):
    """What ns-process-data did to COLMAP's world is told in the file; it must not move the hull that is emptied."""
    from spinnerf_ns.evaluation.baselines import load_pipeline
    from spinnerf_ns.runs import read_config

    pipeline = load_pipeline(seg_run)
    checkpoint = next((seg_run.parent / "nerfstudio_models").glob("*.ckpt"))
    applied = {"applied_transform": [[0, 0, 1, 0.5], [1, 0, 0, 0], [0, 1, 0, -1]], "applied_scale": 0.25}
    written = []
    for name, further in (("plain", {}), ("applied", applied)):
        folder = tmp_path / name
        shutil.copytree(
            scene.root, folder, ignore=shutil.ignore_patterns("runs", "removed", "background", "layers", "masks_3d", ".*")
        )
        manifest = Workspace.open(folder).read_manifest()
        Workspace.open(folder).write_manifest({**manifest, "stages": {}})
        meta = json.loads((folder / "transforms.json").read_text())
        (folder / "transforms.json").write_text(json.dumps({**meta, **further}))
        config = read_config(seg_run).pipeline
        config.datamanager.data = folder
        other = config.setup(device="cpu", test_mode="test").eval()
        other.load_state_dict(pipeline.state_dict())
        other.export(checkpoint, ExportConfig(inpainter="opencv", background_steps=5, by_surface=False))
        files = [
            *folder.glob("spinnerf/background/depths/*"),
            *folder.glob("spinnerf/removed/*/*.*"),
        ]  # not its COLMAP model: COLMAP's own world
        written.append({path.relative_to(folder): path for path in sorted(files)})
    assert written[0].keys() == written[1].keys()
    differ, unit = [], applied["applied_scale"]
    for name, path in written[0].items():
        other = written[1][name]
        if name.suffix == ".npy":
            scale = unit if "removed" in name.parts else 1.0  # removed/ has nerfstudio's unit: see scene/removed.py
            same = np.allclose(np.load(path), np.load(other) * scale, rtol=1e-5)
        else:
            same = path.read_bytes() == other.read_bytes()
        differ += [] if same else [name]
    assert len(written[0]) > 30 and not differ
