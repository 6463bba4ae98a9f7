"""A prompt in words: zero-shot detection (Grounding DINO, package transformers) gives boxes, the segmenter does the rest.

Several hits are never guessed among: they are listed with their scores, drawn with numbers into a picture, and the user says
which one is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from spinnerf_ns.conventions import Image, scale_pixels
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import write_png
from spinnerf_ns.segmentation.pretrained import load_folder, pick_device
from spinnerf_ns.segmentation.prompts import DEFAULT_OBJECT, Prompt
from spinnerf_ns.segmentation.prompts_file import load_prompts

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.workspace import Workspace

PICTURE = "text_hits.png"
"""Picture of the numbered hits, in the workspace."""
ALL = "all"
"""Says that all hits are meant."""
OVERLAP = 0.7
"""Boxes that overlap more than this (IoU) are one hit: the better one counts. Between the 0.5 to 0.8 usual for detectors."""
SMALLEST = 2
"""Hits narrower than this, in pixels, are dropped."""
LINE, LETTERS = 3.0, 1.2
"""Width of drawn lines and scale of drawn letters in a 1000-pixel-wide photo."""


@dataclass(frozen=True)
class Hit:
    """Something that the words may mean."""

    box: tuple[float, float, float, float]
    """(x0, y0, x1, y1) in whole pixels, within the photo."""
    score: float
    """How sure the detector is, in [0, 1]."""


@dataclass
class TextDetector:
    """Grounding DINO: words -> boxes. Weights `grounding-dino-tiny` or `-base`; Apache-2.0."""

    model: str = "grounding-dino-tiny"
    """Which network: grounding-dino-tiny or grounding-dino-base."""
    checkpoint: Path | None = None
    """A model folder in place of the published one, in the same format."""
    device: str = "auto"
    """Where the network runs; auto: the GPU where there is one."""
    least_score: float = 0.35
    """Hits below this score are dropped (the value of Grounding DINO's authors)."""

    def find(self, image: Image, text: str) -> list[Hit]:
        """What in a photo the words may mean.

        Args:
            image: (H, W, 3) uint8 RGB.
            text: what to look for, in English.

        Returns:
            Best first; the same input gives the same hits.

        Raises:
            SpinnerfError: there is no word in the text; the package or the weights can't be had.
        """
        if not any(letter.isalnum() for letter in text):
            raise SpinnerfError(f"--text '{text}': has no word in it; say what to remove, for example --text \"the statue\"")
        import torch
        from torchvision.ops import nms

        network, processor = self._network()
        # As the network was trained: lower case, each phrase with a full stop.
        phrase = text.strip().lower().rstrip(".") + "."
        inputs = processor(images=image, text=phrase, return_tensors="pt").to(network.device)
        with torch.inference_mode():
            answer = network(**inputs)
        found = processor.post_process_grounded_object_detection(
            answer, inputs["input_ids"], threshold=self.least_score, target_sizes=[image.shape[:2]]
        )[0]
        boxes, scores = found["boxes"].float().cpu(), found["scores"].float().cpu()
        hits = []
        for index in nms(boxes, scores, OVERLAP).tolist():
            # Whole pixels: prompts are compared between runs, and devices differ in the last digits.
            limit = np.tile([image.shape[1], image.shape[0]], 2)
            x0, y0, x1, y1 = (float(value) for value in np.clip(np.round(boxes[index].numpy()), 0, limit))
            if x1 - x0 >= SMALLEST and y1 - y0 >= SMALLEST:
                hits.append(Hit((x0, y0, x1, y1), float(scores[index])))
        return hits

    def _network(self) -> tuple[Any, Any]:
        """The network and its processor, loaded when first asked for."""
        if not hasattr(self, "_loaded"):
            self._loaded = load_folder(
                self.model,
                self.checkpoint,
                "GroundingDinoForObjectDetection",
                "GroundingDinoProcessor",
                pick_device(self.device),
                "a prompt in words",
            )
        return self._loaded


def text_prompts(
    capture: Capture,
    workspace: Workspace,
    text: str,
    view: str | None = None,
    pick: str | None = None,
    detector: TextDetector | None = None,
    ask: Callable[[str], str] | None = None,
    again: bool = False,
) -> list[Prompt]:
    """Prompts from words.

    Args:
        capture: the capture.
        workspace: where the picture of the hits goes; what its prompts.json already says for the same words is taken as it
            is, unless `pick` or `again` asks anew.
        text: what to look for, in English.
        view: in which photo; by default the middle one of the camera path.
        pick: which hits are meant: "2", "1,3" or "all"; needed where there are several.
        detector: what looks for them.
        ask: asks the person at the terminal a question and returns the answer; None: nobody is there.
        again: look even if prompts.json has an answer.

    Returns:
        One prompt per hit that is meant, each another object.

    Raises:
        SpinnerfError: nothing was found; several hits and nobody says which; a hit that there is not; the package or the
            weights can't be had.
    """
    from spinnerf_ns.segmentation.segment import views_with_object

    chosen = capture.view(view) if view is not None else None
    if pick is None and not again and workspace.prompts_path.is_file():
        known = [one for one in load_prompts(workspace.prompts_path) if one.text == text]
        if known and (chosen is None or chosen.photo == known[0].view):
            return known
    if chosen is None:
        views = views_with_object(capture, workspace)
        chosen = views[len(views) // 2]
    image = chosen.read_image()
    hits = (detector or TextDetector()).find(image, text)
    if not hits:
        raise SpinnerfError(
            f"photo '{chosen.photo}': nothing found for --text '{text}'; use other words, name a photo that shows it better "
            "(--view PHOTO), accept hits that are less sure (--text-options least_score=0.2), or point at it: "
            "--view PHOTO --points X,Y"
        )
    if len(hits) == 1 and pick is None:
        numbers = [1]
    else:
        picture = workspace.root / PICTURE
        if len(hits) > 1:
            write_png(picture, numbered(image, hits))
        listed = _listing(hits)
        if pick is None and ask is not None:
            question = f"photo '{chosen.photo}' has {len(hits)} hits for '{text}': {listed}; look at {picture}"
            pick = ask(f"{question}. Which? (2, or 1,3, or all)")
        if pick is None:
            raise SpinnerfError(
                f"photo '{chosen.photo}': --text '{text}' has {len(hits)} hits: {listed}; look at {picture} and say which: "
                "--text-pick NUMBER, or --text-pick all"
            )
        numbers = parse_pick(pick, len(hits), f"photo '{chosen.photo}': {listed}")
    return [
        Prompt(
            chosen.photo,
            box=hits[number - 1].box,
            object=DEFAULT_OBJECT if place == 1 else f"{DEFAULT_OBJECT} {place}",
            text=text,
        )
        for place, number in enumerate(numbers, start=1)
    ]


def parse_pick(pick: str, count: int, what: str) -> list[int]:
    """ "2", "1,3" or "all" -> numbers of hits, from 1, sorted.

    Raises:
        SpinnerfError: something else, or a hit that there is not.
    """
    if pick.strip().lower() == ALL:
        return list(range(1, count + 1))
    parts = [part.strip() for part in pick.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= count for part in parts):
        raise SpinnerfError(
            f"--text-pick {pick.strip() or repr(pick)}: expected hits from 1 to {count} ('2', '1,3') or 'all'; {what}"
        )
    return sorted({int(part) for part in parts})


def numbered(image: Image, hits: Sequence[Hit]) -> Image:
    """The photo with its hits' boxes and numbers drawn into it: (H, W, 3) uint8 RGB."""
    drawn = image.copy()
    line = scale_pixels(LINE, image.shape[1])
    letters = max(0.4, LETTERS * image.shape[1] / 1000)
    for number, hit in reversed(list(enumerate(hits, start=1))):  # the best one on top
        hue = np.uint8([[[(number * 67) % 180, 255, 255]]])  # far apart for neighbours in the list
        colour = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].tolist()
        x0, y0, x1, y1 = (int(value) for value in hit.box)
        cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), colour, line)
        text = f"{number} ({hit.score:.2f})"
        (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, letters, line)
        left, base = min(x0, max(0, image.shape[1] - width)), max(y0, height + below)
        cv2.rectangle(drawn, (left, base - height - below), (left + width, base), colour, cv2.FILLED)
        cv2.putText(drawn, text, (left, base - below // 2), cv2.FONT_HERSHEY_SIMPLEX, letters, (0, 0, 0), line)
    return drawn


def _listing(hits: Sequence[Hit]) -> str:
    """ "1 (0.82 at 10,20,30,40), 2 (...)"."""
    return ", ".join(
        f"{number} ({hit.score:.2f} at {','.join(f'{value:g}' for value in hit.box)})" for number, hit in enumerate(hits, start=1)
    )
