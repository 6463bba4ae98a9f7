"""One scene being pointed at: what every button of the page does, as functions. No browser is needed.

All changes go through here, one at a time, and are on disk before they are answered: two tabs see the same, and a server
that is killed loses nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask
from spinnerf_ns.page.objects import Objects
from spinnerf_ns.page.store import Store
from spinnerf_ns.scene.capture import Capture
from spinnerf_ns.scene.view import View
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.segmentation.prompts import DEFAULT_OBJECT, Prompt, Stroke
from spinnerf_ns.segmentation.prompts_file import load_prompts
from spinnerf_ns.segmentation.segment import EMBEDDINGS, OBJECTS, give_depth, made_from, segment_capture, views_with_object
from spinnerf_ns.segmentation.sources import LARGEST_PART, ObjectMasks, prompt_mask
from spinnerf_ns.segmentation.trackers import TRACKERS
from spinnerf_ns.segmentation.tracking import Tracked
from spinnerf_ns.stereo.maps import stereo_if_possible

KEPT_MASKS = 256
"""Masks of prompts kept in memory: undo shows them at once."""
KEPT_PHOTOS = 6
"""Decoded photos kept in memory."""


class Session(Objects):
    """A scene with what was pointed at in it.

    Args:
        capture, workspace: of the scene.
        segmenter, tracker: make masks.
        anew: start from prompts.json even where an earlier page left something.
    """

    def __init__(self, capture: Capture, workspace: Workspace, segmenter: Any, tracker: Any, anew: bool = False) -> None:
        self.capture, self.workspace = capture, workspace
        self.segmenter, self.tracker = segmenter, tracker
        if hasattr(segmenter, "cache_folder"):
            segmenter.cache_folder = workspace.root / EMBEDDINGS
        self.views = views_with_object(capture, workspace)
        self.lock = threading.RLock()
        """Held while anything is read or changed, not while anything is computed."""
        self.started = secrets.token_hex(4)
        """Tells a tab that its server is another one now, which counts its revisions anew."""
        self.revision = 0
        self.listeners: list[Callable[[], None]] = []
        self._pointing = threading.Lock()
        self._by_photo = {view.photo: view for view in self.views}
        self._masks: OrderedDict[tuple[str, str, str], BoolMask] = OrderedDict()
        self._photos: OrderedDict[str, Image] = OrderedDict()
        self.store = Store.load(workspace.root)
        if anew or self._older():
            self._take_over()
        if not self.store.objects:
            self.store.objects.append({"name": DEFAULT_OBJECT, "selected": True})

    def _older(self) -> bool:
        """Whether the command line has pointed at something since the page did."""
        prompts = self.workspace.prompts_path
        if not prompts.is_file() or not self.store.path.is_file():
            return True
        return prompts.stat().st_mtime > self.store.path.stat().st_mtime and not self._as_in_prompts_file()

    def _as_in_prompts_file(self) -> bool:
        try:
            return sorted(map(repr, load_prompts(self.workspace.prompts_path))) == sorted(map(repr, self.store.all_prompts()))
        except SpinnerfError:
            return False

    def _take_over(self) -> None:
        """Starts from prompts.json and the masks that the command line made of it."""
        if not self.workspace.prompts_path.is_file():
            return
        self.store = Store(self.workspace.root)
        prompts = load_prompts(self.workspace.prompts_path)
        tracked = made_from(self.workspace, prompts)
        for one in prompts:
            view = self._by_photo.get(one.view)
            if view is None:
                continue
            if one.object not in [entry["name"] for entry in self.store.objects]:
                self.store.objects.append({"name": one.object, "selected": True})
            self.store.prompts.setdefault(one.object, {})[one.view] = one.scaled(view.width, view.height)
        for entry in self.store.objects:
            name = entry["name"]
            for view in self.views:
                path = self.workspace.root / OBJECTS / name / f"{view.photo}.png"
                if view.photo not in self.store.prompts.get(name, {}):
                    mask = load_object_mask(path, (view.height, view.width)) if path.is_file() else None
                    self.store.set_tracked(name, view.photo, mask)
            if name in self.store.tracked and name in tracked:
                self.store.tracked[name]["from"] = self.store.key(name)

    # --------------------------------------------------------------------------------------------------------- reading
    def view(self, photo: str) -> View:
        """A photo of the path.

        Raises:
            SpinnerfError: there is none of that name.
        """
        if photo not in self._by_photo:
            raise SpinnerfError(f"photo {photo!r}: there is none that shows the object; load the page again")
        return self._by_photo[photo]

    def image(self, photo: str) -> Image:
        """(H, W, 3) uint8 RGB."""
        with self.lock:
            if photo not in self._photos:
                self._photos[photo] = self.view(photo).read_image()
                while len(self._photos) > KEPT_PHOTOS:
                    self._photos.popitem(last=False)
            self._photos.move_to_end(photo)
            return self._photos[photo]

    def mask(self, name: str, photo: str) -> BoolMask | None:
        """(H, W) an object's mask in a photo: of what was pointed at there, else the tracked one, else None."""
        with self.lock:
            self._known(name)
            view, prompt = self.view(photo), self.store.prompts.get(name, {}).get(photo)
            if prompt is None:
                return self.store.tracked_mask(name, photo, (view.height, view.width))
            key = self._key(prompt)
            if key in self._masks:
                self._masks.move_to_end(key)
                return self._masks[key]
        return self._pointed(prompt)

    def stale(self, name: str) -> bool:
        """Whether an object was pointed at since it was tracked, or never was."""
        pointed = bool(self.store.prompts.get(name))
        return pointed and self.store.tracked.get(name, {}).get("from") != self.store.key(name)

    def state(self) -> dict[str, Any]:
        """All that a tab shows, but the masks themselves: plain JSON."""
        with self.lock:
            masks: dict[str, dict[str, Any]] = {}
            for entry in self.store.objects:
                name = entry["name"]
                photos = self.store.tracked.get(name, {}).get("photos", {})
                masks[name] = {
                    photo: {"kind": "tracked" if one else "lost", "version": self.store.tracked[name]["from"] or "new",
                            "agreement": (one or {}).get("agreement")}
                    for photo, one in photos.items()
                    if one is None or self.store.has_tracked(name, photo)
                }  # fmt: skip
                for photo, prompt in self.store.prompts.get(name, {}).items():
                    agreement = (photos.get(photo) or {}).get("agreement")
                    masks[name][photo] = {"kind": "prompt", "version": self._key(prompt)[2], "agreement": agreement}
            return {
                "started": self.started,
                "revision": self.revision,
                "objects": [{**entry, "stale": self.stale(entry["name"])} for entry in self.store.objects],
                "prompts": {
                    name: {photo: self.store.to_json(one) for photo, one in photos.items()}
                    for name, photos in self.store.prompts.items()
                },
                "masks": masks,
                "undo": len(self.store.undo),
                "redo": len(self.store.redo),
                "interrupted": self.store.tracking,
                "saved": self.saved(),
            }

    def saved(self) -> bool:
        """Whether prompts.json says what is pointed at now, and all of it is tracked."""
        if not self.workspace.prompts_path.is_file() or any(self.stale(one["name"]) for one in self.store.objects):
            return False
        return self._as_in_prompts_file()

    # -------------------------------------------------------------------------------------------------------- pointing
    def point(self, name: str, photo: str, x: float, y: float, label: int) -> None:
        """A click: on the object (1) or beside it (0).

        Raises:
            SpinnerfError: it lies outside the photo, or there is nothing yet that it could be beside.
        """
        with self._step(name, photo) as prompt:
            prompt = self._started(prompt, name, photo)
            points, labels = (*prompt.points, (float(x), float(y))), (*prompt.labels, int(label))
            self._point_at(dataclasses.replace(prompt, points=points, labels=labels))

    def box(self, name: str, photo: str, x0: float, y0: float, x1: float, y1: float) -> None:
        """A box around the object; says anew what it is in this photo, clicks and strokes that were there are dropped."""
        view = self.view(photo)
        corners = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        limits = (view.width, view.height, view.width, view.height)
        box = tuple(float(np.clip(value, 0, limit)) for value, limit in zip(corners, limits, strict=True))
        with self._step(name, photo):
            self._point_at(Prompt(photo, box=box, object=name, size=(view.width, view.height)))

    def stroke(self, name: str, photo: str, points: list[tuple[float, float]], radius: float, label: int) -> None:
        """A stroke of the brush (1) or the eraser (0)."""
        with self._step(name, photo) as prompt:
            prompt = self._started(prompt, name, photo)
            stroke = Stroke(tuple((float(x), float(y)) for x, y in points), float(radius), int(label))
            self._point_at(dataclasses.replace(prompt, brush=(*prompt.brush, stroke)))

    def upload(self, name: str, photo: str, object_mask: BoolMask) -> None:
        """A ready mask in place of what was pointed at in a photo."""
        view = self.view(photo)
        if object_mask.shape != (view.height, view.width):
            height, width = object_mask.shape
            raise SpinnerfError(f"the mask is {width}x{height}, photo '{photo}' is {view.width}x{view.height}; scale it")
        with self._step(name, photo):
            base = self.store.keep_base(name, photo, object_mask)
            self._point_at(Prompt(photo, mask_path=base, object=name, size=(view.width, view.height)))

    def clear(self, name: str, photo: str) -> None:
        """Takes away what was pointed at in a photo; a tracked mask shows again."""
        with self._step(name, photo):
            self.store.set_prompt(name, photo, None)

    def undo(self) -> None:
        """Takes the last step back."""
        self._walk(self.store.undo, self.store.redo, "before")

    def redo(self) -> None:
        """Does the step that was taken back last again."""
        self._walk(self.store.redo, self.store.undo, "after")

    def _walk(self, steps: list[dict], others: list[dict], side: str) -> None:
        with self.lock:
            if not steps:
                return
            step = steps.pop()
            name = step["object"]
            if step["photo"] is not None:
                self.store.set_prompt(name, step["photo"], step[side])
            elif step[side] is None:
                self._drop(name)
            else:
                self.store.objects = [entry for entry in self.store.objects if entry["name"] != name]  # an empty one
                self.store.objects.insert(step[side]["place"], {"name": name, "selected": True})
                for photo, entry in step[side]["prompts"].items():
                    self.store.set_prompt(name, photo, entry)
            others.append(step)
            self._changed()

    @contextmanager
    def _step(self, name: str, photo: str) -> Iterator[Prompt | None]:
        """A change of what points at an object in a photo, to be undone as one; nothing is changed where it fails."""
        with self._pointing:
            with self.lock:
                self._known(name)
                self.view(photo)
                before = self.store.prompts.get(name, {}).get(photo)
            yield before
            with self.lock:
                after = self.store.prompts.get(name, {}).get(photo)
                if after == before:
                    return
                pair = {"before": self.store.to_json(before), "after": self.store.to_json(after)}
                self.store.undo.append({"object": name, "photo": photo, **pair})
                self.store.redo.clear()
                self._changed()

    def _started(self, prompt: Prompt | None, name: str, photo: str) -> Prompt:
        """What a click or stroke is added to: what is there, else a tracked mask that is to be corrected, else nothing."""
        if prompt is not None:
            return prompt
        view = self.view(photo)
        with self.lock:
            tracked = self.store.tracked_mask(name, photo, (view.height, view.width))
            base = None if tracked is None or not tracked.any() else self.store.keep_base(name, photo, tracked)
        return Prompt(photo, mask_path=base, object=name, size=(view.width, view.height))

    def _point_at(self, prompt: Prompt) -> None:
        """Checks a prompt, makes its mask and keeps it."""
        view = self.view(prompt.view)
        prompt.check(view.width, view.height)
        self._pointed(prompt)
        with self.lock:
            self.store.prompts.setdefault(prompt.object, {})[prompt.view] = prompt

    def _pointed(self, prompt: Prompt) -> BoolMask:
        key = self._key(prompt)
        if key not in self._masks:
            found = prompt_mask(self.image(prompt.view), prompt, self.segmenter)
            with self.lock:
                self._masks[key] = found
                while len(self._masks) > KEPT_MASKS:
                    self._masks.popitem(last=False)
        return self._masks[key]

    def _key(self, prompt: Prompt) -> tuple[str, str, str]:
        said = repr((prompt.points, prompt.labels, prompt.box, prompt.mask_path and prompt.mask_path.name, prompt.brush))
        return prompt.object, prompt.view, hashlib.sha256(said.encode()).hexdigest()[:12]

    # ---------------------------------------------------------------------------------------------------------- saving
    def sources(self, names: list[str] | None = None) -> ObjectMasks:
        """The masks of everything that was pointed at: where the tracker starts from.

        Args:
            names: objects; None: all that were pointed at.

        Raises:
            SpinnerfError: nothing was pointed at, or a mask is empty.
        """
        with self.lock:
            prompts = [one for one in self.store.all_prompts() if names is None or one.object in names]
        if not prompts:
            raise SpinnerfError("nothing is pointed at yet; click on the object in a photo first")
        masks: ObjectMasks = {}
        for one in prompts:
            mask = self.mask(one.object, one.view)
            if not mask.any():
                raise SpinnerfError(f"object '{one.object}' has an empty mask in photo '{one.view}'; correct it or clear it")
            masks.setdefault(one.object, {})[one.view] = mask
        return masks

    def tracker_with_depth(self, progress: Callable[[int, int], None] | None = None) -> Any:
        """The tracker; one that carries masks by depth has it, measured once, or is replaced by one that needs none.

        Args:
            progress: called with steps of the measuring done and steps in all; may raise.
        """
        if hasattr(self.tracker, "place"):
            if stereo_if_possible(self.capture, self.workspace, progress):
                give_depth(self.tracker, self.capture, self.workspace, self.views)
            else:
                self.tracker = TRACKERS.create("flow")
        return self.tracker

    def save(self) -> list[str]:
        """Writes prompts.json, objects/ and masks_2d/, as `ns-spinnerf segment` would.

        Returns:
            Names of the objects that are to be removed, empty for all: what the next command needs.

        Raises:
            SpinnerfError: an object is not tracked yet, or none is selected.
        """
        with self.lock:
            sources = self.sources()
            open_ones = [name for name in sources if self.stale(name)]
            if open_ones:
                raise SpinnerfError(f"object '{open_ones[0]}' was pointed at but not tracked since; track it first")
            chosen = [one["name"] for one in self.store.objects if one["selected"] and one["name"] in sources]
            if not chosen:
                raise SpinnerfError("no object is selected for removal; tick one")
            shapes = {view.photo: (view.height, view.width) for view in self.views}
            tracked: Tracked = {
                name: {
                    photo: by_photo[photo] if photo in by_photo else self.store.tracked_mask(name, photo, shape)
                    for photo, shape in shapes.items()
                }
                for name, by_photo in sources.items()
            }
            subset = [] if len(chosen) == len(sources) else chosen
            segment_capture(
                self.capture, self.workspace, self.store.all_prompts(), self.segmenter, self.tracker, overwrite=True,
                allow_large_mask=self.as_they_are(sources), objects=subset, made=(sources, tracked),
            )  # fmt: skip
            self._changed()
            return subset

    def as_they_are(self, sources: ObjectMasks) -> bool:
        """Whether masks are such as the command line would turn round or refuse unless told not to: what was seen is meant."""
        given = any(one.mask_path is not None for one in self.store.all_prompts())
        return given or any(mask.mean() > LARGEST_PART for by_photo in sources.values() for mask in by_photo.values())

    def _changed(self) -> None:
        """Writes the state and tells every tab."""
        self.revision += 1
        self.store.save()
        self.tell()

    def tell(self) -> None:
        """Tells every tab to look again."""
        for listener in list(self.listeners):
            listener()
