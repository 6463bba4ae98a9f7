"""ns-spinnerf segment: from clicks to object masks in every photo, in a browser or on the command line."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinnerf_ns.errors import SpinnerfError

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.workspace import Workspace
    from spinnerf_ns.segmentation.prompts import Prompt, Segmenter, Tracker
    from spinnerf_ns.stereo.dense import StereoOptions

COMMAND = "segment"

MANY_LOST = 0.5
"""Where the object is lost in more than this part of the photos, that is said loudly."""


@dataclass
class Pointing:
    """What to remove, and what makes masks of it."""

    data: Path
    """The posed capture: a folder that ns-train reads, or its transforms.json."""
    view: str | None = None
    """The photo that is pointed at, by its file name. Several: --view A --points ... --view B --box ...; what follows a photo's
    name is about it. Without it, --text looks in the middle of the camera path."""
    object: str | None = None
    """A name for the object. Several: --object vase --view A --box ... --object lamp --view A --points ..."""
    points: tuple[str, ...] = ()
    """X,Y on the object, or X,Y,0 beside it; in pixels of the original photo as a viewer shows it, from its top left corner.
    Several, separated by blanks."""
    box: str | None = None
    """X0,Y0,X1,Y1 around the object, in the same pixels, top left corner first."""
    mask: Path | None = None
    """A ready mask of the photo, in place of a box: object white, the rest black. Points and strokes correct it."""
    brush: tuple[str, ...] = ()
    """Brush strokes, RADIUS,LABEL,X,Y,X,Y,... in the same pixels: label 1 paints, 0 erases; they have the last word."""
    prompts: tuple[str, ...] = ()
    """What several --view become, for programs: per photo {"view", "object", "points", "box", "mask", "brush"} as JSON."""
    objects: tuple[str, ...] = ()
    """Which of the named objects are removed; by default all."""
    text: str | None = None
    """What to remove, in English words ("the statue"), in place of points and box. Needs the extra [sam2]."""
    text_pick: str | None = None
    """Which of several things that the words may mean, by their numbers: 2, or 1,3, or all."""
    text_options: tuple[str, ...] = ()
    """Options of the detector of words, NAME=VALUE: model, checkpoint, device, least_score."""
    masks: Path | None = None
    """A folder of ready masks of some photos or all, called like the photos (<photo>.png), in place of --view."""
    mask_id: str | None = None
    """Which id is meant where masks are id maps: 2, or 0xff0000 of a coloured one."""
    segmenter: str = "auto"
    """Makes the photo's mask from points and box. auto: sam if it is installed and its weights can be had, else grabcut."""
    segmenter_options: tuple[str, ...] = ()
    """Options of the segmenter, NAME=VALUE, for example model=vit_h or checkpoint=FILE."""
    tracker: str = "auto"
    """Makes the other photos' masks from it. auto: sam2 if it is installed and its weights can be had, else geometry
    where depth can be measured, else flow."""
    tracker_options: tuple[str, ...] = ()
    """Options of the tracker, NAME=VALUE, for example model=sam2.1-hiera-large or checkpoint=FOLDER."""
    clean_photos: tuple[str, ...] = ()
    """Photos of the capture that show the same place without the object (taken later, posed with the others): the object is not
    looked for in them, and what it hides in the others is taken from them. Names, patterns ("later/*"), folders of the capture, or
    a .txt file with a name in each line. Kept in the workspace."""
    stereo_width: int | None = None
    """Depth is measured on photos so many pixels wide; by default as the depth that is there was, else as is best."""
    workspace: Path | None = None
    """Where to write. Default: <data>/spinnerf."""
    skip_missing: bool = False
    """Go on without photos that are absent or broken; later commands on this workspace leave them out as well."""
    allow_large_mask: bool = False
    """Take masks as they are: white is the object, even where it runs along most of the photo's border."""
    overwrite: bool = False
    """Replace masks that were made from another prompt or with other settings."""

    @staticmethod
    def prepare_arguments(arguments: Sequence[str]) -> list[str]:
        """The command line with its groups gathered, before tyro reads it."""
        from spinnerf_ns.cli.groups import gather_groups

        return gather_groups(arguments)

    def main(self) -> None:
        """Makes the masks."""
        from nerfstudio.utils.rich_utils import CONSOLE

        from spinnerf_ns.hints import say
        from spinnerf_ns.scene.check import checked_capture
        from spinnerf_ns.scene.view import said_of_photos
        from spinnerf_ns.scene.workspace import Workspace
        from spinnerf_ns.segmentation.clean_photos import unless_refused
        from spinnerf_ns.segmentation.segment import PREVIEW, STAGE, lost_photos, segment_capture

        request = self.request()
        segmenter, tracker = self.backends()
        stereo = self.stereo_options()
        capture = checked_capture(self.data, self.workspace, self.skip_missing, say)
        workspace = Workspace.open(self.data, self.workspace)
        with unless_refused(workspace):
            self.name_clean_photos(capture, workspace, request)
            say(f"Segmenting {said_of_photos(workspace.views_with_object(capture))}")
            if self.text is not None:
                request = self.find_text(capture, workspace)
            elif isinstance(request, list):
                request, lines = in_used_pixels(capture, request)
                for line in lines:
                    say(line)
            segment_capture(
                capture, workspace, request, segmenter, tracker, self.overwrite, self.allow_large_mask, self.objects,
                mask_id=self.chosen_id(), stereo=stereo,
            )  # fmt: skip
        count, lost = len(workspace.records(STAGE)), lost_photos(workspace)
        text = f"{workspace.masks_2d}: {count - len(lost)} masks"
        if (workspace.root / PREVIEW).is_dir():
            text += f"; what was pointed at: {workspace.root / PREVIEW}"
        if lost:
            named = f"{', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}"
            text += f"; the object was lost in {len(lost)} photos ({named})"
        text += f"; look at them, then: {train_command(self.data, self.workspace)}"
        say(text)
        if len(lost) > MANY_LOST * count:
            CONSOLE.print(
                f"WARNING: the object was lost in {len(lost)} of {count} photos. What is not masked stays in the scene. Point at "
                f"it in one of them as well: {self.with_view(lost[len(lost) // 2])}",
                style="bold red", markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip

    def name_clean_photos(self, capture: Capture, workspace: Workspace, request: list[Prompt] | Path | None) -> None:
        """Notes the clean photos.

        Args:
            request: what was asked for, of `request`.

        Raises:
            SpinnerfError: as `segmentation.clean_photos.name_clean_photos`.
        """
        from spinnerf_ns.segmentation.clean_photos import name_clean_photos

        pointed = [prompt.view for prompt in request] if isinstance(request, list) else [self.view] if self.view else None
        masks = [request] if isinstance(request, Path) else []
        name_clean_photos(capture, workspace, self.clean_photos, pointed, masks, anew=self.overwrite)

    def with_view(self, photo: str) -> str:
        """The command that adds a photo to what was pointed at."""
        from spinnerf_ns.hints import command

        page = command("ns-spinnerf", COMMAND, data=self.data, workspace=self.workspace, page=True)
        again = command("ns-spinnerf", COMMAND, data=self.data, workspace=self.workspace)
        return f"{page}, or {again} --view ... {command('--view', photo)} --points X,Y --overwrite"

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

    def stereo_options(self) -> StereoOptions | None:
        """How depth is measured; None: as it was, or by default.

        Raises:
            SpinnerfError: a width at which nothing can be measured.
        """
        if self.stereo_width is None:
            return None
        from spinnerf_ns.stereo.dense import LEAST_WIDTH, StereoOptions

        if self.stereo_width < LEAST_WIDTH:
            raise SpinnerfError(
                f"--stereo-width {self.stereo_width}: {LEAST_WIDTH} or more was expected; leave it out for {StereoOptions.width}"
            )
        return StereoOptions(width=self.stereo_width)

    def find_text(self, capture: Capture, workspace: Workspace) -> list[Prompt]:
        """Boxes around what the words mean; asks at the terminal, if there is one, where they may mean several things.

        Raises:
            SpinnerfError: nothing found, several things and nobody to ask, or the detector can't be had.
        """
        from spinnerf_ns.registry import parse_options
        from spinnerf_ns.segmentation.text import TextDetector, text_prompts

        detector = TextDetector(**parse_options(TextDetector, self.text_options, "--text-options"))
        ask = (lambda question: input(f"{question} ")) if sys.stdin.isatty() and sys.stdout.isatty() else None
        return text_prompts(capture, workspace, self.text, self.view, self.text_pick, detector, ask, self.overwrite)

    def chosen_id(self) -> int | None:
        """Which id of id maps is meant.

        Raises:
            SpinnerfError: it is no number, or there is no mask that it could be of.
        """
        if self.mask_id is None:
            return None
        if self.masks is None and self.mask is None and not any('"mask"' in group for group in self.prompts):
            raise SpinnerfError("--mask-id was given, but no mask; add --mask FILE or --masks FOLDER")
        try:
            return int(self.mask_id, 0)
        except ValueError as error:
            raise SpinnerfError(f"--mask-id {self.mask_id}: expected a number, such as 2 or 0xff0000") from error

    def request(self) -> list[Prompt] | Path | None:
        """What was asked for: prompts in pixels of original photos, a folder of masks, or None (what prompts.json says, or words).

        Raises:
            SpinnerfError: options that contradict each other, or points and boxes that cannot be read.
        """
        ways = (("--points", self.points), ("--box", self.box), ("--mask", self.mask), ("--brush", self.brush),
                ("--text", self.text))  # fmt: skip
        pointed = [name for name, value in ways if value]
        if self.masks is not None:
            if pointed or self.view is not None or self.prompts:
                raise SpinnerfError(f"--masks and {(pointed or ['--view'])[0]} were given; give one of them")
            return Path(self.masks)
        if self.text is not None:
            if pointed != ["--text"] or self.prompts:
                raise SpinnerfError(f"--text and {[*pointed, 'several photos'][0]} were given; give words, or points and box")
            return None  # a photo must be looked at first
        if self.text_pick is not None:
            raise SpinnerfError("--text-pick was given, but no words; add --text WORDS")
        if self.prompts:
            try:
                groups = [dict(json.loads(group)) for group in self.prompts]
            except (ValueError, TypeError) as error:
                raise SpinnerfError(f'--prompts {self.prompts[0]}: expected JSON like {{"view": "a", ...}} ({error})') from error
            return [self._with_id(_prompt(group)) for group in groups]
        if self.view is None:
            if pointed:
                raise SpinnerfError(f"{pointed[0]} was given, but not in which photo; add --view PHOTO")
            return None
        group = {"view": self.view, "object": self.object, "points": self.points, "box": self.box, "mask": self.mask}
        return [self._with_id(_prompt({**group, "brush": self.brush}))]

    def _with_id(self, prompt: Prompt) -> Prompt:
        return prompt if prompt.mask_path is None else replace(prompt, mask_id=self.chosen_id())


@dataclass
class Segment(Pointing):
    """Segment an object in some photos and track it through the others: <data>/spinnerf/masks_2d.

    Without a prompt, and without one of an earlier call, it opens a page in the browser to point at it.
    """

    page: bool = False
    """Open the page in any case: to correct what was pointed at before, or is pointed at by the options above."""
    host: str = "127.0.0.1"
    """Where the page listens. Any other than this machine's own wants the token that the printed address holds. Better over ssh:
    ssh -L 7010:localhost:7010 MACHINE, then http://localhost:7010/."""
    port: int | None = None
    """Port of the page; by default 7010, or the next free one."""
    browser: bool = True
    """Open a browser, where there is a screen."""

    def main(self) -> None:
        """Makes the masks, or opens the page."""
        from spinnerf_ns.scene.workspace import Workspace

        asked = self.request() is not None or self.text is not None
        if not self.page and (asked or Workspace.open(self.data, self.workspace).prompts_path.is_file()):
            super().main()
            return
        if asked:
            super().main()
        self.serve(anew=asked)

    def serve(self, anew: bool = False) -> None:
        """Opens the page, until Ctrl-C.

        Args:
            anew: start from prompts.json even where an earlier page left something.
        """
        import webbrowser

        from spinnerf_ns.hints import say
        from spinnerf_ns.page.open import open_page
        from spinnerf_ns.scene.capture import load_capture
        from spinnerf_ns.scene.workspace import Workspace

        if self.clean_photos:
            workspace = Workspace.open(self.data, self.workspace)
            self.name_clean_photos(load_capture(self.data, skipped=workspace.skipped), workspace, None)
        server = open_page(
            self.data, self.workspace, *self.backends(), host=self.host, port=self.port, anew=anew, skip_missing=self.skip_missing
        )
        say(f"Point at what to remove: {server.address}   (Ctrl-C ends the page; nothing is lost)")
        if self.browser and (sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            webbrowser.open(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve()
        saved = server.page.session.saved()
        say(f"Next: {train_command(self.data, self.workspace)}" if saved else "Not saved; what was pointed at is kept.")


def _prompt(group: dict[str, Any]) -> Prompt:
    """A prompt from a group of options.

    Raises:
        SpinnerfError: points, a box or strokes that cannot be read.
    """
    from spinnerf_ns.segmentation.prompts import DEFAULT_OBJECT, Prompt, parse_box, parse_point, parse_stroke

    if not group.get("view"):
        raise SpinnerfError(f"object '{group.get('object')}': no photo is named; add --view PHOTO")
    parsed = [parse_point(text) for text in group.get("points") or ()]
    return Prompt(
        view=group["view"],
        points=tuple(point for point, _ in parsed),
        labels=tuple(label for _, label in parsed),
        box=None if group.get("box") is None else parse_box(group["box"]),
        mask_path=None if group.get("mask") is None else Path(group["mask"]),
        object=group.get("object") or DEFAULT_OBJECT,
        brush=tuple(parse_stroke(text) for text in group.get("brush") or ()),
    )


def in_used_pixels(capture: Capture, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[str]]:
    """Prompts in pixels of the photos that are used, and a line for each photo that says what its coordinates were taken for.

    Raises:
        SpinnerfError: an unknown photo, or a place that is no part of it.
    """
    from spinnerf_ns.segmentation.pointing import to_used

    made = [to_used(prompt, capture.view(prompt.view)) for prompt in prompts]
    return [prompt for prompt, _ in made], list(dict.fromkeys(line for _, line in made))


def train_command(data: Path, workspace: Path | None) -> str:
    """What follows the masks, runnable as printed."""
    from spinnerf_ns.accel.cpu import lite_here
    from spinnerf_ns.hints import command

    return command("ns-train", lite_here("spinnerf-seg"), data=data, workspace=workspace)
