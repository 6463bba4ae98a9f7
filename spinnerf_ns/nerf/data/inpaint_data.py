"""The inpainting stage's data manager: one bundle a step that serves every loss (the masked-perceptual data manager)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from spinnerf_ns.conventions import resize_depth, resize_mask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_depth, load_object_mask
from spinnerf_ns.hints import WORKSPACE_FOLDER, command, say
from spinnerf_ns.nerf.base_model import TRAINS_GEOMETRY
from spinnerf_ns.nerf.data.datamanager import SpinnerfDataManager, SpinnerfDataManagerConfig
from spinnerf_ns.nerf.data.pixel_samplers import RayLayout, sample_list, sample_patches, sample_usable
from spinnerf_ns.scene.camera_path import most_unseen_near_middle
from spinnerf_ns.scene.outputs import is_readable
from spinnerf_ns.scene.workspace import REFERS, Workspace

if TYPE_CHECKING:
    from spinnerf_ns.scene.points import SparsePoints

AGREES = 0.9
"""Part of a photo's gap that has to be carried from the references for the photo to be taken at its word."""


@dataclass
class SpinnerfInpaintDataManagerConfig(SpinnerfDataManagerConfig):
    """The inpainting stage's data manager."""

    _target: type = field(default_factory=lambda: SpinnerfInpaintDataManager)
    to_fill: Literal["unseen", "object"] = "object"
    """Which pixels are a gap to the losses: all of the removed region, or the part of it that no photo shows."""
    num_patches: int = 4
    """Patches per step over the gap, for the perceptual loss."""
    patch_size_fraction: float = 1 / 16
    """A patch's sides in rays as a part of the photo's sides."""
    patch_min_size: int = 16
    """Least side of a patch in rays: a perceptual network sees nothing in less."""
    patch_stride: int = 2
    """Distance of a patch's rays in pixels."""
    patch_start_step: int = 300
    """Step of the first patches: before it the renders are no pictures yet."""
    depth_num_rays: int = 1024
    """Rays per step in the gap with the exported disparity to meet."""
    reference_num_rays: int = 1024
    """Rays per step in the gap of photos that are taken at their word, with the inpainted colour to meet."""
    reference_photos: Literal["agreeing", "one"] = "agreeing"
    """Which photos are taken at their word. agreeing: all whose gaps show one invention, completed in a few references and carried
    to the others; like photographed pixels, these train geometry too. one: the reference view, whose rays train colour alone
    (the release, and exports that carried nothing)."""
    reference_view: str | None = None
    """Photo whose inpainting is taken at its word; by default the export's, else a large gap near the path's middle."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Reads a config.yml from before `to_fill` had its name."""
        self.__dict__.update({"to_fill" if name == "hole" else name: value for name, value in state.items()})


class SpinnerfInpaintDataManager(SpinnerfDataManager):
    """Uniform rays outside the removed region, patches over the gap, depth rays in it, reference rays in gaps taken at their word.

    `--data` is the folder that an export wrote (`<scene>/spinnerf/removed`), or the scene that holds it.
    """

    config: SpinnerfInpaintDataManagerConfig
    _misses_labels = False

    def __init__(self, config: SpinnerfInpaintDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        if config.data is not None:
            config.data = find_removed(Path(config.data), config.workspace)
        elif config.dataparser.data is not None:
            config.dataparser.data = find_removed(Path(config.dataparser.data), config.workspace)
        super().__init__(config, *args, **kwargs)

    @property
    def workspace(self) -> Workspace:
        """The workspace that the exported dataset lies in."""
        if self._workspace is None:
            self._workspace = Workspace.at(self.removed_folder.parent)
        return self._workspace

    @property
    def removed_folder(self) -> Path:
        """The exported dataset."""
        data = Path(self.config.data)
        return data.parent if data.suffix == ".json" else data

    @property
    def removed(self) -> dict[str, Any]:
        """Photo -> its exported files."""
        if not hasattr(self, "_removed"):
            from spinnerf_ns.scene.removed import read_removed

            self._removed = read_removed(self.removed_folder)
        return self._removed

    @property
    def left_out(self) -> tuple[str, ...]:
        """Photos that are truth. What the clean ones show is trained on."""
        return self.workspace.truth_photos

    def find_points(self) -> SparsePoints | None:
        """The source's: features of a filled region are no features of the scene."""
        from spinnerf_ns.stereo.points import points_of

        return points_of(self.capture, self.workspace, make=False)

    def find_stereo(self) -> bool:
        """The source's, outside the regions as true as there."""
        from spinnerf_ns.stereo.maps import has_stereo

        return has_stereo(self.workspace)

    def extras(self, path: Path, shape: tuple[int, int]) -> dict[str, Tensor]:
        """`object_mask` (H, W, 1) bool: the region from which the object was removed; `is_truth` (H, W, 1) bool: not there.

        An object-free photo is truth everywhere, and its object mask says where the object would be, if anybody knows.
        """
        photo = self.view_of(path).photo
        file = self.removed[photo].object_mask if photo in self.removed else None
        object_free = photo in self.workspace.truth_photos
        if object_free:
            from spinnerf_ns.scene.labels import LABEL_FOLDERS, label_path

            file = label_path(self.workspace.scene, photo)
            if file is None and not self._misses_labels:
                self._misses_labels = True
                say(
                    f"No true object masks of object-free photos below {self.workspace.scene} ({', '.join(LABEL_FOLDERS)}): "
                    "figures of the object's region (psnr_mask and others) are left out"
                )
        if file is None:
            object_mask = torch.zeros(*shape, 1, dtype=torch.bool)
        else:
            object_mask = torch.from_numpy(resize_mask(load_object_mask(file), shape))[..., None]
        return {"object_mask": object_mask, "is_truth": torch.ones_like(object_mask) if object_free else ~object_mask}

    # ---------------------------------------------------------------------------------------------------------- pool
    def setup_train(self) -> None:
        """Builds the pool, the lists of the gap's and the removed region's pixels, and the disparities to meet.

        Raises:
            SpinnerfError: no photo has a removed region.
        """
        super().setup_train()
        self._read_regions()
        pool = self.train_pool
        side = [
            max(self.config.patch_min_size, round(float(sizes.float().mean()) * self.config.patch_size_fraction))
            for sizes in (pool.heights, pool.widths)
        ]
        self.reference_index = self._choose_reference()
        taken = torch.zeros(len(self.train_dataset), dtype=torch.bool)
        taken[self.reference_index] = True
        agreeing = torch.from_numpy(self._agreeing()) if self.config.reference_photos == "agreeing" else taken
        self._one_invention = bool(agreeing[self.reference_index] and agreeing.sum() > 1)
        if self._one_invention:
            taken = agreeing
        self.reference_pixels = self.fill_pixels[taken[self.train_pool.locate(self.fill_pixels)[:, 0]]]
        self.layout = RayLayout(
            uniform=self.config.train_num_rays_per_batch,
            patches=(self.config.num_patches, *side) if len(self.fill_pixels) and self.config.num_patches else (0, 0, 0),
            depth=self.config.depth_num_rays if len(self.depth_pixels) else 0,
            reference=self.config.reference_num_rays if len(self.reference_pixels) else 0,
            sparse=self._num_sparse_rays,
        )

    def _read_regions(self) -> None:
        """Sets flat index lists (`region_pixels`, `fill_pixels`, `depth_pixels`), `disparity` (of `depth_pixels`) and the pool's
        usable pixels."""
        pool, scale = self.train_pool, self.train_dataparser_outputs.dataparser_scale
        fill_pixels, depth_pixels, region_pixels, disparities = [], [], [], []
        outside = torch.ones(pool.num_pixels, dtype=torch.bool)
        for index, path in enumerate(self.train_dataset.image_filenames):
            photo = self.view_of(path).photo
            shape = (int(pool.heights[index]), int(pool.widths[index]))
            files = self.removed.get(photo)
            if files is None:
                raise SpinnerfError(
                    f"{self.removed_folder}: the export has no files for the training photo '{photo}'; "
                    f"export again: {self.workspace.export_command(overwrite=True)}"
                )
            object_mask = resize_mask(load_object_mask(files.object_mask), shape)
            to_fill = object_mask
            if self.config.to_fill == "unseen" and Path(files.unseen_mask).is_file():
                to_fill = resize_mask(load_object_mask(files.unseen_mask), shape)
            z = resize_depth(load_depth(files.depth), shape) * scale
            start, end = pool.starts[index : index + 2].tolist()
            if pool.usable is not None:  # what may not be used is no gap to be filled: the capture's masks, or what was left out
                to_fill = to_fill & pool.usable[start : start + to_fill.size].numpy().reshape(shape)
            # Filled pixels came from other photos: these teach the same without the error of their having been moved.
            outside[start:end] = torch.from_numpy(~object_mask.reshape(-1))
            fill_pixels.append(np.flatnonzero(to_fill) + start)
            region_pixels.append(np.flatnonzero(object_mask) + start)
            # Where other photos show the background, their colours say its depth better than an earlier field's.
            with_depth = np.flatnonzero(to_fill & (z > 0))
            depth_pixels.append(with_depth + start)
            disparities.append(1.0 / z.reshape(-1)[with_depth])
        self.fill_pixels = torch.from_numpy(np.concatenate(fill_pixels))
        self.depth_pixels = torch.from_numpy(np.concatenate(depth_pixels))
        self.region_pixels = torch.from_numpy(np.concatenate(region_pixels))
        self.disparity = torch.from_numpy(np.concatenate(disparities).astype(np.float32))
        if len(self.region_pixels) == 0:
            raise SpinnerfError(
                f"{self.removed_folder}: the removed region is empty in every training photo; look at the masks in "
                f"{self.workspace.masks_3d} and export again: {self.workspace.export_command(overwrite=True)}"
            )
        # What the points say of the removed region they say of the object.
        kept = outside[self.sparse_pixels]
        self._valid = pool.usable  # the capture's own masks
        pool.usable = outside if self._valid is None else outside.logical_and_(self._valid)
        self.sparse_pixels, self.sparse_disparity = self.sparse_pixels[kept], self.sparse_disparity[kept]
        if self.stereo_disparity is not None:  # there the depth measured is the object's
            self.stereo_disparity[self.region_pixels] = 0
        self.disparity_scale = float(self.disparity.median()) if len(self.disparity) else 1.0

    def _agreeing(self) -> npt.NDArray[np.bool_]:
        """(photos,) bool: those whose gap shows what was invented once for all of them, but for a few pixels."""
        exported = self.workspace.records("export")
        records = [exported.get(self.view_of(path).photo, {}) for path in self.train_dataset.image_filenames]
        carried = np.array([record.get("carried", 0) for record in records])
        unseen = np.array([record.get("unseen", 0) for record in records])
        return np.array([REFERS in record for record in records]) | ((unseen > 0) & (carried >= AGREES * unseen))

    def _choose_reference(self) -> int:
        """The reference view's place in the train dataset: the configured one, the export's, or one chosen as it does."""
        views = [self.view_of(path) for path in self.train_dataset.image_filenames]
        if self.config.reference_view is not None:
            wanted = self.capture.view(self.config.reference_view).photo
            for index, view in enumerate(views):
                if view.photo == wanted:
                    return index
            raise SpinnerfError(f"the reference view '{wanted}' is not a training photo of {self.removed_folder}")
        exported = self.workspace.reference_view
        chosen = next((index for index, view in enumerate(views) if view.photo == exported), None)
        if chosen is None:
            counts = torch.bincount(self.train_pool.locate(self.fill_pixels)[:, 0], minlength=len(views))
            chosen = most_unseen_near_middle(views, counts.tolist())
        CONSOLE.print(f"Reference view: {views[chosen].photo} (another one: --pipeline.datamanager.reference-view PHOTO)")
        return chosen

    # ---------------------------------------------------------------------------------------------------- next batch
    def next_train(self, step: int) -> tuple[RayBundle, dict]:
        """One bundle for all losses.

        Returns:
            The bundle, whose metadata says per ray whether its pixel loss trains geometry, and a batch with "image"
            (R, C), "indices" (R, 3), "disparity" (depth rays, 1) in the training frame, "disparity_scale" and "layout".
        """
        self.train_count += 1
        if self.train_pixel_sampler.num_rays_per_batch is not None:
            return self.whole_scene_rays()
        pool, layout = self.train_pool, self.layout
        if step < self.config.patch_start_step:
            layout = replace(layout, patches=(0, 0, 0))
        parts = [sample_usable(pool, layout.uniform)]
        extra: dict = self.stereo_depth(parts[0])
        if layout.patch_rays:
            count, *shape = layout.patches
            patches = sample_patches(pool, self.fill_pixels, count, tuple(shape), self.config.patch_stride)
            parts.append(pool.flatten(patches).reshape(-1))
            if self._valid is not None:
                extra["patch_valid"] = self._valid[parts[-1]]
        disparity = torch.zeros(0)
        if layout.depth:
            chosen = torch.randint(len(self.depth_pixels), (layout.depth,))
            parts.append(self.depth_pixels[chosen])
            disparity = self.disparity[chosen]
        if layout.reference:
            parts.append(sample_list(self.reference_pixels, layout.reference))
        parts.append(self.sample_sparse(extra))
        bundle, batch = self.rays(pool, torch.cat(parts))
        trains_geometry = torch.zeros(layout.num_rays, 1, dtype=torch.bool)
        trains_geometry[: layout.uniform] = True
        trains_geometry[layout.rows("reference")] = self._one_invention
        bundle.metadata[TRAINS_GEOMETRY] = trains_geometry.to(self.device)
        batch.update(extra)
        batch.update(disparity=disparity[:, None], disparity_scale=self.disparity_scale, layout=layout)
        return bundle, batch


def find_removed(data: Path, workspace: Path | None = None) -> Path:
    """The exported dataset for what the user gave as --data: the export itself, a .json file in it, or the scene.

    Raises:
        SpinnerfError: there is no export, or its transforms.json is damaged.
    """
    from spinnerf_ns.scene.removed import TRANSFORMS

    folder = data.parent if data.suffix == ".json" else data
    inside = (workspace if workspace is not None else folder / WORKSPACE_FOLDER) / "removed"
    if (folder / "object_masks").is_dir():
        found = data
    elif (inside / TRANSFORMS).exists():
        say(f"Training on the object-free capture in {inside}")
        found = inside
    else:
        train = command("ns-train", "spinnerf-seg", data=data, workspace=workspace)
        raise SpinnerfError(
            f"{data}: no object-free capture here nor in {inside} ({TRANSFORMS} is missing); make it with: {train}, or of a run "
            "that was trained before: ns-spinnerf export --load-config CONFIG"
        )
    file = found if found.suffix == ".json" else found / TRANSFORMS
    if not file.is_file() or not is_readable(file):
        again = Workspace.at(file.parent.parent).export_command()
        raise SpinnerfError(f"{file}: {'damaged' if file.is_file() else 'missing'}; make it again: {again}")
    return found
