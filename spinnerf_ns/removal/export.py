"""From rendered masks and depth to the object-free capture: the stage between the two fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track

from spinnerf_ns.conventions import LEAST_DILATION, BoolMask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_depth, load_object_mask, save_depth, save_object_mask
from spinnerf_ns.hints import command, say
from spinnerf_ns.removal.clean_photos import match_stage
from spinnerf_ns.removal.cleaning import BY_SURFACE, REHEARSED, SAID, WRITTEN, Cleaning, do, flushes, prepare
from spinnerf_ns.removal.config import BACKGROUND, ExportConfig
from spinnerf_ns.removal.invention import Reference, choose_references, say_provenance
from spinnerf_ns.removal.plan import Plan, clean_path, layers_path, object_mask_path, plan_export, removed_region
from spinnerf_ns.removal.reference import choose_reference, read_mended
from spinnerf_ns.scene.cameras import unproject_pixels
from spinnerf_ns.scene.capture import Capture
from spinnerf_ns.scene.points import SparsePoints
from spinnerf_ns.scene.removed import RemovedWriter
from spinnerf_ns.scene.stage import Stage
from spinnerf_ns.scene.view import View, pictures, sizes_of
from spinnerf_ns.scene.workspace import REFERENCE, REFERS, Workspace
from spinnerf_ns.stereo.points import points_of
from spinnerf_ns.workers import Workers, worker_count

RenderLayers = Callable[[View], tuple]
"""A view -> object_mask and z_visible, each (H, W), planar depth in world units, 0 = unknown; and, if there is more to say of the
photo, a dict for its record in the manifest."""

Regions = Callable[[View], BoolMask]
"""A view -> (H, W) bool: what is taken out of it."""

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
    """Writes `masks_3d/` and `layers/`: what the field shows of every photo with the object, and of the clean ones, whose masks are
    empty.

    Args:
        render: renders a view.
        inputs: files that the field comes from (its checkpoint).
        parameters: what else the result depends on.
    """
    masks, layers = workspace.masks_3d, workspace.root / "layers"
    views, clean = _views(capture, workspace)
    parameters = {"downscale": config.rendered_at, **parameters, **_naming(clean)}
    with workspace.stage("render", parameters, inputs, [masks, layers], config.overwrite, capture) as stage:
        if stage.fresh:
            return
        say(f"Masks and depth are rendered {_at(views, config)}")
        for view in track(views, "Rendering masks and depth"):
            if stage.done(view.photo):
                continue
            object_mask, z_visible, *said = render(view)
            if view.photo in clean:
                object_mask = np.zeros_like(object_mask)
            save_object_mask(stage.folder(masks) / f"{view.photo}.png", object_mask)
            save_depth(stage.folder(layers) / f"{view.photo}.npy", z_visible)
            stage.record(view.photo, mask_area=int(object_mask.sum()), **(said[0] if said else {}))


def background_stage(
    capture: Capture,
    workspace: Workspace,
    fit: Callable[[Regions, Path], RenderDepth],
    config: ExportConfig,
    parameters: dict[str, Any],
) -> None:
    """Writes `background/`: a field fitted to the photos outside their regions, and what it shows of their depth.

    Args:
        fit: what reads a photo's region, and the file that the field is written to -> a function that renders its depth.
        parameters: what else the result depends on.
    """
    views, clean = _views(capture, workspace)
    folder = workspace.root / BACKGROUND
    parameters = {"dilation": config.dilation, "least_dilation": LEAST_DILATION, "downscale": config.rendered_at, **parameters}
    parameters |= _naming(clean)
    inputs = [*pictures(views), *(object_mask_path(workspace, view) for view in views)]
    inputs += [clean_path(workspace, photo) for photo in sorted(clean)]
    with workspace.stage(BACKGROUND, parameters, inputs, [folder], config.overwrite, capture) as stage:
        if stage.fresh:
            return

        def region(view: View) -> BoolMask:
            return removed_region(workspace, view, config)

        render = fit(region, stage.folder(folder) / "field.pt")
        say(f"Depth without the object is rendered {_at(views, config)}")
        for view in track(views, "Rendering depth"):
            save_depth(stage.folder(folder) / "depths" / f"{view.photo}.npy", render(view))
            stage.record(view.photo)


def _views(capture: Capture, workspace: Workspace) -> tuple[list[View], set[str]]:
    """The photos with the object, and after them the clean ones; which these are."""
    clean = workspace.clean_views(capture)
    return workspace.views_with_object(capture) + clean, {view.photo for view in clean}


def _naming(clean: set[str]) -> dict[str, list[str]]:
    """What a stage's parameters say of clean photos; nothing where there are none, as before there were any."""
    return {"clean_photos": sorted(clean)} if clean else {}


def _at(views: Sequence[View], config: ExportConfig) -> str:
    """At which size photos are rendered, in words."""
    if config.rendered_at == 1:
        return f"at the photos' {sizes_of(views)}"
    return f"at {sizes_of(views, scale=1 / config.rendered_at)}, 1/{config.rendered_at} of the photos' {sizes_of(views)}"


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
    match_stage(capture, workspace, config)
    plan = plan_export(capture, workspace, config)
    with workspace.stage("export", plan.settings, plan.inputs, [workspace.removed], config.overwrite, capture) as stage:
        if stage.fresh:
            return workspace.removed
        if not any(removed_region(workspace, view, config).any() for view in plan.views):
            where = {"data": capture.data, "workspace": workspace.root}
            again = command("ns-spinnerf", "segment", **where, view="PHOTO", points="X,Y", overwrite=True)
            raise SpinnerfError(
                f"{workspace.masks_3d}: every mask is empty, so there is nothing to remove; point at the object again: {again}"
            )
        points = points_of(capture, workspace, make=False) or SparsePoints.none()
        writer = RemovedWriter(
            capture, stage.folder(workspace.removed), workspace.truth_photos, points, config.invention, plan.clean
        )
        say(f"Photos and depth without the object are written at the photos' {sizes_of(plan.views)}")
        unfinished = [index for index, view in enumerate(plan.views) if not stage.done(view.photo)]
        if unfinished:
            _clean(plan, config, unfinished, writer, stage)
        writer.finish()
    return workspace.removed


def _clean(plan: Plan, config: ExportConfig, unfinished: list[int], writer: RemovedWriter, stage: Stage) -> None:
    """Surfaces, what photos show of each other's regions, and depth, for all photos; then, photo by photo, what none shows."""
    cleaning = Cleaning(plan, config, stage.scratch("steps"), writer)
    with _Shared(cleaning) as shared:
        cleaning.planes  # noqa: B018 - found once, for all processes
        rehearses = config.invention and plan.by_surface and getattr(plan.inpainter, "by_surface", False)
        for step in [*cleaning.steps, REHEARSED] if rehearses else cleaning.steps:
            for _ in shared.each(step, cleaning.left(step)):
                pass
        regions, unseen = cleaning.areas()
        shares = [area / (view.width * view.height) for area, view in zip(unseen, plan.views, strict=True)]
        reference = choose_reference(plan.views, plan.candidates, shares)
        mended = _mended(config, plan.views, reference)
        rehearsal = cleaning.rehearsal() if rehearses else None
        if rehearsal is not None:
            say(str(rehearsal))
        by_surface = rehearsal is not None and rehearsal.winner == BY_SURFACE
        references: list[Reference] = []
        if config.fill_from_views and reference is not None:
            say_provenance(sum(regions), sum(unseen), config.invention)
        if config.invention and reference is not None:
            draw = partial(cleaning.draw, by_surface=by_surface)
            references = choose_references(cleaning.photos, reference, draw, mended, config.carry)
        cleaning.say_how(references, by_surface)
        for index, carried in shared.each(WRITTEN, unfinished):
            record: dict[str, Any] = {"region": regions[index], "unseen": unseen[index], "carried": carried}
            if config.carry and any(each.number == index for each in references):
                record[REFERS] = True
            if index == reference:
                table = () if rehearsal is None else rehearsal.table
                record |= {REFERENCE: True, "rehearsal": {each.name: round(each.error, 2) for each in table}}
            stage.record(plan.views[index].photo, **record)


class _Shared:
    """Steps of an export in several processes, where that is worth it; in this one otherwise."""

    def __init__(self, cleaning: Cleaning) -> None:
        self.cleaning = cleaning
        self._workers: Workers | None = None

    def __enter__(self) -> _Shared:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._workers is not None:
            self._workers.__exit__(*error)

    def each(self, step: str, numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Photos' numbers, and what `cleaning.do` returns, as they are done."""
        config = self.cleaning.config
        # A network draws on a GPU, or uses all cores by itself.
        alone = config.workers is None and not getattr(self.cleaning.plan.inpainter, "one_core", False)
        count = 1 if alone else worker_count(config.workers, len(numbers))
        if self._workers is None and count > 1:
            cleaning = self.cleaning
            self._workers = Workers(count, prepare, (flushes(), cleaning.plan, config, cleaning.scratch, cleaning.writer))
        if self._workers is None or count == 1:
            for number in track(numbers, SAID[step]):
                yield number, do(self.cleaning, (step, number))
            return
        for (_, number), result in track(self._workers.map(do, [(step, each) for each in numbers]), SAID[step], len(numbers)):
            yield number, result


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
