"""The inpainting model: nerfacto fitted to inpainted photos and depth (SPIn-NeRF, CVPR 2023, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from spinnerf_ns.nerf.base_model import SpinnerfModel, SpinnerfModelConfig, rendered_samples
from spinnerf_ns.nerf.data.pixel_samplers import RayLayout
from spinnerf_ns.nerf.losses import as_patches, disparity_loss, expected_disparity
from spinnerf_ns.nerf.perceptual_names import PerceptualLossName


@dataclass
class SpinnerfInpaintModelConfig(SpinnerfModelConfig):
    """Nerfacto's settings and those of the losses inside the removed region."""

    _target: type = field(default_factory=lambda: SpinnerfInpaintModel)
    perceptual_loss: PerceptualLossName = "auto"
    """Perceptual loss on patches over the gap; "auto" takes LPIPS-VGG where its weights can be had, else says what it took."""
    perceptual_weights: Path | None = None
    """File of the perceptual network's backbone, in torchvision's layout; by default torch's cache, else a download."""
    perceptual_loss_mult: float = 0.01
    """Weight of the perceptual loss (mean over patches)."""
    disparity_loss_mult: float = 0.02
    """Weight of the disparity loss in the gap, in units of the gap's median disparity."""
    disparity_tolerance: float = 0.1
    """Part of the exported disparity by which the rendered one may be off for nothing: completed depth is a guess."""
    reference_loss_mult: float = 0.3
    """Weight of the pixel loss in the gaps of photos that are taken at their word."""


class SpinnerfInpaintModel(SpinnerfModel):
    """Nerfacto with a pixel loss outside the gap, a perceptual loss on patches over it, and a disparity loss.

    The rendering weights of patches are detached, the background's share included, and those of reference rays unless all photos
    show one invention: what is invented in one photo is not to move surfaces that others see. Density is not
    wholly out of their reach even so (`patch_geometry`).
    """

    config: SpinnerfInpaintModelConfig

    def populate_modules(self) -> None:
        """Builds nerfacto. The perceptual network comes before training and stays outside the module tree."""
        super().populate_modules()
        self._perceptual: list = []  # a list hides it from nn.Module, which keeps checkpoints small
        self.register_buffer("started_from_field", torch.tensor(False))  # a buffer: a resumed run has to know it too
        self.accelerate()

    def skip_warm_up(self) -> None:
        """Lets a model that was started from a trained field go on as one that was trained: samples follow the proposal networks
        from the first step on, which learn in one step of a few. To be called before training callbacks are made."""
        # A copy: the configuration may be used for another run.
        at_once = {"proposal_warmup": 1, "proposal_weights_anneal_max_num_iters": 1}
        self.config = replace(self.config, **at_once)
        self.started_from_field.fill_(True)

    @property
    def perceptual_name(self) -> str | None:
        """The perceptual loss in use, or None before the first patch."""
        return self._perceptual[0].name if self._perceptual else None

    def perceptual(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(B, 3, h, w) in [0, 1] twice -> (B,) distances."""
        self.prepare_perceptual()
        return self._perceptual[0](prediction, target)

    def prepare_perceptual(self) -> None:
        """Builds the perceptual loss, if it is not there yet; says which one it is, and may ask whether to download it."""
        if self._perceptual:
            return
        from spinnerf_ns.nerf.perceptual import make_perceptual_loss

        with torch.random.fork_rng():  # a network's first values are drawn, then replaced: the training's are not to depend on it
            loss = make_perceptual_loss(self.config.perceptual_loss, weights=self.config.perceptual_weights, device=self.device)
        CONSOLE.print(f"Perceptual loss: {loss.name}")
        self._perceptual.append(loss)

    # ---------------------------------------------------------------------------------------------------------- losses
    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> dict[str, Tensor]:
        """Nerfacto's losses over the uniform rays, and those of the other families."""
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        layout: RayLayout | None = batch.get("layout")
        if layout is None or not self.training:
            return losses
        image = self.renderer_rgb.blend_background(batch["image"].to(self.device))
        if layout.patch_rays:
            rows = layout.rows("patches")
            if "patch_valid" in batch:  # what may not be used is what was rendered: nothing to learn from
                valid = batch["patch_valid"].to(self.device)[:, None]
                image = image.clone()
                image[rows] = torch.where(valid, image[rows], outputs["rgb"][rows].detach())
            distance = self.perceptual(*(as_patches(values[rows], layout.patches) for values in (outputs["rgb"], image)))
            losses["perceptual_loss"] = self.config.perceptual_loss_mult * distance.mean()
        if layout.depth:
            disparity = expected_disparity(*rendered_samples(outputs, layout, "depth"))
            losses["disparity_loss"] = self.config.disparity_loss_mult * disparity_loss(
                disparity,
                batch["disparity"].to(self.device),
                batch["disparity_scale"],
                self.config.disparity_tolerance,
            )
        if layout.reference:
            rows = layout.rows("reference")
            losses["reference_loss"] = self.config.reference_loss_mult * F.mse_loss(outputs["rgb"][rows], image[rows])
        return losses

    def get_image_metrics_and_images(self, outputs, batch) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Nerfacto's, and masked figures under their variants' names (`psnr_mask`, `ssim_outside`; nerf/metrics.py).

        A photo from which an object was removed is truth outside that region alone: its figures are those outside. Of an
        object-free photo all variants are given for which its true mask is known.
        """
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        if "object_mask" not in batch:
            return metrics, images
        from spinnerf_ns.nerf.metrics import evaluate_partly_true  # evaluation builds on this package, hence here

        truth = self.renderer_rgb.blend_background(batch["image"].to(self.device))
        object_mask, is_truth = (batch[name].cpu().numpy()[..., 0] for name in ("object_mask", "is_truth"))
        valid = batch["mask"].cpu().numpy()[..., 0] if "mask" in batch else None
        figures = evaluate_partly_true(outputs["rgb"], truth, object_mask, is_truth, valid_mask=valid)
        if not is_truth.all():
            metrics = {}  # over the whole photo the render would be compared with the 2-D inpainting
        wanted = (f"{name}_{variant}" for name in ("psnr", "ssim") for variant in ("mask", "bbox", "outside"))
        return {**metrics, **{name: figures[name] for name in wanted if name in figures}}, images
