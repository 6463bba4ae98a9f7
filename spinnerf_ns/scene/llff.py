"""LLFF and SPIn-NeRF folders -> a nerfstudio dataset.

What is read
    poses_bounds.npy      (N, 17): per photo a row-major 3x5 matrix and the near and far bound. The matrix's columns are the
                          camera's down, right and backwards axes and its position in COLMAP's world (so this is
                          camera-to-world), then (height, width, focal) at the size that COLMAP saw (LLFF, Mildenhall 2019).
                          Row i belongs to the i-th photo in order of names.
    images/, images_N/    the photos; N says how much smaller they are, but their true size is read from disk.
    images_N/label/       SPIn-NeRF's object masks, `<stem>.png`, non-zero = object; may be missing for some photos.
    sparse/0/             COLMAP's model: points3D becomes sparse_pc.ply, a single camera refines the intrinsics.
What is written
    transforms.json, images/, sparse_pc.ply, and labels/<photo>.png (8-bit, 255 = object), which is truth for evaluation and
    never trained on. Poses stay in COLMAP's world; only the camera's axes are renamed to OpenGL's. Each frame's `bounds` are
    LLFF's near and far distances along the viewing axis (planar z) in world units.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from spinnerf_ns.conventions import resize_mask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask, read_image, save_object_mask, write_json, write_png
from spinnerf_ns.scene.llff_folder import LlffFolder, open_llff_folder

SPIN_NERF_PHOTOS = 100
"""Photos of a SPIn-NeRF scene: the first 40 by name are object-free test photos, the other 60 are trained on."""

SPIN_NERF_TEST_PHOTOS = 40

HOLDOUT = 8
"""`interval`: every eighth photo is held out, starting with the first (LLFF)."""

SOURCE_FORMAT = "llff"
"""transforms.json's `source_format`: says that a folder may be replaced by `--overwrite`."""

REPLACED = ".transforms.json.replaced"
"""What transforms.json is called while `--overwrite` replaces the dataset: after a kill it still says whose folder it is."""

Split = Literal["none", "spin-nerf", "interval"]


@dataclass(frozen=True)
class LlffPoses:
    """The contents of poses_bounds.npy."""

    c2w: npt.NDArray[np.float64]
    """(N, 3, 4) camera-to-world, OpenGL camera axes (x right, y up, looks along -z), in COLMAP's world."""
    height: npt.NDArray[np.float64]
    """(N,) height in pixels of the photo that `focal` belongs to."""
    width: npt.NDArray[np.float64]
    """(N,) its width."""
    focal: npt.NDArray[np.float64]
    """(N,) focal length in pixels at that size."""
    bounds: npt.NDArray[np.float64]
    """(N, 2) near and far planar depth, world units."""

    def __len__(self) -> int:
        return len(self.c2w)


def read_poses_bounds(path: Path) -> LlffPoses:
    """Reads LLFF's poses_bounds.npy.

    Raises:
        SpinnerfError: no such file, another shape, values that are no numbers, or a matrix that is no rotation.
    """
    if not path.is_file():
        raise SpinnerfError(f"{path} is missing; run LLFF's imgs2poses.py, or name the folder that holds the poses")
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SpinnerfError(f"{path} is no numpy array ({error}); write it again with LLFF's imgs2poses.py") from error
    if table.ndim != 2 or table.shape[1] != 17 or len(table) == 0 or not np.issubdtype(table.dtype, np.number):
        raise SpinnerfError(f"{path} holds {table.dtype} of shape {table.shape}; LLFF's poses are N x 17, one row per photo")
    table = table.astype(np.float64)
    matrices, bounds = table[:, :15].reshape(-1, 3, 5), table[:, 15:]
    down, right, backwards, position = (matrices[:, :, i] for i in range(4))
    c2w = np.stack([right, -down, backwards, position], axis=-1)
    height, width, focal = matrices[:, :, 4].T

    def refuse(wrong: npt.NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            raise SpinnerfError(f"{path}: row {int(np.flatnonzero(wrong)[0])} {what}; run LLFF's imgs2poses.py again")

    refuse(~np.isfinite(table).all(axis=1), "holds values that are no numbers")
    refuse((height <= 0) | (width <= 0) | (focal <= 0), "has no positive height, width and focal length")
    refuse((bounds[:, 0] <= 0) | (bounds[:, 1] <= bounds[:, 0]), "has no bounds 0 < near < far")
    rotation = c2w[:, :, :3]
    skew = np.abs(rotation.transpose(0, 2, 1) @ rotation - np.eye(3)).max(axis=(1, 2))
    refuse((skew > 1e-2) | (np.linalg.det(rotation) < 0), "holds no rotation (down, right, backwards expected)")
    return LlffPoses(c2w, height, width, focal, bounds)


def convert_llff(
    source: Path,
    output: Path,
    factor: float | None = None,
    split: Split = "none",
    num_test: int | None = None,
    link: bool = False,
    overwrite: bool = False,
) -> Path:
    """Writes an LLFF or SPIn-NeRF folder as a nerfstudio dataset.

    Args:
        source: the folder with poses_bounds.npy. It is never modified.
        output: the dataset's folder. It appears when it is complete.
        factor: which images_N to use; None takes the lowest N (images/ where there is no other).
        split: "none" leaves the split to nerfstudio's parser; "interval" holds out every eighth photo; "spin-nerf" makes the
            first `num_test` photos by name the object-free val and test photos, and says so in the workspace's manifest.
        num_test: "spin-nerf": how many photos are object-free. None: 40, and the scene must then have its 100 photos.
        link: relative symbolic links to the photos in place of copies.
        overwrite: replace a dataset that this function wrote before; a workspace in it stays.

    Returns:
        `output`.

    Raises:
        SpinnerfError: anything in the folder that does not fit; nothing is left behind then.
    """
    source, output = Path(source), Path(output)
    poses = read_poses_bounds(source / "poses_bounds.npy")
    _check_output(source, output, overwrite)
    folder = open_llff_folder(source, factor, len(poses))
    meta = llff_meta(poses, folder)
    object_free = _add_split(meta, split, num_test, folder)

    partial = output.parent / f".{output.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write_photos(folder, meta, partial / "images", link)
        _write_labels(folder, meta, partial / "labels")
        if _write_points(folder, partial):
            meta["ply_file_path"] = "sparse_pc.ply"
        write_json(partial / "transforms.json", meta)
        _install(partial, output, object_free)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


# ------------------------------------------------------------------------------------------------------------ transforms
def llff_meta(poses: LlffPoses, folder: LlffFolder) -> dict[str, Any]:
    """transforms.json without a split; intrinsics once where all photos share them, else per frame."""
    intrinsics, frames = [], []
    for row, path in folder.photos:
        intrinsics.append(_intrinsics(poses, row, path, folder))
        pose = np.vstack([poses.c2w[row], [0.0, 0.0, 0.0, 1.0]])
        frames.append(
            {
                "file_path": f"images/{path.name if folder.shrink is None else path.stem + '.png'}",
                "transform_matrix": pose.tolist(),
                "bounds": poses.bounds[row].tolist(),
            }
        )
    meta: dict[str, Any] = {"camera_model": intrinsics[0].pop("camera_model"), "source_format": SOURCE_FORMAT}
    for other in intrinsics[1:]:
        other.pop("camera_model")
    if all(other == intrinsics[0] for other in intrinsics):
        meta.update(intrinsics[0])
    else:
        for frame, own in zip(frames, intrinsics, strict=True):
            frame.update(own)
    return {**meta, "frames": frames}


def _intrinsics(poses: LlffPoses, row: int, path: Path, folder: LlffFolder) -> dict[str, Any]:
    """Intrinsics of one photo at its size on disk: COLMAP's camera where it is the one of the poses, else LLFF's focal."""
    full_width, full_height = poses.width[row], poses.height[row]
    width, height = _size(path, folder)
    scale_x, scale_y = width / full_width, height / full_height
    # Downscaling rounds each side to whole pixels, so the two scales differ a little in small photos.
    if abs(scale_x - scale_y) * max(full_width, full_height) > max(2.0, 0.02 * max(width, height)):
        raise SpinnerfError(
            f"{path} is {width}x{height}, but its row {row} of poses_bounds.npy is for {full_width:g}x{full_height:g}, "
            "another shape: photos and poses do not belong together, or the photo was turned or cropped"
        )
    camera = dict(folder.camera) if folder.camera else None
    if camera is not None:
        # COLMAP's model may be of another size than the row's (both scale with the photo).
        to_full_x, to_full_y = full_width / camera.pop("w"), full_height / camera.pop("h")
        focal = camera["fl_x"] * to_full_x
        if abs(to_full_x - to_full_y) < 0.01 * to_full_x and abs(focal - poses.focal[row]) < 0.01 * poses.focal[row]:
            for key, scale in (("fl_x", to_full_x * scale_x), ("cx", to_full_x * scale_x)):
                camera[key] *= scale
            for key, scale in (("fl_y", to_full_y * scale_y), ("cy", to_full_y * scale_y)):
                camera[key] *= scale
            return {"w": width, "h": height, **camera}
    return {
        "w": width,
        "h": height,
        "fl_x": poses.focal[row] * scale_x,
        "fl_y": poses.focal[row] * scale_y,
        "cx": width / 2,
        "cy": height / 2,
        "camera_model": "OPENCV",
    }


def _size(path: Path, folder: LlffFolder) -> tuple[int, int]:
    """(width, height) that the written photo has."""
    try:
        with Image.open(path) as image:
            width, height = image.size
    except (OSError, UnidentifiedImageError) as error:
        raise SpinnerfError(f"{path} cannot be read as a photo ({error}); write it again as PNG or JPEG") from error
    if folder.shrink is None:
        return width, height
    return max(1, round(width / folder.shrink)), max(1, round(height / folder.shrink))


def _add_split(meta: dict[str, Any], split: Split, num_test: int | None, folder: LlffFolder) -> list[str]:
    """Writes train/val/test_filenames into `meta`; returns the object-free photos' keys."""
    total = folder.total
    if split == "none":
        return []
    if split == "interval":
        held_out = [row % HOLDOUT == 0 for row, _ in folder.photos]
    elif split == "spin-nerf":
        if num_test is None and total != SPIN_NERF_PHOTOS:
            raise SpinnerfError(
                f"{folder.source}: {total} photos, but a SPIn-NeRF scene has {SPIN_NERF_PHOTOS} ({SPIN_NERF_TEST_PHOTOS} "
                "without the object, then the rest with it); say how many of the first photos are object-free with "
                "--num-test N, or take --split none"
            )
        count = SPIN_NERF_TEST_PHOTOS if num_test is None else num_test
        if not 0 < count < total:
            raise SpinnerfError(f"{folder.source}: --num-test {count} of {total} photos; test and training need at least 1")
        held_out = [row < count for row, _ in folder.photos]
    else:
        raise SpinnerfError(f"no split is called '{split}'; there are: none, spin-nerf, interval")
    names = [frame["file_path"] for frame in meta["frames"]]
    train = [name for name, out in zip(names, held_out, strict=True) if not out]
    test = [name for name, out in zip(names, held_out, strict=True) if out]
    if not train or not test:
        raise SpinnerfError(
            f"{folder.source}: split '{split}' gives {len(train)} training and {len(test)} test photos; take --split none"
        )
    meta.update(train_filenames=train, val_filenames=test, test_filenames=test)
    keys = _photo_keys(meta)
    return [keys[name] for name in test] if split == "spin-nerf" else []


def _photo_keys(meta: dict[str, Any]) -> dict[str, str]:
    """file_path -> the photo's key: its name without suffix, or with it for all photos if two would collide."""
    paths = [Path(frame["file_path"]) for frame in meta["frames"]]
    unique = len({path.stem for path in paths}) == len(paths)
    return {path.as_posix(): path.stem if unique else path.name for path in paths}


# --------------------------------------------------------------------------------------------------------------- writing
def _check_output(source: Path, output: Path, overwrite: bool) -> None:
    if output.resolve() == source.resolve() or output.resolve() in source.resolve().parents:
        raise SpinnerfError(f"{output}: the dataset cannot take its source's place; name another --output")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not any(_is_ours(output / name) for name in ("transforms.json", REPLACED)):
        raise SpinnerfError(f"{output} exists and was not written by convert-llff; name another --output")
    if not overwrite:
        raise SpinnerfError(f"{output} exists; replace it with --overwrite, or name another --output")


def _is_ours(transforms: Path) -> bool:
    try:
        return json.loads(transforms.read_text(encoding="utf-8")).get("source_format") == SOURCE_FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def _write_photos(folder: LlffFolder, meta: dict[str, Any], target: Path, link: bool) -> None:
    target.mkdir(parents=True)
    for (_, path), frame in zip(folder.photos, meta["frames"], strict=True):
        written = target / Path(frame["file_path"]).name
        if folder.shrink is not None:
            image = read_image(path)
            write_png(written, cv2.resize(image, _size(path, folder), interpolation=cv2.INTER_AREA))
        elif link:
            # The partial folder and the final one lie side by side, so one relative path is right from both.
            written.symlink_to(os.path.relpath(path.resolve(), target.resolve()))
        else:
            shutil.copyfile(path, written)  # not copy2: a read-only source must not make a read-only dataset


def _write_labels(folder: LlffFolder, meta: dict[str, Any], target: Path) -> None:
    """Labels become 8-bit masks at the written photo's size; what is missing or empty is said in one line."""
    keys = _photo_keys(meta)
    without, empty = [], []
    for (row, path), frame in zip(folder.photos, meta["frames"], strict=True):
        label = folder.labels.get(row)
        key = keys[frame["file_path"]]
        if label is None:
            without.append(key)
            continue
        object_mask = load_object_mask(label)
        width, height = _size(path, folder)
        if object_mask.shape != (height, width):
            label_height, label_width = object_mask.shape
            expected = height * label_width / width  # a few rows more or fewer: programs round differently
            if abs(label_height - expected) > max(0.02 * expected, 2):
                raise SpinnerfError(
                    f"{label} is {label_width}x{label_height}, its photo {path.name} is {width}x{height}, another shape; "
                    "export the label at the photo's size, or remove it"
                )
            object_mask = resize_mask(object_mask, (height, width))
        if not object_mask.any():
            empty.append(key)
        save_object_mask(target / f"{key}.png", object_mask)
    if len(without) < len(folder.photos):
        _say_photos("without a label", without, folder)
        _say_photos("with an empty label", empty, folder)


def _say_photos(what: str, photos: list[str], folder: LlffFolder) -> None:
    if photos:
        listed = ", ".join(photos[:5]) + (", ..." if len(photos) > 5 else "")
        folder.say(f"{len(photos)} of {len(folder.photos)} photos {what}: {listed}")


def _write_points(folder: LlffFolder, target: Path) -> bool:
    """sparse_pc.ply from COLMAP's points, in the poses' world; False where the folder has none."""
    if folder.points is None:
        folder.say(f"{folder.source} has no sparse/0/points3D.bin: no sparse_pc.ply (splatfacto starts at random points)")
        return False
    from nerfstudio.process_data.colmap_utils import create_ply_from_colmap

    try:
        create_ply_from_colmap("sparse_pc.ply", folder.points.parent, target, applied_transform=None)
    except Exception as error:  # a foreign parser: struct.error, MemoryError, ValueError, ... on a damaged file
        raise SpinnerfError(f"{folder.points} cannot be read as COLMAP's ({error}); write it again, or remove it") from error
    return True


def _install(partial: Path, output: Path, object_free: list[str]) -> None:
    """Moves the complete dataset into place. A workspace that is there already stays; transforms.json comes last."""
    if output.is_dir() and any(output.iterdir()):
        if (output / "transforms.json").exists():
            os.replace(output / "transforms.json", output / REPLACED)  # what is being replaced must not look finished
        for name in ("images", "labels", "sparse_pc.ply"):
            old = output / name
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink(missing_ok=True)
            if (partial / name).exists():
                os.replace(partial / name, old)
        _set_object_free(output, object_free)
        os.replace(partial / "transforms.json", output / "transforms.json")
        (output / REPLACED).unlink(missing_ok=True)
        return
    _set_object_free(partial, object_free)  # arrives with the photos, never after them
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.is_dir():
        output.rmdir()
    os.replace(partial, output)


def _set_object_free(dataset: Path, object_free: list[str]) -> None:
    if not object_free and not (dataset / "spinnerf").exists():
        return  # nothing to say, and nothing said before
    from spinnerf_ns.scene.workspace import Workspace

    workspace = Workspace.open(dataset)
    if tuple(object_free) != tuple(workspace.object_free):
        workspace.set_object_free(object_free)
