"""Prompts in words: the detector on a small network, and that several hits are asked about, never guessed among."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from spinnerf_ns.cli.segment import Segment
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask, read_image
from spinnerf_ns.segmentation import segment_capture
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.prompts_file import load_prompts
from spinnerf_ns.segmentation.text import Hit, TextDetector, numbered, parse_pick, text_prompts
from tests.segmentation.conftest import iou, texture, truth


# ---------------------------------------------------------------------------------------------------------------- detector
@pytest.fixture
def network(grounding_dino_folder) -> TextDetector:
    return TextDetector(checkpoint=grounding_dino_folder, device="cpu", least_score=0.5)


def test_the_network_gives_boxes_within_the_photo(network) -> None:
    image = texture(90, 121, 9)
    hits = network.find(image, "The statue")
    assert hits and hits == network.find(image, " the statue. ")  # as the network was trained: lower case, a full stop
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for hit in hits:
        x0, y0, x1, y1 = hit.box
        assert 0 <= x0 < x1 <= 121 and 0 <= y0 < y1 <= 90 and hit.score > 0.5
        assert all(value == round(value) for value in hit.box)
        Prompt("a", box=hit.box).check(121, 90)
    assert hits != network.find(image, "the chair")
    network.least_score = 1.0
    assert network.find(image, "the statue") == []


def test_boxes_that_overlap_are_one_hit(network, monkeypatch) -> None:
    import torch

    boxes = torch.tensor([[10.0, 10, 50, 50], [11, 10, 51, 50], [60, 10, 90, 50], [5, 5, 5.4, 40]])
    found = {"boxes": boxes, "scores": torch.tensor([0.6, 0.9, 0.7, 0.8])}
    _, processor = network._network()
    monkeypatch.setattr(processor, "post_process_grounded_object_detection", lambda *a, **k: [found])
    hits = network.find(texture(90, 121, 9), "the statue")
    assert [hit.box for hit in hits] == [(11, 10, 51, 50), (60, 10, 90, 50)]  # and what is narrower than a pixel is none


def test_words_must_be_words(network) -> None:
    with pytest.raises(SpinnerfError, match="has no word in it"):
        network.find(texture(90, 121, 9), " . ")


def test_without_network_the_message_names_page_and_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SPINNERF_OFFLINE", "1")
    monkeypatch.setenv("SPINNERF_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(SpinnerfError) as error:
        TextDetector().find(texture(90, 121, 9), "the statue")
    message = str(error.value)
    assert "huggingface.co/IDEA-Research/grounding-dino-tiny" in message and "\n" not in message
    assert str(tmp_path / "weights" / "grounding-dino-tiny") in message


# ------------------------------------------------------------------------------------------------------------------ picking
@pytest.mark.parametrize("text, numbers", [("2", [2]), ("3, 1", [1, 3]), (" ALL ", [1, 2, 3]), ("1,1", [1])])
def test_picks(text, numbers) -> None:
    assert parse_pick(text, 3, "a photo") == numbers


@pytest.mark.parametrize("text", ["", "0", "4", "-1", "one", "1;2", "1,"])
def test_picks_that_are_none(text) -> None:
    with pytest.raises(SpinnerfError, match="expected hits from 1 to 3"):
        parse_pick(text, 3, "a photo")


def test_the_picture_shows_every_hit() -> None:
    image = np.full((200, 300, 3), 90, np.uint8)
    hits = [Hit((10, 40, 100, 150), 0.9), Hit((150, 0, 300, 200), 0.5)]
    drawn = numbered(image, hits)
    assert drawn.shape == image.shape and (image == 90).all()
    for hit in hits:
        x0, y0, x1, y1 = (int(value) for value in hit.box)
        assert (drawn[y1 - 1, x0:x1] != 90).any(axis=1).all()  # the box's lower side
    colours = {tuple(drawn[149, 50]), tuple(drawn[199, 200])}
    assert len(colours) == 2


# ------------------------------------------------------------------------------------------------------------------- stage
@dataclass
class Finds:
    """A detector that finds what it is told."""

    hits: list[Hit]
    asked: list[str] = field(default_factory=list)

    def find(self, image, text):
        self.asked.append(text)
        return self.hits


class Still:
    """A tracker that leaves the mask where it is, in one photo more."""

    name = "still"

    def __init__(self) -> None:
        self.calls = []

    def track(self, images, source_masks, progress=None):
        self.calls.append(source_masks)
        (source,) = source_masks
        return [source_masks[source] if abs(index - source) < 2 else None for index in range(len(images))]


@pytest.fixture
def hits(twin) -> list[Hit]:
    return [Hit((2.0, 3.0, 40.0, 30.0), 0.8), Hit(tuple(twin.prompt_box), 0.6)]


def test_one_hit_needs_no_question(capture, workspace, hits) -> None:
    (prompt,) = text_prompts(capture, workspace, "the thing", "frame_0003", detector=Finds(hits[:1]))
    assert prompt == Prompt(capture.view("frame_0003").photo, box=(2, 3, 40, 30), text="the thing")
    assert not (workspace.root / "text_hits.png").exists()


def test_several_hits_are_listed_and_shown(capture, workspace, hits) -> None:
    with pytest.raises(SpinnerfError) as error:
        text_prompts(capture, workspace, "the thing", detector=Finds(hits))
    message = str(error.value)
    assert "1 (0.80 at 2,3,40,30), 2 (0.60" in message and "--text-pick NUMBER" in message and "\n" not in message
    assert str(workspace.root / "text_hits.png") in message
    photo = message.split("'")[1]
    assert photo not in workspace.object_free
    assert read_image(workspace.root / "text_hits.png").shape == capture.view(photo).read_image().shape


def test_the_person_at_the_terminal_is_asked(capture, workspace, hits) -> None:
    questions = []

    def ask(question):
        questions.append(question)
        return "2"

    (prompt,) = text_prompts(capture, workspace, "the thing", detector=Finds(hits), ask=ask)
    assert prompt.box == hits[1].box and len(questions) == 1 and "2 (0.60" in questions[0]
    prompts = text_prompts(capture, workspace, "the thing", pick="all", detector=Finds(hits), ask=ask)
    assert [(one.box, one.object) for one in prompts] == [(hits[0].box, "object"), (hits[1].box, "object 2")]
    assert len(questions) == 1


def test_no_hit_says_what_to_do(capture, workspace) -> None:
    with pytest.raises(SpinnerfError, match="nothing found for --text 'the thing'.*--view PHOTO.*least_score.*--points X,Y"):
        text_prompts(capture, workspace, "the thing", detector=Finds([]))


def test_words_to_masks_and_no_second_question(twin, capture, workspace, hits) -> None:
    detector = Finds(hits)
    prompts = text_prompts(capture, workspace, "the thing", twin.prompt_view, "2", detector)
    segment_capture(capture, workspace, prompts, tracker=Still())
    found = load_object_mask(workspace.mask_path("masks_2d", prompts[0].view))
    assert iou(found, truth(twin, twin.prompt_view)) > 0.8
    times = {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")}
    again = text_prompts(capture, workspace, "the thing", twin.prompt_view, detector=detector)
    assert again == [one.scaled(160, 120) for one in prompts] and len(detector.asked) == 1  # prompts.json knows
    segment_capture(capture, workspace, again, tracker=Still())
    assert {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")} == times
    with pytest.raises(SpinnerfError, match="say which"):
        text_prompts(capture, workspace, "another thing", detector=detector)
    with pytest.raises(SpinnerfError, match="say which"):
        text_prompts(capture, workspace, "the thing", detector=detector, again=True)


def test_all_hits_are_objects_of_their_own(twin, capture, workspace, hits) -> None:
    prompts = text_prompts(capture, workspace, "things", twin.prompt_view, "all", Finds(hits))
    tracker = Still()

    class Boxes:
        name = "boxes"

        def segment(self, image, prompt):
            mask = np.zeros(image.shape[:2], bool)
            x0, y0, x1, y1 = (int(value) for value in prompt.box)
            mask[y0:y1, x0:x1] = True
            return mask

    segment_capture(capture, workspace, prompts, segmenter=Boxes(), tracker=tracker)
    assert len(tracker.calls) == 2 and all(len(sources) == 1 for sources in tracker.calls)
    written = sorted(workspace.masks_2d.iterdir())
    assert len(written) in (2, 3)
    both = np.zeros((120, 160), bool)
    for hit in hits:
        both |= Boxes().segment(np.zeros((120, 160, 3)), Prompt("a", box=hit.box))
    assert all((load_object_mask(path) == both).all() for path in written)
    assert load_prompts(workspace.prompts_path) == tuple(one.scaled(160, 120) for one in prompts)
    stored = json.loads(workspace.prompts_path.read_text())["objects"]
    assert list(stored) == ["object", "object 2"]


# ----------------------------------------------------------------------------------------------------------------- command
def test_the_command_line(twin, tmp_path, capsys, grounding_dino_folder) -> None:
    from spinnerf_ns.cli import main

    def run(*options) -> str:
        with pytest.raises(SystemExit) as error:
            workspace = str(tmp_path / "ws")
            main(["segment", "--data", str(twin.root), "--workspace", workspace, "--text", "the statue", *options])
        assert error.value.code == 1
        return capsys.readouterr().err

    small = ["--text-options", f"checkpoint={grounding_dino_folder}", "device=cpu"]
    assert "nothing found" in run(*small, "least_score=1.0")
    assert "--text-pick NUMBER" in run(*small, "least_score=0.5")
    assert (tmp_path / "ws" / "text_hits.png").is_file() and not (tmp_path / "ws" / "masks_2d").exists()
    assert "expected hits from 1" in run(*small, "least_score=0.5", "--text-pick", "99")
    assert "least" in run("--text-options", "least=1")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"text": "a", "points": ("1,2",)}, "--text and --points"),
        ({"text": "a", "masks": "m"}, "--masks and --text"),
        ({"text_pick": "1", "view": "a"}, "--text-pick was given, but no words"),
    ],
)
def test_contradicting_options(tmp_path, options, message) -> None:
    with pytest.raises(SpinnerfError, match=message):
        Segment(data=tmp_path, **options).request()
