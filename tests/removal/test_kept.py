"""The inverse of a removal: the object alone."""

from __future__ import annotations

import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.twin import TARGET_CENTER, TwinConfig, write_twin
from spinnerf_ns.files import load_object_mask, save_object_mask
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.export import render_stage
from spinnerf_ns.removal.kept import export_kept, next_commands
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.points import read_ply
from spinnerf_ns.scene.workspace import Workspace


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    config = TwinConfig(width=96, height=72, num_train=6, num_test=2, supersampling=1)
    return write_twin(tmp_path_factory.mktemp("twin") / "scene", config)


@pytest.fixture
def kept(twin, tmp_path):
    """(capture, workspace, a function that keeps the object), with true masks and depth in place of rendered ones."""
    capture = load_capture(twin.root)
    workspace = Workspace.open(twin.root, tmp_path / "workspace")
    workspace.set_object_free([Path(photo).stem for photo in twin.object_free])

    def truth(view):
        depth = np.load(twin.truth(view.photo, "depths_with_object")).astype(np.float32)
        return load_object_mask(twin.truth(view.photo, "object_masks")), depth

    def keep(**settings):
        config = ExportConfig(keep=True, **settings)
        render_stage(capture, workspace, truth, config, [], {})
        return export_kept(capture, workspace, config)

    return capture, workspace, keep


def test_only_the_object_is_in_it(kept, twin) -> None:
    capture, workspace, keep = kept
    folder = keep()
    assert folder == workspace.root / "kept" and not workspace.removed.exists()
    again = load_capture(folder)
    shown = {view.photo for view in workspace.views_with_object(capture)}
    assert {view.photo for view in again.views} == shown
    for view in again.views:
        source, true = capture.view(view.photo), load_object_mask(twin.truth(view.photo, "object_masks"))
        picture = cv2.cvtColor(cv2.imread(str(view.path), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)
        assert ((picture[..., 3] == 255) == true).all() and not picture[~true].any()
        assert (picture[true][:, :3] == source.read_image()[true]).all()
        np.testing.assert_allclose(view.c2w, source.c2w, atol=1e-6)
        assert (view.fx, view.cy, view.width) == (source.fx, source.cy, source.width)
    points = read_ply(folder / "sparse_pc.ply").positions
    assert len(points) > 30 and np.linalg.norm(np.median(points, axis=0) - TARGET_CENTER) < 0.5


def test_stock_nerfacto_takes_it_with_its_alpha(kept) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from nerfstudio.data.datasets.base_dataset import InputDataset

    folder = kept[2]()
    outputs = NerfstudioDataParserConfig(data=folder).setup().get_dataparser_outputs("train")
    assert outputs.mask_filenames is None and len(outputs.image_filenames) == 6
    image = InputDataset(outputs)[0]["image"]
    assert image.shape == (72, 96, 4) and set(np.unique(image[..., 3])) == {0.0, 1.0}
    assert shlex.split(next_commands(folder, True)[0]) == ["ns-train", "splatfacto", "--data", str(folder)]
    assert all("--machine.device-type cpu" in line for line in next_commands(folder, False))


def test_what_is_fresh_lost_or_nowhere(kept) -> None:
    capture, workspace, keep = kept
    folder = keep()
    written = (folder / "transforms.json").stat().st_mtime_ns
    assert keep() == folder and (folder / "transforms.json").stat().st_mtime_ns == written
    first, *others = [view.photo for view in workspace.views_with_object(capture)]
    save_object_mask(workspace.mask_path("masks_3d", first), np.zeros((72, 96), bool))  # lost there: emptied by hand
    keep()
    assert {view.photo for view in load_capture(folder).views} == set(others)
    for photo in others:
        save_object_mask(workspace.mask_path("masks_3d", photo), np.zeros((72, 96), bool))
    with pytest.raises(SpinnerfError, match=r"no training photo shows the object; point at it again: ns-spinnerf segment"):
        keep()
    assert (folder / "transforms.json").is_file()  # the earlier one
    workspace.mask_path("masks_3d", first).unlink()
    with pytest.raises(SpinnerfError, match="missing.*render masks and depth first"):
        export_kept(capture, workspace, ExportConfig(keep=True))
