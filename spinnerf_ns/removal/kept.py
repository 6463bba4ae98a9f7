"""The inverse of the object-free capture: only the object stays, cut out of its photos, as a nerfstudio dataset, `kept/`.

    transforms.json     the photos that show the object, with their source poses
    images/<photo>.png  the photo's own colours where the object is, transparent and black elsewhere
    sparse_pc.ply       points on the object's surface, for methods that start from points

Transparent pixels are not left out of training, they say that nothing is there: methods that take alpha (nerfacto with a random
background, splatfacto) fit the object in empty space. So masks are not grown but taken as they are, and what stands before the
object in a photo is a gap in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_depth, load_object_mask, write_json, write_png
from spinnerf_ns.hints import command
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.plan import check_rendered, layers_path, object_mask_path
from spinnerf_ns.scene.cameras import unproject_pixels
from spinnerf_ns.scene.capture import Capture
from spinnerf_ns.scene.points import write_ply
from spinnerf_ns.scene.removed import POINTS, TRANSFORMS, camera_entries
from spinnerf_ns.scene.source import SPLITS
from spinnerf_ns.scene.view import View, pictures
from spinnerf_ns.scene.workspace import Workspace

STAGE = "keep"
"""The stage's name in the manifest."""
KEPT = "kept"
"""Its folder in the workspace."""
MOST_POINTS = 50_000
"""Points that are written."""


def export_kept(capture: Capture, workspace: Workspace, config: ExportConfig) -> Path:
    """Writes `kept/` from `masks_3d/` and `layers/`.

    Photos without the object in them are left out: where it was lost they would say that it is not there.

    Args:
        capture, workspace: of the scene.
        config: whether an earlier one may be replaced.

    Returns:
        The folder.

    Raises:
        SpinnerfError: masks or depths are missing, or no photo shows the object.
    """
    views = workspace.views_with_object(capture)
    inputs = [path for view in views for path in (object_mask_path(workspace, view), layers_path(workspace, view.photo))]
    check_rendered(workspace, inputs)
    folder = workspace.root / KEPT
    with workspace.stage(STAGE, {}, [*pictures(views), *inputs], [folder], config.overwrite, capture) as stage:
        if stage.fresh:
            return folder
        out, shown, points = stage.folder(folder), [], []
        for view in track(views, "Cutting out"):
            image = view.read_image()
            object_mask = load_object_mask(object_mask_path(workspace, view), image.shape[:2]) & view.valid_mask()
            stage.record(view.photo, mask_area=int(object_mask.sum()))
            if object_mask.any():
                shown.append(view)
                write_png(out / _name(view), cut_out(image, object_mask))
                points.append(_surface(view, image, object_mask, load_depth(layers_path(workspace, view.photo))))
        if not any("train" in view.splits for view in shown):
            where = {"data": capture.data, "workspace": workspace.root}
            again = command("ns-spinnerf", "segment", **where, view="PHOTO", points="X,Y", overwrite=True)
            raise SpinnerfError(f"{workspace.masks_3d}: no training photo shows the object; point at it again: {again}")
        every = np.concatenate(points)
        every = every[:: max(1, -(-len(every) // MOST_POINTS))]
        write_ply(out / POINTS, every[:, :3], every[:, 3:].astype(np.uint8))
        _write_transforms(capture, shown, out / TRANSFORMS)
    return folder


def cut_out(image: Image, object_mask: BoolMask) -> npt.NDArray[np.uint8]:
    """(H, W, 4) uint8 RGBA: a photo where the object is, transparent black elsewhere."""
    return np.where(object_mask[..., None], np.dstack([image, np.full(object_mask.shape, 255, np.uint8)]), 0).astype(np.uint8)


def next_commands(folder: Path, on_gpu: bool) -> list[str]:
    """Stock methods that fit what was kept, runnable as printed."""
    nerf = {"pipeline.model.background-color": "random"}
    if not on_gpu:
        nerf = {"machine.device-type": "cpu", "pipeline.model.implementation": "torch", **nerf}
    splat = [command("ns-train", "splatfacto", data=folder)] if on_gpu else []
    return [*splat, command("ns-train", "nerfacto", data=folder, **nerf)]


def _surface(view: View, image: Image, object_mask: BoolMask, z: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(N, 6) points of the object, source frame, with colours; one pixel in sixteen."""
    rows, columns = (4 * index for index in np.nonzero((object_mask & (z > 0))[::4, ::4]))
    return np.concatenate([unproject_pixels(view, rows, columns, z), image[rows, columns]], axis=1)


def _name(view: View) -> str:
    return f"images/{view.photo}.png"


def _write_transforms(capture: Capture, views: list[View], path: Path) -> None:
    views = sorted(views, key=lambda view: Path(_name(view)))  # as nerfstudio sorts photos
    frames = [
        {"file_path": _name(view), **camera_entries(view), "transform_matrix": [*view.c2w.tolist(), [0.0, 0.0, 0.0, 1.0]]}
        for view in views
    ]
    splits = {f"{split}_filenames": [_name(view) for view in views if split in view.splits] for split in SPLITS}
    splits["val_filenames"] = splits["val_filenames"] or splits["test_filenames"] or splits["train_filenames"][:1]
    splits["test_filenames"] = splits["test_filenames"] or splits["val_filenames"]
    content = {
        "applied_transform": np.eye(4)[:3].tolist(),
        **capture.source_meta,
        "ply_file_path": POINTS,
        **splits,
        "frames": frames,
    }
    write_json(path, content)
