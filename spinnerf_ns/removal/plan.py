"""What an export is made of, found out before it begins: photos, files, inpainters, and what its result depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spinnerf_ns.conventions import LEAST_DILATION, BoolMask, Image, dilate_mask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_depth, load_object_mask, read_image
from spinnerf_ns.removal.config import BACKGROUND, RIM, ExportConfig
from spinnerf_ns.removal.inpainters import INPAINTERS
from spinnerf_ns.removal.inpainters.choice import choose_inpainter
from spinnerf_ns.removal.layers import ViewLayers
from spinnerf_ns.removal.reference import reference_candidates
from spinnerf_ns.scene.capture import Capture
from spinnerf_ns.scene.view import View, pictures
from spinnerf_ns.scene.workspace import Workspace

CLEAN = "clean"
"""Folder of the clean photos, each as bright as the photos with the object."""

NEEDS_BACKGROUND = (
    "--clean-photos: what they show behind the object is placed by depth without the object, and --background-steps 0 makes none; "
    "leave that out, or forget them: --clean-photos none"
)
"""What is said of settings that leave no use for clean photos."""


def layers_path(workspace: Workspace, photo: str) -> Path:
    """Where a photo's rendered depth lies, object included: what `load_depth` reads."""
    return workspace.root / "layers" / f"{photo}.npy"


def background_path(workspace: Workspace, photo: str) -> Path:
    """Where a photo's depth without the object lies, from a field of what stays."""
    return workspace.root / BACKGROUND / "depths" / f"{photo}.npy"


def clean_path(workspace: Workspace, photo: str) -> Path:
    """Where a clean photo lies, made as bright as the others."""
    return workspace.root / CLEAN / f"{photo}.png"


def read_clean(workspace: Workspace, view: View) -> Image:
    """(H, W, 3) uint8: a clean photo, as bright as the others."""
    return read_image(clean_path(workspace, view.photo))


def object_mask_path(workspace: Workspace, view: View) -> Path:
    """Where a photo's object mask lies that decides what is removed: as the field shows it."""
    return workspace.mask_path("masks_3d", view.photo)


def make_inpainter(config: ExportConfig) -> tuple[str, Any]:
    """The inpainter's name and an instance that is ready to work; "auto" chooses."""
    if not config.invention:
        return choose_inpainter("opencv")  # draws nothing, and is always there
    return choose_inpainter(config.inpainter, config.inpainted, config.inpainter_options)


def make_disparity_inpainter(config: ExportConfig, inpainter_name: str, inpainter: Any) -> Any:
    """What completes disparity: the inpainter itself, or one that is told to do it by its network.

    Raises:
        SpinnerfError: there is no such inpainter, or it has no network for disparity.
    """
    name = config.disparity_inpainter
    if name == RIM:
        return inpainter
    backend = INPAINTERS.get(name)
    if "disparity" not in getattr(backend, "__dataclass_fields__", {}):
        raise SpinnerfError(f"--disparity-inpainter {name}: it has no network for disparity; take lama, or {RIM}")
    options = (*(config.inpainter_options if name == inpainter_name else ()), "disparity=network")
    return choose_inpainter(name, options=options)[1]


@dataclass(frozen=True)
class Plan:
    """What an export works with."""

    workspace: Workspace
    views: list[View]
    """The photos that are cleaned, and after them the clean ones."""
    candidates: list[int]
    """Which of them may be the reference view."""
    inpainter: Any
    """Draws what no photo shows."""
    disparity_inpainter: Any
    """Completes disparity."""
    without_object: bool
    """Whether depth comes from a field of what stays; else from the segmentation field, the object included."""
    by_surface: bool
    """Whether planes are looked for: in depth without the object alone."""
    settings: dict[str, Any]
    """What the result depends on, beside files."""
    inputs: list[Path]
    """The files."""
    clean: frozenset[str] = frozenset()
    """Those of the photos that show the place without the object."""

    def depth_path(self, view: View) -> Path:
        """Where the photo's depth lies."""
        return (background_path if self.without_object else layers_path)(self.workspace, view.photo)

    def is_source(self, view: View) -> bool:
        """Whether other photos may be filled from this one."""
        return view.trains or view.photo in self.clean

    def read_image(self, view: View) -> Image:
        """(H, W, 3) uint8: the photo; a clean one as bright as the others."""
        return read_clean(self.workspace, view) if view.photo in self.clean else view.read_image()


def plan_export(capture: Capture, workspace: Workspace, config: ExportConfig) -> Plan:
    """Finds out all that an export needs.

    Raises:
        SpinnerfError: masks or depths are missing, or an inpainter or the reference view cannot be had.
    """
    views, clean = workspace.views_with_object(capture), workspace.clean_views(capture)
    candidates = reference_candidates(capture, views, config.reference_view)
    name, inpainter = make_inpainter(config)
    disparity_inpainter = make_disparity_inpainter(config, name, inpainter)
    without_object = config.background_steps != 0 and (workspace.root / BACKGROUND / "depths").is_dir()
    options = {name: str(value) for name, value in vars(inpainter).items() if not name.startswith("_")}
    settings = {**config.settings(), "inpainter": name, "options": options, "least_dilation": LEAST_DILATION}
    by_surface = config.by_surface and without_object
    inputs: list[Path] = []
    if clean:
        if config.fill_from_views and not without_object:
            raise SpinnerfError(NEEDS_BACKGROUND)
        settings["clean_photos"] = sorted(view.photo for view in clean)
        inputs += [clean_path(workspace, view.photo) for view in clean]
        views += clean
    plan = Plan(
        workspace, views, candidates, inpainter, disparity_inpainter, without_object, by_surface, settings, inputs,
        frozenset(view.photo for view in clean),
    )  # fmt: skip
    inputs += pictures(views)
    inputs += [path for view in views for path in (object_mask_path(workspace, view), plan.depth_path(view))]
    check_rendered(workspace, inputs)
    if config.reference_photo is not None:
        inputs.append(Path(config.reference_photo))
    if config.inpainted is not None:
        inputs += sorted(path for path in Path(config.inpainted).rglob("*") if path.is_file())
    return plan


def check_rendered(workspace: Workspace, files: Sequence[Path]) -> None:
    """Raises `SpinnerfError` where one of the files that a rendering writes is missing."""
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise SpinnerfError(
            f"{missing[0]}: missing ({len(missing)} files in all); render masks and depth first: {workspace.export_command()}"
        )


def load_layers(plan: Plan, config: ExportConfig, number: int, image: Image) -> ViewLayers:
    """What is known of the plan's `number`th photo; its background depth is not known yet."""
    view = plan.views[number]
    layers = read_layers(plan.workspace, view, config, image, plan.depth_path(view), plan.is_source(view))
    if view.photo in plan.clean and not plan.without_object:
        layers.z_visible[:] = 0  # it has the object in it, the photo has not
    return layers


def read_layers(
    workspace: Workspace, view: View, config: ExportConfig, image: Image, depth: Path, is_source: bool = True
) -> ViewLayers:
    """A view's photo, region and the depth in a file."""
    valid = view.valid_mask()
    region = removed_region(workspace, view, config, valid)
    z_visible = np.where(valid, load_depth(depth), np.float32(0))
    return ViewLayers(view, image, region, z_visible, np.zeros_like(z_visible), None if valid.all() else valid, is_source)


def removed_region(workspace: Workspace, view: View, config: ExportConfig, valid: BoolMask | None = None) -> BoolMask:
    """(H, W) bool: the photo's rendered object mask, grown, where the photo may be used."""
    valid = view.valid_mask() if valid is None else valid
    return (
        dilate_mask(load_object_mask(object_mask_path(workspace, view), valid.shape), config.dilation, least=LEAST_DILATION) & valid
    )
