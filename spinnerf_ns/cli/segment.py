"""ns-spinnerf segment: from clicks in one photo to object masks in every photo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from spinnerf_ns.errors import SpinnerfError

if TYPE_CHECKING:
    from spinnerf_ns.segmentation.prompts import Prompt

COMMAND = "segment"


@dataclass
class Segment:
    """Segment an object in one photo and track it through the others: <data>/spinnerf/masks_2d."""

    data: Path
    """The posed capture: a folder that ns-train reads, or its transforms.json."""
    view: Optional[str] = None
    """The photo that is pointed at, by its file name."""
    points: tuple[str, ...] = ()
    """X,Y on the object, or X,Y,0 beside it; in pixels from the photo's top left corner. Several, separated by blanks."""
    box: Optional[str] = None
    """X0,Y0,X1,Y1 around the object, in pixels, top left corner first."""
    mask: Optional[Path] = None
    """A ready mask of the photo, in place of points and box: object white, the rest black."""
    masks: Optional[Path] = None
    """A folder of ready masks of some photos or all, called like the photos (<photo>.png), in place of --view."""
    segmenter: str = "grabcut"
    """Makes the photo's mask from points and box."""
    tracker: str = "flow"
    """Makes the other photos' masks from it."""
    workspace: Optional[Path] = None
    """Where to write. Default: <data>/spinnerf."""
    allow_large_mask: bool = False
    """Accept a mask that covers more than half of its photo."""
    overwrite: bool = False
    """Replace masks that were made from another prompt or with other settings."""

    def main(self) -> None:
        """Runs the command."""
        from nerfstudio.utils.rich_utils import CONSOLE

        from spinnerf_ns.scene.capture import load_capture
        from spinnerf_ns.scene.workspace import Workspace
        from spinnerf_ns.segmentation.segment import LOST, STAGE, segment_capture

        request = self.request()
        workspace = Workspace.open(self.data, self.workspace)
        capture = load_capture(self.data)
        segment_capture(
            capture, workspace, request, self.segmenter, self.tracker, self.overwrite, self.allow_large_mask
        )
        records = workspace.records(STAGE)
        lost = [photo for photo, record in records.items() if record["status"] == LOST]
        text = f"{workspace.masks_2d}: {len(records) - len(lost)} masks"
        if lost:
            text += f"; the object was lost in {len(lost)} photos ({', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''})"
        CONSOLE.print(f"{text}; look at them, then: ns-train spinnerf-seg --data {self.data}", markup=False, soft_wrap=True)

    def request(self) -> Prompt | Path | None:
        """What was asked for: a prompt, a folder of masks, or None (what prompts.json says).

        Raises:
            SpinnerfError: options that contradict each other, or points and boxes that cannot be read.
        """
        from spinnerf_ns.segmentation.prompts import Prompt, parse_box, parse_point

        pointed = [
            name for name, value in (("--points", self.points), ("--box", self.box), ("--mask", self.mask)) if value
        ]
        if self.masks is not None:
            if pointed or self.view is not None:
                raise SpinnerfError(f"--masks and {(pointed or ['--view'])[0]} were given; give one of them")
            return Path(self.masks)
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
