"""From rendered masks and depth to the object-free capture: the stage between the two fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track

from spinnerf_ns.conventions import LEAST_DILATION, BoolMask, dilate_mask, disparity_to_z, z_to_disparity
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_depth, load_object_mask, save_depth, save_object_mask
from spinnerf_ns.hints import command, say
from spinnerf_ns.removal.config import BACKGROUND, ExportConfig
from spinnerf_ns.removal.invention import Open, choose_references, completed, left_out, say_provenance
from spinnerf_ns.removal.layers import ViewLayers
from spinnerf_ns.removal.plan import Plan, layers_path, object_mask_path, plan_export
from spinnerf_ns.removal.reference import choose_reference, read_mended
from spinnerf_ns.removal.rehearsal import Rehearsal, rehearse
from spinnerf_ns.removal.surfaces.continuation import continued
from spinnerf_ns.removal.surfaces.planes import fill_by_surface, find_planes, snapped, surface_labels
from spinnerf_ns.removal.views.fill import Filled, fill_from_views
from spinnerf_ns.removal.views.photos import Photos
from spinnerf_ns.scene.cameras import unproject_pixels
from spinnerf_ns.scene.capture import Capture
from spinnerf_ns.scene.points import SparsePoints
from spinnerf_ns.scene.removed import RemovedView, RemovedWriter
from spinnerf_ns.scene.stage import Stage
from spinnerf_ns.scene.view import View, pictures
from spinnerf_ns.scene.workspace import REFERENCE, Workspace
from spinnerf_ns.stereo.points import points_of

BY_SURFACE = "by surface"
"""Name of the way in which what no photo shows is drawn from its own surface alone."""

RenderLayers = Callable[[View], tuple]
"""A view -> object_mask and z_visible, each (H, W), planar depth in world units, 0 = unknown; and, if there is more to say of the
photo, a dict for its record in the manifest."""

RenderDepth = Callable[[View], npt.NDArray[np.float32]]
"""A view -> (H, W) planar depth in world units, 0 = unknown."""


def render_stage(
    capture: Capture,
    workspace: Workspace,
    render: RenderLayers,
    config: ExportConfig,
    inputs: Sequence[Path],
    parameters: dict[str, Any],
) -> None:
    """Writes `masks_3d/` and `layers/`: what the field shows of every photo with the object.

    Args:
        render: renders a view.
        inputs: files that the field comes from (its checkpoint).
        parameters: what else the result depends on.
    """
    masks, layers = workspace.masks_3d, workspace.root / "layers"
    parameters = {"downscale": config.downscale, **parameters}
    with workspace.stage("render", parameters, inputs, [masks, layers], config.overwrite, capture) as stage:
        if stage.fresh:
            return
        for view in track(workspace.views_with_object(capture), "Rendering masks and depth"):
            if stage.done(view.photo):
                continue
            object_mask, z_visible, *said = render(view)
            save_object_mask(stage.folder(masks) / f"{view.photo}.png", object_mask)
            save_depth(stage.folder(layers) / f"{view.photo}.npy", z_visible)
            stage.record(view.photo, mask_area=int(object_mask.sum()), **(said[0] if said else {}))


def background_stage(
    capture: Capture,
    workspace: Workspace,
    fit: Callable[[dict[str, npt.NDArray[np.bool_]], Path], RenderDepth],
    config: ExportConfig,
    parameters: dict[str, Any],
) -> None:
    """Writes `background/`: a field fitted to the photos outside their regions, and what it shows of their depth.

    Args:
        fit: photo -> region, and the file that the field is written to -> a function that renders its depth.
        parameters: what else the result depends on.
    """
    views = workspace.views_with_object(capture)
    folder = workspace.root / BACKGROUND
    parameters = {"dilation": config.dilation, "least_dilation": LEAST_DILATION, "downscale": config.downscale, **parameters}
    inputs = [*pictures(views), *(object_mask_path(workspace, view) for view in views)]
    with workspace.stage(BACKGROUND, parameters, inputs, [folder], config.overwrite, capture) as stage:
        if stage.fresh:
            return
        regions = {view.photo: removed_region(workspace, view, config) for view in views}
        render = fit(regions, stage.folder(folder) / "field.pt")
        for view in track(views, "Rendering depth"):
            save_depth(stage.folder(folder) / "depths" / f"{view.photo}.npy", render(view))
            stage.record(view.photo)


def object_points(workspace: Workspace, views: Sequence[View]) -> npt.NDArray[np.float64]:
    """(P, 3) points of the object's surface in the world frame, from `masks_3d/` and `layers/`; one pixel in sixteen."""
    points = [np.zeros((0, 3))]
    for view in views:
        z = load_depth(layers_path(workspace, view.photo))
        shown = load_object_mask(object_mask_path(workspace, view), z.shape) & (z > 0)
        rows, columns = np.nonzero(shown[::4, ::4])
        rows, columns = 4 * rows, 4 * columns
        points.append(unproject_pixels(view, rows, columns, z))
    return np.concatenate(points)


def export_removed(capture: Capture, workspace: Workspace, config: ExportConfig) -> Path:
    """Writes `removed/`, the object-free capture, from `masks_3d/` and the depths in `background/`, or else `layers/`.

    Masked pixels whose background another photo shows are filled from there; the rest, which no photo shows, is inpainted:
    colours by the 2-D inpainter, disparity in floats from the region's rim.

    Returns:
        The folder.

    Raises:
        SpinnerfError: masks or depths are missing, or every mask is empty.
    """
    plan = plan_export(capture, workspace, config)
    with workspace.stage("export", plan.settings, plan.inputs, [workspace.removed], config.overwrite, capture) as stage:
        if stage.fresh:
            return workspace.removed
        layers = [load_layers(workspace, view, config, plan.depth_path(view)) for view in plan.views]
        if not any(layer.region.any() for layer in layers):
            where = {"data": capture.data, "workspace": workspace.root}
            again = command("ns-spinnerf", "segment", **where, view="PHOTO", points="X,Y", overwrite=True)
            raise SpinnerfError(
                f"{workspace.masks_3d}: every mask is empty, so there is nothing to remove; point at the object again: {again}"
            )
        points = points_of(capture, workspace, make=False) or SparsePoints.none()
        writer = RemovedWriter(capture, stage.folder(workspace.removed), workspace.object_free, points, config.invention)
        unfinished = [index for index, view in enumerate(plan.views) if not stage.done(view.photo)]
        if unfinished:
            _clean(plan, config, layers, unfinished, writer, stage)
        writer.finish()
    return workspace.removed


def _clean(
    plan: Plan, config: ExportConfig, layers: list[ViewLayers], unfinished: list[int], writer: RemovedWriter, stage: Stage
) -> None:
    """Surfaces, what photos show of each other's regions, and depth, for all photos; then, photo by photo, what none shows."""
    planes, labels = np.zeros((0, 4)), None
    if plan.by_surface:
        planes = _planes(layers)
        labels = _labels(layers, planes)
        layers = _snapped(layers, planes, labels)
    filled = _fill(layers, config, plan.without_object)
    reference = choose_reference(plan.views, plan.candidates, [each.unseen_mask for each in filled])
    mended = _mended(config, plan.views, reference)
    photos = []
    for index, (layer, each) in enumerate(zip(layers, filled, strict=True)):
        z = each.z if labels is None else snapped(layer.view, each.z, layer.region, planes, labels[index])
        z = _completed(layer, z, plan.disparity_inpainter)
        photos.append(Open(layer.view, each.image, each.unseen_mask, z, layer.is_source))

    rehearsal = None
    if config.invention and labels is not None and getattr(plan.inpainter, "by_surface", False):
        rehearsal = _rehearsed(layers, planes, plan.inpainter)
        say(str(rehearsal))
    surfaces = labels if rehearsal is not None and rehearsal.winner == BY_SURFACE else None

    def draw(index: int, image: np.ndarray, to_fill: np.ndarray) -> np.ndarray:
        return _drawn(layers[index], image, to_fill, None if surfaces is None else surfaces[index], plan.inpainter)

    references = []
    if reference is not None:
        if config.fill_from_views:
            say_provenance(photos, [layer.region for layer in layers], config.invention)
    if config.invention and reference is not None:
        references = choose_references(photos, reference, draw, mended, config.carry)
    for index in track(unfinished, "Inpainting"):
        layer, photo = layers[index], photos[index]
        done = completed(references, index, photo, draw, config.carry) if config.invention else left_out(photo)
        writer.write(RemovedView(layer.view.photo, done.image, layer.region, photo.to_fill, done.z))
        record: dict[str, Any] = {"region": int(layer.region.sum()), "unseen": int(photo.to_fill.sum())}
        record["carried"] = int((done.source > 0).sum())
        if index == reference:
            table = () if rehearsal is None else rehearsal.table
            record |= {REFERENCE: True, "rehearsal": {each.name: round(each.error, 2) for each in table}}
        stage.record(layer.view.photo, **record)


def _mended(config: ExportConfig, views: Sequence[View], reference: int | None) -> np.ndarray | None:
    """Says which view is the reference, and reads what the user made of it."""
    if reference is None:
        if config.reference_photo is not None:
            raise SpinnerfError(f"{config.reference_photo}: no training photo shows the object, so none is the reference")
        return None
    mended = None if config.reference_photo is None else read_mended(Path(config.reference_photo), views[reference])
    how = "inpainted; mended by hand: --reference-photo FILE" if mended is None else f"mended: {config.reference_photo}"
    text = f"Reference view: {views[reference].photo} (another one: --reference-view PHOTO), {how}"
    CONSOLE.print(text, markup=False, highlight=False, soft_wrap=True)
    return mended


def _fill(layers: list[ViewLayers], config: ExportConfig, without_object: bool) -> list[Filled]:
    """What the photos show of each other's regions."""
    if not config.fill_from_views:
        return [Filled(x.image, x.region, np.where(x.region, 0, x.z_visible).astype(np.float32)) for x in layers]
    if without_object:
        layers = [replace(layer, z_background=layer.z_visible) for layer in layers]
    return fill_from_views(layers, config.depth_tolerance)


def _completed(layer: ViewLayers, z: np.ndarray, disparity_inpainter: Any) -> npt.NDArray[np.float32]:
    """(H, W) depth without the object: what was filled keeps its own, the rest of the region is continued from around it; unknown
    where the photo has no depth to continue."""
    known = np.where(layer.region, z, layer.z_visible).astype(np.float32)
    # Everything in the region without a depth is completed, filled pixels with an uncertain depth included.
    to_complete = layer.region & (known <= 0)
    disparity = z_to_disparity(known)
    if to_complete.any() and not (known > 0).any():
        say(
            f"{layer.view.photo}: no depth is known in this photo, so none is given where the object was; its colours are inpainted"
        )
    elif to_complete.any():
        disparity = disparity_inpainter.inpaint_disparity(disparity, to_complete)
    return disparity_to_z(disparity).astype(np.float32)


def _planes(layers: list[ViewLayers]) -> np.ndarray:
    """The planes around the regions, from what the photos show."""
    layers = [layer for layer in layers if layer.is_source]
    around = [np.where(layer.region, 0, layer.z_visible) for layer in layers]
    return find_planes([layer.view for layer in layers], around, [layer.region for layer in layers])


def _labels(layers: list[ViewLayers], planes: np.ndarray) -> list[npt.NDArray[np.uint8]]:
    """Per photo (H, W): which plane each pixel shows, in the region the one that goes on there."""
    labels = [surface_labels(x.view, x.z_visible, x.region, planes) for x in layers]
    layers = _snapped(layers, planes, labels)
    photos, each = Photos(layers), track(range(len(layers)), "Continuing surfaces")
    return [continued(layers[number], photos.all_but(number), planes, labels[number]) for number in each]


def _snapped(layers: list[ViewLayers], planes: np.ndarray, labels: list[npt.NDArray[np.uint8]]) -> list[ViewLayers]:
    """The photos with depth moved onto the planes that they show."""
    return [
        replace(x, z_visible=snapped(x.view, x.z_visible, x.region, planes, own)) for x, own in zip(layers, labels, strict=True)
    ]


def _rehearsed(layers: list[ViewLayers], planes: np.ndarray, inpainter: Any) -> Rehearsal:
    """Whether this scene is better inpainted surface by surface or as it looks, by regions planted where the truth is known."""

    def by_surface(number: int, hidden: ViewLayers) -> np.ndarray:
        hidden = replace(hidden, z_visible=np.where(hidden.region, 0, hidden.z_visible).astype(np.float32))
        labels = surface_labels(hidden.view, hidden.z_visible, hidden.region, planes)
        # The other photos would give the answer away; where nobody looks, they can say nothing.
        return _drawn(hidden, hidden.image, hidden.region, continued(hidden, [], planes, labels), inpainter)

    def whole(number: int, hidden: ViewLayers) -> np.ndarray:
        return _drawn(hidden, hidden.image, hidden.region, None, inpainter)

    return rehearse(layers, {BY_SURFACE: by_surface, "whole": whole})


def _drawn(layer: ViewLayers, image: np.ndarray, to_fill: np.ndarray, labels: np.ndarray | None, inpainter: Any) -> np.ndarray:
    """The photo with `to_fill` inpainted."""
    photo = layer.view.photo

    def fill(image: np.ndarray, to_fill: np.ndarray) -> np.ndarray:
        if layer.valid_mask is not None:
            to_fill = to_fill | ~layer.valid_mask  # what may not be used is nothing to draw from
        return inpainter.inpaint(image, to_fill, photo)

    if labels is None:
        return np.where(to_fill[..., None], fill(image, to_fill), image)
    return fill_by_surface(fill, image, to_fill, labels)


def load_layers(workspace: Workspace, view: View, config: ExportConfig, depth_path: Path) -> ViewLayers:
    """A view's photo, region and the depth in a file; its background depth is not known yet."""
    image, valid = view.read_image(), view.valid_mask()
    region = removed_region(workspace, view, config, valid)
    z_visible = np.where(valid, load_depth(depth_path), np.float32(0))
    held_out = bool(view.splits) and "train" not in view.splits
    return ViewLayers(view, image, region, z_visible, np.zeros_like(z_visible), None if valid.all() else valid, not held_out)


def removed_region(workspace: Workspace, view: View, config: ExportConfig, valid: BoolMask | None = None) -> BoolMask:
    """(H, W) bool: the photo's rendered object mask, grown, where the photo may be used."""
    valid = view.valid_mask() if valid is None else valid
    return (
        dilate_mask(load_object_mask(object_mask_path(workspace, view), valid.shape), config.dilation, least=LEAST_DILATION) & valid
    )
