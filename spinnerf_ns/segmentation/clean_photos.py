"""Photos of the same place without the object, taken later and posed with the others: named by a person, checked, and noted.

They are no part of the segmentation: nobody looks for the object in them, and the field that learns where it is does not see
them. The export takes from them what the object hides in the others (`removal.clean_photos`).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask
from spinnerf_ns.hints import command
from spinnerf_ns.segmentation.prompts_file import load_prompts
from spinnerf_ns.segmentation.sources import match_masks

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.view import View
    from spinnerf_ns.scene.workspace import Workspace

OPTION = "--clean-photos"

LIST = ".txt"
"""Suffix of a file that lists names."""

WILD = "*?["
"""Signs of a pattern."""

NONE = "none"
"""In place of names: no photo, whatever was named before."""


def find_clean_photos(capture: Capture, names: Sequence[str]) -> tuple[str, ...]:
    """The photos that names stand for, in the capture's order.

    Args:
        capture: the capture, whose transforms.json or COLMAP model has the photos' poses.
        names: photos as `Capture.view` takes them; patterns ("later/*", "images/IMG_2*"); folders of the capture; text files (.txt)
            with a name in each line, `#` begins a comment.

    Raises:
        SpinnerfError: a name, pattern or folder that stands for no photo of the capture, or a list that cannot be read.
    """
    found: set[str] = set()
    for name in names:
        for each in _lines(name) if name.lower().endswith(LIST) else [name]:
            found.update(_photos(capture, each))
    return tuple(photo for photo in capture.photos if photo in found)


def name_clean_photos(
    capture: Capture,
    workspace: Workspace,
    names: Sequence[str],
    pointed: Collection[str] | None = None,
    masks: Collection[Path] = (),
    anew: bool = False,
) -> None:
    """Notes in the workspace which photos show the place without the object, in place of those noted before.

    Args:
        capture, workspace: of the scene.
        names: as of `find_clean_photos`; or NONE; an empty list: all stays as it was.
        pointed: photos in which somebody points at the object; by default those of prompts.json.
        masks: folders of object masks made by hand, called like the photos.
        anew: whether masks that were tracked before are about to be made again, so that they say nothing.

    Raises:
        SpinnerfError: as `find_clean_photos`; one of them is pointed at, or has an object mask; or no training photo with the
            object would be left. Nothing is noted then.
    """
    if not names:
        return
    if list(names) == [NONE]:
        workspace.set_clean_photos(())
        return
    photos = find_clean_photos(capture, names)
    if pointed is None:
        pointed = [one.view for one in load_prompts(workspace.prompts_path)] if workspace.prompts_path.is_file() else []
    keys = {capture.view(name).photo for name in pointed}
    for photo in photos:
        if photo in keys:
            raise SpinnerfError(
                f"{OPTION}: the object was pointed at in photo '{photo}', so it is not clean; name others, or point at it in "
                f"another photo ({workspace.prompts_path})"
            )
    without = {*photos, *workspace.truth_photos}
    if not any(view.photo not in without for view in capture.split("train")):
        raise SpinnerfError(
            f"{OPTION}: {len(photos)} photos are named, and no training photo of {capture.data} that shows the object is left; "
            "name only those that were taken without it"
        )
    where = {"data": capture.data, "workspace": workspace.root}
    again = command("ns-spinnerf", "segment", **where, clean_photos=list(names), overwrite=True)
    tracked = {} if anew else {photo: workspace.mask_path("masks_2d", photo) for photo in photos}
    for files, mend in (
        (tracked, f"name others; or, if the tracker was wrong: {again}"),
        *((match_masks(capture, folder, set(capture.photos)), "name others, or take the mask away") for folder in masks),
    ):
        for photo in (photo for photo in photos if photo in files and files[photo].is_file()):
            view = capture.view(photo)
            area = int(load_object_mask(files[photo], (view.height, view.width)).sum())
            if area:
                raise SpinnerfError(
                    f"{files[photo]}: photo '{photo}' is named by {OPTION}, but {area} of its pixels are masked; {mend}"
                )
    workspace.set_clean_photos(photos)


@contextmanager
def unless_refused(workspace: Workspace) -> Iterator[None]:
    """What is named within this context stands only if nothing in it is refused."""
    before = workspace.clean_photos
    try:
        yield
    except SpinnerfError:
        workspace.set_clean_photos(before)
        raise


def _photos(capture: Capture, name: str) -> list[str]:
    """What one name stands for."""
    given = Path(os.path.normpath(name)).as_posix()
    if any(sign in given for sign in WILD):
        found = [view.photo for view in capture.views if any(fnmatchcase(known, given) for known in _names(capture, view))]
    else:
        found = [
            view.photo for view in capture.views if any(known.startswith(f"{given}/") for known in _names(capture, view))
        ]  # a folder
        if not found:
            return [capture.view(given).photo]
    if not found:
        raise SpinnerfError(f"{OPTION} {shlex.quote(name)}: no photo of {capture.data} is called so; there are {_some(capture)}")
    return found


def _names(capture: Capture, view: View) -> set[str]:
    """What a photo may be called in a pattern: its key, its file's name, and its path, in full and below the capture."""
    path = Path(os.path.abspath(view.path))
    data = Path(os.path.abspath(capture.data))
    below = os.path.relpath(path, data.parent if data.suffix == ".json" else data)
    return {view.photo, path.name, path.as_posix(), Path(below).as_posix()}


def _some(capture: Capture) -> str:
    first, last = capture.photos[0], capture.photos[-1]
    return f"{len(capture.photos)}, from {first} to {last}"


def _lines(name: str) -> list[str]:
    path = Path(name)
    try:
        lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else "no text"
        raise SpinnerfError(
            f"{OPTION} {shlex.quote(name)}: {what}; a text file with a photo's name in each line was expected"
        ) from error
    if not any(lines):
        raise SpinnerfError(f"{path}: names no photo; write a name in each line")
    return [line for line in lines if line]
