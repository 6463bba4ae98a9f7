"""Nerfstudio data managers of the two stages: stock parsers and cameras, pixels from a `PixelPool`."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader, RandIndicesEvalDataloader
from nerfstudio.model_components.ray_generators import RayGenerator
from nerfstudio.utils import comms
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from spinnerf_ns.accel.ray_generator import PerspectiveRayGenerator
from spinnerf_ns.conventions import resize_labels
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask
from spinnerf_ns.hints import command, say
from spinnerf_ns.nerf.data.dataset import AnnotatedDataset, ShownDataset, build_pool, subset
from spinnerf_ns.nerf.data.depths import sparse_depths, stereo_disparities
from spinnerf_ns.nerf.data.pixel_samplers import PixelPool, RayLayout, sample_usable
from spinnerf_ns.nerf.losses import UNKNOWN
from spinnerf_ns.scene.capture import Capture, capture_from_dataparser
from spinnerf_ns.scene.view import View, sizes_of
from spinnerf_ns.scene.workspace import Workspace

# What a configuration does not need is imported where it is used: ns-train --help waits for each import.
if TYPE_CHECKING:
    from spinnerf_ns.scene.consensus import Consensus
    from spinnerf_ns.scene.points import SparsePoints


class WholeSceneSampler:
    """Stands where ns-export looks for a pixel sampler and sets its number of rays.

    Once a number is set, the data manager's next batches are that many rays over all pixels, regions included: an export is
    of the whole scene, while training has its own rays for each loss.
    """

    num_rays_per_batch: int | None = None


@dataclass
class SpinnerfDataManagerConfig(VanillaDataManagerConfig):
    """A data manager that knows the capture's workspace."""

    _target: type = field(default_factory=lambda: SpinnerfDataManager)
    dataparser: AnnotatedDataParserUnion = field(default_factory=NerfstudioDataParserConfig)
    """Specifies the dataparser used to unpack the data."""
    train_num_rays_per_batch: int = 4096
    """Rays over the photos' usable pixels per step."""
    workspace: Path | None = None
    """Folder of masks and exports; by default <data>/spinnerf."""
    sparse_num_rays: int = 512
    """Rays per step through the capture's sparse points, with their depth to meet; 0 to leave the points unused."""
    stereo: bool = True
    """Whether to measure the photos' depth by stereo first (kept in the workspace), and to train on it where it is sure."""


class SpinnerfDataManager(VanillaDataManager):
    """Trains on uniformly drawn pixels of all training photos that show the object.

    Photos that the workspace's manifest names object-free are left out of training: they show another scene.
    """

    config: SpinnerfDataManagerConfig

    def __init__(self, config: SpinnerfDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        self._workspace: Workspace | None = None
        self._eval_pool: PixelPool | None = None
        self.train_pixel_sampler = WholeSceneSampler()
        data = config.data if config.data is not None else config.dataparser.data
        if data == Path():
            raise SpinnerfError(f"no capture is named; say which: {command('ns-train', 'METHOD', data='SCENE')}")
        data = Path(data)
        skipped = Workspace.open(data, config.workspace).skipped if data.exists() else {}
        # A run's config.yml is written before this and keeps the registered parser, so that it loads everywhere.
        from spinnerf_ns.scene.find import settled_dataparser

        config.dataparser = settled_dataparser(config.dataparser, data, skipped)
        self.capture: Capture = capture_from_dataparser(config.dataparser.setup())  # before nerfstudio does
        """All photos with their poses, of every split."""
        super().__init__(config, *args, **kwargs)

    # ------------------------------------------------------------------------------------------------------ on disk
    @property
    def points(self) -> SparsePoints | None:
        """The capture's sparse points; where it brings none of its frame, made from its photos and kept in the workspace."""
        if not hasattr(self, "_points"):
            self._points = main_process_first(self.find_points)
        return self._points

    def find_points(self) -> SparsePoints | None:
        """Hook: where the points come from."""
        from spinnerf_ns.stereo.points import points_of

        return points_of(self.capture, self.workspace)

    @property
    def workspace(self) -> Workspace:
        """The capture's workspace; before an export only sparse points are written to it."""
        if self._workspace is None:
            self._workspace = Workspace.open(Path(self.config.data), self.config.workspace)
        return self._workspace

    def view_of(self, path: Path) -> View:
        """The view of a photo's file."""
        if not hasattr(self, "_views_by_path"):
            self._views_by_path = {view.path.resolve(): view for view in self.capture.views}
        return self._views_by_path[Path(path).resolve()]

    @property
    def left_out(self) -> tuple[str, ...]:
        """Hook: photos that are not trained on."""
        return self.workspace.object_free

    # ----------------------------------------------------------------------------------------------------- datasets
    def extras(self, path: Path, shape: tuple[int, int]) -> dict[str, Tensor]:
        """Hook: a photo's further entries."""
        return {}

    def create_train_dataset(self) -> AnnotatedDataset:
        """The train split, without object-free photos; with the scene's bounds for the model."""
        from spinnerf_ns.scene.bounds import scene_bounds
        from spinnerf_ns.scene.check import require_depth

        require_depth(self.capture)
        object_free = set(self.left_out)
        names = self.train_dataparser_outputs.image_filenames
        kept = [i for i, path in enumerate(names) if self.view_of(path).photo not in object_free]
        if not kept:
            raise SpinnerfError(
                f"{self.config.data}: all {len(names)} training photos are named object-free in "
                f"{self.workspace.manifest_path}; there is nothing to train on"
            )
        if len(kept) < len(names):
            CONSOLE.print(f"{len(names) - len(kept)} object-free photos are left out of training.")
            self.train_dataparser_outputs = subset(self.train_dataparser_outputs, kept)
        if self.test_mode == "val":  # a run is trained, and not looked at
            views = [self.view_of(path) for path in self.train_dataparser_outputs.image_filenames]
            at = sizes_of(views, scale=self.config.camera_res_scale_factor)
            say(f"Training on {len(views)} photos at {at}" + (f" (photos of {sizes_of(views)})" if at != sizes_of(views) else ""))
        dataset = self._dataset(self.train_dataparser_outputs, ShownDataset)
        bounds = scene_bounds(self.capture, self.points)
        dataset.metadata["scene_bounds"] = None if bounds is None else (bounds.center, bounds.radius, bounds.near)
        return dataset

    def create_eval_dataset(self) -> AnnotatedDataset:
        """The val or test split, all of it; the other one, or the training photos, where the capture has none in it."""
        for split in (self.test_split, "val", "test", "train"):
            if self.capture.split(split):
                break
        if split != self.test_split:
            say(f"{self.config.data}: no photo is in the split {self.test_split}; figures are of {split} photos")
        return self._dataset(self.dataparser.get_dataparser_outputs(split=split))

    def _dataset(self, outputs: DataparserOutputs, kind: type[AnnotatedDataset] = AnnotatedDataset) -> AnnotatedDataset:
        scale = self.config.camera_res_scale_factor
        return kind(outputs, scale_factor=scale, view_of=self.view_of, extras=self.extras)

    # ---------------------------------------------------------------------------------------------------- next batch
    def setup_train(self) -> None:
        """Builds the pixel pool; stands in for the stock loader and its float copies."""
        self.train_pool = build_pool(self.train_dataset, self.add_to_pool)
        self.train_ray_generator = PerspectiveRayGenerator(self.train_dataset.cameras.to(self.device))
        self.sparse_pixels, self.sparse_disparity = sparse_depths(self)
        # The scene's typical disparity: a disparity loss is measured in it.
        self._sparse_scale = float(self.sparse_disparity.median()) if len(self.sparse_disparity) else 1.0
        wanted = self.config.stereo and main_process_first(self.find_stereo)
        self.stereo_disparity = stereo_disparities(self, self._sparse_scale) if wanted else None
        self.layout = RayLayout(uniform=self.config.train_num_rays_per_batch, sparse=self._num_sparse_rays)

    def find_stereo(self) -> bool:
        """Hook: whether the workspace has dense depth of the training photos; for a training it is measured."""
        from spinnerf_ns.stereo.maps import has_stereo, stereo_if_possible

        if self.test_mode != "val":  # a run is looked at
            return has_stereo(self.workspace)
        return stereo_if_possible(self.capture, self.workspace)

    def stereo_depth(self, flat: Tensor) -> dict[str, Tensor]:
        """What a batch has of the measured depth of pixels (R,): "stereo_disparity" (R, 1) in the training frame, 0 = unknown."""
        if self.stereo_disparity is None:
            return {}
        return {"stereo_disparity": self.stereo_disparity[flat].float()[:, None] * self._sparse_scale}

    @property
    def _num_sparse_rays(self) -> int:
        return self.config.sparse_num_rays if len(self.sparse_pixels) else 0

    def sample_sparse(self, batch: dict) -> Tensor:
        """Draws the step's rays through sparse points: flat indices (R,); their disparities are entered in the batch."""
        chosen = torch.randint(max(1, len(self.sparse_pixels)), (self._num_sparse_rays,))
        batch["sparse_disparity"] = self.sparse_disparity[chosen][:, None]
        batch["sparse_disparity_scale"] = self._sparse_scale
        return self.sparse_pixels[chosen]

    def setup_eval(self) -> None:
        """Loaders of whole photos, for metrics and the viewer."""
        self.eval_ray_generator = PerspectiveRayGenerator(self.eval_dataset.cameras.to(self.device))
        workers = {"device": self.device, "num_workers": self.world_size * 4}
        self.fixed_indices_eval_dataloader = FixedIndicesEvalDataloader(input_dataset=self.eval_dataset, **workers)
        self.eval_dataloader = RandIndicesEvalDataloader(input_dataset=self.eval_dataset, **workers)

    def add_to_pool(self, data: dict) -> None:
        """Hook: is shown each training photo's data while the pool is built."""

    def next_train(self, step: int) -> tuple[RayBundle, dict]:
        """Rays over usable pixels, and through sparse points; see `RayLayout`."""
        self.train_count += 1
        if self.train_pixel_sampler.num_rays_per_batch is not None:
            return self.whole_scene_rays()
        extra: dict = {"layout": self.layout}
        uniform = sample_usable(self.train_pool, self.layout.uniform)
        bundle, batch = self.rays(self.train_pool, torch.cat([uniform, self.sample_sparse(extra)]))
        return bundle, {**batch, **extra, **self.stereo_depth(uniform)}

    def whole_scene_rays(self) -> tuple[RayBundle, dict]:
        """As many rays over all pixels as ns-export asked for."""
        assert self.train_pixel_sampler.num_rays_per_batch is not None
        return self.rays(self.train_pool, torch.randint(self.train_pool.num_pixels, (self.train_pixel_sampler.num_rays_per_batch,)))

    def next_eval(self, step: int) -> tuple[RayBundle, dict]:
        """Rays over the pixels of the eval photos."""
        self.eval_count += 1
        if self._eval_pool is None:
            self._eval_pool = build_pool(self.eval_dataset)
        chosen = sample_usable(self._eval_pool, self.config.eval_num_rays_per_batch)
        return self.rays(self._eval_pool, chosen, self.eval_ray_generator)

    def rays(self, pool: PixelPool, flat: Tensor, generator: RayGenerator | None = None) -> tuple[RayBundle, dict]:
        """A bundle through chosen pixels, and their colours.

        Args:
            flat: (R,) flat indices in the pool.

        Returns:
            The bundle and a batch with "image" (R, C) in [0, 1], "indices" (R, 3) and "flat" (R,).
        """
        indices = pool.ray_indices(pool.locate(flat))
        bundle = (generator or self.train_ray_generator)(indices.to(self.device))
        return bundle, {"image": pool.image_colors(flat), "indices": indices, "flat": flat}

    def get_train_rays_per_batch(self) -> int:
        """Rays of a training step, of all families."""
        return self.layout.num_rays

    def get_eval_rays_per_batch(self) -> int:
        """Rays of an evaluation step."""
        return self.config.eval_num_rays_per_batch


T = TypeVar("T")


def main_process_first(make: Callable[[], T]) -> T:
    """What `make` finds on disk or writes there: of the processes of a training on several GPUs the main one goes first, so that
    the others find it. All of them have to call it."""
    if comms.get_world_size() == 1:
        return make()
    is_main = comms.is_main_process()
    if not is_main:
        comms.synchronize()
    try:
        return make()
    finally:
        if is_main:
            comms.synchronize()


# ------------------------------------------------------------------------------------------------------------ segmentation
@dataclass
class SpinnerfSegDataManagerConfig(SpinnerfDataManagerConfig):
    """The segmentation stage's data manager."""

    _target: type = field(default_factory=lambda: SpinnerfSegDataManager)
    masks: Path | None = None
    """Folder of object masks (<photo>.png, 255 = object); by default the workspace's masks_2d, what `ns-spinnerf segment`
    writes. Photos without a mask train colour only."""


class SpinnerfSegDataManager(SpinnerfDataManager):
    """Adds object labels to the rays: 1 object, 0 not, `UNKNOWN` where a photo has no mask."""

    config: SpinnerfSegDataManagerConfig

    def __init__(self, config: SpinnerfSegDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        self._labelled = 0
        super().__init__(config, *args, **kwargs)

    @property
    def masks_folder(self) -> Path:
        """Where the masks are read from."""
        return Path(self.config.masks) if self.config.masks is not None else self.workspace.masks_2d

    def extras(self, path: Path, shape: tuple[int, int]) -> dict[str, Tensor]:
        """`object_label` (H, W, 1) uint8."""
        label = self.read_label(self.view_of(path))
        if label is None:
            return {"object_label": torch.full((*shape, 1), UNKNOWN, dtype=torch.uint8)}
        return {"object_label": torch.from_numpy(resize_labels(label, shape))[..., None]}

    def mask_file(self, view: View) -> Path | None:
        """The file of a photo's object mask, if it has one."""
        file = self.masks_folder / f"{view.photo}.png"
        return file if file.is_file() and view.photo not in self.workspace.object_free else None

    def read_label(self, view: View) -> np.ndarray | None:
        """(H, W) uint8 of a photo's object mask as it lies on disk, 1 object, 0 not; None without one."""
        file = self.mask_file(view)
        return None if file is None else load_object_mask(file, (view.height, view.width)).astype(np.uint8)

    @cached_property
    def consensus(self) -> Consensus:
        """What each photo should show by the tracked masks of the others."""
        from spinnerf_ns.nerf.mask_choice import consensus_of

        return consensus_of(self)

    def setup_train(self) -> None:
        """Builds the pool and the flat labels.

        Raises:
            SpinnerfError: no photo has a mask, or all masks are empty.
        """
        self.labels, self._labelled = torch.empty(int(self.train_dataset.sizes.prod(dim=1).sum()), dtype=torch.uint8), 0
        super().setup_train()
        if not (self.labels != UNKNOWN).any():
            raise SpinnerfError(
                f"{self.masks_folder}: no training photo has an object mask there; make them with: {self._segment_command()}"
            )
        if not (self.labels == 1).any():
            raise SpinnerfError(
                f"{self.masks_folder}: the object masks of all training photos are empty; point at the object again: "
                f"{self._segment_command(overwrite=True)}"
            )

    def _segment_command(self, overwrite: bool = False) -> str:
        where = {"data": self.config.data, "workspace": self.config.workspace}
        return command("ns-spinnerf", "segment", **where, view="PHOTO", points="X,Y", overwrite=overwrite)

    def add_to_pool(self, data: dict) -> None:
        """Enters a photo's labels."""
        labels = data["object_label"].reshape(-1)
        self.labels[self._labelled : self._labelled + len(labels)] = labels
        self._labelled += len(labels)

    def object_label(self, index: int) -> Tensor:
        """(H, W) uint8 labels of a training photo: 1 object, 0 not, `UNKNOWN`."""
        start, end = self.train_pool.starts[index : index + 2].tolist()
        return self.labels[start:end].view(int(self.train_pool.heights[index]), int(self.train_pool.widths[index]))

    def set_object_mask(self, index: int, object_mask: Tensor) -> None:
        """Puts a refined mask in a training photo's tracked one's place.

        Args:
            index: the photo's place in the train dataset.
            object_mask: (H, W) bool.
        """
        start, end = self.train_pool.starts[index : index + 2].tolist()
        self.labels[start:end] = object_mask.reshape(-1).to(torch.uint8)

    def packed_labels(self) -> Tensor:
        """(K,) uint8: all labels, compressed; about a hundredth of their size."""
        return torch.frombuffer(bytearray(zlib.compress(self.labels.numpy().data, level=1)), dtype=torch.uint8)

    def unpack_labels(self, packed: Tensor) -> bool:
        """Puts labels that were packed in all labels' place; False, and no change, where they are of other photos."""
        labels, filled = torch.empty_like(self.labels), 0
        inflating, left = zlib.decompressobj(), packed.cpu().numpy().tobytes()
        while left and filled < len(labels):  # piece by piece: all of them are a byte for every pixel
            piece = inflating.decompress(left, 1 << 24)
            left = inflating.unconsumed_tail
            if filled + len(piece) > len(labels) or not piece:
                return False
            labels[filled : filled + len(piece)] = torch.from_numpy(np.frombuffer(piece, np.uint8).copy())
            filled += len(piece)
        if filled < len(labels) or inflating.decompress(left, 1):
            return False
        self.labels = labels
        return True

    def next_train(self, step: int) -> tuple[RayBundle, dict]:
        """Rays over usable pixels with their labels under "object_label" (R,) uint8."""
        bundle, batch = super().next_train(step)
        if "layout" not in batch:
            return bundle, batch
        batch["object_label"] = self.labels[batch["flat"][: self.layout.uniform]]
        return bundle, batch
