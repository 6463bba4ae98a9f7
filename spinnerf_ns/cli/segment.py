"""ns-spinnerf segment: from clicks in one photo to object masks in every photo."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinnerf_ns.errors import SpinnerfError

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.workspace import Workspace
    from spinnerf_ns.segmentation.prompts import Prompt, Segmenter, Tracker

COMMAND = "segment"


@dataclass
class Segment:
    """Segment an object in one photo and track it through the others: <data>/spinnerf/masks_2d."""

    data: Path
    """The posed capture: a folder that ns-train reads, or its transforms.json."""
    view: str | None = None
    """The photo that is pointed at, by its file name. Without it, --text looks in the middle of the camera path."""
    points: tuple[str, ...] = ()
    """X,Y on the object, or X,Y,0 beside it; in pixels from the photo's top left corner. Several, separated by blanks."""
    box: str | None = None
    """X0,Y0,X1,Y1 around the object, in pixels, top left corner first."""
    mask: Path | None = None
    """A ready mask of the photo, in place of points and box: object white, the rest black."""
    text: str | None = None
    """What to remove, in English words ("the statue"), in place of points and box. Needs the extra [sam2]."""
    text_pick: str | None = None
    """Which of several things that the words may mean, by their numbers: 2, or 1,3, or all."""
    text_options: tuple[str, ...] = ()
    """Options of the detector of words, NAME=VALUE: model, checkpoint, device, least_score."""
    masks: Path | None = None
    """A folder of ready masks of some photos or all, called like the photos (<photo>.png), in place of --view."""
    segmenter: str = "auto"
    """Makes the photo's mask from points and box. auto: sam if it is installed and its weights can be had, else grabcut."""
    segmenter_options: tuple[str, ...] = ()
    """Options of the segmenter, NAME=VALUE, for example model=vit_h or checkpoint=FILE."""
    tracker: str = "auto"
    """Makes the other photos' masks from it. auto: sam2 if it is installed and its weights can be had, else flow."""
    tracker_options: tuple[str, ...] = ()
    """Options of the tracker, NAME=VALUE, for example model=sam2.1-hiera-large or checkpoint=FOLDER."""
    workspace: Path | None = None
    """Where to write. Default: <data>/spinnerf."""
    allow_large_mask: bool = False
    """Accept a mask that covers more than half of its photo."""
    overwrite: bool = False
    """Replace masks that were made from another prompt or with other settings."""

    def main(self) -> None:
        """Runs the command."""
        from nerfstudio.utils.rich_utils import CONSOLE

        from spinnerf_ns.accel.cpu import lite_here
        from spinnerf_ns.scene.capture import load_capture
        from spinnerf_ns.scene.workspace import Workspace
        from spinnerf_ns.segmentation.segment import LOST, STAGE, segment_capture

        request = self.request()
        segmenter, tracker = self.backends()
        workspace = Workspace.open(self.data, self.workspace)
        capture = load_capture(self.data)
        if self.text is not None:
            request = self.find_text(capture, workspace)
        segment_capture(capture, workspace, request, segmenter, tracker, self.overwrite, self.allow_large_mask)
        records = workspace.records(STAGE)
        lost = [photo for photo, record in records.items() if record["status"] == LOST]
        text = f"{workspace.masks_2d}: {len(records) - len(lost)} masks"
        if lost:
            text += f"; the object was lost in {len(lost)} photos ({', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''})"
        text += f"; look at them, then: ns-train {lite_here('spinnerf-seg')} --data {self.data}"
        CONSOLE.print(text, markup=False, soft_wrap=True)

    def backends(self) -> tuple[str | Segmenter, str | Tracker]:
        """Segmenter and tracker: by name, or made with the options given.

        Raises:
            SpinnerfError: options that the backend does not have, or of no backend in particular.
        """
        from spinnerf_ns.segmentation.choose import AUTO, choose
        from spinnerf_ns.segmentation.segmenters import SEGMENTERS
        from spinnerf_ns.segmentation.trackers import TRACKERS

        made: list[Any] = []
        for registry, name, texts in (
            (SEGMENTERS, self.segmenter, self.segmenter_options),
            (TRACKERS, self.tracker, self.tracker_options),
        ):
            options = registry.parse_options(name, texts) if texts and name != AUTO else dict.fromkeys(texts)
            made.append(choose(registry, name, options) if options else name)
        return made[0], made[1]

    def find_text(self, capture: Capture, workspace: Workspace) -> list[Prompt]:
        """Boxes around what the words mean; asks at the terminal, if there is one, where they may mean several things.

        Raises:
            SpinnerfError: nothing found, several things and nobody to ask, or the detector can't be had.
        """
        from spinnerf_ns.segmentation.text import DETECTOR, DETECTORS, text_prompts

        detector = DETECTORS.create(DETECTOR, **DETECTORS.parse_options(DETECTOR, self.text_options))
        ask = (lambda question: input(f"{question} ")) if sys.stdin.isatty() and sys.stdout.isatty() else None
        return text_prompts(capture, workspace, self.text, self.view, self.text_pick, detector, ask, self.overwrite)

    def request(self) -> Prompt | Path | None:
        """What was asked for: a prompt, a folder of masks, or None (what prompts.json says, or words).

        Raises:
            SpinnerfError: options that contradict each other, or points and boxes that cannot be read.
        """
        from spinnerf_ns.segmentation.prompts import Prompt, parse_box, parse_point

        ways = (("--points", self.points), ("--box", self.box), ("--mask", self.mask), ("--text", self.text))
        pointed = [name for name, value in ways if value]
        if self.masks is not None:
            if pointed or self.view is not None:
                raise SpinnerfError(f"--masks and {(pointed or ['--view'])[0]} were given; give one of them")
            return Path(self.masks)
        if self.text is not None:
            if pointed != ["--text"]:
                raise SpinnerfError(f"--text and {(pointed or ['no words'])[0]} were given; give words, or points and box")
            return None  # a photo must be looked at first
        if self.text_pick is not None:
            raise SpinnerfError("--text-pick was given, but no words; add --text WORDS")
        if self.view is None:
            if pointed:
                raise SpinnerfError(f"{pointed[0]} was given, but not in which photo; add --view PHOTO")
            return None
        parsed = [parse_point(text) for text in self.points]
        return Prompt(
            view=self.view,
            points=tuple(point for point, _ in parsed),
            labels=tuple(label for _, label in parsed),
            box=None if self.box is None else parse_box(self.box),
            mask_path=None if self.mask is None else Path(self.mask),
        )
