"""prompts.json: what was pointed at, kept so that it can be looked at, corrected and run again.

Schema 2, as it is written:
    {"schema": 2, "objects": {NAME: {PHOTO: {"size", "points", "labels", "box", "mask", "brush", "text"}}}}
    size     [width, height] of the photo whose pixels the numbers are in
    points   [[x, y], ...], and labels [1 or 0, ...]: on the object, or beside it
    box      [x0, y0, x1, y1]
    mask     a mask's file, relative to prompts.json
    brush    [{"radius", "label", "points"}, ...]
    text     the words that the box was found by
What is not given is left out. Schema 1, a list of prompts with numbered objects, is read as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import write_json
from spinnerf_ns.segmentation.prompts import DEFAULT_OBJECT, Prompt, Stroke

SCHEMA = 2
"""prompts.json's schema."""

AGAIN = "point at the object again: ns-spinnerf segment --data SCENE --view PHOTO --points X,Y --overwrite"


def save_prompts(path: Path | str, prompts: Sequence[Prompt]) -> None:
    """Writes prompts.json, atomically. Paths of masks are kept relative to its folder, so that a scene can be moved."""
    path = Path(path)
    objects: dict[str, dict[str, Any]] = {}
    for prompt in prompts:
        objects.setdefault(prompt.object, {})[prompt.view] = prompt_to_json(prompt, path.parent)
    write_json(path, {"schema": SCHEMA, "objects": objects})


def load_prompts(path: Path | str) -> tuple[Prompt, ...]:
    """Reads prompts.json.

    Raises:
        SpinnerfError: it is missing, damaged, or of a newer schema.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema"]
        if schema == 1:
            return tuple(_from_schema_1(entry, path.parent) for entry in content["prompts"])
        if schema != SCHEMA:
            raise SpinnerfError(f"{path}: has schema {schema!r}, expected {SCHEMA}; update spinnerf-ns, or {AGAIN}")
        return tuple(
            prompt_from_json(entry, photo, name, path.parent)
            for name, photos in content["objects"].items()
            for photo, entry in photos.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise SpinnerfError(f"{path}: cannot be read as prompts ({type(error).__name__}: {error}); {AGAIN}") from error


def prompt_to_json(prompt: Prompt, folder: Path) -> dict[str, Any]:
    """A prompt without its view and object; masks relative to a folder."""
    mask = prompt.mask_path
    entry = {
        "size": prompt.size and list(prompt.size),
        "points": [list(point) for point in prompt.points],
        "labels": list(prompt.labels),
        "box": prompt.box and list(prompt.box),
        "mask": mask and Path(os.path.relpath(mask, folder)).as_posix(),
        "mask_id": prompt.mask_id,
        "brush": [
            {"radius": one.radius, "label": one.label, "points": [list(point) for point in one.points]} for one in prompt.brush
        ],
        "text": prompt.text,
    }
    return {name: value for name, value in entry.items() if value or (name == "mask_id" and value is not None)}


def prompt_from_json(entry: dict[str, Any], photo: str, name: str, folder: Path) -> Prompt:
    """What `prompt_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError, IndexError: it is something else.
    """
    if not isinstance(photo, str) or not isinstance(name, str):
        raise TypeError(f"view is {photo!r} of object {name!r}")
    box, mask, size = entry.get("box"), entry.get("mask"), entry.get("size")
    return Prompt(
        view=photo,
        points=_places(entry.get("points", ())),
        labels=tuple(int(label) for label in entry.get("labels", ())),
        box=None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        mask_path=None if mask is None else Path(os.path.normpath(folder / mask)),
        mask_id=None if entry.get("mask_id") is None else int(entry["mask_id"]),
        object=name,
        text=entry.get("text"),
        brush=tuple(Stroke(_places(one["points"]), float(one["radius"]), int(one["label"])) for one in entry.get("brush", ())),
        size=None if size is None else (int(size[0]), int(size[1])),
    )


def _from_schema_1(entry: dict[str, Any], folder: Path) -> Prompt:
    number = int(entry.get("object", 1))
    return prompt_from_json(entry, entry["view"], DEFAULT_OBJECT if number == 1 else f"{DEFAULT_OBJECT} {number}", folder)


def _places(points: Any) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in points)
