"""All training pixels of a capture in flat arrays, and samplers that cost O(rays) a step.

Nerfstudio keeps a batch of float images and indexes every key of it, masks included, at every step; with masks its
samplers search or erode whole images each time. Here the photos are kept once as 8-bit values in one flat array, photos of
different sizes one behind the other, and what a sampler needs (pixel lists, offsets) is built once.

A pixel is (photo, row, column), or its flat index `start[photo] + row * width[photo] + column`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from spinnerf_ns.errors import SpinnerfError


@dataclass
class PixelPool:
    """The pixels of N photos, behind one another.

    Shapes: P = sum of height * width over the photos.
    """

    colors: Tensor
    """(P, C) uint8, C = 3 or 4."""
    starts: Tensor
    """(N + 1,) int64: where each photo's pixels begin; the last entry is P."""
    heights: Tensor
    """(N,) int64."""
    widths: Tensor
    """(N,) int64."""
    camera_indices: Tensor
    """(N,) int64: the camera of each photo."""
    usable: Tensor | None = None
    """(P,) bool: pixels that may be sampled, or None for all (nerfstudio's `valid_mask`, and for inpainting not the gap)."""
    _listed: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)
    """The `usable` that was listed last, and its list."""

    @classmethod
    def from_images(
        cls, images: Sequence[Tensor], camera_indices: Sequence[int] | None = None, usable: Sequence[Tensor] | None = None
    ) -> PixelPool:
        """From (H, W, C) uint8 images and, where given, (H, W) bool masks of usable pixels.

        Raises:
            SpinnerfError: no photo, or not one usable pixel.
        """
        sizes = torch.tensor([image.shape[:2] for image in images], dtype=torch.int64).reshape(-1, 2)
        colors = torch.cat([image.reshape(-1, image.shape[-1]) for image in images]) if images else torch.zeros(0, 3)
        flat_usable = None if usable is None else torch.cat([mask.reshape(-1).bool() for mask in usable])
        return cls.of(colors, sizes, camera_indices, flat_usable)

    @classmethod
    def of(
        cls, colors: Tensor, sizes: Tensor, camera_indices: Sequence[int] | None = None, usable: Tensor | None = None
    ) -> PixelPool:
        """From (P, C) uint8 colours of photos of (N, 2) int64 heights and widths, and where given (P,) bool usable pixels.

        Raises:
            SpinnerfError: no photo, or not one usable pixel.
        """
        if not len(sizes):
            raise SpinnerfError("there is no photo to train on: the dataset's train split is empty")
        if usable is not None and not usable.any():
            raise SpinnerfError("the masks leave not one pixel to train on: are they inverted? (object masks: 255 = object)")
        indices = torch.arange(len(sizes)) if camera_indices is None else torch.as_tensor(list(camera_indices))
        return cls(colors, starts_of(sizes), sizes[:, 0].contiguous(), sizes[:, 1].contiguous(), indices, usable)

    def __len__(self) -> int:
        return len(self.heights)

    @property
    def num_pixels(self) -> int:
        """P."""
        return int(self.starts[-1])

    def usable_pixels(self) -> Tensor:
        """(K,) flat indices of the usable pixels, K > 0; listed once for each `usable`.

        Raises:
            SpinnerfError: there are none.
        """
        assert self.usable is not None
        if self._listed is None or self._listed[0] is not self.usable:
            self._listed = (self.usable, self.usable.nonzero()[:, 0])
        if len(self._listed[1]) == 0:
            raise SpinnerfError("the masks leave not one pixel to train on: do they cover all photos, or are they inverted?")
        return self._listed[1]

    def locate(self, flat: Tensor) -> Tensor:
        """(R,) flat indices -> (R, 3) int64 (photo, row, column)."""
        photo = torch.searchsorted(self.starts, flat, right=True) - 1
        inside = flat - self.starts[photo]
        width = self.widths[photo]
        row = torch.div(inside, width, rounding_mode="floor")
        return torch.stack([photo, row, inside - row * width], dim=-1)

    def flatten(self, pixels: Tensor) -> Tensor:
        """(..., 3) (photo, row, column) -> (...) flat indices."""
        photo, row, column = pixels.unbind(-1)
        return self.starts[photo] + row * self.widths[photo] + column

    def image_colors(self, flat: Tensor) -> Tensor:
        """(R,) flat indices -> (R, C) float32 in [0, 1]."""
        return self.colors[flat].float() / 255.0

    def ray_indices(self, pixels: Tensor) -> Tensor:
        """(R, 3) (photo, row, column) -> (R, 3) (camera, row, column), what nerfstudio's RayGenerator takes."""
        return torch.cat([self.camera_indices[pixels[:, :1]], pixels[:, 1:]], dim=-1)


def starts_of(sizes: Tensor) -> Tensor:
    """(N + 1,) int64: where the pixels of photos of (N, 2) heights and widths begin; the last entry is their number."""
    starts = torch.zeros(len(sizes) + 1, dtype=torch.int64)
    starts[1:] = torch.cumsum(sizes[:, 0] * sizes[:, 1], 0)
    return starts


def sample_usable(pool: PixelPool, num_rays: int, generator: torch.Generator | None = None) -> Tensor:
    """Pixels drawn uniformly from the usable ones of all photos, with replacement.

    Rejection by the block: masked pixels are mostly a small part of the photos, so a second block is rare and no list of all
    usable pixels (8 bytes each) is kept. Where they are the larger part, the list is short, and drawn from.

    Returns:
        (num_rays,) int64 flat indices.

    Raises:
        SpinnerfError: no pixel is usable.
    """
    if pool.usable is None:
        return torch.randint(pool.num_pixels, (num_rays,), generator=generator)
    chosen: list[Tensor] = []
    missing = num_rays
    while missing > 0:
        candidates = torch.randint(pool.num_pixels, (missing + missing // 4 + 16,), generator=generator)
        accepted = candidates[pool.usable[candidates]]
        if 2 * len(accepted) < len(candidates):
            accepted = sample_list(pool.usable_pixels(), missing, generator)
        chosen.append(accepted[:missing])
        missing -= len(chosen[-1])
    return torch.cat(chosen)


def sample_list(pixels: Tensor, num_rays: int, generator: torch.Generator | None = None) -> Tensor:
    """Entries drawn uniformly from a list of flat indices, with replacement. (num_rays,) int64."""
    return pixels[torch.randint(len(pixels), (num_rays,), generator=generator)]


def sample_patches(
    pool: PixelPool,
    to_fill: Tensor,
    num_patches: int,
    patch_shape: tuple[int, int],
    stride: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Patches of pixels, each of which covers a pixel of the gap.

    A pixel of the gap is drawn uniformly, then the patch's place uniformly among those that have this pixel in their
    extent, moved inside the photo.

    Args:
        pool: the pixels.
        to_fill: (M,) flat indices of the gap's pixels, M > 0.
        num_patches: B.
        patch_shape: (h, w) in rays.
        stride: distance of neighbouring rays in pixels; the patch extends over ((h - 1) * stride + 1) pixels.

    Returns:
        (B, h, w, 3) int64 (photo, row, column).

    Raises:
        SpinnerfError: a photo is smaller than the patch.
    """
    height, width = patch_shape
    extent = torch.tensor([(height - 1) * stride + 1, (width - 1) * stride + 1])
    seeds = pool.locate(sample_list(to_fill, num_patches, generator))
    sizes = torch.stack([pool.heights[seeds[:, 0]], pool.widths[seeds[:, 0]]], dim=-1)
    if (sizes < extent).any():
        found = sizes[(sizes < extent).any(-1)][0].tolist()
        raise SpinnerfError(
            f"a photo of {found[1]}x{found[0]} is smaller than a patch of {int(extent[1])}x{int(extent[0])} pixels; "
            "lower --pipeline.datamanager.patch-size-fraction or --pipeline.datamanager.patch-stride"
        )
    offset = (torch.rand(num_patches, 2, generator=generator) * extent).long()
    corner = (seeds[:, 1:] - offset).clamp(min=0).minimum(sizes - extent)
    rows = corner[:, 0, None] + torch.arange(height) * stride
    columns = corner[:, 1, None] + torch.arange(width) * stride
    return torch.stack(
        [
            seeds[:, 0, None, None].expand(-1, height, width),
            rows[:, :, None].expand(-1, -1, width),
            columns[:, None, :].expand(-1, height, -1),
        ],
        dim=-1,
    )


Family = Literal["uniform", "patches", "depth", "reference", "sparse"]
"""Rays of one kind, each of which serves losses of its own."""
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True)
class RayLayout:
    """Which rays of a bundle serve which loss; rides in the batch under "layout".

    The families lie behind one another, in the order of the fields.
    """

    uniform: int
    """Rays over usable pixels: pixel loss, trains everything."""
    patches: tuple[int, int, int] = (0, 0, 0)
    """(B, h, w): patches over the gap: perceptual loss; rendering weights are left as they are."""
    depth: int = 0
    """Rays in the gap with a disparity to meet: trains geometry."""
    reference: int = 0
    """Rays in the reference view's gap: pixel loss; rendering weights are left as they are."""
    sparse: int = 0
    """Rays through sparse points, with their disparity to meet: trains geometry."""

    @property
    def patch_rays(self) -> int:
        """B * h * w."""
        return self.patches[0] * self.patches[1] * self.patches[2]

    @property
    def num_rays(self) -> int:
        """All rays of the bundle."""
        return self.uniform + self.patch_rays + self.depth + self.reference + self.sparse

    def rows(self, family: Family) -> slice:
        """A family's place among the rays: `values[layout.rows("depth")]`."""
        counts = [self.uniform, self.patch_rays, self.depth, self.reference, self.sparse]
        place = FAMILIES.index(family)
        return slice(sum(counts[:place]), sum(counts[: place + 1]))

    def geometry_rows(self) -> Tensor | None:
        """(K,) long: the rays of the families that train geometry; None where all do."""
        if not self.patch_rays + self.reference:
            return None
        families: tuple[Family, ...] = ("uniform", "depth", "sparse")
        return torch.cat([torch.arange(self.rows(family).start, self.rows(family).stop) for family in families])
