"""A click in nerfstudio's viewer, on the trained field, becomes a prompt in the photos that look at the place from nearest by."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.viewer.viewer_elements import ViewerClick, ViewerControl, ViewerDropdown, ViewerText

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.hints import command, say
from spinnerf_ns.scene.cameras import project
from spinnerf_ns.scene.frames import transform_points
from spinnerf_ns.scene.view import View

if TYPE_CHECKING:
    from spinnerf_ns.nerf.seg_model import SpinnerfSegModel
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.workspace import Workspace

Place = npt.NDArray[np.float64]

NEAREST = 3
"""Photos that get the click."""
BEHIND = 0.05
"""A photo whose ray ends by more than this part before the place does not show it."""
HITS = 0.5
"""A ray that accumulates less hits nothing."""
NOTHING, ON, BESIDE = "moves the view only", "is on the object", "is beside the object"
MARKS = {1: (40, 167, 69), 0: (214, 40, 40)}
"""Colour of a place, by its label; as in the page."""
MARK_SIZE = 0.01
"""A mark's radius, by its distance when it was clicked at."""
VIEWER_SCALE = 10.0
"""Lengths in the viewer, by those in the training frame: nerfstudio's VISER_NERFSTUDIO_SCALE_RATIO."""


class ViewerPointing:
    """What the viewer shows of it, and what a click does.

    Args:
        model: the field, which says where a ray ends.
        capture, workspace: of the scene.
        control: the model's access to the viewer.
    """

    def __init__(self, model: SpinnerfSegModel, capture: Capture, workspace: Workspace, control: ViewerControl) -> None:
        self.model, self.capture, self.workspace, self.control = model, capture, workspace, control
        self._views: list[View] = []
        self._marks = 0
        hint = "Adds a prompt to the photos that look at the place from nearest by; the page (ns-spinnerf segment --page) goes on"
        self.clicks = ViewerDropdown("A click", NOTHING, [NOTHING, ON, BESIDE], cb_hook=self._arm, hint=hint)
        self.name = ViewerText("Object", self._first_object(), hint="Name of the object that is clicked at, known or new")
        self.said = ViewerText("Pointed at", "", disabled=True)

    def _first_object(self) -> str:
        from spinnerf_ns.segmentation.prompts import DEFAULT_OBJECT
        from spinnerf_ns.segmentation.segment import known_objects

        try:
            return next(iter(known_objects(self.workspace)), DEFAULT_OBJECT)
        except SpinnerfError:  # a damaged prompts.json is said when something is to be added to it
            return DEFAULT_OBJECT

    def _arm(self, element: Any) -> None:
        self.control.unregister_pointer_cb()
        if self.clicks.value != NOTHING:
            self.control.register_pointer_cb("click", self.clicked)

    def clicked(self, click: ViewerClick) -> None:
        """What a click does; says so in the viewer, and at the terminal how to go on."""
        label = 0 if self.clicks.value == BESIDE else 1
        lock = getattr(self.control.viewer, "train_lock", None)
        try:
            with lock or nullcontext():
                place, photos = self.point(np.array(click.origin), np.array(click.direction), label)
        except SpinnerfError as error:
            self.said.value = str(error)
            return
        self._mark(place, label, float(np.linalg.norm(place - click.origin)))
        self.said.value = ", ".join(photos)
        page = command("ns-spinnerf", "segment", data=self.capture.data, workspace=self.workspace.root, page=True)
        say(f"Object '{self.name.value}': pointed at in {', '.join(photos)}. To look, track and save: {page}")

    def point(self, origin: Place, direction: Place, label: int) -> tuple[Place, list[str]]:
        """Adds the place that a ray ends at to prompts.json.

        Args:
            origin, direction: (3,) of the ray, in the training frame.
            label: 1 on the object, 0 beside it.

        Returns:
            The place (3,), in the training frame, and the photos that were pointed at, nearest first.

        Raises:
            SpinnerfError: the ray hits nothing, no photo shows the place, or what `add_points` refuses.
        """
        from spinnerf_ns.segmentation.corrections import add_points

        direction = direction / np.linalg.norm(direction)
        with self.model.as_shown():
            depth, accumulation = self._ends(origin[None], direction[None])
        if accumulation[0] < HITS:
            raise SpinnerfError("the click hits nothing there")
        place = origin + direction * depth[0]
        places = self._in_photos(place, origin)
        if not places:
            raise SpinnerfError("no photo shows that place")
        views = {view.photo: view for view in self._all_views()}
        add_points(self.workspace, views, self.name.value.strip(), places, label)
        return place, list(places)

    def _in_photos(self, place: Place, origin: Place) -> dict[str, tuple[float, float]]:
        """Photo -> where the place is in it: of those that show it, the ones that look from nearest to where the person does."""
        to_world = np.linalg.inv(self.capture.world_to_training)
        views = self._all_views()
        centres = transform_points(self.capture.world_to_training, np.array([view.c2w[:, 3] for view in views]))
        offsets, mine = centres - place, origin - place
        lengths, own = np.linalg.norm(offsets, axis=1), float(np.linalg.norm(mine))
        cosines = offsets @ mine / np.maximum(lengths * own, 1e-9)
        apart = np.arccos(np.clip(cosines, -1, 1)) + 0.5 * np.abs(np.log(np.maximum(lengths, 1e-9) / max(own, 1e-9)))
        found: dict[str, tuple[float, float]] = {}
        world = transform_points(to_world, place[None])
        for index in np.argsort(apart, kind="stable"):
            view = views[index]
            xy, z = project(view, world)
            if not (z[0] > 0 and 0 <= xy[0, 0] < view.width and 0 <= xy[0, 1] < view.height):
                continue
            depth, accumulation = self._ends(centres[index][None], -offsets[index][None] / lengths[index])
            if accumulation[0] >= HITS and depth[0] < (1 - BEHIND) * lengths[index]:
                continue  # something stands before it
            found[view.photo] = (float(xy[0, 0]), float(xy[0, 1]))
            if len(found) == NEAREST:
                break
        return found

    def _all_views(self) -> Sequence[View]:
        if not self._views:
            self._views = list(self.workspace.views_with_object(self.capture))
        return self._views

    @torch.no_grad()
    def _ends(self, origins: Place, directions: Place) -> tuple[Place, Place]:
        """(R, 3) rays in the training frame -> (R,) distances along them at which they end, and (R,) what they accumulate."""
        model = self.model
        tensors = [torch.as_tensor(values, dtype=torch.float32, device=model.device) for values in (origins, directions)]
        rays = RayBundle(
            *tensors, pixel_area=torch.full_like(tensors[0][:, :1], 1e-6), camera_indices=torch.zeros_like(tensors[0][:, :1]).long()
        )
        was_training = model.training
        model.eval()
        try:
            with model.rendering_only(("accumulation", "expected_depth")):
                outputs = model(rays)
        finally:
            model.train(was_training)
        return tuple(outputs[name][:, 0].double().cpu().numpy() for name in ("expected_depth", "accumulation"))  # type: ignore[return-value]

    def _mark(self, place: Place, label: int, distance: float) -> None:
        self._marks += 1
        self.control.viser_server.scene.add_icosphere(
            f"/pointed_at/{self._marks}",
            radius=MARK_SIZE * distance * VIEWER_SCALE,
            color=MARKS[label],
            position=tuple(place * VIEWER_SCALE),
        )
