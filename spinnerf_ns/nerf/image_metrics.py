"""Nerfacto's metrics of its evaluation pictures, without what nobody reads and without a download."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from nerfstudio.models import nerfacto
from torch import Tensor, nn

from spinnerf_ns.accel.replaced import replaced


class Psnr(nn.Module):
    """The peak signal-to-noise ratio of values in [0, 1], in dB. torchmetrics' also adds up all steps, which nobody reads."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Two tensors of one shape -> scalar."""
        with torch.no_grad():
            return -10.0 * torch.log10((prediction - target).square().mean())


class CachedLpips(nn.Module):
    """The LPIPS metric of nerfacto's evaluation, from weights that are already on this machine; NaN where they are not.

    The network is built at the first call and kept outside the module tree, so that neither construction nor a checkpoint
    holds it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._state: dict[str, Any] = {}

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] twice -> scalar."""
        if "loss" not in self._state:
            self._state["loss"] = self._build(prediction.device)
        loss = self._state["loss"]
        if loss is None:
            return torch.tensor(float("nan"))
        with torch.no_grad():
            return loss(prediction, target).mean()

    @staticmethod
    def _build(device: torch.device) -> Any:
        from spinnerf_ns.errors import SpinnerfError
        from spinnerf_ns.nerf.perceptual import make_perceptual_loss

        try:
            return make_perceptual_loss("lpips-alex", device=device, allow_download=False)
        except (SpinnerfError, ImportError):
            return None


@contextmanager
def without_lpips_download() -> Iterator[None]:
    """Nerfacto builds torchmetrics' LPIPS when it is constructed, which downloads 233 MB; here it gets `CachedLpips`."""
    from torchmetrics.image import lpip

    with replaced(lpip, LearnedPerceptualImagePatchSimilarity=CachedLpips):
        if hasattr(nerfacto, "LearnedPerceptualImagePatchSimilarity"):  # later versions of nerfstudio import it at the module's top
            with replaced(nerfacto, LearnedPerceptualImagePatchSimilarity=CachedLpips):
                yield
        else:
            yield
