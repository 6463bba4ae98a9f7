"""The sparse points that everything else uses: a capture's own where they are of its frame, else points made from its photos.

Made points are a stage of the workspace, `points/`: points.npz with tracks, and sparse_pc.ply for stock tools.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spinnerf_ns.files import atomic_path
from spinnerf_ns.scene.lock import NotWritable
from spinnerf_ns.scene.points import LEAST_POINTS, Observations, SparsePoints, check_frame, read_points, write_ply
from spinnerf_ns.scene.view import pictures
from spinnerf_ns.stereo import sparse

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.view import View
    from spinnerf_ns.scene.workspace import Workspace

STAGE = "points"
"""The stage's name in the manifest."""

POINTS_FILE = "points.npz"
PLY_FILE = "sparse_pc.ply"

VERSION = 1
"""Of how points are made; another one makes them again."""


def points_of(capture: Capture, workspace: Workspace, make: bool = True) -> SparsePoints | None:
    """A capture's sparse points.

    Args:
        capture: the capture.
        workspace: where points that have to be made are kept.
        make: whether they may be made; otherwise those that the workspace has are taken. For captures made from another one,
            whose photos are no longer what a camera saw.

    Returns:
        The points that the capture brings, if the photos have their colours where they project; else own ones; None where
        there are too few of either. What is not taken is said in one line.

    Raises:
        SpinnerfError: a photo cannot be read.
    """
    given = read_points(capture)
    if given is not None and len(given.positions) >= LEAST_POINTS:
        check = check_frame(capture.views, given)
        if check.fits:
            return given
        _say(
            f"{_origin(capture)}: its points are not in the frame of the poses (colours differ from the photos' where they "
            f"project {check.ratio:.2f} times as much as beside it, right points up to 0.5); they are not used, points made "
            "from the photos are"
        )
    made = own_points(capture, workspace) if make else kept_points(workspace)
    if made is None or len(made.positions) < LEAST_POINTS:
        found = 0 if made is None else len(made.positions)
        _say(f"{capture.data}: {found} sparse points, {LEAST_POINTS} are needed; depth rests on the photos' colours alone")
        return None
    return made


def own_points(capture: Capture, workspace: Workspace) -> SparsePoints:
    """Points made from the training photos, read from the workspace where it has those of the same photos and poses."""
    views = _used(capture, workspace)
    try:
        with workspace.stage(STAGE, _parameters(views), pictures(views), [workspace.points], overwrite=True) as stage:
            kept = kept_points(workspace) if stage.fresh else None
            if kept is not None:
                return kept
            if stage.fresh:  # the file was damaged by hand
                return _made(views)
            points = _made(views)
            folder = stage.folder(workspace.points)
            save_points(folder / POINTS_FILE, points)
            write_ply(folder / PLY_FILE, points.positions, np.clip(points.colors, 0, 255).astype(np.uint8))
            for index, view in enumerate(views):
                stage.record(view.photo, points=int((points.seen.photo == index).sum()))
            return points
    except (OSError, NotWritable) as error:
        _say(f"{workspace.points}: the points cannot be kept ({error}); they are made again each time")
        return _made(views)


def kept_points(workspace: Workspace) -> SparsePoints | None:
    """The points that a workspace has, made from whatever photos; None without."""
    return load_points(workspace.points / POINTS_FILE)


def save_points(path: Path, points: SparsePoints) -> None:
    """Writes points and tracks as .npz, atomically."""
    seen = points.seen or Observations((), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            positions=points.positions,
            colors=np.clip(points.colors, 0, 255).astype(np.uint8),
            photos=np.array(seen.photos, dtype=np.str_),
            point=seen.point.astype(np.int32),
            photo=seen.photo.astype(np.int32),
            xy=seen.xy.astype(np.float32),
        )


def load_points(path: Path) -> SparsePoints | None:
    """What `save_points` wrote; None where there is no such file, or another one."""
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as file:
            seen = Observations(
                tuple(str(photo) for photo in file["photos"]),
                file["point"].astype(np.int64),
                file["photo"].astype(np.int64),
                file["xy"].astype(np.float64),
            )
            return SparsePoints(file["positions"], file["colors"].astype(np.float64), seen)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _used(capture: Capture, workspace: Workspace) -> list[View]:
    """The training photos without the object-free ones: truth must not find its way into what it is compared with."""
    object_free = set(workspace.object_free)
    views = [view for view in capture.split("train") if view.photo not in object_free]
    return views if len(views) >= sparse.LEAST_PHOTOS else [view for view in capture.views if view.photo not in object_free]


def _made(views: Sequence[View]) -> SparsePoints:
    from nerfstudio.utils.rich_utils import CONSOLE
    from rich.progress import Progress

    with Progress(console=CONSOLE, transient=True) as bar:
        task = bar.add_task("Finding points", total=len(views))
        points = sparse.sparse_points(views, advance=lambda count: bar.advance(task, count))
    # As `load_points` gives them: the first run and those after it must not differ.
    return dataclasses.replace(points, colors=np.clip(points.colors, 0, 255).astype(np.uint8).astype(np.float64)).thinned()


def _parameters(views: Sequence[View]) -> dict[str, object]:
    digest = hashlib.sha256()
    for view in views:
        camera = (view.width, view.height, view.fx, view.fy, view.cx, view.cy, view.camera_model, *view.distortion.tolist())
        digest.update(repr((view.photo, camera, np.round(view.c2w, 9).tolist())).encode())
    return {"version": VERSION, "cameras": digest.hexdigest()}


def _origin(capture: Capture) -> str:
    return str(capture.source_meta.get("ply_file_path") or capture.colmap_model or capture.data)


def _say(text: str) -> None:
    from nerfstudio.utils.rich_utils import CONSOLE

    CONSOLE.print(text, markup=False, highlight=False, soft_wrap=True)
