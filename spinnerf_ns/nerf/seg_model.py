"""The segmentation model: nerfacto with an objectness field (SPIn-NeRF, CVPR 2023, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import nerfacc
import torch
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.utils import colormaps
from torch import Tensor
from torch.nn import Parameter

from spinnerf_ns.conventions import OBJECTNESS_THRESHOLD
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.nerf.base_model import SpinnerfModel, SpinnerfModelConfig
from spinnerf_ns.nerf.losses import UNKNOWN, objectness_loss
from spinnerf_ns.nerf.objectness_field import ObjectnessField

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.workspace import Workspace

DISPLAYED: dict[str, Literal["rest", "object"]] = {"rgb_removed": "rest", "rgb_object": "object"}
"""Output for looking at -> what it shows."""


@dataclass
class SpinnerfSegModelConfig(SpinnerfModelConfig):
    """Nerfacto's settings and those of the objectness field."""

    _target: type = field(default_factory=lambda: SpinnerfSegModel)
    objectness: bool = True
    """Whether to have an objectness field at all; off: plain nerfacto."""
    objectness_loss_mult: float = 0.01
    """Weight of the binary cross-entropy of rendered objectness."""
    objectness_num_levels: int = 8
    """Levels of the objectness grid."""
    objectness_max_res: int = 512
    """Finest resolution of the objectness grid."""
    objectness_log2_hashmap_size: int = 17
    """Size of the objectness grid's table."""
    objectness_hidden_dim: int = 32
    """Width of the objectness head's hidden layer."""
    objectness_samples_per_ray: int = 8
    """Samples of a ray that objectness is computed at in training, each drawn by weight from a run of neighbours; 0: all."""
    objectness_every: int = 1
    """Steps from one in which objectness is trained to the next: it learns faster than colour and density do."""
    empty_space_logit: float = -4.0
    """Objectness logit of a ray's part that hits nothing: emptiness is not the object."""


class SpinnerfSegModel(SpinnerfModel):
    """Nerfacto with an objectness logit per point, composited along the ray with detached weights."""

    config: SpinnerfSegModelConfig

    def populate_modules(self) -> None:
        """Builds nerfacto and, after it (so that one seed gives the same nerfacto with and without), the objectness field."""
        # A run's config.yml of an earlier version may say it.
        if getattr(self.config, "objectness_source", "grid") != "grid":
            raise SpinnerfError(
                "this run's objectness reads nerfacto's geometry features (objectness_source in its config.yml), which is no "
                "longer offered: train it again, or open it with the version that trained it"
            )
        super().populate_modules()
        self._shows: Literal["all", "rest", "object"] = "all"
        self._training_steps = 0
        self.objectness_field: ObjectnessField | None = None
        self._add_viewer_elements()
        if self.config.objectness:
            self.objectness_field = ObjectnessField(
                num_levels=self.config.objectness_num_levels,
                max_res=self.config.objectness_max_res,
                log2_hashmap_size=self.config.objectness_log2_hashmap_size,
                hidden_dim=self.config.objectness_hidden_dim,
                implementation=self.config.implementation,
            )
        self.accelerate()

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Nerfacto's groups and "objectness"."""
        groups = super().get_param_groups()
        if self.objectness_field is not None:
            groups["objectness"] = list(self.objectness_field.parameters())
        return groups

    # ------------------------------------------------------------------------------------------------------- rendering
    def extra_outputs(
        self, ray_bundle: RayBundle, ray_samples: RaySamples, weights: Tensor, positions: Tensor
    ) -> dict[str, Tensor]:
        """`objectness` (R, 1) in [0, 1] and, in training, `objectness_logit` (R, 1); not in every step (`objectness_every`)."""
        if self.objectness_field is None or not self._is_wanted("objectness"):
            return {}
        if self.training:
            self._training_steps += 1
            if self._training_steps % self.config.objectness_every:
                return {}
        weights = weights.detach()
        total = weights.sum(dim=1)
        groups = self.config.objectness_samples_per_ray
        if self.training and 0 < groups < weights.shape[1]:
            weights, chosen = draw_by_weight(weights[..., 0], groups)
            positions = positions.gather(1, chosen.expand(-1, -1, 3))
        logits = self.objectness_field(positions)
        rendered = nerfacc.accumulate_along_rays(weights[..., 0], logits)
        rendered = rendered + self.config.empty_space_logit * (1.0 - total)
        outputs = {"objectness": torch.sigmoid(rendered)}
        if self.training:
            outputs["objectness_logit"] = rendered
        return outputs

    @contextmanager
    def showing(self, what: Literal["all", "rest", "object"]) -> Iterator[None]:
        """Within this context density is that of everything, of all but the object, or of the object alone.

        The proposal networks are carved too, so that samples go to the surface that is shown, not to the one before it.
        """
        plain, before = self.density_fns, self._shows
        self._shows = what
        if what != "all" and before == "all":
            self.density_fns = [self._carved(density_fn) for density_fn in plain]
        try:
            yield
        finally:
            self.density_fns, self._shows = plain, before

    def display_outputs(self) -> tuple[str, ...]:
        """`rgb_removed` and `rgb_object` (R, 3): without the object, before anything is filled in, and the object alone; with the
        base's."""
        own = () if self.objectness_field is None else ("rgb_removed", "rgb_object")
        return (*own, *super().display_outputs())

    def display(self, name: str, ray_bundle: RayBundle) -> Tensor:
        """One of them; `provenance` is that of what stands behind the object."""
        if name not in DISPLAYED:
            with self.showing("rest" if self.objectness_field is not None else "all"):
                return super().display(name, ray_bundle)
        with self.showing(DISPLAYED[name]), self.rendering_only(("rgb",)):
            return self._render(ray_bundle)["rgb"]

    def _add_viewer_elements(self) -> None:
        """What nerfstudio's viewer shows beside its own controls."""
        from nerfstudio.viewer.viewer_elements import ViewerCheckbox, ViewerSlider

        hint = "Objectness from which on a point is the object's"
        self.viewer_threshold = ViewerSlider("Objectness threshold", OBJECTNESS_THRESHOLD, 0.0, 1.0, 0.01, hint=hint)
        self.viewer_object = ViewerCheckbox("Show the object", True)
        self.viewer_rest = ViewerCheckbox("Show all but the object", True)

    def take_clicks(self, capture: Capture, workspace: Workspace) -> None:
        """Lets clicks in the viewer add to what was pointed at in a scene."""
        from spinnerf_ns.nerf.viewer_pointing import ViewerPointing

        pointing = ViewerPointing(self, capture, workspace, self.viewer_control)
        # A viewer finds elements by a model's attributes, in the order of their names.
        self.viewer_touch, self.viewer_touch_name, self.viewer_touch_said = pointing.clicks, pointing.name, pointing.said

    def _shown(self, bundle: RayBundle) -> dict[str, Tensor]:
        with self.as_shown():
            return super()._shown(bundle)

    def as_shown(self) -> AbstractContextManager[None]:
        """Within this context density is that of what is ticked in the viewer."""
        object_too, rest_too = self.viewer_object.value, self.viewer_rest.value
        if self.objectness_field is None or object_too == rest_too:
            return nullcontext()
        return self.showing("object" if object_too else "rest")

    def carve(self, density: Tensor, positions: Tensor) -> Tensor:
        """Density of what is shown (`showing`)."""
        if self._shows == "all" or self.objectness_field is None:
            return density
        return density * self.kept(self.objectness_field(positions))

    def kept(self, logits: Tensor) -> Tensor:
        """1 where a point is shown, 0 where it is not; same shape as the logits."""
        # A hard cut: density is exponential, and even one per cent of the object's is opaque.
        is_object = torch.sigmoid(logits) >= self.viewer_threshold.value
        return (is_object if self._shows == "object" else ~is_object).to(logits.dtype)

    def _carved(self, density_fn: Any) -> Any:
        def carved(positions: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return density_fn(positions, *args, **kwargs) * self.kept(self.objectness_logits(positions))

        return carved

    def objectness_logits(self, positions: Tensor) -> Tensor:
        """(..., 3) positions in the training frame -> (..., 1) objectness logits."""
        assert self.objectness_field is not None, "the model was configured without objectness"
        return self.objectness_field(self.grid_positions(positions))

    def grid_positions(self, positions: Tensor) -> Tensor:
        """(..., 3) positions in the training frame -> (..., 3) in the grid's [0, 1], as nerfacto's field computes them."""
        if self.field.spatial_distortion is not None:
            return (self.field.spatial_distortion(positions) + 2.0) / 4.0
        return self.scene_box.get_normalized_positions(positions, self.field.aabb)

    # ---------------------------------------------------------------------------------------------------------- losses
    def get_metrics_dict(self, outputs, batch) -> dict[str, Tensor]:
        """Nerfacto's metrics and `objectness_iou` of the batch's labelled rays."""
        metrics = super().get_metrics_dict(outputs, batch)
        if "objectness" in outputs and "object_label" in batch:
            labels = batch["object_label"].to(self.device).view(-1)
            known = labels != UNKNOWN
            found = (outputs["objectness"].view(-1)[: len(labels)] > OBJECTNESS_THRESHOLD) & known
            true = (labels == 1) & known
            union = (found | true).sum()
            metrics["objectness_iou"] = ((found & true).sum() / union.clamp(min=1)).detach()
        return metrics

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> dict[str, Tensor]:
        """Nerfacto's losses and `objectness_loss`."""
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if self.training and "objectness_logit" in outputs and "object_label" in batch:
            labels = batch["object_label"].to(self.device).view(-1)
            losses["objectness_loss"] = self.config.objectness_loss_mult * objectness_loss(
                outputs["objectness_logit"][: len(labels)], labels
            )
        return losses

    def get_image_metrics_and_images(self, outputs, batch) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Nerfacto's, with the objectness picture and, where the photo has a mask, accuracy and IoU against it."""
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        if "objectness" in outputs:
            images["objectness"] = colormaps.apply_colormap(outputs["objectness"])
            label = batch.get("object_label")
            if label is not None and bool((label != UNKNOWN).all()):
                found = outputs["objectness"][..., 0] > OBJECTNESS_THRESHOLD
                true = label.to(found.device).view(found.shape) == 1
                if "mask" in batch:
                    valid = batch["mask"].to(found.device)[..., 0]
                    found, true = found[valid], true[valid]
                metrics["objectness_accuracy"] = float((found == true).float().mean())
                union = int((found | true).sum())
                metrics["objectness_iou"] = float((found & true).sum()) / union if union else 1.0
        return metrics, images


def draw_by_weight(weights: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """One sample of every group of neighbours on a ray, drawn by weight, for the whole group's weight.

    A sum over the drawn samples has the expectation of the sum over all, and neighbours see nearly the same place.

    Args:
        weights: (R, S)
        groups: how many samples to draw; runs of ceil(S / groups) neighbours make a group.

    Returns:
        Weights of the drawn (R, G, 1), G <= groups, and their index along the ray (R, G, 1) long.
    """
    num_samples = weights.shape[1]
    size = -(-num_samples // groups)
    weights = torch.nn.functional.pad(weights, (0, -num_samples % size)).view(len(weights), -1, size)
    cumulative = weights.cumsum(dim=-1)
    total = cumulative[..., -1:]
    drawn = (torch.rand_like(total) * total >= cumulative[..., :-1]).sum(dim=-1, keepdim=True)
    start = torch.arange(0, num_samples, size, device=weights.device)[:, None]
    # Where a group has no weight at all any of its samples will do, but it has to be one that there is.
    return total, (start + drawn).clamp(max=num_samples - 1)
