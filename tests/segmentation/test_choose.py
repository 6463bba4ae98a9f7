"""What `auto` takes, what it says, and what asking for a network by name says when it can't be had."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from spinnerf_ns.cli.segment import Segment
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.segmentation import segment, segment_capture
from spinnerf_ns.segmentation.choose import choose
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.segmenters import SEGMENTERS
from spinnerf_ns.segmentation.segmenters.sam import SamSegmenter
from spinnerf_ns.segmentation.trackers import TRACKERS
from spinnerf_ns.segmentation.trackers.flow import FlowTracker
from spinnerf_ns.segmentation.trackers.sam2 import Sam2Tracker

REGISTRIES = {"segmenter": SEGMENTERS, "tracker": TRACKERS}


@pytest.fixture
def nothing_cached(tmp_path, monkeypatch):
    """No network and empty caches; returns the folder for weights."""
    monkeypatch.setenv("SPINNERF_OFFLINE", "1")
    monkeypatch.setenv("SPINNERF_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    if sys.modules.get("huggingface_hub") or pytest.importorskip("huggingface_hub"):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "weights"


@pytest.mark.parametrize(
    "kind, taken, network, file", [
        ("segmenter", "grabcut", "sam", "sam_vit_b_01ec64.pth"),
        ("tracker", "flow", "sam2", "facebook/sam2.1-hiera-small"),
    ],
)  # fmt: skip
def test_auto_falls_back_in_one_line(kind, taken, network, file, nothing_cached, capsys) -> None:
    assert choose(REGISTRIES[kind], "auto").name == taken
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert line.startswith(f"{kind} auto: {taken}, as '{network}' can't be had: ") and file in line


@pytest.mark.parametrize("kind, module", [("segmenter", "segment_anything"), ("tracker", "transformers")])
def test_auto_without_the_package(kind, module, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    chosen = choose(REGISTRIES[kind], "auto")
    assert chosen.name in ("grabcut", "flow")
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert (
        f"needs the package {module}" in line
        and "pip install '" in line
        and module.replace("_", "-") in line.rpartition("pip install")[2]
    )


def test_auto_takes_the_networks_where_they_can_be_had(monkeypatch, capsys) -> None:
    monkeypatch.setattr(SamSegmenter, "ensure", lambda self: None)
    monkeypatch.setattr(Sam2Tracker, "ensure", lambda self: None)
    assert choose(SEGMENTERS, "auto").name == "sam" and choose(TRACKERS, "auto").name == "sam2"
    assert len(capsys.readouterr().out.strip().splitlines()) == 2


def test_by_name_the_message_names_file_url_and_folder(nothing_cached) -> None:
    image, mask = np.zeros((20, 30, 3), np.uint8), np.ones((20, 30), bool)
    prompt = Prompt("a", box=(2, 2, 9, 9))
    attempts = {
        "sam_vit_b_01ec64.pth": (lambda: SEGMENTERS.create("sam").segment(image, prompt), "dl.fbaipublicfiles.com"),
        "sam2.1-hiera-small": (lambda: TRACKERS.create("sam2").track([lambda: image], {0: mask}), "huggingface.co/facebook"),
        "sam2.1-hiera-tiny": (
            lambda: SEGMENTERS.create("sam2", model="sam2.1-hiera-tiny").segment(image, prompt),
            "huggingface.co/facebook",
        ),
    }
    for file, (attempt, url) in attempts.items():
        with pytest.raises(SpinnerfError) as error:
            attempt()
        message = str(error.value)
        assert file in message and url in message and str(nothing_cached) in message and "\n" not in message


def test_auto_stays_with_what_made_the_masks(twin, tmp_path, nothing_cached, monkeypatch, capsys) -> None:
    capture, workspace = load_capture(twin.root), Workspace.open(twin.root, tmp_path / "ws")
    prompt = Prompt(twin.prompt_view, box=tuple(twin.prompt_box))
    monkeypatch.setattr(FlowTracker, "track", lambda self, images, masks, progress: [*masks.values()] * len(images))
    monkeypatch.setattr(segment, "stereo_if_possible", lambda *_, **__: False)
    segment_capture(capture, workspace, prompt, "auto", "auto")
    stage = workspace.read_manifest()["stages"]["segment"]
    assert (stage["parameters"]["segmenter"]["name"], stage["parameters"]["tracker"]["name"]) == ("grabcut", "flow")
    assert len(capsys.readouterr().out.strip().splitlines()) == 2
    monkeypatch.setattr(SamSegmenter, "ensure", lambda self: None)  # the weights have come meanwhile
    monkeypatch.setattr(Sam2Tracker, "ensure", lambda self: None)
    segment_capture(capture, workspace, prompt, "auto", "auto")
    assert workspace.read_manifest()["stages"]["segment"] == stage
    assert capsys.readouterr().out.count("as for the masks that are there") == 2


def test_auto_is_not_asked_for_what_is_not_needed(twin, tmp_path, monkeypatch, capsys) -> None:
    """Masks of all photos: neither segmenter nor tracker, and no weights are looked for."""
    monkeypatch.setattr(SamSegmenter, "ensure", lambda self: pytest.fail("weights were looked for"))
    monkeypatch.setattr(Sam2Tracker, "ensure", lambda self: pytest.fail("weights were looked for"))
    folder = twin.truth(twin.train_photos[0], "object_masks").parent
    capture, workspace = load_capture(twin.root), Workspace.open(twin.root, tmp_path / "ws")
    free = {path.stem for path in folder.iterdir()}
    workspace.set_object_free([view.photo for view in capture.views if view.photo not in free])
    segment_capture(capture, workspace, folder, "auto", "auto")
    assert len(list(workspace.masks_2d.iterdir())) == len(capture.views) - len(workspace.object_free)
    assert "auto:" not in capsys.readouterr().out


def test_options_from_the_command_line(tmp_path) -> None:
    command = Segment(tmp_path, segmenter="sam", segmenter_options=("model=vit_h", "checkpoint=/a b/c.pth"), tracker="flow")
    segmenter, tracker = command.backends()
    assert (segmenter.model, str(segmenter.checkpoint), tracker) == ("vit_h", "/a b/c.pth", "flow")
    with pytest.raises(SpinnerfError, match="options of a tracker were given, but not which one; add --tracker NAME"):
        Segment(tmp_path, tracker_options=("model=x",)).backends()
    with pytest.raises(SpinnerfError, match="segmenter 'sam'"):
        Segment(tmp_path, segmenter="sam", segmenter_options=("colour=red",)).backends()
