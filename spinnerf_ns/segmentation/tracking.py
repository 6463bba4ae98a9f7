"""From masks in some photos to masks in all: drives a tracker, shows how far it is, and can be stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.segmentation.prompts import Tracker
from spinnerf_ns.segmentation.sources import ObjectMasks

if TYPE_CHECKING:
    from spinnerf_ns.scene.view import View

Tracked = dict[str, dict[str, BoolMask | None]]
"""Object -> photo -> its mask, or None where it was lost."""


class Stopped(Exception):
    """Raised by a listener: whoever waits wants no more of it."""


def track_objects(
    views: Sequence[View],
    sources: ObjectMasks,
    tracker: Tracker | None,
    progress: Callable[[str, int, int], None] | None = None,
    found: Callable[[str, str, BoolMask], None] | None = None,
) -> Tracked:
    """Masks of every object in every photo.

    Args:
        views: the photos, along the camera path.
        sources: masks that are known. They all are anchors: each photo follows those that are most like it.
        tracker: not asked, and not needed, for an object whose masks are all known.
        progress: called with the object that is tracked (or all, joined by commas; and which look it is at the photos, as trackers
            may look again), photos done, photos in all. May raise `Stopped`, which goes through.
        found: called with object, photo and mask as soon as there is one, with trackers that can tell (see `Tracker`).

    Returns:
        Known masks as they are, and tracked ones.
    """
    tracked: Tracked = {name: dict(by_photo) for name, by_photo in sources.items()}
    open_objects = [name for name, by_photo in sources.items() if any(view.photo not in by_photo for view in views)]
    if not open_objects:
        return tracked
    by_index = {
        name: {index: sources[name][view.photo] for index, view in enumerate(views) if view.photo in sources[name]}
        for name in open_objects
    }
    readers = [view.read_image for view in views]
    at_once = len(open_objects) > 1 and hasattr(tracker, "track_objects")
    total = len(views) * (1 if at_once else len(open_objects))
    looks: Counter[tuple[str, int]] = Counter()

    def follow(names: Sequence[str]) -> Callable[[int], None]:
        def advance(index: int) -> None:
            looks[names[0], index] += 1
            look = looks[names[0], index]
            done = sum(one >= look for one in looks.values())
            if progress is not None:
                progress(", ".join(names) + (f", look {look}" if look > 1 else ""), done, total)

        if found is not None and hasattr(tracker, "found"):
            name = names[0]  # trackers that follow several at once cannot tell
            tracker.found = (lambda index, mask: found(name, views[index].photo, mask)) if len(names) == 1 else None
        return advance

    try:
        if at_once:
            masks = tracker.track_objects(readers, by_index, follow(open_objects))  # type: ignore[union-attr]
        else:
            masks = {name: tracker.track(readers, by_index[name], follow([name])) for name in open_objects}
    finally:
        if found is not None and hasattr(tracker, "found"):
            tracker.found = None
    for name, in_photos in masks.items():
        tracked[name] = {view.photo: in_photos[index] for index, view in enumerate(views)}
    return tracked


def track_with_bar(views: Sequence[View], sources: ObjectMasks, tracker: Tracker | None) -> Tracked:
    """`track_objects` under a bar in the terminal."""
    from nerfstudio.utils.rich_utils import CONSOLE
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE, transient=True) as bar:
        what = "the object" if len(sources) == 1 else f"{len(sources)} objects"
        task = bar.add_task(f"Tracking {what} ({getattr(tracker, 'name', 'all masks are given')})", total=None)
        return track_objects(views, sources, tracker, lambda _, done, total: bar.update(task, completed=done, total=total))


def united(masks: Sequence[BoolMask | None]) -> BoolMask | None:
    """One mask of several objects in a photo; None where none of them was found."""
    known = [object_mask for object_mask in masks if object_mask is not None]
    return np.logical_or.reduce(known) if known else None
