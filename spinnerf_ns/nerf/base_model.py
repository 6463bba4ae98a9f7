"""What the two models share: nerfacto, built without a download, placed on the scene, without work that no loss uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.model_components.losses import orientation_loss, pred_normal_loss, scale_gradients_by_distance_squared
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from torch import Tensor

from spinnerf_ns.accel import ray_weights
from spinnerf_ns.accel.scene_placement import PlacedContraction, PlacedPiecewiseSampler
from spinnerf_ns.nerf.data.pixel_samplers import Family, RayLayout
from spinnerf_ns.nerf.image_metrics import Psnr, without_lpips_download
from spinnerf_ns.nerf.losses import dense_depth_loss, sparse_depth_loss, stop_geometry

if TYPE_CHECKING:
    from spinnerf_ns.nerf.display import Provenance

LEAST_ACCUMULATION = 0.5
"""A ray that accumulates less than this hit nothing: its depth is unknown."""

TRAINS_GEOMETRY = "trains_geometry"
"""Key in a ray bundle's metadata: (R, 1) bool, whether the ray's pixel loss may change density."""


@dataclass
class SpinnerfModelConfig(NerfactoModelConfig):
    """Nerfacto's settings and those that both stages share."""

    _target: type = field(default_factory=lambda: SpinnerfModel)
    use_appearance_embedding: bool = False
    """Whether to use an appearance embedding. Off: it would hide inconsistent inpainting and tie checkpoints to the number of
    photos."""
    camera_optimizer: CameraOptimizerConfig = field(default_factory=lambda: CameraOptimizerConfig(mode="off"))
    """Camera optimiser. Off: it is not applied at evaluation, so exported masks and depths would be shifted."""
    average_init_density: float = 0.01
    """Average initial density output from MLP."""
    background_color: Literal["random", "last_sample", "black", "white"] = "random"
    """Whether to randomize the background color. Random: nerfacto's last sample lets a surface be explained by colour at
    infinity, and the export needs its depth."""
    eval_num_rays_per_chunk: int = 1 << 14
    """Rays per forward pass when whole photos are rendered."""
    sparse_depth_loss_mult: float = 0.1
    """Weight of the disparity loss at the capture's sparse points, in units of their median disparity."""
    stereo_depth_loss_mult: float = 0.05
    """Weight of the depth loss at pixels whose depth stereo has measured with confidence."""
    stereo_depth_tolerance: float = 0.03
    """Relative error of depth that costs half of what the largest costs."""
    patch_geometry: bool = True
    """Whether patches and reference rays, whose rendering weights are detached, may still move density: by the features that colour
    and density share, and by the distortion and interlevel losses along them. Off: they train the network of colour alone."""
    place_scene: bool = True
    """Whether to contract about the scene's content (from its sparse points) instead of about the cameras' cube."""
    fast_hash_grid: bool = True
    """Whether grids, networks, samples, weights and their losses take the fast path; off: nerfstudio's torch path. Grids and
    networks of tiny-cuda-nn are left alone."""


class SpinnerfModel(NerfactoModel):
    """Nerfacto whose forward pass renders what the losses use, in training, and all of nerfacto's outputs otherwise."""

    config: SpinnerfModelConfig
    _wanted: frozenset[str] | None = None
    find_provenance: Callable[[], Provenance | None] | None = None
    """Says which surfaces were invented, as far as that is known; set by the pipeline, asked at first use."""

    def populate_modules(self) -> None:
        """Builds nerfacto's modules without the network that it would download for its LPIPS metric."""
        from nerfstudio.viewer.viewer_elements import ViewerControl

        self.viewer_control = ViewerControl()  # a viewer finds it and puts itself in
        self._found_provenance: list[Provenance | None] = []
        with without_lpips_download():
            super().populate_modules()
        self.psnr = Psnr()
        if self.config.place_scene and not self.config.disable_scene_contraction:
            self._place_scene()

    def _place_scene(self) -> None:
        bounds = (self.kwargs.get("metadata") or {}).get("scene_bounds")
        center, radius, near = bounds if bounds is not None else (torch.zeros(3), 1.0, None)
        contraction = PlacedContraction(torch.as_tensor(center), radius)
        for part in (self.field, *self.proposal_networks):
            part.spatial_distortion = contraction
        if self.config.proposal_initial_sampler == "piecewise":
            self.proposal_sampler.initial_sampler = PlacedPiecewiseSampler(float(radius), self.config.use_single_jitter)
        if near is not None and self.collider is not None:
            self.collider.near_plane = float(near)
            self.collider.far_plane = self.config.far_plane * float(radius)

    def accelerate(self) -> None:
        """Puts the fast path in place of nerfstudio's torch path, if so configured; called once all fields are built."""
        if self.config.fast_hash_grid:
            from spinnerf_ns.accel.nerfacto import accelerate_nerfacto  # ns-train --help waits for each import

            accelerate_nerfacto(self)

    @contextmanager
    def rendering_only(self, names: Iterable[str]) -> Iterator[None]:
        """Within this context, in evaluation, outputs that are not named may be missing: what they alone need is not computed."""
        before, self._wanted = self._wanted, frozenset(names)
        try:
            yield
        finally:
            self._wanted = before

    def _is_wanted(self, *names: str) -> bool:
        """Whether any of these outputs is to be rendered."""
        return self.training or self._wanted is None or not self._wanted.isdisjoint(names)

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """Renders a bundle; same values as `NerfactoModel.get_outputs`, plus `extra_outputs`, `rgb` first: viewers show that.

        In training the median and proposal depths, which no loss uses, are left out. In evaluation the outputs for looking at
        (`display_outputs`) are added where `rendering_only` names them.
        """
        outputs = self._render(ray_bundle)
        if not self.training and self._wanted is not None:
            for name in self._wanted.intersection(self.display_outputs()):
                outputs[name] = self.display(name, ray_bundle)
        return outputs

    def _render(self, ray_bundle: RayBundle) -> dict[str, Any]:
        if self.training:
            self.camera_optimizer.apply_to_raybundle(ray_bundle)
        ray_samples, weights_list, ray_samples_list = self.proposal_sampler(ray_bundle, density_fns=self.density_fns)
        metadata = ray_bundle.metadata or {}
        trains_geometry = metadata.get(TRAINS_GEOMETRY)
        field_outputs, positions = self._query_field(ray_samples, None if self.config.patch_geometry else trains_geometry)
        if self.config.use_gradient_scaling:
            field_outputs = scale_gradients_by_distance_squared(field_outputs, ray_samples)
        weights = ray_samples.get_weights(self.carve(field_outputs[FieldHeadNames.DENSITY], positions))
        weights_list.append(weights)
        ray_samples_list.append(ray_samples)

        outputs: dict[str, Any] = {}
        if FieldHeadNames.RGB in field_outputs:
            outputs["rgb"] = self.renderer_rgb(
                rgb=field_outputs[FieldHeadNames.RGB], weights=stop_geometry(weights, trains_geometry)
            )
        outputs["accumulation"] = self.renderer_accumulation(weights=weights)
        outputs["expected_depth"] = self.renderer_expected_depth(weights=weights, ray_samples=ray_samples)
        if self.training:
            outputs["weights_list"] = weights_list
            outputs["ray_samples_list"] = ray_samples_list
        else:
            medians = [f"prop_depth_{i}" for i in range(self.config.num_proposal_iterations)] + ["depth"]
            with torch.no_grad():
                for name, own_weights, own_samples in zip(medians, weights_list, ray_samples_list, strict=True):
                    if self._is_wanted(name):
                        outputs[name] = self.renderer_depth(weights=own_weights, ray_samples=own_samples)
        if self.config.predict_normals and self._is_wanted("normals", "pred_normals"):
            self._add_normals(outputs, field_outputs, weights, ray_bundle)
        if self.training and "directions_norm" in metadata:
            outputs["directions_norm"] = metadata["directions_norm"]
        outputs.update(self.extra_outputs(ray_bundle, ray_samples, weights, positions))
        return outputs

    # ------------------------------------------------------------------------------------------------- for looking at
    def display_outputs(self) -> tuple[str, ...]:
        """Names of outputs that are rendered only where they are asked for: in a viewer, by ns-render."""
        return () if self._provenance() is None else ("provenance",)

    def display(self, name: str, ray_bundle: RayBundle) -> Tensor:
        """One of them, a row per ray. `provenance` (R, 1): 1 where the surface that is shown was invented, 0 elsewhere."""
        provenance = self._provenance()
        assert name == "provenance" and provenance is not None
        with self.rendering_only(("accumulation", "expected_depth")):
            rendered = self._render(ray_bundle)
        invented = torch.zeros_like(rendered["accumulation"])
        hits = rendered["accumulation"][:, 0] > LEAST_ACCUMULATION
        points = ray_bundle.origins[hits] + ray_bundle.directions[hits] * rendered["expected_depth"][hits]
        invented[hits, 0] = torch.from_numpy(provenance.invented(points.cpu().numpy())).to(invented)
        return invented

    def _provenance(self) -> Provenance | None:
        if not self._found_provenance and self.find_provenance is not None:
            self._found_provenance.append(self.find_provenance())
        return self._found_provenance[0] if self._found_provenance else None

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """A whole photo, (H, W, C) each; the outputs for looking at are rendered when they are taken out.

        A viewer takes only what is chosen in it; for that it is rendered at once, and the others are left black.
        """
        from spinnerf_ns.nerf.display import OnDemand

        bundle = camera.generate_rays(camera_indices=0, keep_shape=True, obb_box=obb_box)
        outputs = OnDemand(self._shown(bundle))
        for name in self.display_outputs():
            outputs.later(name, partial(self._display_for, bundle, name))
        viewer = getattr(self.viewer_control, "viewer", None)
        if viewer is not None:
            panel = viewer.control_panel
            like = outputs["accumulation"]
            outputs.settle(
                {panel.output_render, panel.split_output_render},
                lambda name: torch.zeros_like(like).expand(*like.shape[:-1], 3 if name.startswith("rgb") else 1),
            )
        return outputs

    def _shown(self, bundle: RayBundle) -> dict[str, Tensor]:
        """Hook: a whole photo's other outputs."""
        return self.get_outputs_for_camera_ray_bundle(bundle)

    @torch.no_grad()
    def _display_for(self, bundle: RayBundle, name: str) -> Tensor:
        was_training = self.training
        self.eval()
        try:
            with self.rendering_only((name,)):
                return self.get_outputs_for_camera_ray_bundle(bundle)[name]
        finally:
            self.train(was_training)

    # ------------------------------------------------------------------------------------------------------ rendering
    def _query_field(self, ray_samples: RaySamples, trains_geometry: Tensor | None = None) -> tuple[dict, Tensor]:
        """The field's outputs and (R, S, 3) positions in the grid's [0, 1].

        Args:
            trains_geometry: (R, 1) bool, the rays whose colour may change the features that it is computed from; None: all.
        """
        wants_normals = self.config.predict_normals and self._is_wanted("normals", "pred_normals")
        with torch.enable_grad() if wants_normals else nullcontext():
            density, geometry = self.field.get_density(ray_samples)
        field_outputs = {}
        if wants_normals or self._is_wanted("rgb"):
            field_outputs = self.field.get_outputs(ray_samples, density_embedding=stop_geometry(geometry, trains_geometry))
        if wants_normals:
            with torch.enable_grad():
                field_outputs[FieldHeadNames.NORMALS] = self.field.get_normals()
        field_outputs[FieldHeadNames.DENSITY] = density
        return field_outputs, self.field._sample_locations.detach()

    def _add_normals(self, outputs: dict, field_outputs: dict, weights: Tensor, ray_bundle: RayBundle) -> None:
        """Nerfacto's normals and their losses."""
        normals, predicted = field_outputs[FieldHeadNames.NORMALS], field_outputs[FieldHeadNames.PRED_NORMALS]
        outputs["normals"] = self.normals_shader(self.renderer_normals(normals=normals, weights=weights))
        outputs["pred_normals"] = self.normals_shader(self.renderer_normals(predicted, weights=weights))
        if self.training:
            stopped = weights.detach()
            outputs["rendered_orientation_loss"] = orientation_loss(stopped, normals, ray_bundle.directions)
            outputs["rendered_pred_normal_loss"] = pred_normal_loss(stopped, normals.detach(), predicted)

    def carve(self, density: Tensor, positions: Tensor) -> Tensor:
        """Hook: the density that is rendered, (R, S, 1). Nerfacto's own unless a subclass carves something out."""
        return density

    def extra_outputs(
        self, ray_bundle: RayBundle, ray_samples: RaySamples, weights: Tensor, positions: Tensor
    ) -> dict[str, Tensor]:
        """Hook: further outputs with one row per ray."""
        return {}

    def get_metrics_dict(self, outputs, batch) -> dict[str, Tensor]:
        """Nerfacto's metrics, over the uniform rays."""
        with self._losses_along_rays():
            return super().get_metrics_dict(*self._stock_part(outputs, batch))

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> dict[str, Tensor]:
        """Nerfacto's losses over the uniform rays, `sparse_depth_loss` and `stereo_depth_loss`."""
        with self._losses_along_rays():
            losses = super().get_loss_dict(*self._stock_part(outputs, batch), metrics_dict)
        layout: RayLayout | None = batch.get("layout")
        if self.training and layout is not None and layout.sparse:
            losses["sparse_depth_loss"] = self.config.sparse_depth_loss_mult * sparse_depth_loss(
                *rendered_samples(outputs, layout, "sparse"),
                batch["sparse_disparity"].to(self.device),
                batch["sparse_disparity_scale"],
            )
        if self.training and layout is not None and "stereo_disparity" in batch:
            losses["stereo_depth_loss"] = self.config.stereo_depth_loss_mult * dense_depth_loss(
                *rendered_samples(outputs, layout, "uniform"),
                batch["stereo_disparity"].to(self.device),
                self.config.stereo_depth_tolerance,
            )
        return losses

    def _stock_part(self, outputs: dict, batch: dict) -> tuple[dict, dict]:
        """What nerfacto's own losses see of outputs and batch: colours of the uniform rays, and samples of the rays that train
        geometry (all, with `patch_geometry`)."""
        layout: RayLayout | None = batch.get("layout")
        rows = None if layout is None or self.config.patch_geometry else layout.geometry_rows()
        outputs, batch = uniform_part(outputs, batch)
        if rows is not None:
            rows = rows.to(self.device)
            for name in ("weights_list", "ray_samples_list"):
                if name in outputs:
                    outputs[name] = [values[rows] for values in outputs[name]]
            for name in ("rendered_orientation_loss", "rendered_pred_normal_loss"):
                if name in outputs:
                    outputs[name] = outputs[name][rows]
        return outputs, batch

    def _losses_along_rays(self) -> AbstractContextManager[None]:
        """Within this context nerfacto's interlevel and distortion loss are the fast ones, if so configured."""
        return ray_weights.fast_losses() if self.config.fast_hash_grid else nullcontext()

    def get_image_metrics_and_images(self, outputs, batch) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Nerfacto's metrics and pictures; LPIPS only where its network is at hand.

        Pixels outside the batch's "mask" are not measured; they count as equal in LPIPS, whose windows reach into them.
        """
        valid = batch.get("mask")
        if valid is not None:
            truth = torch.where(valid.to(self.device), batch["image"].to(self.device), outputs["rgb"])
            batch = {**batch, "image": truth}
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        if valid is not None:
            from spinnerf_ns.nerf.metrics import evaluate_pair  # heavier than training needs

            figures = evaluate_pair(outputs["rgb"], batch["image"], valid_mask=valid.cpu().numpy()[..., 0])
            metrics.update({name: figures[f"{name}_full"] for name in ("psnr", "ssim") if f"{name}_full" in figures})
        if metrics["lpips"] != metrics["lpips"]:  # NaN: not measured
            del metrics["lpips"]
        return metrics, images


def uniform_part(outputs: dict, batch: dict) -> tuple[dict, dict]:
    """Outputs and batch of the uniform rays alone, for the losses that nerfacto has; ray samples stay those of all rays."""
    layout: RayLayout | None = batch.get("layout")
    if layout is None:
        return outputs, batch
    part = dict(outputs)
    for key in ("rgb", "accumulation"):
        part[key] = outputs[key][: layout.uniform]
    return part, {**batch, "image": batch["image"][: layout.uniform]}


def rendered_samples(outputs: dict, layout: RayLayout, family: Family) -> tuple[Tensor, Tensor, Tensor]:
    """What the depth losses of one ray family need, in their arguments' order.

    Args:
        outputs: a training step's outputs.
        layout: the step's layout.
        family: which one.

    Returns:
        Weights (R, S, 1), distances along the ray (R, S, 1), directions_norm (R, 1).
    """
    samples = outputs["ray_samples_list"][-1].frustums
    weights, starts, ends, norm = (
        values[layout.rows(family)]
        for values in (outputs["weights_list"][-1], samples.starts, samples.ends, outputs["directions_norm"])
    )
    return weights, (starts + ends) / 2, norm
