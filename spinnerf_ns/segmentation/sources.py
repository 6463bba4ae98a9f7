"""What somebody said about photos, checked, and the masks of these photos: where every tracker starts from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask
from spinnerf_ns.segmentation.given import BACKGROUND_BORDER, border_share, read_given
from spinnerf_ns.segmentation.painting import paint
from spinnerf_ns.segmentation.prompts import DEFAULT_OBJECT, OBJECT_LABEL, Prompt, Segmenter
from spinnerf_ns.segmentation.prompts_file import load_prompts
from spinnerf_ns.segmentation.segmenters.folder import mask_files

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.view import View
    from spinnerf_ns.scene.workspace import Workspace

LARGEST_PART = 0.5
"""A mask that covers more of its photo than this is worth a second look."""

MASK_WORDS = "masks?|seg|segmentation|matte|alpha|object"
PREFIX, SUFFIX = re.compile(rf"(?:{MASK_WORDS})[_\-. ](.+)", re.I), re.compile(rf"(.+?)[_\-. ](?:{MASK_WORDS})", re.I)
"""What programs put before or after a photo's name to name its mask."""

ObjectMasks = dict[str, dict[str, BoolMask]]
"""Object -> photo -> its mask."""

Request = Prompt | Sequence[Prompt] | Path | None
"""What was pointed at; a folder of ready masks; or None: what prompts.json says."""


# ----------------------------------------------------------------------------------------------------------------- request
def read_request(
    capture: Capture, workspace: Workspace, request: Request, views: Sequence[View]
) -> tuple[dict[str, Path], list[Prompt]]:
    """Ready masks by photo, and prompts in pixels of the photos used; one of both is empty.

    Args:
        capture, workspace: of the scene.
        request: what was asked for.
        views: those that show the object.

    Raises:
        SpinnerfError: nothing is pointed at, or something that is no part of its photo; two prompts for an object in a
            photo; a photo that does not show the object.
    """
    wanted = {view.photo for view in views}
    if request is None:
        if not workspace.prompts_path.is_file():
            raise SpinnerfError(
                f"{capture.data}: no prompt and no masks; say what to remove: --view PHOTO --points X,Y, or --masks FOLDER"
            )
        request = load_prompts(workspace.prompts_path)
        if not request:
            raise SpinnerfError(
                f"{workspace.prompts_path}: its masks came from a folder, which is not kept; name it again: --masks FOLDER"
            )
    if isinstance(request, Path):
        return match_masks(capture, request, wanted), []
    prompts: list[Prompt] = []
    for one in [request] if isinstance(request, Prompt) else list(request):
        view = capture.view(one.view)
        if view.photo not in wanted:
            named = "named by --clean-photos" if view.photo in workspace.clean_photos else "object-free"
            raise SpinnerfError(f"photo '{view.photo}' is {named}, says {workspace.manifest_path}; point at another")
        if any((view.photo, one.object) == (other.view, other.object) for other in prompts):
            raise SpinnerfError(
                f"photo '{view.photo}' has two prompts for object '{one.object}'; put all points of a photo into one, or "
                "name another object: --object NAME"
            )
        one = dataclasses.replace(one, view=view.photo).scaled(view.width, view.height)
        one.check(view.width, view.height)
        prompts.append(one)
    if not prompts:
        raise SpinnerfError(f"{capture.data}: no prompt; say what to remove: --view PHOTO --points X,Y or --masks FOLDER")
    names = list(dict.fromkeys(one.object for one in prompts))
    return {}, sorted(prompts, key=lambda one: names.index(one.object))  # as prompts.json keeps them


def match_masks(capture: Capture, folder: Path, wanted: set[str]) -> dict[str, Path]:
    """Photo -> mask file, by the usual ways to name a mask: photo.png, photo.jpg.png, photo_mask.png, mask_photo.png, ...

    Args:
        capture: its photos.
        folder: with masks; photos of the capture that lie there as well are no masks.
        wanted: masks of other photos are left out.

    Raises:
        SpinnerfError: no such folder, no mask in it, one that is no photo's or of no photo that is wanted, or two of one.
    """
    photos = {view.path.resolve() for view in capture.views}
    matched: dict[str, Path] = {}
    for path in mask_files(folder):
        if path.resolve() in photos:
            continue
        photo = _photo_of(capture, path.relative_to(folder).as_posix(), path)
        if photo in matched:
            raise SpinnerfError(f"{path}: photo '{photo}' has another mask, {matched[photo]}; keep one of them")
        matched[photo] = path
    if not matched:
        raise SpinnerfError(f"{folder}: there are photos in it and no masks; name masks after them: <photo>_mask.png")
    found = {photo: path for photo, path in matched.items() if photo in wanted}
    if not found:
        raise SpinnerfError(f"{folder}: has masks of object-free photos only; add one of a photo that shows the object")
    return found


def _photo_of(capture: Capture, name: str, path: Path) -> str:
    """The photo that a mask's name, relative to its folder, speaks of."""
    first: SpinnerfError | None = None
    for given in _names(name):
        try:
            return capture.view(given).photo
        except SpinnerfError as error:
            first = first or error
    raise SpinnerfError(
        f"{path}: is no photo's mask; name masks like the photos (<photo>.png, <photo>_mask.png, mask_<photo>.png): {first}"
    ) from first


def _names(name: str) -> Iterator[str]:
    """What a mask's file may be called after; the name itself first."""
    yield name
    folder, _, file = name.rpartition("/")
    stem = file.rsplit(".", 1)[0]
    start = f"{folder}/" if folder else ""
    yield start + stem  # photo.jpg.png
    for bare in (match[1] for match in (PREFIX.fullmatch(stem), SUFFIX.fullmatch(stem)) if match):
        yield start + bare


# ------------------------------------------------------------------------------------------------------------------- masks
def check_mask(object_mask: BoolMask, what: str, allow_large_mask: bool, mend: str) -> None:
    """Refuses a mask that cannot be meant.

    Args:
        object_mask: (H, W).
        what: its name in the message.
        allow_large_mask: whether it may run along most of the photo's border.
        mend: what to do about it.

    Raises:
        SpinnerfError: it is empty, or the background's.
    """
    if not object_mask.any():
        raise SpinnerfError(f"{what}: the mask is empty, expected some pixels of the object; {mend}")
    share = border_share(object_mask)
    if share > BACKGROUND_BORDER and not allow_large_mask:
        raise SpinnerfError(
            f"{what}: the mask runs along {share:.0%} of the photo's border, so it is the background's and not the object's; "
            f"{mend}, or allow it with --allow-large-mask"
        )


def prompt_mask(image: Image, prompt: Prompt, segmenter: Segmenter | None, ready: BoolMask | None = None) -> BoolMask:
    """The mask that a prompt means.

    Points and box go to the segmenter, a ready mask is taken as it is. Points beside a ready mask correct it where they are:
    of what the segmenter would change, only the parts that a point asks for. Strokes come last.

    Args:
        image: (H, W, 3) uint8 RGB.
        prompt: in pixels of the image; checked.
        segmenter: not asked, and not needed, where there are neither points nor a box.
        ready: (H, W) the prompt's ready mask, where it has been read before.

    Returns:
        (H, W) bool; may be empty.

    Raises:
        SpinnerfError: the ready mask is missing or of another size.
    """
    shape = image.shape[:2]
    if prompt.mask_path is None:
        found = np.zeros(shape, bool)
    else:
        found = load_object_mask(prompt.mask_path, shape, prompt.mask_id) if ready is None else ready
    if not prompt.painted_only:
        if prompt.mask_path is None:
            if prompt.box is not None or OBJECT_LABEL in prompt.labels:  # else: all on the object is painted
                found = segmenter.segment(image, prompt)
        else:
            found = corrected(found, segmenter.segment(image, prompt), prompt)
    return paint(found, prompt.brush)


def corrected(object_mask: BoolMask, proposal: BoolMask, prompt: Prompt) -> BoolMask:
    """A mask with those parts of a proposal's changes that a point asks for.

    Args:
        object_mask: (H, W) so far.
        proposal: (H, W) what the segmenter says, all points taken into account.
        prompt: its points: one on the object adds the connected part of the proposal's additions that it lies in, one beside
            it takes away the part of what the proposal leaves out.

    Returns:
        (H, W) bool.
    """
    result = object_mask.copy()
    changes = {1: proposal & ~object_mask, 0: object_mask & ~proposal}
    parts = {label: cv2.connectedComponents(change.astype(np.uint8))[1] for label, change in changes.items()}
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        row, column = int(y), int(x)
        part = parts[label][row, column]
        if part:
            result[parts[label] == part] = label == OBJECT_LABEL
    return result


def source_masks(
    capture: Capture,
    prompts: Sequence[Prompt],
    ready: dict[str, Path],
    segmenter: Segmenter | None,
    allow_large_mask: bool,
    mask_id: int | None = None,
) -> ObjectMasks:
    """The masks of all photos that somebody said something about. Ready masks of a folder are those of one object.

    Args:
        capture: its photos.
        prompts: what was pointed at.
        ready: photo -> its mask's file.
        segmenter: makes masks of points and boxes.
        allow_large_mask: whether masks are taken as they are, white for the object, whatever they look like.
        mask_id: which id of a folder of id maps is meant.

    Raises:
        SpinnerfError: a mask is empty, of another size than its photo, or of suspicious polarity.
    """
    sources: ObjectMasks = {}
    if ready:
        views = {photo: capture.view(photo) for photo in ready}
        sources[DEFAULT_OBJECT] = read_given(ready, views, mask_id, allow_large_mask)  # some photos may miss the object
    if ready and not any(mask.any() for mask in sources[DEFAULT_OBJECT].values()):
        folder = next(iter(ready.values())).parent
        raise SpinnerfError(f"{folder}: all masks are empty; paint the object white in one or more")
    for prompt in prompts:
        view, given = capture.view(prompt.view), None
        if prompt.mask_path is not None:
            given = read_given({view.photo: prompt.mask_path}, {view.photo: view}, prompt.mask_id, allow_large_mask)[view.photo]
        object_mask = prompt_mask(view.read_image(), prompt, segmenter, given)
        if prompt.mask_path is not None:
            what, mend = str(prompt.mask_path), "paint the object white"
        else:
            what = f"photo '{prompt.view}', object '{prompt.object}'"
            if not prompt.painted_only:
                what += f", by segmenter '{segmenter.name}'"
            mend = "add points on the object (X,Y,1) and beside it (X,Y,0), or draw a box"
        check_mask(object_mask, what, allow_large_mask, mend)
        sources.setdefault(prompt.object, {})[prompt.view] = object_mask
    return sources
