"""A benchmark whose methods may take from photos without the object: these measure nothing."""

from __future__ import annotations

from pathlib import Path

from spinnerf_ns.evaluation.matrix.benchmark import BenchmarkConfig, shared_settings
from spinnerf_ns.evaluation.matrix.scenes import find_scenes, prepare_scene
from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.scene.workspace import Workspace


def test_sources_are_no_truth(tmp_path):
    twin = write_twin(tmp_path / "small", TwinConfig(width=48, height=36, num_train=3, num_test=3, supersampling=1))
    scene = prepare_scene(find_scenes([str(twin.root)])[0], tmp_path / "scene", "key")
    names = [Path(photo).stem for photo in twin.object_free]
    assert [each.view.photo for each in scene.known()] == names
    Workspace.open(scene.root).set_clean_photos(names[:1])
    assert [each.view.photo for each in scene.known()] == names[1:]
    assert set(scene.training_masks()) == {Path(photo).stem for photo in twin.train_photos}


def test_cells_without_the_option_are_as_before_there_was_one():
    without, with_one = (BenchmarkConfig(("twin",), export=ExportConfig(clean_photos=names)) for names in ((), ("a",)))
    assert "clean_photos" not in shared_settings(without)["export"]
    assert shared_settings(with_one)["export"]["clean_photos"] == ("a",)
