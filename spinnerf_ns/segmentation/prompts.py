"""What a person points at, and the protocols of those who make masks of it. prompts.json is `prompts_file`'s."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.errors import SpinnerfError

OBJECT_LABEL, BACKGROUND_LABEL = 1, 0
"""A point's or stroke's label: on the object, or beside it."""

DEFAULT_OBJECT = "object"
"""What an object is called that nobody named."""

LONGEST_NAME = 60
"""Letters of an object's name: it becomes a folder's."""


@dataclass(frozen=True)
class Stroke:
    """A line drawn with a round brush: what it covers is the object, or is not, whatever points and boxes led to."""

    points: tuple[tuple[float, float], ...]
    """(x, y) in pixels; one point is a dot."""
    radius: float
    """Of the brush, in pixels."""
    label: int = OBJECT_LABEL
    """1 paints, 0 erases."""


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
    """An object mask of the photo, in place of a box; points and strokes correct it."""
    object: str = DEFAULT_OBJECT
    """The object's name, where several are pointed at."""
    text: str | None = None
    """The words that the box was found by, if it was."""
    brush: tuple[Stroke, ...] = ()
    """Strokes, in the order in which they were drawn; the last word on the pixels that they cover."""
    mask_id: int | None = None
    """Which id of the mask is meant, where it is an id map."""
    size: tuple[int, int] | None = None
    """(width, height) of the photo whose pixels all of this is in; None: the photo that is used."""

    @property
    def painted_only(self) -> bool:
        """Whether nothing but strokes, on a ready mask or on nothing, says what the object is."""
        return not self.points and self.box is None

    def scaled(self, width: int, height: int) -> Prompt:
        """The same, in pixels of a photo of another size; as it is where its own size is not known.

        Args:
            width, height: that photo's size in pixels.
        """
        if self.size is None:
            return dataclasses.replace(self.moved(lambda x, y: (float(x), float(y)), 1.0), size=(width, height))
        if self.size == (width, height):
            return self
        across, down = width / self.size[0], height / self.size[1]
        moved = self.moved(lambda x, y: (x * across, y * down), math.sqrt(across * down))
        return dataclasses.replace(moved, size=(width, height))

    def moved(self, place: Callable[[float, float], tuple[float, float]], scale: float) -> Prompt:
        """The same with every place mapped.

        Args:
            place: (x, y) -> (x, y); takes boxes to boxes.
            scale: of lengths.
        """
        box = self.box
        if box is not None:
            (ax, ay), (bx, by) = place(*box[:2]), place(*box[2:])
            # A box that was given the wrong way round stays so: it is to be refused, not mended in silence.
            box = (*((min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)) if box[0] < box[2] and box[1] < box[3]
                     else (ax, ay, bx, by)),)  # fmt: skip
        return dataclasses.replace(
            self,
            points=tuple(place(x, y) for x, y in self.points),
            box=box,
            brush=tuple(Stroke(tuple(place(x, y) for x, y in one.points), one.radius * scale, one.label) for one in self.brush),
        )

    def check(self, width: int, height: int) -> None:
        """Checks the prompt against its photo.

        Args:
            width, height: the photo's size in pixels.

        Raises:
            SpinnerfError: nothing is pointed at, or something that is no part of the photo.
        """
        where = f"photo '{self.view}' ({width}x{height})"
        check_name(self.object)
        if not self.points and self.box is None and self.mask_path is None and not self.brush:
            raise SpinnerfError(
                f"{where}: nothing is pointed at; say where the object is: --points X,Y, --box X0,Y0,X1,Y1 or --mask FILE"
            )
        if self.mask_path is not None and self.box is not None:
            raise SpinnerfError(f"{where}: a ready mask and a box were given; leave one of them out")
        if len(self.points) != len(self.labels):
            raise SpinnerfError(f"{where}: {len(self.points)} points and {len(self.labels)} labels; give each point a label")
        for (x, y), label in zip(self.points, self.labels, strict=True):
            if label not in (OBJECT_LABEL, BACKGROUND_LABEL):
                raise SpinnerfError(f"{where}: point {x:g},{y:g} has label {label}; use 1 for object or 0 for background")
            if not (0 <= x < width and 0 <= y < height):
                raise SpinnerfError(
                    f"{where}: point {x:g},{y:g} lies outside the photo; x goes from 0 to {width}, y from 0 to {height}"
                )
        for stroke in self.brush:
            _check_stroke(stroke, where, width, height)
        if self.box is not None:
            self._check_box(where, width, height)
        elif self.mask_path is None and not any(one.label == OBJECT_LABEL for one in self.brush):
            if self.points and OBJECT_LABEL not in self.labels:
                raise SpinnerfError(f"{where}: all points are background; add one on the object: --points X,Y")
            if not self.points:
                raise SpinnerfError(f"{where}: all strokes erase; paint the object first, or add a point on it: --points X,Y")

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


def _check_stroke(stroke: Stroke, where: str, width: int, height: int) -> None:
    numbers = [stroke.radius, *(value for point in stroke.points for value in point)]
    if not stroke.points or not all(math.isfinite(value) for value in numbers):
        raise SpinnerfError(f"{where}: a brush stroke has no points or is not made of numbers; draw it again")
    if stroke.label not in (OBJECT_LABEL, BACKGROUND_LABEL):
        raise SpinnerfError(f"{where}: a brush stroke has label {stroke.label}; use 1 to paint or 0 to erase")
    if not 0 < stroke.radius <= max(width, height):
        raise SpinnerfError(f"{where}: a brush stroke has radius {stroke.radius:g}; use more than 0 and less than the photo")


def check_name(name: str) -> None:
    """What an object may be called: its masks lie in a folder of that name.

    Raises:
        SpinnerfError: it is empty, too long, starts or ends with a dot or blank, or has a sign that no folder may have.
    """
    bad = sorted({letter for letter in name if letter in '/\\:*?"<>|' or not letter.isprintable()})
    if not name or len(name) > LONGEST_NAME or bad or name != name.strip(" ."):
        what = f"has {bad[0]!r} in it" if bad else "is no name"
        raise SpinnerfError(
            f"object {name!r}: {what}; use 1 to {LONGEST_NAME} letters, digits, blanks, - and _, for example: --object vase"
        )


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
    returns {object: masks}: then several objects are tracked in one go; else one after the other. It may have an attribute
    `found`: a function that it calls with a photo's index and its mask as soon as there is one, so that somebody who
    waits sees it.
    """

    name: str

    def track(
        self,
        images: Sequence[Callable[[], Image]],
        source_masks: dict[int, BoolMask],
        progress: Callable[[int], None] | None = None,
    ) -> list[BoolMask | None]:
        """Carries masks along the camera path. Where several are given, each photo follows those that are most like it.

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


def parse_stroke(text: str) -> Stroke:
    """ "RADIUS,LABEL,X,Y,X,Y,..." -> a brush stroke.

    Raises:
        SpinnerfError: it is something else.
    """
    values = _numbers(text)
    if values is None or len(values) < 4 or len(values) % 2 or values[0] <= 0 or values[1] not in (0, 1):
        raise SpinnerfError(f"brush '{text}': expected RADIUS,LABEL,X,Y,X,Y,... in pixels; label 1 paints, 0 erases")
    return Stroke(tuple(zip(values[2::2], values[3::2], strict=True)), values[0], int(values[1]))


def _numbers(text: str) -> list[float] | None:
    try:
        values = [float(part) for part in text.strip().split(",")]
    except ValueError:
        return None
    return values if all(math.isfinite(value) for value in values) else None
