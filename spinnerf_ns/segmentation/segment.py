"""The first stage: from a prompt, a ready mask or a folder of masks to an object mask in every photo that shows the object.

Writes into the workspace prompts.json, objects/<name>/<photo>.png (every object by itself) and masks_2d/<photo>.png (those that
are to be removed, together). Photos in which all objects were lost get no mask: the segmentation field trains on their colour
only, and paints the mask itself. Object-free photos are left out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask, save_object_mask, write_png
from spinnerf_ns.segmentation.choose import AUTO, choose
from spinnerf_ns.segmentation.painting import preview
from spinnerf_ns.segmentation.prompts import DEFAULT_OBJECT, Prompt, Segmenter, Tracker
from spinnerf_ns.segmentation.prompts_file import load_prompts, save_prompts
from spinnerf_ns.segmentation.segmenters import SEGMENTERS
from spinnerf_ns.segmentation.sources import ObjectMasks, Request, read_request, source_masks
from spinnerf_ns.segmentation.trackers import TRACKERS
from spinnerf_ns.segmentation.tracking import Tracked, track_with_bar, united
from spinnerf_ns.stereo.dense import StereoOptions
from spinnerf_ns.stereo.maps import load_stereo, stereo_if_possible, stereo_of

if TYPE_CHECKING:
    from spinnerf_ns.registry import Registry
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.view import View
    from spinnerf_ns.scene.workspace import Workspace

STAGE = "segment"
"""The stage's name in the manifest: masks_2d."""
TRACK_STAGE = "track"
"""The name of the stage before it: objects/ and prompts.json."""

LOST = "lost"
"""Status in the manifest of a photo in which the tracker did not find the object again."""

EMBEDDINGS = "embeddings"
"""Folder of the workspace where segmenters with an image encoder keep what it says of a photo."""
OBJECTS = "objects"
"""Folder of the workspace with a folder of masks for each object."""
PREVIEW = "preview"
"""Folder of the workspace with pictures of masks and prompts over the photos that were pointed at."""


def segment_capture(
    capture: Capture,
    workspace: Workspace,
    prompt: Request,
    segmenter: str | Segmenter = "grabcut",
    tracker: str | Tracker = "flow",
    overwrite: bool = False,
    allow_large_mask: bool = False,
    objects: Sequence[str] = (),
    made: tuple[ObjectMasks, Tracked] | None = None,
    mask_id: int | None = None,
    stereo: StereoOptions | None = None,
) -> Workspace:
    """Makes an object mask for every photo that shows the object.

    Args:
        capture: the capture.
        workspace: where to write; its object-free photos are left out.
        prompt: what was pointed at in one photo or several, of one object or several; or a folder with ready masks of some
            photos or all. None: what prompts.json of the workspace says.
        segmenter: name, "auto" or instance; makes masks of prompts that are not ready masks.
        tracker: name, "auto" or instance; makes the masks of the other photos.
        overwrite: whether masks made otherwise are replaced.
        allow_large_mask: whether masks are taken as they are: white is the object, even along most of the photo's border.
        objects: names of those that are to be removed; none: all.
        made: the masks of the prompts, and all masks, where they were made before, from the same prompts and with the same
            backends (by the page).
        mask_id: which id is meant of a folder of id maps.
        stereo: how depth is measured, for trackers that follow it; as `stereo_of` takes it.

    Returns:
        The workspace.

    Raises:
        SpinnerfError: bad input (no prompt, a point outside the photo, a mask of another size, empty or of suspicious
            polarity, unknown photos or objects); the object was found in no other photo; masks made otherwise exist and
            `overwrite` is False. Nothing half-written is left.

    Example:
        >>> from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
        >>> from spinnerf_ns.scene.capture import load_capture
        >>> from spinnerf_ns.scene.workspace import Workspace
        >>> twin = write_twin(Path("room"), TwinConfig(width=96, height=72, num_train=4, num_test=1))
        >>> workspace = Workspace.open("room")
        >>> workspace.set_object_free([Path(photo).stem for photo in twin.object_free])
        >>> pointed = Prompt(twin.prompt_view, box=twin.prompt_box)
        >>> segment_capture(load_capture("room"), workspace, pointed).masks_2d
        <BLANKLINE>
        ...Path('.../room/spinnerf/masks_2d')
        >>> len(list(workspace.masks_2d.iterdir()))
        4
    """
    views = views_with_object(capture, workspace)
    ready, prompts = read_request(capture, workspace, prompt, views)
    names = list(dict.fromkeys(one.object for one in prompts)) or [DEFAULT_OBJECT]
    unknown = [name for name in objects if name not in names]
    if unknown:
        raise SpinnerfError(f"--objects {unknown[0]}: no object is called so; there are: {', '.join(names)}")
    if segmenter == "folder":
        raise SpinnerfError("segmenter 'folder' wants masks; name their folder: --masks FOLDER, without --segmenter")
    stages = workspace.read_manifest()["stages"]
    recorded = {} if overwrite else stages.get(TRACK_STAGE, {}).get("parameters", {})
    pointed = any(not one.painted_only for one in prompts)
    said = [set(ready)] if ready else [{p.view for p in prompts if p.object == one.object} for one in prompts]
    segmenter = _chosen(SEGMENTERS, segmenter, recorded, pointed)
    to_track = any(view.photo not in photos for view in views for photos in said)
    tracker = _chosen(TRACKERS, tracker, recorded, to_track, lambda: _embedded(capture, workspace, stereo))
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
        **({} if mask_id is None else {"mask_id": mask_id}),
    }
    inputs = list(dict.fromkeys([*(view.path for view in views), *files]))
    if to_track and give_depth(tracker, capture, workspace, views, stereo):
        inputs.append(workspace.stereo)
    # Both are asked for an overwrite before either writes.
    folder = workspace.root / OBJECTS
    if not overwrite and not folder.exists():
        workspace.stage(STAGE, {}, [], [workspace.masks_2d], overwrite, capture)
    with workspace.stage(TRACK_STAGE, parameters, inputs, [workspace.prompts_path, folder], overwrite, capture) as stage:
        if not stage.fresh:
            if made is None:
                sources = source_masks(capture, prompts, ready, segmenter, allow_large_mask, mask_id)
                tracked = track_with_bar(views, sources, tracker)
            else:
                sources, tracked = made
            _refuse_lost(views, sources, tracked)
            for view in views:
                record: dict[str, dict] = {}
                for name, in_photos in tracked.items():
                    object_mask, given = in_photos[view.photo], view.photo in sources.get(name, {})
                    if object_mask is None:
                        record[name] = {"origin": LOST}
                        continue
                    save_object_mask(stage.folder(folder) / name / f"{view.photo}.png", object_mask)
                    origin = "tracked" if not given else ("given" if view.photo in ready else "prompt")
                    record[name] = {"origin": origin, "area": int(object_mask.sum())}
                stage.record(view.photo, objects=record)
            save_prompts(stage.folder(workspace.prompts_path), prompts)
    _select(capture, workspace, views, list(objects) or names, parameters, overwrite)
    write_previews(workspace, views, prompts, anew=not stage.fresh)
    return workspace


def _select(
    capture: Capture, workspace: Workspace, views: Sequence[View], names: list[str], made_by: dict[str, Any], overwrite: bool
) -> None:
    """masks_2d: the objects that are to be removed, together."""
    folder = workspace.root / OBJECTS
    parameters = {"objects": names, "segmenter": made_by["segmenter"], "tracker": made_by["tracker"]}
    with workspace.stage(STAGE, parameters, [folder], [workspace.masks_2d], overwrite, capture) as stage:
        if stage.fresh:
            return
        records = workspace.records(TRACK_STAGE)
        for view in views:
            of_objects = records[view.photo]["objects"]
            files = {name: folder / name / f"{view.photo}.png" for name in names}
            found = [name for name in names if of_objects[name]["origin"] != LOST and files[name].is_file()]  # or deleted by hand
            object_mask = united([load_object_mask(files[name], (view.height, view.width)) for name in found])
            if object_mask is None:
                # A run that was interrupted, with the same key, cannot have left one: the trackers are deterministic.
                stage.record(view.photo, LOST, origin="tracked")
                continue
            save_object_mask(stage.folder(workspace.masks_2d) / f"{view.photo}.png", object_mask)
            origins = {of_objects[name]["origin"] for name in found}
            origin = next(one for one in ("prompt", "given", "tracked") if one in origins)
            stage.record(view.photo, origin=origin, area=int(object_mask.sum()))


def _refuse_lost(views: Sequence[View], sources: ObjectMasks, tracked: Tracked) -> None:
    """An object that is found in no other photo was none, or the photo that shows it best was not the one pointed at."""
    for name, in_photos in tracked.items():
        others = [view.photo for view in views if view.photo not in sources.get(name, {})]
        if len(others) > 1 and all(in_photos[photo] is None for photo in others):
            pointed = ", ".join(f"'{photo}'" for photo in sources[name])
            raise SpinnerfError(
                f"object '{name}', pointed at in photo {pointed}, was found in none of the other {len(others)} photos; point "
                f"at it more exactly, or in more photos: --view {next(iter(sources[name]))} --points X,Y --view {others[0]} "
                "--points X,Y"
            )


def lost_photos(workspace: Workspace) -> list[str]:
    """Photos in which no object that is to be removed was found."""
    return [photo for photo, record in workspace.records(STAGE).items() if record["status"] == LOST]


def write_previews(workspace: Workspace, views: Sequence[View], prompts: Sequence[Prompt], anew: bool = True) -> None:
    """Writes preview/<photo>.png for every photo that was pointed at: masks and prompts over it.

    Args:
        workspace: with masks in objects/.
        views: of the capture.
        prompts: in pixels of their photos.
        anew: whether pictures that are there are drawn again.
    """
    names = list(dict.fromkeys(one.object for one in prompts))
    for view in views:
        here = {one.object: one for one in prompts if one.view == view.photo}
        path = workspace.root / PREVIEW / f"{view.photo}.png"
        if not here or (path.is_file() and not anew):
            continue
        files = [workspace.root / OBJECTS / name / f"{view.photo}.png" for name in names]
        image = view.read_image()
        nothing = image[..., 0] != image[..., 0]
        masks = [load_object_mask(file) if file.is_file() else nothing for file in files]
        write_png(path, preview(image, [(mask, here.get(name)) for mask, name in zip(masks, names, strict=True)]))


def known_objects(workspace: Workspace) -> list[str]:
    """Names of the objects in prompts.json, in its order; none where nothing was pointed at yet."""
    if not workspace.prompts_path.is_file():
        return []
    return list(dict.fromkeys(one.object for one in load_prompts(workspace.prompts_path)))


def made_from(workspace: Workspace, prompts: Sequence[Prompt]) -> set[str]:
    """Names of the objects whose masks in objects/ were made from just these prompts: prompts.json may have been added to since."""
    recorded = workspace.read_manifest()["stages"].get(TRACK_STAGE, {}).get("parameters", {}).get("prompts", [])
    given = json.loads(json.dumps([_prompt_key(one) for one in prompts]))
    names = {one["object"] for one in given}
    by_view = {name: [{one["view"]: one for one in each if one["object"] == name} for each in (given, recorded)] for name in names}
    return {name for name, (now, then) in by_view.items() if now == then}


def views_with_object(capture: Capture, workspace: Workspace) -> list[View]:
    """The views to segment, along the camera path.

    Raises:
        SpinnerfError: all photos are named as object-free.
    """
    from spinnerf_ns.scene.camera_path import order_along_path

    views = workspace.views_with_object(capture)
    if not views:
        raise SpinnerfError(f"{workspace.manifest_path}: names all photos as object-free; leave out those with the object")
    return [views[index] for index in order_along_path(views)]


def _chosen(
    registry: Registry, backend: Any, recorded: dict[str, Any], needed: bool, embedded: Callable[[], str] | None = None
) -> Any:
    """An instance of the backend, or what it is if it is none of a name; None where "auto" is not needed."""
    if not isinstance(backend, str):
        return backend
    if backend == AUTO and not needed:
        return None
    return choose(registry, backend, recorded=(recorded.get(registry.kind) or {}).get("name"), embedded=embedded)


def _embedded(capture: Capture, workspace: Workspace, stereo: StereoOptions | None) -> str:
    return "geometry" if stereo_if_possible(capture, workspace, options=stereo) else "flow"


def give_depth(
    tracker: Any, capture: Capture, workspace: Workspace, views: Sequence[View], stereo: StereoOptions | None = None
) -> bool:
    """Lets a tracker that carries masks by depth have it: measured, if it was not yet. Whether it has."""
    if not hasattr(tracker, "place") or not stereo_of(capture, workspace, stereo):
        return False
    tracker.place(views, lambda photo: load_stereo(workspace, photo))
    return True


def _prompt_key(prompt: Prompt) -> dict[str, Any]:
    """What the masks depend on: not the words. A mask by its name, to tell which is whose: its contents are an input."""
    key = {**dataclasses.asdict(prompt), "mask_path": prompt.mask_path and prompt.mask_path.name}
    del key["text"], key["size"]
    if prompt.mask_id is None:
        del key["mask_id"]  # as before there was one
    return key


def _described(backend: Any) -> dict[str, Any]:
    """A backend's name and options, for the manifest; nothing for one that is not needed."""
    if backend is None:
        return {}
    options = dataclasses.asdict(backend) if dataclasses.is_dataclass(backend) else {}
    return {"name": getattr(backend, "name", type(backend).__name__), "options": options}
