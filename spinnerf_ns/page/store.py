"""What the page remembers, on disk after every action: a server that is killed loses nothing.

<workspace>/page/session.json, schema 1:
    objects   [{"name", "selected"}], in the order in which they were named
    prompts   {object: {photo: prompt}}, prompts as in prompts.json
    undo, redo   steps, newest last: {"object", "photo", "before", "after"}; a step over a whole object has photo null
    tracked   {object: {"from": key of the prompts, "photos": {photo: {"agreement": number or null} or null where it was lost}}};
              "pointed": true in a photo that has no tracked mask, as it was pointed at
    tracking  whether a tracking was under way
<workspace>/page/tracked/<object>/<photo>.png   masks that the tracker made
<workspace>/prompts/<object>/<photo>.png        masks that a correction started from; prompts.json names them
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import digest_of, load_object_mask, save_object_mask, write_json
from spinnerf_ns.segmentation.corrections import keep_base
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.prompts_file import prompt_from_json, prompt_to_json

SCHEMA = 1
"""session.json's schema."""
FOLDER = "page"
"""The page's folder in the workspace."""
STEPS = 200
"""Steps that can be undone."""


@dataclass
class Store:
    """The page's memory. Changes are written by `save`."""

    root: Path
    """The workspace's folder."""
    objects: list[dict[str, Any]] = field(default_factory=list)
    prompts: dict[str, dict[str, Prompt]] = field(default_factory=dict)
    undo: list[dict[str, Any]] = field(default_factory=list)
    redo: list[dict[str, Any]] = field(default_factory=list)
    tracked: dict[str, dict[str, Any]] = field(default_factory=dict)
    tracking: bool = False

    @property
    def path(self) -> Path:
        """session.json."""
        return self.root / FOLDER / "session.json"

    @classmethod
    def load(cls, root: Path) -> Store:
        """What was remembered; an empty store where nothing was.

        Raises:
            SpinnerfError: the file is damaged or of a newer version.
        """
        store = cls(root)
        try:
            content = json.loads(store.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return store
        except (OSError, ValueError) as error:
            raise SpinnerfError(f"{store.path}: cannot be read ({error}); move it away to start the page anew") from error
        try:
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']!r}, expected {SCHEMA}")
            store.objects = [{"name": str(one["name"]), "selected": bool(one["selected"])} for one in content["objects"]]
            store.prompts = {
                name: {photo: prompt_from_json(entry, photo, name, root) for photo, entry in photos.items()}
                for name, photos in content["prompts"].items()
            }
            store.undo, store.redo = list(content["undo"]), list(content["redo"])
            store.tracked, store.tracking = dict(content["tracked"]), bool(content["tracking"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise SpinnerfError(f"{store.path}: is no session ({error}); move it away to start the page anew") from error
        return store

    def save(self) -> None:
        """Writes session.json, atomically."""
        content = {
            "schema": SCHEMA,
            "objects": self.objects,
            "prompts": {
                name: {photo: prompt_to_json(one, self.root) for photo, one in photos.items()}
                for name, photos in self.prompts.items()
            },
            "undo": self.undo[-STEPS:],
            "redo": self.redo[-STEPS:],
            "tracked": self.tracked,
            "tracking": self.tracking,
        }
        write_json(self.path, content)

    # --------------------------------------------------------------------------------------------------------- prompts
    def to_json(self, prompt: Prompt | None) -> dict[str, Any] | None:
        """A prompt as a step keeps it."""
        return None if prompt is None else prompt_to_json(prompt, self.root)

    def set_prompt(self, name: str, photo: str, entry: dict[str, Any] | None) -> None:
        """Replaces what points at an object in a photo, as JSON; None takes it away."""
        if entry is None:
            self.prompts.get(name, {}).pop(photo, None)
        else:
            self.prompts.setdefault(name, {})[photo] = prompt_from_json(entry, photo, name, self.root)

    def all_prompts(self) -> list[Prompt]:
        """All prompts, by object in the order of their naming."""
        return [one for entry in self.objects for one in self.prompts.get(entry["name"], {}).values()]

    def key(self, name: str) -> str:
        """Changes with whatever points at an object."""
        entries = {photo: self.to_json(one) for photo, one in sorted(self.prompts.get(name, {}).items())}
        return digest_of(entries)[:16]

    # ----------------------------------------------------------------------------------------------------------- masks
    def tracked_path(self, name: str, photo: str) -> Path:
        """A tracked mask's file."""
        return self.root / FOLDER / "tracked" / name / f"{photo}.png"

    def tracked_mask(self, name: str, photo: str, shape: tuple[int, int]) -> BoolMask | None:
        """A tracked mask, or None where there is none."""
        if not self.has_tracked(name, photo):
            return None
        path = self.tracked_path(name, photo)
        return load_object_mask(path, shape) if path.is_file() else None

    def has_tracked(self, name: str, photo: str) -> bool:
        """Whether there is a tracked mask."""
        entry = self.tracked.get(name, {}).get("photos", {}).get(photo)
        return bool(entry) and not entry.get("pointed")

    def set_tracked(self, name: str, photo: str, object_mask: BoolMask | None) -> None:
        """Keeps a tracked mask; None: the object was lost."""
        photos = self.tracked.setdefault(name, {"from": None, "photos": {}})["photos"]
        if object_mask is None:
            photos[photo] = None
            return
        save_object_mask(self.tracked_path(name, photo), object_mask)
        photos[photo] = {"agreement": (photos.get(photo) or {}).get("agreement")}

    def set_agreement(self, name: str, photo: str, agreement: float | None) -> None:
        """Keeps how well a mask agrees with the others'; of a photo that was only pointed at as well."""
        photos = self.tracked.setdefault(name, {"from": None, "photos": {}})["photos"]
        known = photo in photos
        if not known or photos[photo] is not None:
            photos[photo] = {"agreement": None if agreement is None else round(agreement, 4)}
            if not known or (not self.tracked_path(name, photo).is_file()):
                photos[photo]["pointed"] = True  # no tracked mask of it

    def keep_base(self, name: str, photo: str, object_mask: BoolMask) -> Path:
        """Keeps a mask that a correction starts from."""
        return keep_base(self.root, name, photo, object_mask)

    def rename(self, name: str, to: str) -> None:
        """Renames an object; the masks that its corrections started from stay where they are."""
        for entry in self.objects:
            if entry["name"] == name:
                entry["name"] = to
        if name in self.prompts:
            photos = {photo: self.to_json(one) for photo, one in self.prompts.pop(name).items()}
            for photo, entry in photos.items():
                self.set_prompt(to, photo, entry)
        if name in self.tracked:
            self.tracked[to] = self.tracked.pop(name)
            folder = self.tracked_path(name, "x").parent
            if folder.is_dir():
                shutil.move(folder, folder.with_name(to))
        for step in (*self.undo, *self.redo):
            if step["object"] == name:
                step["object"] = to

    def forget(self, name: str) -> None:
        """Drops what was tracked of an object."""
        self.tracked.pop(name, None)
        shutil.rmtree(self.tracked_path(name, "x").parent, ignore_errors=True)
