"""ns-spinnerf remove from a box to a field, on a tiny scene: what it says on the way, and that the same command finds it done."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from spinnerf_ns.cli.budgeted import FILE
from spinnerf_ns.cli.remove import Remove, remove
from spinnerf_ns.cli.segment import Pointing
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.scene.workspace import Workspace
from tests.nerf.conftest import no_network


@pytest.fixture(scope="module")
def removed(tmp_path_factory):
    """A removal within a budget, with few steps; its command, and a function that gives it again."""
    root = tmp_path_factory.mktemp("remove") / "scene"
    twin = write_twin(root, TwinConfig(width=96, height=72, num_train=6, num_test=2, supersampling=1))
    Workspace.open(root).set_object_free([Path(photo).stem for photo in twin.object_free])
    box = ",".join(f"{value:g}" for value in twin.prompt_box)

    def again(**settings) -> Path:
        pointing = Pointing(root, twin.prompt_view, box=box, segmenter="grabcut", tracker="flow", stereo_width=80)
        export = ExportConfig(inpainter="opencv", by_surface=False, downscale=2)
        command = Remove(pointing, export, lite=True, **{"minutes": 5.0, "seg_steps": 12, **settings})
        with no_network():
            return remove(command)

    return root, again


def test_every_stage_says_at_which_size_it_works_and_the_same_command_finds_it_done(removed, capsys):
    root, again = removed
    config = again(inpaint_steps=6)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    for text in (
        "Segmenting 6 photos of 96x72",
        "Depth of 6 photos is measured at 80x60 (photos of 96x72)",
        "Training on 6 photos at 96x72",
        "Masks of the training photos are rendered at 1/2 of their size",
        "Masks and depth are rendered at 48x36, 1/2 of the photos' 96x72",
        "Depth without the object is rendered at 48x36, 1/2 of the photos' 96x72",
        "Photos and depth without the object are written at the photos' 96x72",
    ):
        assert lines.count(text) == (2 if text.startswith("Training") else 1), text
    assert lines.count("--minutes 5: Measured ") == 1 and "--minutes 5: it took" in lines
    kept = json.loads((root / "spinnerf" / FILE).read_text())
    assert kept["settings"] == {"stereo_width": 80, "seg_steps": 12, "downscale": 2, "inpaint_steps": 6}
    assert kept["rates"]["ray"] > 0 and kept["rates"]["seg_step"] > kept["rates"]["ray"]

    before = {path: path.stat().st_mtime_ns for path in (root / "spinnerf").rglob("*") if path.is_file() and path.name != "log.txt"}
    assert again(inpaint_steps=6) == config
    said = capsys.readouterr().out
    assert said.count("Found the finished run") == 2 and "all is decided" in said
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path.name for path in before if before[path] != after[path]} == set()

    with pytest.raises(SpinnerfError, match="another budget"):
        again(inpaint_steps=6, minutes=4.0)


def test_a_training_of_few_steps_on_the_capture_itself_says_how_fast_the_last_one_goes(removed):
    from spinnerf_ns.cli.pace import inpainting_pace

    root, again = removed
    if not (root / "spinnerf/removed").is_dir():
        again(inpaint_steps=6)
    runs = sorted((root / "spinnerf").rglob("config.yml"))
    with no_network():
        pace = inpainting_pace("spinnerf-inpaint-lite", root / "spinnerf/removed")
    assert 0 < pace.step < 60 and pace.setup > 0
    assert sorted((root / "spinnerf").rglob("config.yml")) == runs, "what was measured leaves nothing behind"
