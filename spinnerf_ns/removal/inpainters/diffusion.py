"""A latent diffusion model made for inpainting, by the package diffusers. An option, not the default: models that invent
freely invent differently in every photo, and replacing LaMa by one made SPIn-NeRF worse in published tables.

The model sees a square around the gap at its own resolution. Its answer is brought back and shifted so that it meets the
rim: its autoencoder changes colours a little everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.registry import install_command
from spinnerf_ns.removal.disparity.membrane import span_membrane
from spinnerf_ns.removal.inpainters.base import PhotoInpainter
from spinnerf_ns.removal.inpainters.resources import pick_device
from spinnerf_ns.weights.store import ensure_weights

"""What mends a missing package."""


@dataclass
class DiffusionInpainter(PhotoInpainter):
    """Inpaints with a diffusion model; deterministic by its seed, the same noise in every photo."""

    name: ClassVar[str] = "diffusion"

    model: str = "sd-inpainting"
    """Which model: a name from `ns-spinnerf weights list`, downloaded once."""
    weights: Path | None = None
    """Folder with an inpainting model in diffusers' layout (model_index.json, safetensors), in place of `model`."""
    prompt: str = "background"
    """What the gap should show, in words."""
    negative_prompt: str = "object, person, text, watermark, blurry"
    """What it should not show."""
    seed: int = 0
    """Draws the noise."""
    steps: int = 30
    """Denoising steps."""
    guidance: float = 7.5
    """How much the words count; 1 = not at all."""
    context: float = 0.75
    """How far around the gap the model sees, in sides of its bounding box."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        for field, least in (("steps", 1), ("context", 0), ("guidance", 0)):
            if not getattr(self, field) >= least:
                raise SpinnerfError(f"inpainter 'diffusion': {field} is {getattr(self, field)}, expected at least {least}")
        if self.weights is not None:
            self.weights = Path(self.weights)
        self._pipeline: Any = None

    def prepare(self) -> None:
        """Finds and loads the model; called by itself with the first photo.

        Raises:
            WeightsUnavailable: the model is nowhere and cannot be downloaded.
            SpinnerfError: a package is missing, or the folder is no inpainting model in diffusers' layout.
        """
        if self._pipeline is not None:
            return
        try:
            import torch
            import transformers  # noqa: F401  # of the text encoder: diffusers would miss it only when it loads the folder
            from diffusers import AutoPipelineForInpainting
            from diffusers.utils import logging
        except ImportError as error:
            raise SpinnerfError(
                f"inpainter 'diffusion' needs packages that are missing ({error}); {install_command('diffusion')}"
            ) from error
        device = pick_device(self.device, "inpainter 'diffusion'")
        folder = ensure_weights(self.model, path=self.weights)
        if not (folder / "model_index.json").is_file():
            raise SpinnerfError(f"{folder}: no model_index.json, but diffusers' layout was expected; correct the path")
        options: dict[str, Any] = {"torch_dtype": torch.float16} if device.type == "cuda" else {}
        if '"safety_checker"' in (folder / "model_index.json").read_text(encoding="utf-8"):
            # It answers a suspicion with a black picture, which would be trained on in silence.
            options.update(safety_checker=None, requires_safety_checker=False)
        logging.disable_progress_bar()
        try:  # safetensors only: a pickle may hold a program
            pipeline = AutoPipelineForInpainting.from_pretrained(folder, local_files_only=True, use_safetensors=True, **options).to(
                device
            )
        except Exception as error:  # diffusers, transformers and safetensors have kinds of their own
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise SpinnerfError(
                f"{folder}: cannot be loaded as an inpainting model of safetensors ({reason}); fetch it again: "
                f"ns-spinnerf weights fetch {self.model}"
            ) from error
        finally:
            logging.enable_progress_bar()
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline

    @property
    def side(self) -> int:
        """The model's own resolution in pixels."""
        self.prepare()
        return int(self._pipeline.unet.config.sample_size) * int(self._pipeline.vae_scale_factor)

    def fill(self, image: Image, to_fill: BoolMask, photo: str) -> Image:
        import torch
        from PIL import Image as Pictures

        self.prepare()
        window = square_around(to_fill, self.context, self.side)
        crop, piece, known = _square(image, to_fill, window)
        smaller = crop.shape[0] > self.side
        size = (self.side, self.side)
        # What stands in the gap must not colour the pixels around it when they are reduced together.
        clean = np.where(piece[..., None], span_membrane(crop.astype(np.float64), ~piece & known), crop)
        shown = cv2.resize(clean.astype(np.float32), size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
        mask = cv2.resize(piece.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        if smaller:
            mask = (cv2.resize(piece.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
        answer = self._pipeline(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            image=Pictures.fromarray(np.clip(np.round(shown), 0, 255).astype(np.uint8)),
            mask_image=Pictures.fromarray(mask * np.uint8(255)),
            height=self.side,
            width=self.side,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            strength=1.0,
            generator=torch.Generator("cpu").manual_seed(self.seed),  # the same noise on every device
            output_type="np",
        ).images[0]
        if not np.isfinite(answer).all():
            raise SpinnerfError(f"{photo}: the diffusion model gave no numbers; take device=cpu, or --inpainter lama")
        back = cv2.INTER_CUBIC if smaller else cv2.INTER_AREA
        enlarged = cv2.resize((255 * answer).astype(np.float32), crop.shape[1::-1], interpolation=back)
        ring = (cv2.dilate(piece.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & ~piece & known
        filled = enlarged + span_membrane(np.where(ring[..., None], crop - enlarged, 0), ring)
        result = image.copy()
        rows, columns = (slice(max(0, span.start), min(span.stop, side)) for span, side in zip(window, to_fill.shape, strict=True))
        inner = filled[rows.start - window[0].start :, columns.start - window[1].start :]
        inner = inner[: rows.stop - rows.start, : columns.stop - columns.start]
        result[rows, columns] = np.clip(np.round(inner), 0, 255).astype(np.uint8)
        return result


def square_around(to_fill: BoolMask, context: float, least: int) -> tuple[slice, slice]:
    """A square around the gap's bounding box, `context` of its longer side wider on each side and at least `least` pixels.

    It is shifted into the photo where it fits; where the photo is too small it reaches beyond, also to negative indices.
    """
    x, y, width, height = cv2.boundingRect(to_fill.astype(np.uint8))
    side = max(least, round((1 + 2 * context) * max(width, height)))
    spans = []
    for start, length, whole in ((y, height, to_fill.shape[0]), (x, width, to_fill.shape[1])):
        first = round(start + length / 2 - side / 2)
        first = min(max(first, 0), whole - side) if side <= whole else -((side - whole) // 2)
        spans.append(slice(first, first + side))
    return spans[0], spans[1]


def _square(image: Image, to_fill: BoolMask, window: tuple[slice, slice]) -> tuple[npt.NDArray, BoolMask, BoolMask]:
    """The window's photo, its gap, and what of it lies in the photo. Beyond the border photo and gap are mirrored."""
    pads = tuple((max(0, -span.start), max(0, span.stop - side)) for span, side in zip(window, to_fill.shape, strict=True))
    cut = tuple(slice(span.start + pad[0], span.stop + pad[0]) for span, pad in zip(window, pads, strict=True))
    crop = np.pad(image, (*pads, (0, 0)), mode="symmetric")[cut]
    piece = np.pad(to_fill, pads, mode="symmetric")[cut]
    inside = np.pad(np.ones_like(to_fill), pads)[cut]
    return crop, piece, inside
