"""LaMa, the paper's inpainter: one feed-forward network whose every layer sees the whole photo (Suvorov et al., WACV 2022).

The published file is TorchScript, so no package is needed but torch: (1, 3, H, W) image in [0, 1], (1, 1, H, W) mask with
1 = gap -> (1, 3, H, W) image, sides multiples of 8. TorchScript is a program, so only the published file is run, or one
that the user names and vouches for.

The whole photo is looked at, at its own resolution, where memory allows; else only what lies around the gap; else that at
a lower resolution with the detail of the surroundings put back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask, Image, window_around
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.disparity.network import inpaint_as_picture
from spinnerf_ns.removal.inpainters.base import PhotoInpainter
from spinnerf_ns.removal.inpainters.resources import GIGABYTE, free_memory, pick_device
from spinnerf_ns.removal.inpainters.upsampling import guided_upsample, reduce_known
from spinnerf_ns.weights.store import WEIGHTS, WeightsFile, ensure_weights, load_torchscript

WEIGHTS_NAME = "big-lama"
"""The published file's name in the table of weights."""

MULTIPLE = 8
"""Sides must be multiples of this: the network halves them three times."""

LEAST_SIDE = 32
"""Smaller pictures are padded to this: at an eighth of it the network still mirrors its border."""

BYTES_PER_PIXEL = 1500.0
"""Memory of one pass. Measured on the CPU with a network of big-lama's shape and random weights, float32: 1355 at 1008x568,
1172 at 1536x1024."""

MEMORY_SHARE = 0.6
"""Part of the free memory that a pass may take, where the user names no limit."""

LEAST_MARGIN = 0.3
"""What must be seen around the gap, in sides of its bounding box, before resolution is given up."""

Floats = npt.NDArray[np.float32]


@dataclass
class LamaInpainter(PhotoInpainter):
    """LaMa (big-lama) at the photo's resolution. Deterministic; the same photo is filled alike however it is batched."""

    name: ClassVar[str] = "lama"

    weights: Path | None = None
    """TorchScript file with LaMa's signature; by default the published big-lama.pt, downloaded once."""
    trust_weights: bool = False
    """Whether `weights` is run though it is not the published file: TorchScript is a program."""
    device: str = "auto"
    """Where the network runs: auto, cpu, cuda, cuda:1, ..."""
    memory_limit: float | None = None
    """Gigabytes that a pass may take; by default a part of what is free at first. Photos that need more are filled from a
    window around the gap, reduced if need be: set a limit to make that independent of the machine's state."""
    disparity: Literal["rim", "network"] = "rim"
    """How disparity is completed. rim: the surfaces around the gap are continued. network: like a picture (the paper)."""

    def __post_init__(self) -> None:
        if self.disparity not in ("rim", "network"):
            raise SpinnerfError(f"inpainter 'lama': disparity is {self.disparity!r}, expected one of: rim, network")
        if self.memory_limit is not None and not self.memory_limit > 0:
            raise SpinnerfError(f"inpainter 'lama': memory_limit is {self.memory_limit}, expected more than 0 gigabytes")
        if self.weights is not None:
            self.weights = Path(self.weights)
        self._network: Any = None
        self._most_pixels = 0
        self._reported: set[str] = set()

    # ------------------------------------------------------------------------------------------------------------ network
    def prepare(self) -> None:
        """Finds, checks and loads the network; called by itself with the first photo.

        Raises:
            WeightsUnavailable: the file is nowhere and cannot be downloaded.
            SpinnerfError: the file is not the published one and not trusted, is damaged, or the device is missing.
        """
        if self._network is not None:
            return
        device = pick_device(self.device, "inpainter 'lama'")
        path = ensure_weights(WEIGHTS_NAME, path=self.weights)
        known = WEIGHTS[WEIGHTS_NAME]
        assert isinstance(known, WeightsFile)
        self._network = load_torchscript(path, known.sha256, self.trust_weights, str(device))
        self._path, self._device = path, device
        limit = MEMORY_SHARE * free_memory(device) if self.memory_limit is None else self.memory_limit * GIGABYTE
        self._most_pixels = int(limit / BYTES_PER_PIXEL)
        if self._most_pixels < LEAST_SIDE**2:
            raise SpinnerfError(
                f"inpainter 'lama': {limit / GIGABYTE:.3f} GB of memory are not enough for a single patch; free some, or "
                "set memory_limit=GIGABYTES (--inpainter-options memory_limit=4)"
            )

    def _run(self, picture: Floats, to_fill: BoolMask) -> Floats:
        """One pass: (H, W, 3) float32 in [0, 1] and (H, W) bool -> (H, W, 3) float32 in [0, 1]."""
        import torch

        height, width = to_fill.shape
        rows, columns = (max(LEAST_SIDE, -(-side // MULTIPLE) * MULTIPLE) for side in (height, width))
        # Mirrored, the gap with it: else the object at the border would be seen again in the padding.
        pad = ((0, rows - height), (0, columns - width))
        picture = np.pad(np.where(to_fill[..., None], np.float32(0), picture), (*pad, (0, 0)), mode="symmetric")
        mask = np.pad(to_fill.astype(np.float32), pad, mode="symmetric")
        # Neither a search for the fastest kernel nor a graph that is rewritten after the first runs: one input, one answer.
        with (
            torch.inference_mode(),
            torch.jit.optimized_execution(False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        ):
            image_in = torch.from_numpy(picture).permute(2, 0, 1)[None].to(self._device)
            mask_in = torch.from_numpy(mask)[None, None].to(self._device)
            try:
                answer = self._network(image_in, mask_in)
            except RuntimeError as error:
                if "memory" in str(error).lower():
                    raise SpinnerfError(
                        f"inpainter 'lama': {columns}x{rows} pixels did not fit into the memory of {self._device}; set a "
                        "lower limit: --inpainter-options memory_limit=GIGABYTES"
                    ) from error
                raise SpinnerfError(f"{self._path}: {self._expected('it fails: ' + _last_line(error))}") from error
            if not isinstance(answer, torch.Tensor) or answer.shape != image_in.shape:
                found = f"{tuple(answer.shape)}" if isinstance(answer, torch.Tensor) else type(answer).__name__
                raise SpinnerfError(f"{self._path}: {self._expected(f'it gives {found} for {tuple(image_in.shape)}')}")
            if not bool(torch.isfinite(answer).all()):
                raise SpinnerfError(f"{self._path}: {self._expected('it gives values that are not finite')}")
            return answer[0].permute(1, 2, 0)[:height, :width].float().clamp(0, 1).cpu().numpy()

    @staticmethod
    def _expected(found: str) -> str:
        return f"no network with LaMa's signature ({found}); give big-lama.pt, or leave `weights` out"

    # ------------------------------------------------------------------------------------------------------------- photos
    def fill(self, image: Image, to_fill: BoolMask, photo: str) -> Image:
        window, how = self._plan(to_fill, photo)
        filled = self._fill_window(image[window].astype(np.float32) / 255, to_fill[window], how, detail=True)
        answer = image.copy()
        answer[window] = np.round(filled * 255)
        return answer

    def _plan(self, to_fill: BoolMask, what: str) -> tuple[tuple[slice, slice], str]:
        """The window that the network sees, and how: "whole" or "reduced". What is given up is said once."""
        self.prepare()
        if to_fill.size <= self._most_pixels:
            return (slice(None), slice(None)), "whole"
        window, fits = largest_window(to_fill, self._most_pixels)
        how = "whole" if fits else "reduced"
        if how not in self._reported:
            from nerfstudio.utils.rich_utils import CONSOLE

            self._reported.add(how)
            height, width = to_fill[window].shape
            given_up = {"whole": "not beyond it", "reduced": "at a lower resolution"}[how]
            text = (
                f"Inpainter lama: {what}: {to_fill.shape[1]}x{to_fill.shape[0]} pixels are more than the "
                f"{self._most_pixels / 1e6:.2g} megapixels that memory allows (memory_limit sets it); {width}x{height} "
                f"around the gap are looked at, {given_up}"
            )
            CONSOLE.print(text, markup=False, highlight=False, soft_wrap=True)
        return window, how

    def _fill_window(self, picture: Floats, to_fill: BoolMask, how: str, detail: bool) -> Floats:
        """(H, W, 3) float32 in [0, 1] and (H, W) bool -> (H, W, 3) float32; only the gap's pixels mean anything.

        Args:
            detail: whether a fill at lower resolution gets the surroundings' detail.
        """
        if how == "whole":
            return self._run(picture, to_fill)
        small, small_to_fill = reduce_known(picture, to_fill, float(np.sqrt(self._most_pixels / to_fill.size)))
        return guided_upsample(self._run(small, small_to_fill), small_to_fill, picture, to_fill, detail)

    # ---------------------------------------------------------------------------------------------------------- disparity
    def inpaint_disparity(self, disparity: Floats, to_fill: BoolMask) -> Floats:
        """Continues the rim's surfaces, or fills disparity with the network (`disparity="network"`); floats in and out."""
        if self.disparity == "rim":
            return super().inpaint_disparity(disparity, to_fill)

        def fill(picture: Floats, unknown: BoolMask) -> Floats:
            window, how = self._plan(to_fill, "disparity")
            answer = picture.copy()
            answer[window] = self._fill_window(picture[window], unknown[window], how, detail=False)
            return answer

        return inpaint_as_picture(disparity, to_fill, fill)


def largest_window(to_fill: BoolMask, most_pixels: int) -> tuple[tuple[slice, slice], bool]:
    """The window that shows as much around the gap as `most_pixels` allow.

    Returns:
        The rows and columns, and whether it fits. If not even `LEAST_MARGIN` around the gap's bounding box does, that.
    """
    longest = max(span.stop - span.start for span in window_around(to_fill))
    least = max(LEAST_SIDE, round(LEAST_MARGIN * longest))

    def pixels(margin: int) -> int:
        return int(np.prod([span.stop - span.start for span in window_around(to_fill, margin)]))

    if pixels(least) > most_pixels:
        return window_around(to_fill, least), False
    low, high = least, max(to_fill.shape)  # the largest margin that fits, by halving
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if pixels(middle) <= most_pixels else (low, middle)
    return window_around(to_fill, low), True


def _last_line(error: Exception) -> str:
    """TorchScript's message: a traceback of its own, the reason in the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
