"""The export of a trained segmentation field: masks and depth, the field of what stays, the object-free capture."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from spinnerf_ns.conventions import OBJECTNESS_THRESHOLD, BoolMask, resize_mask
from spinnerf_ns.nerf.background_field import BackgroundField, BackgroundModel, background_steps, fit_background
from spinnerf_ns.nerf.data.further import with_photos
from spinnerf_ns.nerf.mask_choice import MaskChoice
from spinnerf_ns.nerf.refinement import SURE
from spinnerf_ns.nerf.rendering import render_depth, render_objectness_and_depth
from spinnerf_ns.removal.clean_photos import match_stage
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.export import Regions, RenderDepth, background_stage, export_removed, object_points, render_stage
from spinnerf_ns.removal.kept import export_kept
from spinnerf_ns.removal.plan import read_clean
from spinnerf_ns.scene.capture import Capture
from spinnerf_ns.scene.hull import visual_hull
from spinnerf_ns.scene.view import View

if TYPE_CHECKING:
    from spinnerf_ns.nerf.data.datamanager import SpinnerfSegDataManager
    from spinnerf_ns.nerf.seg_model import SpinnerfSegModel


def export_field(model: SpinnerfSegModel, manager: SpinnerfSegDataManager, checkpoint: Path, config: ExportConfig) -> Path:
    """Renders masks and depth of every photo and writes the object-free capture.

    Args:
        model: the trained field.
        manager: its photos and masks.
        checkpoint: the file that the model's weights are in; its content decides what is fresh, its name says after which step.
        config: how.

    Returns:
        The folder of the object-free capture; with `config.keep`, that of the object alone.
    """
    steps = background_steps(config.background_steps, int(checkpoint.stem.removeprefix("step-")) + 1)
    # Without a field of what stays, photos are filled by this one's depth, wherever they look.
    render_layers(model, manager, checkpoint, config, around_object=config.keep or steps > 0)
    if config.keep:
        return export_kept(manager.capture, manager.workspace, config)
    if steps > 0:
        fit = partial(fit_what_stays, model, manager, steps, config)
        made_by = {"steps": steps, "stereo": manager.stereo_disparity is not None}
        match_stage(manager.capture, manager.workspace, config)
        background_stage(manager.capture, manager.workspace, fit, config, made_by)
    return export_removed(manager.capture, manager.workspace, config)


def render_layers(
    model: SpinnerfSegModel, manager: SpinnerfSegDataManager, checkpoint: Path, config: ExportConfig, around_object: bool
) -> None:
    """Writes `masks_3d/` and `layers/`; with `around_object`, depth that is sharp there alone."""
    masks = [manager.mask_file(view) for view in manager.capture.views] if config.keep_outline else []
    inputs = [checkpoint, *(path for path in masks if path is not None)]
    parameters = {"threshold": OBJECTNESS_THRESHOLD, "sure": SURE if config.keep_outline else OBJECTNESS_THRESHOLD}
    parameters["around_object"] = around_object
    layers = _Layers(model, manager, config, around_object)
    render_stage(manager.capture, manager.workspace, layers.render, config, inputs, parameters)
    if layers.choice is not None:
        layers.choice.say_photos()


class _Layers:
    """Renders photos' masks and depth, and chooses between rendered and tracked masks."""

    def __init__(self, model: SpinnerfSegModel, manager: SpinnerfSegDataManager, config: ExportConfig, around_object: bool) -> None:
        self.model, self.manager, self.config, self.around_object = model, manager, config, around_object
        self.choice: MaskChoice | None = None
        """Made for the first photo: there may be nothing to do."""

    def render(self, view: View) -> tuple[BoolMask, npt.NDArray[np.float32], dict[str, Any]]:
        """A view's object mask, its depth with the object, and what is recorded of them."""
        capture = self.manager.capture
        cameras, scale = capture.cameras([view]), capture.world_scale
        if view.photo in self.manager.workspace.clean_photos:
            z = render_depth(self.model, cameras, scale, self.config.rendered_at)
            return np.zeros(z.shape, bool), z, {"mask": "clean"}
        objectness, z = render_objectness_and_depth(self.model, cameras, scale, self.config.rendered_at, self.around_object)
        if not self.config.keep_outline:
            return objectness > OBJECTNESS_THRESHOLD, z, {"mask": "field"}
        if self.choice is None:
            self.choice = MaskChoice(self.model, self.manager)
            self.choice.say_check()
        chosen = self.choice.choose(view, objectness, self.manager.read_label(view))
        depth = self.choice.depth_agreement(view, z)
        return chosen.object_mask, z, {**chosen.record(), "depth_at_points": round(depth, 4) if depth == depth else None}


def fit_what_stays(
    model: SpinnerfSegModel,
    manager: SpinnerfSegDataManager,
    steps: int,
    config: ExportConfig,
    regions: Regions,
    path: Path,
) -> RenderDepth:
    """Fits a field to what lies outside the removed regions and writes it.

    Args:
        model: the segmentation field, whose size is taken.
        regions: reads what is taken out of a photo: all photos' are not held.
        path: where the field goes.

    Returns:
        What renders its depth.
    """
    capture, pool = manager.capture, manager.train_pool
    outside = torch.empty(pool.num_pixels, dtype=torch.bool)
    for index, name in enumerate(manager.train_dataset.image_filenames):
        start, end = pool.starts[index : index + 2].tolist()
        region = resize_mask(regions(manager.view_of(name)), (int(pool.heights[index]), int(pool.widths[index])))
        outside[start:end] = torch.from_numpy(~region.reshape(-1))
    clean = manager.workspace.clean_views(capture)
    with with_photos(manager, clean, [read_clean(manager.workspace, view) for view in clean]):
        everywhere = torch.ones(manager.train_pool.num_pixels - len(outside), dtype=torch.bool)
        background = fit_background(model, manager, torch.cat([outside, everywhere]) if clean else outside, steps)
    BackgroundField.of(background, capture.world_to_training).save(path)
    views = manager.workspace.views_with_object(capture)
    unsure = (regions(view) | ~view.valid_mask() for view in views)  # what may not be used says nothing of the object
    hull = visual_hull(views, unsure, object_points(manager.workspace, views), [(view, view.valid_mask()) for view in clean])
    background.empty_hull(hull, capture.world_to_training)
    return partial(_depth_of, background, capture, config.rendered_at, regions)


def _depth_of(model: BackgroundModel, capture: Capture, downscale: int, regions: Regions, view: View) -> npt.NDArray[np.float32]:
    return render_depth(model, capture.cameras([view]), capture.world_scale, downscale, regions(view))
