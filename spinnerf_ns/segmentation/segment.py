"""The first stage: from a prompt, a ready mask or a folder of masks to an object mask in every photo that shows the object.

Writes prompts.json and masks_2d/<photo>.png into the workspace. Photos in which the object was lost get no mask: the
segmentation field trains on their colour only, and paints the mask itself. Object-free photos are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask, save_object_mask
from spinnerf_ns.segmentation.choose import AUTO, choose
from spinnerf_ns.segmentation.prompts import Prompt, Segmenter, Tracker, load_prompts, save_prompts
from spinnerf_ns.segmentation.segmenters import SEGMENTERS
from spinnerf_ns.segmentation.segmenters.folder import mask_files
from spinnerf_ns.segmentation.trackers import TRACKERS

if TYPE_CHECKING:
    from spinnerf_ns.registry import Registry
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.view import View
    from spinnerf_ns.scene.workspace import Workspace

STAGE = "segment"
"""The stage's name in the manifest."""

LARGEST_PART = 0.5
"""A mask that covers more of its photo than this is suspected of the wrong polarity."""

LOST = "lost"
"""Status in the manifest of a photo in which the tracker did not find the object again."""

EMBEDDINGS = "embeddings"
"""Folder of the workspace where segmenters with an image encoder keep what it says of a photo."""

ObjectMasks = dict[int, dict[str, BoolMask]]
"""Object -> photo -> its mask."""


def segment_capture(
    capture: Capture,
    workspace: Workspace,
    prompt: Prompt | Sequence[Prompt] | Path | None,
    segmenter: str | Segmenter = "grabcut",
    tracker: str | Tracker = "flow",
    overwrite: bool = False,
    allow_large_mask: bool = False,
) -> Workspace:
    """Makes an object mask for every photo that shows the object.

    Args:
        capture: the capture.
        workspace: where to write; its object-free photos are left out.
        prompt: what was pointed at in one photo or several, or a folder with ready masks of some photos or all. None: what
            prompts.json of the workspace says.
        segmenter: name, "auto" or instance; makes masks of prompts that are not ready masks.
        tracker: name, "auto" or instance; makes the masks of the other photos.
        overwrite: whether masks made otherwise are replaced.
        allow_large_mask: whether a mask may cover more than half of its photo.

    Returns:
        The workspace.

    Raises:
        SpinnerfError: bad input (no prompt, a point outside the photo, a mask of another size, empty or of suspicious
            polarity, unknown photos); masks made otherwise exist and `overwrite` is False. Nothing half-written is left.
    """
    views = views_with_object(capture, workspace)
    ready, prompts = _read_request(capture, workspace, prompt, views)
    if segmenter == "folder":
        raise SpinnerfError("segmenter 'folder' wants masks; name their folder: --masks FOLDER, without --segmenter")
    recorded = {} if overwrite else workspace.read_manifest()["stages"].get(STAGE, {}).get("parameters", {})
    pointed = any(one.mask_path is None for one in prompts)
    said = [set(ready)] if ready else [{p.view for p in prompts if p.object == one.object} for one in prompts]
    segmenter = _chosen(SEGMENTERS, segmenter, recorded, pointed)
    tracker = _chosen(TRACKERS, tracker, recorded, any(view.photo not in photos for view in views for photos in said))
    if hasattr(segmenter, "cache_folder"):
        segmenter.cache_folder = workspace.root / EMBEDDINGS
    files = [*ready.values(), *(p.mask_path for p in prompts if p.mask_path is not None)]
    parameters = {
        "prompts": [_prompt_key(one) for one in prompts],
        "masks": {photo: Path(path).name for photo, path in ready.items()},
        "segmenter": _described(segmenter),
        "tracker": _described(tracker),
        "object_free": sorted(workspace.object_free),
        "allow_large_mask": allow_large_mask,
    }
    inputs = list(dict.fromkeys([*(view.path for view in views), *files]))
    outputs = [workspace.prompts_path, workspace.masks_2d]
    with workspace.stage(STAGE, parameters, inputs, outputs, overwrite) as stage:
        if not stage.fresh:
            sources = _source_masks(capture, prompts, ready, segmenter, allow_large_mask)
            masks = _track(views, sources, tracker)
            photos_said = {photo for by_photo in sources.values() for photo in by_photo}
            folder = stage.folder(workspace.masks_2d)
            for view in views:
                object_mask = masks[view.photo]
                if object_mask is None:
                    # A run that was interrupted, with the same key, cannot have left one: the trackers are deterministic.
                    stage.record(view.photo, LOST, origin="tracked")
                    continue
                save_object_mask(folder / f"{view.photo}.png", object_mask)
                origin = "tracked" if view.photo not in photos_said else ("given" if view.photo in ready else "prompt")
                stage.record(view.photo, origin=origin, area=int(object_mask.sum()))
            save_prompts(stage.folder(workspace.prompts_path), prompts)
    return workspace


# ----------------------------------------------------------------------------------------------------------------- input
def views_with_object(capture: Capture, workspace: Workspace) -> list[View]:
    """The views to segment, along the camera path.

    Raises:
        SpinnerfError: all photos are named as object-free.
    """
    from spinnerf_ns.scene.capture import order_along_path

    object_free = set(workspace.object_free)
    views = [view for view in capture.views if view.photo not in object_free]
    if not views:
        raise SpinnerfError(f"{workspace.manifest_path}: names all photos as object-free; leave out those with the object")
    return [views[index] for index in order_along_path(views)]


def _chosen(registry: Registry, backend: Any, recorded: dict[str, Any], needed: bool) -> Any:
    """An instance of the backend, or what it is if it is none of a name; None where "auto" is not needed."""
    if not isinstance(backend, str):
        return backend
    if backend == AUTO and not needed:
        return None
    return choose(registry, backend, recorded=(recorded.get(registry.kind) or {}).get("name"))


def _read_request(
    capture: Capture, workspace: Workspace, prompt: Prompt | Sequence[Prompt] | Path | None, views: Sequence[View]
) -> tuple[dict[str, Path], list[Prompt]]:
    """Ready masks of a folder (photo -> file) and checked prompts with the photos' keys for views."""
    wanted = {view.photo for view in views}
    if prompt is None:
        if not workspace.prompts_path.is_file():
            raise SpinnerfError(
                f"{capture.data}: no prompt and no masks; say what to remove: --view PHOTO --points X,Y, or --masks FOLDER"
            )
        prompt = load_prompts(workspace.prompts_path)
        if not prompt:
            raise SpinnerfError(
                f"{workspace.prompts_path}: its masks came from a folder, which is not kept; name it again: --masks FOLDER"
            )
    if isinstance(prompt, Path):
        return _match_masks(capture, prompt, wanted), []
    prompts = []
    for one in [prompt] if isinstance(prompt, Prompt) else list(prompt):
        view = capture.view(one.view)
        if view.photo not in wanted:
            raise SpinnerfError(f"photo '{view.photo}' is object-free, says {workspace.manifest_path}; point at another")
        if any((view.photo, one.object) == (other.view, other.object) for other in prompts):
            raise SpinnerfError(f"photo '{view.photo}' has two prompts; put all points of a photo into one")
        one = dataclasses.replace(one, view=view.photo)
        one.check(view.width, view.height)
        prompts.append(one)
    if not prompts:
        raise SpinnerfError(f"{capture.data}: no prompt; say what to remove: --view PHOTO --points X,Y or --masks FOLDER")
    return {}, prompts


def _match_masks(capture: Capture, folder: Path, wanted: set[str]) -> dict[str, Path]:
    """Photo -> mask file; masks of object-free photos are left out."""
    matched: dict[str, Path] = {}
    for path in mask_files(folder):
        name = path.relative_to(folder).as_posix()
        try:
            photo = capture.view(name).photo
        except SpinnerfError as error:
            raise SpinnerfError(f"{path}: is no photo's mask; name masks like the photos (<photo>.png): {error}") from error
        if photo in matched:
            raise SpinnerfError(f"{path}: photo '{photo}' has another mask, {matched[photo]}; keep one of them")
        matched[photo] = path
    found = {photo: path for photo, path in matched.items() if photo in wanted}
    if not found:
        raise SpinnerfError(f"{folder}: has masks of object-free photos only; add one of a photo that shows the object")
    return found


def check_mask(object_mask: BoolMask, what: str, allow_large_mask: bool, mend: str) -> None:
    """Refuses a mask that cannot be meant.

    Args:
        object_mask: (H, W).
        what: its name in the message.
        allow_large_mask: whether it may cover more than half of the photo.
        mend: what to do about it.

    Raises:
        SpinnerfError: it is empty or too large.
    """
    if not object_mask.any():
        raise SpinnerfError(f"{what}: the mask is empty, expected some pixels of the object; {mend}")
    part = float(object_mask.mean())
    if part > LARGEST_PART and not allow_large_mask:
        raise SpinnerfError(
            f"{what}: the mask covers {part:.0%} of the photo, expected less than half (object is white, the rest black); "
            f"{mend}, or allow it with --allow-large-mask"
        )


def _source_masks(
    capture: Capture, prompts: Sequence[Prompt], ready: dict[str, Path], segmenter: Segmenter, allow_large_mask: bool
) -> ObjectMasks:
    """The masks of all photos that somebody said something about. Ready masks of a folder are those of object 1."""
    sources: ObjectMasks = {}
    for photo, path in ready.items():
        view = capture.view(photo)
        object_mask = load_object_mask(path, (view.height, view.width))
        if object_mask.any():  # one photo of many may miss the object
            check_mask(object_mask, str(path), allow_large_mask, "if white is the background, invert it")
        sources.setdefault(1, {})[photo] = object_mask
    if ready and not any(mask.any() for mask in sources[1].values()):
        folder = next(iter(ready.values())).parent
        raise SpinnerfError(f"{folder}: all masks are empty; paint the object white in one or more")
    for prompt in prompts:
        view = capture.view(prompt.view)
        if prompt.mask_path is not None:
            object_mask = load_object_mask(prompt.mask_path, (view.height, view.width))
            mend = "if white is the background, invert it" if object_mask.any() else "paint the object white"
            check_mask(object_mask, str(prompt.mask_path), allow_large_mask, mend)
        else:
            object_mask = segmenter.segment(view.read_image(), prompt)
            check_mask(
                object_mask,
                f"photo '{prompt.view}', by segmenter '{segmenter.name}'",
                allow_large_mask,
                "add points on the object (X,Y,1) and beside it (X,Y,0), or draw a box",
            )
        sources.setdefault(prompt.object, {})[prompt.view] = object_mask
    return sources


# ----------------------------------------------------------------------------------------------------------------- tracking
def _track(views: Sequence[View], sources: ObjectMasks, tracker: Tracker) -> dict[str, BoolMask | None]:
    """Photo -> the mask of all objects or None, of all views."""
    if all(view.photo in by_photo for by_photo in sources.values() for view in views):
        return {view.photo: _united([by_photo[view.photo] for by_photo in sources.values()]) for view in views}
    from nerfstudio.utils.rich_utils import CONSOLE
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    readers: list[Callable[[], Any]] = [view.read_image for view in views]
    by_index = {
        number: {index: by_photo[view.photo] for index, view in enumerate(views) if view.photo in by_photo}
        for number, by_photo in sources.items()
    }
    at_once = len(by_index) > 1 and hasattr(tracker, "track_objects")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE, transient=True) as bar:
        what = "the object" if len(by_index) == 1 else f"{len(by_index)} objects"
        rounds = 1 if at_once else len(by_index)
        task = bar.add_task(f"Tracking {what} ({tracker.name})", total=len(views) * rounds)

        def advance(index: int) -> None:
            bar.advance(task)

        if at_once:
            masks = tracker.track_objects(readers, by_index, advance)
        else:
            masks = {number: tracker.track(readers, by_photo, advance) for number, by_photo in by_index.items()}
    return {view.photo: _united([found[index] for found in masks.values()]) for index, view in enumerate(views)}


def _united(masks: Sequence[BoolMask | None]) -> BoolMask | None:
    """One mask of all objects in a photo; None where none of them was found."""
    found = [object_mask for object_mask in masks if object_mask is not None]
    return np.logical_or.reduce(found) if found else None


def _prompt_key(prompt: Prompt) -> dict[str, Any]:
    """What the masks depend on: not the words. A mask by its name, to tell which is whose: its contents are an input."""
    key = {**dataclasses.asdict(prompt), "mask_path": prompt.mask_path and prompt.mask_path.name}
    del key["text"]
    if prompt.object == 1:
        del key["object"]  # as before there could be several
    return key


def _described(backend: Any) -> dict[str, Any]:
    """A backend's name and options, for the manifest; nothing for one that is not needed."""
    if backend is None:
        return {}
    options = dataclasses.asdict(backend) if dataclasses.is_dataclass(backend) else {}
    return {"name": getattr(backend, "name", type(backend).__name__), "options": options}
