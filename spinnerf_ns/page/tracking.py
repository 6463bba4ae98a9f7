"""Tracking from the page: in the background, to be watched and stopped, with every photo that was pointed at as an anchor."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.page.session import Session
from spinnerf_ns.segmentation.agreement import Solid, agreement
from spinnerf_ns.segmentation.tracking import Stopped, track_objects


class TrackingJob:
    """At most one tracking at a time.

    Args:
        session: whose objects are tracked.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.solids: dict[str, Solid] = {}
        """Object -> where it is in space, of the last tracking."""
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._state: dict[str, Any] = {"running": False, "done": 0, "total": 0, "what": "", "error": None}

    def state(self) -> dict[str, Any]:
        """Plain JSON: whether it runs, how far it is, and what went wrong the last time."""
        return dict(self._state)

    def start(self) -> None:
        """Tracks every object that was pointed at since it was tracked last; all of them, where none was.

        Raises:
            SpinnerfError: it runs already, or nothing is pointed at.
        """
        session = self.session
        with session.lock:
            if self._state["running"]:
                raise SpinnerfError("tracking is under way; stop it first")
            names = [one["name"] for one in session.store.objects if session.store.prompts.get(one["name"])]
            names = [name for name in names if session.stale(name)] or names
            if not names:
                raise SpinnerfError("nothing is pointed at yet; click on the object in a photo first")
            self._stop.clear()
            self._state = {"running": True, "done": 0, "total": len(session.views) * len(names), "what": "", "error": None}
            session.store.tracking = True
            session.store.save()
        self._thread = threading.Thread(target=self._run, args=(names,), daemon=True)
        self._thread.start()
        session.tell()

    def stop(self) -> None:
        """Ends it after the photo that is worked on; masks that were found stay."""
        self._stop.set()

    def compare(self) -> None:
        """Compares masks that the command line tracked, in the background: nobody has yet."""
        session = self.session
        unknown = [
            name
            for name, entry in session.store.tracked.items()
            if not session.stale(name) and not any((one or {}).get("agreement") for one in entry["photos"].values())
        ]

        def run() -> None:
            with contextlib.suppress(SpinnerfError):  # a mask that cannot be read is said where it is shown
                for name in unknown:
                    self._compare(name, {view.photo: session.mask(name, view.photo) for view in session.views})
                    session.tell()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Until it has ended."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, names: list[str]) -> None:
        error = None
        try:
            self._track(names)
        except Stopped:
            error = "stopped; the masks found so far stay"
        except SpinnerfError as problem:
            error = str(problem)
        except Exception as problem:  # a thread's traceback is seen by nobody
            error = f"tracking failed ({type(problem).__name__}: {problem})"
        with self.session.lock:
            self.session.store.tracking = False
            self._state = {**self._state, "running": False, "error": error}
            self.session._changed()

    def _track(self, names: list[str]) -> None:
        session = self.session
        with session.lock:
            keys = {name: session.store.key(name) for name in names}
        sources = session.sources(names)

        def progress(what: str, done: int, total: int) -> None:
            self._state.update(what=what, done=done, total=total)
            session.tell()
            if self._stop.is_set():
                raise Stopped

        def found(name: str, photo: str, object_mask: BoolMask) -> None:
            if photo not in sources[name]:
                with session.lock:
                    session.store.set_tracked(name, photo, object_mask)

        tracker = session.tracker_with_depth(partial(progress, "measuring depth, once for a capture"))
        tracked = track_objects(session.views, sources, tracker, progress, found)
        for name in names:
            self._state.update(what=f"{name}: comparing the photos")
            session.tell()
            with session.lock:
                for photo, object_mask in tracked[name].items():
                    if photo not in sources[name]:  # what was pointed at stays what it was tracked as, for undo
                        session.store.set_tracked(name, photo, object_mask)
                session.store.tracked[name]["from"] = keys[name]
            self._compare(name, tracked[name])

    def _compare(self, name: str, masks: Mapping[str, BoolMask | None]) -> None:
        """Keeps how well each photo's mask agrees with all others'."""
        agrees, solid = agreement(self.session.views, masks)
        with self.session.lock:
            self.solids[name] = solid
            for photo in masks:
                self.session.store.set_agreement(name, photo, agrees.get(photo))
            self.session.store.save()
