"""What a person points at, on the command line and in prompts.json, and the protocols of those who make masks of it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import atomic_path

SCHEMA = 1
"""prompts.json's schema: {"schema": 1, "prompts": [{"view", "points": [[x, y]], "labels", "box", "mask"}]}; a prompt of
another object than 1 has "object", and one that words led to has "text"."""

OBJECT_LABEL, BACKGROUND_LABEL = 1, 0
"""A point's label: on the object, or beside it."""


@dataclass(frozen=True)
class Prompt:
    """What was pointed at in one photo. Pixels: (0, 0) is the outer corner of the top-left one, its centre is (0.5, 0.5)."""

    view: str
    """The photo's key."""
    points: tuple[tuple[float, float], ...] = ()
    """(x, y) in pixels."""
    labels: tuple[int, ...] = ()
    """Per point: 1 on the object, 0 on the background."""
    box: tuple[float, float, float, float] | None = None
    """(x0, y0, x1, y1) around the object, in pixels."""
    mask_path: Path | None = None
    """A ready object mask of the photo, in place of points and box."""
    object: int = 1
    """Which object, where several are pointed at; all of them are removed."""
    text: str | None = None
    """The words that the box was found by, if it was."""

    def check(self, width: int, height: int) -> None:
        """Checks the prompt against its photo.

        Args:
            width, height: the photo's size in pixels.

        Raises:
            SpinnerfError: nothing is pointed at, or something that is no part of the photo.
        """
        where = f"photo '{self.view}' ({width}x{height})"
        if not self.points and self.box is None and self.mask_path is None:
            raise SpinnerfError(
                f"{where}: nothing is pointed at; say where the object is: --points X,Y, --box X0,Y0,X1,Y1 or --mask FILE"
            )
        if self.mask_path is not None and (self.points or self.box is not None):
            raise SpinnerfError(f"{where}: a ready mask and points or a box were given; leave one of them out")
        if len(self.points) != len(self.labels):
            raise SpinnerfError(f"{where}: {len(self.points)} points and {len(self.labels)} labels; give each point a label")
        for (x, y), label in zip(self.points, self.labels, strict=True):
            if label not in (OBJECT_LABEL, BACKGROUND_LABEL):
                raise SpinnerfError(f"{where}: point {x:g},{y:g} has label {label}; use 1 for object or 0 for background")
            if not (0 <= x < width and 0 <= y < height):
                raise SpinnerfError(
                    f"{where}: point {x:g},{y:g} lies outside the photo; x goes from 0 to {width}, y from 0 to {height}"
                )
        if self.box is not None:
            self._check_box(where, width, height)
        elif self.points and OBJECT_LABEL not in self.labels:
            raise SpinnerfError(f"{where}: all points are background; add one on the object: --points X,Y")

    def _check_box(self, where: str, width: int, height: int) -> None:
        x0, y0, x1, y1 = self.box
        named = f"box {x0:g},{y0:g},{x1:g},{y1:g}"
        if not all(math.isfinite(value) for value in self.box):
            raise SpinnerfError(f"{where}: {named} is not made of numbers; give it as X0,Y0,X1,Y1 in pixels")
        if x1 <= x0 or y1 <= y0:
            raise SpinnerfError(f"{where}: {named} has no area; give its top left corner first, then its bottom right one")
        if not (0 <= x0 and 0 <= y0 and x1 <= width and y1 <= height):
            raise SpinnerfError(f"{where}: {named} reaches outside the photo; keep x in 0..{width} and y in 0..{height}")
        if x1 - x0 < 2 or y1 - y0 < 2:
            raise SpinnerfError(f"{where}: {named} is smaller than two pixels; draw it around the object")
        for (x, y), label in zip(self.points, self.labels, strict=True):
            if label == OBJECT_LABEL and not (x0 <= x <= x1 and y0 <= y <= y1):
                raise SpinnerfError(f"{where}: object point {x:g},{y:g} lies outside {named}; draw the box larger")


class Segmenter(Protocol):
    """A photo and a prompt -> an object mask.

    A segmenter with a costly network may have `ensure()`, which raises SpinnerfError if it can't be had, and an attribute
    `cache_folder`, which the stage sets to a folder of the workspace.
    """

    name: str

    def segment(self, image: Image, prompt: Prompt) -> BoolMask:
        """Finds what was pointed at.

        Args:
            image: (H, W, 3) uint8 RGB.
            prompt: points and labels, a box, or both.

        Returns:
            (H, W) bool, True = object; empty if nothing was found.
        """
        ...


class Tracker(Protocol):
    """Masks in some photos -> masks in all.

    A tracker may have `ensure()`, as a segmenter may, and `track_objects(images, {object: source_masks}, progress)`, which
    returns {object: masks}: then several objects are tracked in one go; else one after the other.
    """

    name: str

    def track(
        self,
        images: Sequence[Callable[[], Image]],
        source_masks: dict[int, BoolMask],
        progress: Callable[[int], None] | None = None,
    ) -> list[BoolMask | None]:
        """Carries masks along the camera path.

        Args:
            images: one function per photo, in the order of the camera path, that reads it: (H, W, 3) uint8 RGB.
            source_masks: index of a photo -> (H, W) bool, True = object.
            progress: called with a photo's index when it is done.

        Returns:
            Per photo (H, W) bool, or None where the tracker cannot say.
        """
        ...


def check_source(
    tracker: str,
    index: int | None,
    count: int,
    shape: tuple[int, ...] | None = None,
    photo_shape: tuple[int, int] | None = None,
) -> None:
    """What every tracker refuses.

    Args:
        tracker: its name.
        index: a source mask's photo; None: there is no source mask at all.
        count: number of photos.
        shape, photo_shape: (height, width) of the mask and of its photo, where they are known.

    Raises:
        SpinnerfError: no source mask, an index that is no photo's, or a mask of another size than its photo.
    """
    if index is None:
        raise SpinnerfError(f"tracker '{tracker}' got no source mask, expected one at least; segment a photo first")
    if not 0 <= index < count:
        raise SpinnerfError(f"tracker '{tracker}' got a mask for photo {index}, expected 0 to {count - 1}; correct the index")
    if shape is not None and tuple(shape) != tuple(photo_shape):
        raise SpinnerfError(
            f"tracker '{tracker}' got a mask of shape {shape} for photo {index} of shape {photo_shape}; "
            "export the mask at the photo's size"
        )


# --------------------------------------------------------------------------------------------------------------- parsing
def parse_point(text: str) -> tuple[tuple[float, float], int]:
    """ "512,300" (on the object), "512,300,1" or "512,300,0" (background) -> ((x, y), label).

    Raises:
        SpinnerfError: it is something else.
    """
    values = _numbers(text)
    if values is None or len(values) not in (2, 3) or (len(values) == 3 and values[2] not in (0, 1)):
        raise SpinnerfError(f"point '{text}': expected X,Y or X,Y,LABEL with label 1 (object) or 0 (background), in pixels")
    return (values[0], values[1]), int(values[2]) if len(values) == 3 else OBJECT_LABEL


def parse_box(text: str) -> tuple[float, float, float, float]:
    """ "X0,Y0,X1,Y1" -> four numbers.

    Raises:
        SpinnerfError: it is something else.
    """
    values = _numbers(text)
    if values is None or len(values) != 4:
        raise SpinnerfError(f"box '{text}': expected X0,Y0,X1,Y1 in pixels, top left corner first")
    return values[0], values[1], values[2], values[3]


def _numbers(text: str) -> list[float] | None:
    try:
        values = [float(part) for part in text.strip().split(",")]
    except ValueError:
        return None
    return values if all(math.isfinite(value) for value in values) else None


# ------------------------------------------------------------------------------------------------------------ prompts.json
def save_prompts(path: Path | str, prompts: Sequence[Prompt]) -> None:
    """Writes prompts.json, atomically. Paths of masks are kept relative to its folder, so that a scene can be moved."""
    path = Path(path)
    content = {"schema": SCHEMA, "prompts": [_to_json(prompt, path.parent) for prompt in prompts]}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_prompts(path: Path | str) -> tuple[Prompt, ...]:
    """Reads prompts.json.

    Raises:
        SpinnerfError: it is missing, damaged, or of a newer schema.
    """
    path = Path(path)
    again = "point at the object again: ns-spinnerf segment --view PHOTO --points X,Y --overwrite"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema"]
        if schema != SCHEMA:
            raise SpinnerfError(f"{path}: has schema {schema!r}, expected {SCHEMA}; update spinnerf-ns, or {again}")
        return tuple(_from_json(entry, path.parent) for entry in content["prompts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpinnerfError(f"{path}: cannot be read as prompts ({type(error).__name__}: {error}); {again}") from error


def _to_json(prompt: Prompt, folder: Path) -> dict[str, Any]:
    mask = prompt.mask_path
    return {
        "view": prompt.view,
        "points": [list(point) for point in prompt.points],
        "labels": list(prompt.labels),
        "box": None if prompt.box is None else list(prompt.box),
        "mask": None if mask is None else Path(os.path.relpath(mask, folder)).as_posix(),
        **({} if prompt.object == 1 else {"object": prompt.object}),
        **({} if prompt.text is None else {"text": prompt.text}),
    }


def _from_json(entry: dict[str, Any], folder: Path) -> Prompt:
    box, mask = entry.get("box"), entry.get("mask")
    if not isinstance(entry["view"], str):
        raise TypeError(f"view is {entry['view']!r}")
    return Prompt(
        view=entry["view"],
        points=tuple((float(x), float(y)) for x, y in entry.get("points", ())),
        labels=tuple(int(label) for label in entry.get("labels", ())),
        box=None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        mask_path=None if mask is None else Path(os.path.normpath(folder / mask)),
        object=int(entry.get("object", 1)),
        text=entry.get("text"),
    )
