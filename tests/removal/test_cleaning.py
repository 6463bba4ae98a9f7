"""The export holds a few photos at a time, and goes on at the photo where it was killed, in every step."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
from spinnerf_ns.files import load_object_mask, save_depth
from spinnerf_ns.removal import cleaning
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.export import export_removed, render_stage
from spinnerf_ns.removal.plan import background_path
from spinnerf_ns.removal.views import fill
from spinnerf_ns.removal.views.fill import Sources
from spinnerf_ns.removal.views.photos import Photos, look
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from tests.removal.views.test_photos import photo


def prepared(root: Path, workspace: Path, photos: int, width: int = 64):
    """A twin's capture, and a workspace with true masks and depth in place of rendered ones."""
    twin = write_twin(root, TwinConfig(width=width, height=width * 3 // 4, num_train=photos, num_test=2, supersampling=1))
    capture, opened = load_capture(root), Workspace.open(root, workspace)
    opened.set_object_free([Path(name).stem for name in twin.object_free])

    def truth(view):
        mask = load_object_mask(twin.truth(view.photo, "object_masks"))
        return mask, np.load(twin.truth(view.photo, "depths_with_object")).astype(np.float32)

    render_stage(capture, opened, truth, ExportConfig(overwrite=True), [], {})
    for view in opened.views_with_object(capture):
        save_depth(background_path(opened, view.photo), np.load(twin.truth(view.photo, "depths")).astype(np.float32))
    return capture, opened


def written(workspace):
    files = sorted(path for path in workspace.removed.rglob("*") if path.is_file())
    return {path.relative_to(workspace.removed).as_posix(): path.read_bytes() for path in files}


CONFIG = ExportConfig(inpainter="opencv")
STEPS = {
    "surfaces": (cleaning.Cleaning, "_surface"),
    "continued": (cleaning.Cleaning, "_continued"),
    "filled": (cleaning.Cleaning, "_filled"),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_export_goes_on_in_the_middle_of_a_step(tmp_path, monkeypatch, step):
    capture, workspace = prepared(tmp_path / "scene", tmp_path / "workspace", 5)
    owner, name = STEPS[step]
    work, done = getattr(owner, name), []

    def stopped(self, number):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(number)
        return work(self, number)

    monkeypatch.setattr(owner, name, stopped)
    with pytest.raises(KeyboardInterrupt):
        export_removed(capture, workspace, CONFIG)
    assert not workspace.removed.exists()

    def counted(self, number):
        done.append(number)
        return work(self, number)

    monkeypatch.setattr(owner, name, counted)
    export_removed(capture, workspace, CONFIG)
    assert len(done) == len(set(done)) == 5
    killed = written(workspace)
    assert not list(workspace.root.glob(".stage-*"))
    monkeypatch.undo()
    export_removed(
        load_capture(tmp_path / "scene"), workspace, ExportConfig(inpainter="opencv", depth_tolerance=0.02, overwrite=True)
    )
    assert written(workspace) != killed, "of another key, nothing is kept"
    export_removed(capture, workspace, ExportConfig(inpainter="opencv", overwrite=True))
    assert written(workspace) == killed


def test_photos_answer_through_a_small_window_as_they_do_at_once():
    layers = [photo(number) for number in range(12)]
    generator = np.random.default_rng(0)
    points = np.ascontiguousarray((generator.uniform(-1, 1, (500, 3)) * [3, 2, 2] - [0, 0, 3.5]).T)
    whole, window = Photos(layers), Photos(layers, most=4)
    for chosen in ([0, 5, 7], [7, 1, 2, 11], [3], [5, 0, 7]):
        numbers = np.array(chosen, np.int64)
        for one, other in zip(
            vars(look(whole[numbers], points, 0.05)).values(), vars(look(window[numbers], points, 0.05)).values(), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    before = window[np.array([0, 1, 2, 3])]
    window[np.array([8, 9, 10, 11])]
    with pytest.raises(KeyError):  # and never with another photo's depth
        look(before, points, 0.05)
    with pytest.raises(ValueError, match="5 photos"):
        window[np.arange(5)]


def test_many_photos_ask_the_nearest_ones_and_some_from_everywhere(monkeypatch):
    layers = [photo(number) for number in range(12)]
    every = Sources(layers)
    assert sorted(every.of(3, layers[3])._number.tolist()) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    monkeypatch.setattr(fill, "MOST_SOURCES", 6)
    asked = Sources(layers).of(3, layers[3])._number.tolist()
    nearest = every.of(3, layers[3])._number.tolist()
    assert asked[:4] == nearest[:4] and asked == sorted(asked, key=nearest.index)
    assert 4 < len(asked) <= 6 and {0, 11} & set(asked), "the path's ends are from everywhere"


def test_memory_does_not_grow_with_the_number_of_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(fill, "MOST_SOURCES", 3)
    monkeypatch.setattr(cleaning, "kept_photos", lambda views, pixels, least=2: least)
    monkeypatch.setattr(fill, "kept_photos", lambda views, pixels, least=2: 3)
    monkeypatch.setattr(fill, "LEAST_SOURCES", 3)
    peaks = []
    for count in (4, 12):
        capture, workspace = prepared(tmp_path / f"scene{count}", tmp_path / f"workspace{count}", count, 160)
        tracemalloc.start()
        export_removed(capture, workspace, CONFIG)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    per_pixel = (peaks[1] - peaks[0]) / 8 / (160 * 120)  # planes are found from 1500 points of each photo, small as it is
    assert per_pixel < 10, f"{per_pixel:.0f} bytes for each further photo's pixel; all that is known of one are 25"


def test_the_result_does_not_depend_on_the_number_of_workers(tmp_path):
    capture, workspace = prepared(tmp_path / "scene", tmp_path / "workspace", 5)
    export_removed(capture, workspace, CONFIG)
    alone = written(workspace)
    export_removed(capture, workspace, ExportConfig(inpainter="opencv", workers=2))
    assert written(workspace) == alone, "fresh: the number of workers is no setting"
    shutil.rmtree(workspace.removed)
    export_removed(capture, workspace, ExportConfig(inpainter="opencv", workers=2))
    assert written(workspace) == alone
