"""The first stage: from a prompt, a ready mask or a folder of masks to an object mask in every photo that shows the object.

Writes prompts.json and masks_2d/<photo>.png into the workspace. Photos in which the object was lost get no mask: the
segmentation field trains on their colour only, and paints the mask itself. Object-free photos are left out.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Sequence

from spinnerf_ns.conventions import BoolMask, load_object_mask, save_object_mask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.segmentation.prompts import Prompt, Segmenter, Tracker, load_prompts, save_prompts
from spinnerf_ns.segmentation.segmenters import SEGMENTERS
from spinnerf_ns.segmentation.segmenters.folder import mask_files
from spinnerf_ns.segmentation.trackers import TRACKERS

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture, View
    from spinnerf_ns.scene.workspace import Workspace

STAGE = "segment"
"""The stage's name in the manifest."""

LARGEST_PART = 0.5
"""A mask that covers more of its photo than this is suspected of the wrong polarity."""

LOST = "lost"
"""Status in the manifest of a photo in which the tracker did not find the object again."""


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
        segmenter: name or instance; makes masks of prompts that are not ready masks.
        tracker: name or instance; makes the masks of the other photos.
        overwrite: whether masks made otherwise are replaced.
        allow_large_mask: whether a mask may cover more than half of its photo.

    Returns:
        The workspace.

    Raises:
        SpinnerfError: bad input (no prompt, a point outside the photo, a mask of another size, empty or of suspicious
            polarity, unknown photos); masks made otherwise exist and `overwrite` is False. Nothing half-written is left.
    """
    segmenter = SEGMENTERS.create(segmenter) if isinstance(segmenter, str) and segmenter != "folder" else segmenter
    tracker = TRACKERS.create(tracker) if isinstance(tracker, str) else tracker
    views = _views_with_object(capture, workspace)
    ready, prompts = _read_request(capture, workspace, prompt, views)
    if segmenter == "folder":
        raise SpinnerfError("segmenter 'folder' wants masks; name their folder: --masks FOLDER, without --segmenter")
    files = [*ready.values(), *(p.mask_path for p in prompts if p.mask_path is not None)]
    parameters = {
        # Masks by name, to tell which is whose: their contents are inputs.
        "prompts": [{**dataclasses.asdict(p), "mask_path": p.mask_path and p.mask_path.name} for p in prompts],
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
            folder = stage.folder(workspace.masks_2d)
            for view in views:
                object_mask = masks[view.photo]
                if object_mask is None:
                    # A run that was interrupted, with the same key, cannot have left one: the trackers are deterministic.
                    stage.record(view.photo, LOST, origin="tracked")
                    continue
                save_object_mask(folder / f"{view.photo}.png", object_mask)
                origin = "tracked" if view.photo not in sources else ("given" if view.photo in ready else "prompt")
                stage.record(view.photo, origin=origin, area=int(object_mask.sum()))
            save_prompts(stage.folder(workspace.prompts_path), prompts)
    return workspace


# ----------------------------------------------------------------------------------------------------------------- input
def _views_with_object(capture: Capture, workspace: Workspace) -> list[View]:
    """The views to segment, along the camera path."""
    from spinnerf_ns.scene.capture import order_along_path

    object_free = set(workspace.object_free)
    views = [view for view in capture.views if view.photo not in object_free]
    if not views:
        raise SpinnerfError(f"{workspace.manifest_path}: names all photos as object-free; leave out those with the object")
    return [views[index] for index in order_along_path(views)]


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
        if any(view.photo == other.view for other in prompts):
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
) -> dict[str, BoolMask]:
    """Photo -> mask, of all photos that somebody said something about."""
    sources = {}
    for photo, path in ready.items():
        view = capture.view(photo)
        object_mask = load_object_mask(path, (view.height, view.width))
        if object_mask.any():  # one photo of many may miss the object
            check_mask(object_mask, str(path), allow_large_mask, "if white is the background, invert it")
        sources[photo] = object_mask
    if ready and not any(mask.any() for mask in sources.values()):
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
        sources[prompt.view] = object_mask
    return sources


# ----------------------------------------------------------------------------------------------------------------- tracking
def _track(views: Sequence[View], sources: dict[str, BoolMask], tracker: Tracker) -> dict[str, BoolMask | None]:
    """Photo -> mask or None, of all views."""
    if all(view.photo in sources for view in views):
        return dict(sources)
    from nerfstudio.utils.rich_utils import CONSOLE
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    readers: list[Callable[[], Any]] = [view.read_image for view in views]
    by_index = {index: sources[view.photo] for index, view in enumerate(views) if view.photo in sources}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE, transient=True) as bar:
        task = bar.add_task(f"Tracking the object ({tracker.name})", total=len(views))
        masks = tracker.track(readers, by_index, lambda index: bar.advance(task))
    return {view.photo: object_mask for view, object_mask in zip(views, masks)}


def _described(backend: Any) -> dict[str, Any]:
    """A backend's name and options, for the manifest."""
    options = dataclasses.asdict(backend) if dataclasses.is_dataclass(backend) else {}
    return {"name": getattr(backend, "name", type(backend).__name__), "options": options}
