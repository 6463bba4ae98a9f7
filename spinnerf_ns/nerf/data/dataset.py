"""Photos as training sees them: decoded by their views, at their own size, with what may be used of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image
from torch import Tensor

from spinnerf_ns.conventions import resize_mask
from spinnerf_ns.nerf.data.pixel_samplers import PixelPool, starts_of
from spinnerf_ns.scene.view import View

TINT = (1.0, 0.15, 0.1)
"""The object's colour in a viewer's frusta, RGB; mixed with the photo's."""

Extras = Callable[[Path, tuple[int, int]], dict[str, Tensor]]
"""(photo's file, (H, W)) -> further entries of its data, each (H, W, ...)."""


class AnnotatedDataset(InputDataset):
    """A capture's photos, as its views read them, with further per-pixel entries (labels, masks, depth), read by a function.

    Stock nerfstudio's datasets decode photos otherwise: a palette's indices for grey values, CMYK's black for alpha. And a camera
    may be a pixel smaller or larger than its photo: here it has the photo's size.

    Args:
        dataparser_outputs, scale_factor: as `InputDataset`.
        view_of: a photo's file -> its view.
        extras: gives the further entries.
    """

    exclude_batch_keys_from_device = [*InputDataset.exclude_batch_keys_from_device, "object_label", "object_mask", "is_truth"]

    def __init__(
        self,
        dataparser_outputs: DataparserOutputs,
        scale_factor: float = 1.0,
        *args: Any,
        view_of: Callable[[Path], View],
        extras: Extras | None = None,
        **kwargs,
    ) -> None:
        super().__init__(dataparser_outputs, scale_factor, *args, **kwargs)
        self.views = [view_of(Path(path)) for path in dataparser_outputs.image_filenames]
        self.extras = extras
        shapes = torch.tensor([self._shape(view) for view in self.views], dtype=self.cameras.height.dtype)
        self.cameras.height, self.cameras.width = shapes[:, :1], shapes[:, 1:]

    def get_numpy_image(self, image_idx: int) -> np.ndarray:
        """The photo, (H, W, 3) uint8."""
        view = self.views[image_idx]
        image = view.read_image()
        height, width = self._shape(view)
        if (height, width) != image.shape[:2]:
            image = np.array(Image.fromarray(image).resize((width, height), resample=Image.Resampling.BILINEAR))
        return image

    def get_data(self, image_idx: int, image_type: str = "float32", *args: Any, **kwargs: Any) -> dict:
        """The photo under "image", (H, W, 3); its `valid_mask` under "mask", (H, W, 1) bool, unless all of it may be used; and the
        further entries."""
        image = self.get_image_uint8(image_idx) if image_type == "uint8" else self.get_image_float32(image_idx)
        data = {"image_idx": image_idx, "image": image}
        valid = self.views[image_idx].valid_mask()
        if not valid.all():
            data["mask"] = torch.from_numpy(resize_mask(valid, tuple(image.shape[:2])))[..., None]
        data.update(self.get_metadata(data))
        return data

    def get_metadata(self, data: dict) -> dict:
        """The photo's further entries."""
        if self.extras is None:
            return {}
        return self.extras(Path(self.image_filenames[data["image_idx"]]), tuple(data["image"].shape[:2]))

    @property
    def sizes(self) -> Tensor:
        """(N, 2) int64: heights and widths of the photos."""
        return torch.tensor([self._shape(view) for view in self.views], dtype=torch.int64).reshape(-1, 2)

    def _shape(self, view: View) -> tuple[int, int]:
        """(height, width) of a photo in this dataset."""
        return int(view.height * self.scale_factor), int(view.width * self.scale_factor)


class ShownDataset(AnnotatedDataset):
    """The training photos as a viewer shows them in the cameras' frusta: with the object tinted.

    Nothing else takes its items: pixels for training come from `get_data`.
    """

    def __getitem__(self, image_idx: int) -> dict:
        """The photo's data, the object in "image" tinted."""
        data = self.get_data(image_idx)
        objects = data.get("object_label", data.get("object_mask"))
        if objects is not None:
            mixed = (data["image"] + torch.tensor(TINT)) / 2
            data["image"] = torch.where(objects == 1, mixed, data["image"])
        return data


def build_pool(dataset: AnnotatedDataset, visit: Callable[[dict], None] | None = None) -> PixelPool:
    """The pixels of a dataset; those outside its `valid_mask`, where the capture has one, are not usable.

    Args:
        dataset: the photos.
        visit: is shown each photo's data, in the dataset's order.
    """
    sizes = dataset.sizes
    starts = starts_of(sizes).tolist()
    colors, usable = torch.zeros(0, 3, dtype=torch.uint8), None
    for index, (start, end) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        data = dataset.get_data(index, image_type="uint8")
        image = data["image"].reshape(end - start, -1)
        if index == 0:
            colors = torch.empty(starts[-1], image.shape[1], dtype=torch.uint8)  # once for all: they may be most of the memory
        colors[start:end] = image
        if "mask" in data:
            usable = torch.ones(starts[-1], dtype=torch.bool) if usable is None else usable
            usable[start:end] = data["mask"].reshape(-1)
        if visit is not None:
            visit(data)
    return PixelPool.of(colors, sizes, usable=usable)


def subset(outputs: DataparserOutputs, indices: Sequence[int]) -> DataparserOutputs:
    """A parser's outputs with chosen photos alone; poses, scale and scene box stay."""
    chosen = torch.tensor(list(indices), dtype=torch.long)
    metadata = dict(outputs.metadata)
    for key in ("depth_filenames", "mask_filenames"):
        if metadata.get(key) is not None:
            metadata[key] = [metadata[key][i] for i in indices]
    return replace(
        outputs,
        image_filenames=[outputs.image_filenames[i] for i in indices],
        cameras=outputs.cameras[chosen],
        mask_filenames=None if outputs.mask_filenames is None else [outputs.mask_filenames[i] for i in indices],
        metadata=metadata,
    )
