"""The reference view: the one photo whose filling is taken at its word; the others only have to look alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spinnerf_ns.conventions import Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import read_image
from spinnerf_ns.scene.camera_path import most_unseen_near_middle
from spinnerf_ns.scene.capture import Capture
from spinnerf_ns.scene.view import View
from spinnerf_ns.scene.workspace import Workspace


def reference_candidates(capture: Capture, views: Sequence[View], wanted: str | None) -> list[int]:
    """Indices of the views that may be the reference: training photos with the object, or the one that the user names.

    Raises:
        SpinnerfError: the photo named is not in the capture, not trained on, or never showed the object.
    """
    trained = {view.photo for view in capture.split("train")}
    if wanted is None:
        return [index for index, view in enumerate(views) if view.photo in trained]
    photo = capture.view(wanted).photo
    named = [index for index, view in enumerate(views) if view.photo == photo and photo in trained]
    if not named:
        raise SpinnerfError(
            f"{capture.view(wanted).path}: cannot be the reference view, since it is object-free or no training photo; "
            "name another with --reference-view, or none"
        )
    return named


def check_reference(capture: Capture, workspace: Workspace, wanted: str | None) -> None:
    """Raises SpinnerfError for a reference view that the export would refuse; asked before anything that takes long."""
    if wanted is not None:
        object_free = set(workspace.object_free)
        reference_candidates(capture, [view for view in capture.views if view.photo not in object_free], wanted)


def choose_reference(views: Sequence[View], candidates: Sequence[int], unseen: Sequence[float]) -> int | None:
    """Of the candidates the view with a large unseen area near the middle of the camera path; None if there is none.

    Args:
        unseen: per view the part of it that no photo shows.
    """
    if not candidates:
        return None
    areas = [unseen[index] for index in candidates]
    return candidates[most_unseen_near_middle([views[index] for index in candidates], areas)]


def read_mended(path: Path, view: View) -> Image:
    """The reference view's photo as somebody mended it by hand, (H, W, 3) uint8.

    Raises:
        SpinnerfError: it is missing, no image, or not of the photo's size.
    """
    mended = read_image(path)
    if mended.shape[:2] != (view.height, view.width):
        raise SpinnerfError(
            f"{path}: {mended.shape[1]}x{mended.shape[0]} pixels, but the reference view '{view.photo}' has "
            f"{view.width}x{view.height} at the resolution used; save it at that size, or name its photo: --reference-view"
        )
    return mended
