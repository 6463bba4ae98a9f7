"""The object-free capture as an ordinary nerfstudio dataset, `removed/`, that any method trains on.

    transforms.json          inpainted photos, depth_file_path, no mask_path; explicit train, val and test file names
    transforms_masked.json   the original photos with mask_path = valid_masks: the masked-NeRF baseline
    originals/<photo>.png    where some original is not plain RGB (a palette, CMYK, 16 bits, alpha): all, as they are decoded here;
                             transforms_masked.json names these then, since nerfstudio would see other colours
    masks/<photo>.png        the capture's own masks and transparent pixels, and what is left out instead of invented, if there is
                             any of these: then transforms.json has mask_path, too
    images/<photo>.png       lossless; pixels outside the object mask are the original photo's
    depths/<photo>.npy       see below
    object_masks/ valid_masks/ unseen_masks/<photo>.png
    sparse_pc.ply            the source's points without the object's, then points on the surfaces behind it (removed_points)
    colmap/                  the same as a COLMAP model, without object-free photos: it has no splits (colmap_out)
    provenance/<photo>.png   8-bit: 0 the photo's own, 128 seen in other photos, 255 invented

Both files hold every photo with its source pose, object-free ones included, so that nerfstudio's parser orients, centres and
scales them as it does the source; which photos are trained on is said by the file names per split.

Depth is stored as `conventions.save_depth` does, in the units that nerfstudio takes depth files to have: those before the
capture's `applied_scale`, which is rarely given. A stored depth times 1e-3 and the parser's `dataparser_scale` is depth in
the training frame.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import INVENTED, OBJECT, OBSERVED, SEEN_ELSEWHERE, BoolMask, Image
from spinnerf_ns.decoding import is_plain
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import (
    load_depth,
    load_object_mask,
    read_image,
    save_depth,
    save_object_mask,
    write_json,
    write_png,
)
from spinnerf_ns.scene.capture import Capture
from spinnerf_ns.scene.colmap_out import ModelPoints, write_colmap
from spinnerf_ns.scene.points import SparsePoints, read_points, write_ply
from spinnerf_ns.scene.removed_points import CleanPhoto, removed_points
from spinnerf_ns.scene.source import MEASURED_POINTS, SPLITS, read_transforms
from spinnerf_ns.scene.view import View
from spinnerf_ns.scene.workspace import Workspace

TRANSFORMS = "transforms.json"
TRANSFORMS_MASKED = "transforms_masked.json"
POINTS = "sparse_pc.ply"
COLMAP = "colmap"

ORIGINALS = "originals"

PROVENANCE = "provenance"
"""Folder of pictures that say where each pixel comes from; for people, and read by nothing that trains."""

FILES = {
    "image": ("images", ".png"),
    "object_mask": ("object_masks", ".png"),
    "valid_mask": ("valid_masks", ".png"),
    "unseen_mask": ("unseen_masks", ".png"),
    "depth": ("depths", ".npy"),
}
"""What there is of each photo: its folder and suffix."""


@dataclass
class RemovedView:
    """A photo without the object."""

    photo: str
    """The photo's key."""
    image: Image
    """(H, W, 3) uint8, inpainted; the original for an object-free photo. Only its pixels inside `object_mask` are used."""
    object_mask: BoolMask
    """(H, W) the removed region, dilation included; empty for an object-free photo."""
    unseen_mask: BoolMask
    """(H, W) the part of it that no other photo shows."""
    z: npt.NDArray[np.float32]
    """(H, W) depth without the object, source world units; 0, negative or not finite: unknown."""


@dataclass(frozen=True)
class RemovedFiles:
    """A photo's files in a `removed/` folder."""

    image: Path
    object_mask: Path
    valid_mask: Path
    unseen_mask: Path
    depth: Path


class RemovedWriter:
    """Writes a `removed/` folder, photo by photo; it is a dataset once `finish` has been called.

    Args:
        capture: the capture that the photos are of.
        folder: the folder to write; it may be renamed later, but not moved to another depth.
        object_free: photos that never showed the object: truth, and not trained on.
        points: the source's sparse points; by default those that the capture brings.
        invention: whether unseen pixels are of use; off: the masks that training reads leave them out.
        clean: photos that never showed the object either and are trained on, whatever their split, as they are written: made as
            bright as the others.

    Raises:
        SpinnerfError: an object-free photo that the capture does not have.
    """

    def __init__(
        self,
        capture: Capture,
        folder: Path,
        object_free: Sequence[str],
        points: SparsePoints | None = None,
        invention: bool = True,
        clean: Collection[str] = (),
    ) -> None:
        self.capture = capture
        self._points = points
        self.folder = Path(folder)
        self.object_free = frozenset(capture.view(photo).photo for photo in object_free)
        self.clean = frozenset(clean)
        self.invention = invention
        self.has_masks = not invention or any(view.has_mask for view in capture.views)
        self._decodes = not all(is_plain(view.path) for view in capture.views)

    def write(self, view: RemovedView) -> None:
        """Writes a photo's files, each atomically.

        Raises:
            SpinnerfError: a photo that the capture does not have, arrays of another size than the photo, or an object-free
                photo with a mask.
        """
        source = self.capture.view(view.photo)
        size = (source.height, source.width)
        for name in ("image", "object_mask", "unseen_mask", "z"):
            found = np.shape(getattr(view, name))
            if found != (size if name != "image" else (*size, 3)):
                raise SpinnerfError(f"{source.path}: {name} has the shape {found}, the photo is {size[1]}x{size[0]}")
        object_mask = np.asarray(view.object_mask, dtype=bool)
        if (source.photo in self.object_free or source.photo in self.clean) and object_mask.any():
            raise SpinnerfError(
                f"{source.path}: named object-free, but {int(object_mask.sum())} of its pixels are masked; "
                "take it from object_free in manifest.json, or empty its mask"
            )
        # Whatever the inpainter did elsewhere (a folder of re-encoded photos): outside the mask the photo stays itself.
        image = view.image
        if source.photo not in self.clean:
            image = np.where(object_mask[..., None], view.image, source.read_image()).astype(np.uint8)
        z = np.where(np.isfinite(view.z) & (view.z > 0), view.z, 0).astype(np.float64)
        write_png(self._path("image", source), image)
        save_object_mask(self._path("object_mask", source), object_mask)
        unseen_mask = np.asarray(view.unseen_mask, dtype=bool) & object_mask
        save_object_mask(self._path("unseen_mask", source), unseen_mask)
        provenance = np.where(unseen_mask, INVENTED, np.where(object_mask, SEEN_ELSEWHERE, OBSERVED)).astype(np.uint8)
        write_png(self.folder / PROVENANCE / f"{source.photo}.png", provenance)
        valid = source.valid_mask()
        write_png(self._path("valid_mask", source), (~object_mask & valid).astype(np.uint8) * OBJECT)  # nerfstudio: non-zero = use
        if self.has_masks:
            used = valid if self.invention else valid & ~unseen_mask
            write_png(self.folder / _mask_name(source), used.astype(np.uint8) * OBJECT)
        save_depth(self._path("depth", source), z / float(self.capture.source_meta.get("applied_scale", 1.0)))

    def finish(self) -> None:
        """Writes object-free photos that are not there yet, the points, the COLMAP model, and last the two transforms.

        Raises:
            SpinnerfError: files of a photo are missing.
        """
        for view in self.capture.views:
            if view.photo in self.object_free and not all(self._path(kind, view).is_file() for kind in FILES):
                self.write(_untouched(view))
        missing = [path for view in self.capture.views for kind in FILES if not (path := self._path(kind, view)).is_file()]
        if missing:
            raise SpinnerfError(
                f"{missing[0]}: missing ({len(missing)} files in all), so {self.folder} is no dataset yet; export again: "
                "ns-spinnerf export --load-config CONFIG"
            )
        self._write_points()
        views = self.capture.views
        inpainted = {v.photo: {"file_path": _name("image", v), "depth_file_path": _name("depth", v)} for v in views}
        if self.has_masks:  # nerfstudio wants one of every photo, or none
            inpainted = {v.photo: {**inpainted[v.photo], "mask_path": _mask_name(v)} for v in views}
        originals = {v.photo: _name("image", v) if v.photo in self.clean else self._original(v) for v in views}
        masked = {v.photo: {"file_path": originals[v.photo], "mask_path": _name("valid_mask", v)} for v in views}
        self._write_json(TRANSFORMS_MASKED, masked)
        self._write_json(TRANSFORMS, inpainted)

    def _write_points(self) -> None:
        views = [view for view in self.capture.views if view.photo not in self.object_free]
        source = read_points(self.capture) if self._points is None else self._points
        source = SparsePoints.none() if source is None else source
        colors = np.clip(source.colors, 0, 255).astype(np.uint8)
        points = removed_points(views, self._clean_photo, source.positions, colors)
        self._measured_points = points.measured
        write_ply(self.folder / POINTS, points.positions, points.colors)
        names = [_name("image", view).partition("/")[2] for view in views]
        try:
            write_colmap(
                self.folder / COLMAP, views, names, self.folder / FILES["image"][0],
                ModelPoints(points.positions, points.colors, points.seen), self.capture.source_meta, self._used,
            )  # fmt: skip
        except SpinnerfError as error:  # a panorama, say: nerfstudio's own format has it
            print(f"No COLMAP model: {error}")

    def _clean_photo(self, view: View) -> CleanPhoto:
        shape = (view.height, view.width)
        region = load_object_mask(self._path("object_mask", view), shape)
        z = load_depth(self._path("depth", view)) * np.float32(self.capture.source_meta.get("applied_scale", 1.0))
        return CleanPhoto(read_image(self._path("image", view)), region, z, self._used(view), view.photo in self.clean)

    def _used(self, view: View) -> BoolMask:
        """(H, W) what may be trained on of a clean photo."""
        path = self.folder / _mask_name(view)
        return load_object_mask(path, (view.height, view.width)) if self.has_masks else view.valid_mask()

    def _path(self, kind: str, view: View) -> Path:
        return self.folder / _name(kind, view)

    def _original(self, view: View) -> str:
        """The original photo, relative to the folder where that is possible, or its decoded copy."""
        if self._decodes:
            name = f"{ORIGINALS}/{view.photo}.png"
            if not (self.folder / name).is_file():
                write_png(self.folder / name, view.read_image())
            return name
        # The parent's real path: ".." after a symbolic link leads elsewhere than it reads.
        photo = os.path.join(os.path.realpath(view.path.parent), view.path.name)
        return _relative(photo, self.folder)

    def _write_json(self, name: str, files: dict[str, dict[str, str]]) -> None:
        views = self.capture.views
        # Nerfstudio takes a folder with colmap/sparse/0 whose applied_transform is not said for one of its own old ones.
        meta = {"applied_transform": np.eye(4)[:3].tolist(), **self.capture.source_meta}
        meta |= {"ply_file_path": POINTS, MEASURED_POINTS: self._measured_points}
        cameras = [camera_entries(view) for view in views]
        shared = cameras[0] if all(camera == cameras[0] for camera in cameras) else {}
        frames = []
        for view, camera in zip(views, cameras, strict=True):
            pose = [*view.c2w.tolist(), [0.0, 0.0, 0.0, 1.0]]
            frames.append({**files[view.photo], **({} if shared else camera), "transform_matrix": pose})
        # nerfstudio sorts photos by their path and sums over them in that order: keep the frames in it, too.
        frames.sort(key=lambda frame: Path(frame["file_path"]))
        splits = {f"{split}_filenames": [files[photo]["file_path"] for photo in photos] for split, photos in self._splits()}
        write_json(self.folder / name, {**meta, **shared, **splits, "frames": frames})

    def _splits(self) -> Iterable[tuple[str, list[str]]]:
        """The source's splits, without object-free photos in train, and the clean ones there alone. If it lists only val or only
        test, both are that."""
        splits = {name: [view.photo for view in self.capture.split(name) if view.photo not in self.clean] for name in SPLITS}
        trained = {*splits["train"], *self.clean} - self.object_free
        splits["train"] = [photo for photo in self.capture.photos if photo in trained]
        if not splits["train"]:
            raise SpinnerfError(
                f"{self.capture.data}: every training photo is named object-free, so there is nothing to train on; "
                "name fewer photos in object_free of manifest.json"
            )
        splits["val"] = splits["val"] or splits["test"]
        splits["test"] = splits["test"] or splits["val"]
        return splits.items()


def read_removed(folder: Path | str) -> dict[str, RemovedFiles]:
    """The files of a `removed/` folder.

    Returns:
        photo -> its files, for every photo of transforms.json, sorted.

    Raises:
        SpinnerfError: the folder is no finished export, or files of it are missing.
    """
    folder = Path(folder)
    if not (folder / TRANSFORMS).is_file() or not (folder / FILES["object_mask"][0]).is_dir():
        raise SpinnerfError(
            f"{folder}: no object-free capture (transforms.json or object_masks is missing); make it: "
            f"{Workspace.at(folder.parent).export_command()}"
        )
    photos = []
    for frame in read_transforms(folder / TRANSFORMS)["frames"]:
        path = Path(frame["file_path"])
        if path.parts[:1] != (FILES["image"][0],):
            again = Workspace.at(folder.parent).export_command(overwrite=True)
            raise SpinnerfError(f"{folder / TRANSFORMS}: {path} does not lie in images/; export again: {again}")
        photos.append(path.relative_to(path.parts[0]).as_posix()[: -len(path.suffix)])
    result = {}
    for photo in sorted(photos):
        files = RemovedFiles(**{kind: folder / sub / f"{photo}{suffix}" for kind, (sub, suffix) in FILES.items()})
        missing = [path for path in vars(files).values() if not path.is_file()]
        if missing:
            raise SpinnerfError(f"{missing[0]}: missing; export again: {Workspace.at(folder.parent).export_command()}")
        result[photo] = files
    return result


def _untouched(view: View) -> RemovedView:
    image = view.read_image()
    nothing = np.zeros(image.shape[:2], dtype=bool)
    return RemovedView(view.photo, image, nothing, nothing, np.zeros(image.shape[:2], dtype=np.float32))


def _name(kind: str, view: View) -> str:
    folder, suffix = FILES[kind]
    return f"{folder}/{view.photo}{suffix}"


def _mask_name(view: View) -> str:
    return f"masks/{view.photo}.png"


def _relative(path: str, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, os.path.realpath(folder))).as_posix()
    except ValueError:  # another drive (Windows)
        return Path(path).as_posix()


def camera_entries(view: View) -> dict[str, Any]:
    """A view's camera as transforms.json has it, at the resolution used."""
    names = ("k1", "k2", "k3", "k4", "p1", "p2")
    return {
        "w": view.width,
        "h": view.height,
        "fl_x": view.fx,
        "fl_y": view.fy,
        "cx": view.cx,
        "cy": view.cy,
        **{name: float(value) for name, value in zip(names, view.distortion, strict=True)},
    }
