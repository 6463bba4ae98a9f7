"""Adds to prompts.json: a place on the object, or beside it, in photos that may have a mask already."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.files import load_object_mask, save_object_mask
from spinnerf_ns.scene.view import View
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.segmentation.prompts import Prompt, check_name
from spinnerf_ns.segmentation.prompts_file import load_prompts, save_prompts
from spinnerf_ns.segmentation.segment import OBJECTS

BASES = "prompts"
"""Folder in the workspace of the masks that corrections start from."""


def keep_base(root: Path, name: str, photo: str, object_mask: BoolMask) -> Path:
    """Keeps a mask that a correction starts from; named by its content, so that every step has its own.

    Args:
        root: the workspace's folder.
        name, photo: the object, and the photo that the mask is of.
        object_mask: (H, W).

    Returns:
        Its file.
    """
    digest = hashlib.sha256(object_mask.tobytes()).hexdigest()[:8]
    path = root / BASES / name / f"{photo}-{digest}.png"
    if not path.is_file():
        save_object_mask(path, object_mask)
    return path


def add_points(
    workspace: Workspace, views: Mapping[str, View], name: str, places: Mapping[str, tuple[float, float]], label: int
) -> None:
    """Adds a click in each of some photos to prompts.json. A photo that was not pointed at yet starts from the object's mask there.

    Args:
        workspace: of the scene.
        views: photo -> its view, for all of `places`.
        name: the object, known or new.
        places: photo -> (x, y) in its pixels.
        label: 1 on the object, 0 beside it.

    Raises:
        SpinnerfError: a place outside its photo, a click beside something that nothing is known of, no name of an object; nothing
            is written.
    """
    check_name(name)
    known = load_prompts(workspace.prompts_path) if workspace.prompts_path.is_file() else ()
    prompts = {(one.object, one.view): one for one in known}
    for photo, place in places.items():
        view = views[photo]
        prompt = prompts.get((name, photo))
        if prompt is None:
            path = workspace.root / OBJECTS / name / f"{photo}.png"
            mask = load_object_mask(path, (view.height, view.width)) if path.is_file() else None
            base = None if mask is None or not mask.any() else keep_base(workspace.root, name, photo, mask)
            prompt = Prompt(photo, mask_path=base, object=name, size=(view.width, view.height))
        prompt = prompt.scaled(view.width, view.height)
        added = dataclasses.replace(prompt, points=(*prompt.points, place), labels=(*prompt.labels, label))
        added.check(view.width, view.height)
        prompts[name, photo] = added
    save_prompts(workspace.prompts_path, list(prompts.values()))
