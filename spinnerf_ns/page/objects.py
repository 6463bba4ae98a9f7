"""The named objects of a session: added, renamed, forgotten, chosen for removal."""

from __future__ import annotations

import threading

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.page.store import Store
from spinnerf_ns.segmentation.prompts import DEFAULT_OBJECT, check_name


class Objects:
    """What a session does with its list of objects."""

    store: Store
    lock: threading.RLock

    def add_object(self, name: str) -> None:
        """Names another object.

        Raises:
            SpinnerfError: the name is taken or can be no folder's.
        """
        with self.lock:
            self._free(name)
            self.store.objects.append({"name": name, "selected": True})
            self._changed()

    def rename_object(self, name: str, to: str) -> None:
        """Gives an object another name."""
        with self.lock:
            self._known(name)
            if to != name:
                self._free(to)
                self.store.rename(name, to)
                self._changed()

    def remove_object(self, name: str) -> None:
        """Forgets an object and what points at it; the last one is only emptied. Can be undone but for what was tracked."""
        with self.lock:
            self._known(name)
            place = [entry["name"] for entry in self.store.objects].index(name)
            prompts = {photo: self.store.to_json(one) for photo, one in self.store.prompts.get(name, {}).items()}
            self.store.undo.append({"object": name, "photo": None, "before": {"place": place, "prompts": prompts}, "after": None})
            self.store.redo.clear()
            self._drop(name)
            self._changed()

    def select(self, name: str, selected: bool) -> None:
        """Whether an object is among those that are to be removed."""
        with self.lock:
            self._known(name)
            for entry in self.store.objects:
                if entry["name"] == name:
                    entry["selected"] = bool(selected)
            self._changed()

    def _drop(self, name: str) -> None:
        self.store.objects = [entry for entry in self.store.objects if entry["name"] != name]
        self.store.prompts.pop(name, None)
        self.store.forget(name)
        if not self.store.objects:
            self.store.objects.append({"name": DEFAULT_OBJECT, "selected": True})

    def _known(self, name: str) -> None:
        if name not in [entry["name"] for entry in self.store.objects]:
            raise SpinnerfError(f"object {name!r}: there is none of that name any more; choose another")

    def _free(self, name: str) -> None:
        check_name(name)
        if name.casefold() in [entry["name"].casefold() for entry in self.store.objects]:
            raise SpinnerfError(f"object {name!r}: there is one of that name already; choose another name")

    def _changed(self) -> None:
        """Writes the state and tells every tab."""
        raise NotImplementedError
