"""What a folder of photos is, and what to say where it is none that can be used."""

from __future__ import annotations

import codecs
import json
import shlex
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.hints import command

SPLITS = ("train", "val", "test")
"""nerfstudio's names of a capture's parts."""

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

MEASURED_POINTS = "measured_points"
"""Key of an object-free capture's transforms.json: how many points of its .ply, the first ones, were measured in photos. The
others were made from completed depth: a start for splats, but nothing to train a field's depth on."""

NOTED = "noted"
"""Key of what `read_transforms` returns: in what the file differs from nerfstudio's form, a list of texts; absent without any."""

LEAST_FOCAL = 1 / 32
"""Shortest focal length in photo sides: 173 degrees. Below it, it is in other units than pixels."""

SAME_PLACE = 1e-9
"""Cameras stand at one place where they differ by less than this part of their distance from the origin."""

LENSES = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE")
"""Camera models that can be trained on."""

ORIENTATIONS = ("pca", "up", "vertical", "none")
"""What nerfstudio's orientation_override may say."""

MOST_BENT = 10.0
"""Distortion that moves a photo's corner by more than so many times its distance from the middle is no lens's."""

ROTATION_TOLERANCE = 1e-2
"""Largest error of a rotation matrix: people write them with few digits."""


def without_poses(data: Path) -> str:
    """What to say of a folder without poses: what was found, and the command that makes them."""
    photos = {folder: number for folder in sorted(_folders(data)) if (number := _count_photos(folder))}
    found = ", ".join(f"{number} photos in {folder.relative_to(data) or '.'}" for folder, number in list(photos.items())[:3])
    start = f"{data}: no poses (no transforms.json, transforms_train.json, poses_bounds.npy, or COLMAP model with images/); found "
    output = data.with_name(f"{data.resolve().name}-posed")
    if (other := _of_another_program(data, output)) is not None:
        return f"{data}: {other}"
    if not photos:
        return f"{start}no photos either; --data wants the folder of a posed capture"
    source = max(photos, key=lambda folder: photos[folder])
    make = command("ns-process-data", "images", data=source, output_dir=output)
    return f"{start}{found}; find the poses first: {make}"


def _of_another_program(data: Path, output: Path) -> str | None:
    """What a folder is that a phone's program or a photogrammetry program exported, and the command that converts it."""
    inside = next((child for child in sorted(_folders(data)) if child != data and (child / "transforms.json").is_file()), None)
    if inside is not None:
        return f"the capture lies in a folder of it: --data {shlex.quote(str(inside))}"
    if (data / "keyframes").is_dir():
        return f"an export of Polycam; convert it: {command('ns-process-data', 'polycam', data=data, output_dir=output)}"
    record = next(
        (child for child in (data, data / "EXR_RGBD") if (child / "rgb").is_dir() and (child / "metadata.json").is_file()), None
    )
    if record is not None:
        return f"an export of Record3D; convert it: {command('ns-process-data', 'record3d', data=record, output_dir=output)}"
    images = data / "images" if (data / "images").is_dir() else data
    for program, title, option, pattern, starts in (
        ("metashape", "Metashape", "xml", "*.xml", b"<document"),
        ("realitycapture", "RealityCapture", "csv", "*.csv", b"#name"),
    ):
        for file in sorted(data.glob(pattern)):
            if starts in file.open("rb").read(200):
                convert = command("ns-process-data", program, data=images, output_dir=output, **{option: file})
                return f"{file.name} has poses of {title}; convert them: {convert}"
    return None


def photo_folder(data: Path) -> Path | None:
    """The folder with most photos directly in a folder; None without any."""
    counted = {folder: _count_photos(folder) for folder in sorted(_folders(data)) if folder != data}
    best = max(counted, key=lambda folder: counted[folder], default=None)
    return best if best is not None and counted[best] else None


def _folders(data: Path) -> Iterable[Path]:
    yield data
    yield from (child for child in data.iterdir() if child.is_dir() and not child.name.startswith("."))


def _count_photos(folder: Path) -> int:
    return sum(child.suffix.lower() in PHOTO_SUFFIXES for child in folder.iterdir())


def read_transforms(path: Path) -> dict[str, Any]:
    """Reads and checks a transforms.json.

    Returns:
        Its contents; every frame has a `file_path` and a 4x4 `transform_matrix` of finite numbers.

    Raises:
        SpinnerfError: it is missing, damaged, or has no frames with poses.
    """
    noted: list[str] = []
    try:
        content = path.read_bytes()
        utf16 = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # Windows' PowerShell
        noted += ["written in UTF-16"] if utf16 else []
        meta = json.loads(content.decode("utf-16" if utf16 else "utf-8-sig"), object_pairs_hook=partial(_without_nulls, noted))
    except OSError as error:
        raise SpinnerfError(f"{path}: cannot be read ({error.strerror}); --data wants a posed capture") from error
    except ValueError as error:
        raise SpinnerfError(f"{path}: is no valid JSON ({error}); write it again: {pose_again(path)}") from error
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not frames:
        raise SpinnerfError(f"{path}: a list of `frames` was expected, found none; write it again: {pose_again(path)}")
    seen: set[str] = set()
    for index, frame in enumerate(frames):
        name = frame.get("file_path") if isinstance(frame, dict) else None
        if not isinstance(name, str):
            raise SpinnerfError(f"{path}: frame {index} has no `file_path`; add it, or remove the frame")
        if name in seen:
            raise SpinnerfError(f"{path}: {name} has two frames; keep the one with the right pose")
        seen.add(name)
        try:
            matrix = _square_pose(np.array(frame.get("transform_matrix"), dtype=np.float64), noted)
        except (TypeError, ValueError):
            matrix = np.zeros(0)
        frame["transform_matrix"] = matrix.tolist()
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise SpinnerfError(
                f"{path}: {name} has no `transform_matrix` of 4x4 finite numbers; remove it, or pose again: {pose_again(path)}"
            )
        if np.abs(matrix[3] - np.array([0.0, 0.0, 0.0, 1.0])).max() > ROTATION_TOLERANCE:
            found = " ".join(f"{value:g}" for value in matrix[3])
            raise SpinnerfError(f"{path}: {name}: transform_matrix ends with {found}, where 0 0 0 1 was expected; correct it")
        check_rotation(matrix[:3, :3], f"{path}: {name}")
    _check_shared(meta, path)
    unmasked = [frame["file_path"] for frame in frames if not frame.get("mask_path")]
    if 0 < len(unmasked) < len(frames):
        raise SpinnerfError(
            f"{path}: {len(unmasked)} of {len(frames)} frames have no `mask_path` ({unmasked[0]} first), the others have one; "
            "give every frame one (white = use), or take it from all"
        )
    if noted:
        meta[NOTED] = list(dict.fromkeys(noted))
    return meta


def _check_shared(meta: dict[str, Any], path: Path) -> None:
    """Raises SpinnerfError for what a transforms.json says of all frames and nerfstudio would stumble over, or read otherwise."""

    def refuse(name: str, wanted: str) -> None:
        found = json.dumps(meta[name])
        raise SpinnerfError(f"{path}: {name} is {found if len(found) < 60 else found[:57] + '...'}, {wanted} was expected")

    def number(name: str) -> bool:
        value = meta.get(name, 1)
        return isinstance(value, int | float) and np.isfinite(value) and value > 0

    for name in ("applied_scale", "fisheye_crop_radius"):
        if not number(name):
            refuse(name, "a positive number")
    for name in ("w", "h"):
        if meta.get(name, 1) in (0, "0", False):
            refuse(name, "the photos' size in pixels")
    if meta.get("orientation_override", "up") not in ORIENTATIONS:
        refuse("orientation_override", f"one of {', '.join(ORIENTATIONS)}")
    for name in (f"{split}_filenames" for split in SPLITS):
        if not isinstance(meta.get(name, []), list):
            refuse(name, "a list of photos")
    if "applied_transform" in meta:
        try:
            fits = np.array(meta["applied_transform"], dtype=np.float64).shape in ((3, 4), (4, 4))
        except (TypeError, ValueError):
            fits = False
        if not fits:
            refuse("applied_transform", "3 rows of 4 numbers")


def _without_nulls(noted: list[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON without what it says is null: that is as good as not said."""
    if any(value is None for _, value in pairs):
        noted.append("values that are null")
    return {name: value for name, value in pairs if value is not None}


def _square_pose(matrix: npt.NDArray[np.float64], noted: list[str]) -> npt.NDArray[np.float64]:
    """A pose of 12 or 16 numbers, by rows or by columns, as (4, 4); anything else as it is."""
    if matrix.shape in ((12,), (16,)):
        matrix = matrix.reshape(-1, 4)
        noted.append("poses in one row of numbers")
    if matrix.shape == (4, 4) and not matrix[3].any():
        matrix = matrix[:3]
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
        noted.append("poses of three rows")
    last = np.array([0.0, 0.0, 0.0, 1.0])
    if matrix.shape == (4, 4) and np.array_equal(matrix[:, 3], last) and not np.array_equal(matrix[3], last):
        matrix = matrix.T
        noted.append("poses written by columns")
    return matrix


def pose_again(where: Path, **options: Any) -> str:
    """The command that poses a capture's photos anew, beside it.

    Args:
        where: the capture's folder, or a file in it.
        options: further ones of ns-process-data.
    """
    folder = where.parent if where.suffix and not where.is_dir() else where
    photos = folder / "images" if (folder / "images").is_dir() else folder
    output = folder.with_name(f"{folder.resolve().name}-posed")
    return command("ns-process-data", "images", data=photos, output_dir=output, **options)


def check_rotation(rotation: npt.NDArray[np.float64], what: str) -> None:
    """Raises SpinnerfError for a (3, 3) that is no rotation: what nerfstudio makes of it is a picture of another world.

    Args:
        what: the file and photo, for the message.
    """
    size = float(np.sqrt((rotation**2).sum() / 3))
    if not np.isfinite(size) or size < 1e-6:
        found = "holds zeros in place of a rotation"
    elif np.abs(rotation.T @ rotation / size**2 - np.eye(3)).max() > ROTATION_TOLERANCE:
        found = "holds no rotation: its axes are not at right angles, or of different lengths"
    elif np.linalg.det(rotation) < 0:
        found = "holds a mirrored rotation (left-handed axes; nerfstudio's are x right, y up, z backwards)"
    elif abs(size - 1) > ROTATION_TOLERANCE:
        found = f"holds a rotation scaled by {size:.4g}; divide its first three columns by that"
    else:
        return
    raise SpinnerfError(f"{what}: transform_matrix {found}; write it as a rotation, or remove the frame")


def check_lens(model: str, where: Path) -> None:
    """Raises SpinnerfError for a camera model that the fields here are not trained with.

    Args:
        model: transforms.json's or COLMAP's name of it, or nerfstudio's of its type.
        where: the file that names it.
    """
    if model in LENSES:
        return
    if model == "EQUIRECTANGULAR":
        cut = pose_again(where, camera_type="equirectangular", images_per_equirect=14)
        advice = f"cut the panoramas into perspective photos: {cut}"
    else:
        advice = f"undistort the photos to PINHOLE or OPENCV_FISHEYE with what made them, or pose them again: {pose_again(where)}"
    raise SpinnerfError(f"{where}: camera_model {model}; {', '.join(LENSES)} are supported; {advice}")


def check_places(positions: npt.NDArray[np.float64], where: Path) -> None:
    """Raises SpinnerfError where (N, 3) cameras are one, or stand at one place: nothing then has a depth, nor a scale."""
    again = pose_again(where)
    if len(positions) == 1:
        text = "1 is too few photos: depth shows only between photos from different places, 20 are a good start; add photos"
        raise SpinnerfError(f"{where}: {text} and pose them together: {again}")
    if np.ptp(positions, axis=0).max() <= SAME_PLACE * np.abs(positions).max():
        text = "all cameras stand at one place, so nothing has a depth; take photos from different places and pose them"
        raise SpinnerfError(f"{where}: {text}: {again}")


def check_intrinsics(intrinsics: Sequence[float], size: tuple[int, int], what: str) -> None:
    """Raises SpinnerfError for numbers that no camera has.

    Args:
        intrinsics: fx, fy, cx, cy in pixels.
        size: (width, height) of the photo.
        what: the file and photo, for the message.
    """
    for name, value in zip(("fl_x", "fl_y", "cx", "cy"), intrinsics, strict=True):
        if not np.isfinite(value) or (name[0] == "f" and value <= 0):
            wanted = "a positive number" if name[0] == "f" else "a number"
            raise SpinnerfError(f"{what}: {name} is {value:g}, {wanted} of pixels was expected; correct it there")
    for name, value, side in (("fl_x", intrinsics[0], size[0]), ("fl_y", intrinsics[1], size[1])):
        if value < LEAST_FOCAL * side:
            raise SpinnerfError(
                f"{what}: {name} is {value:g} for a photo of {side} pixels, which no lens has; was it in millimetres, or a part of "
                "the photo's size? Write fl_x, fl_y, cx and cy in pixels there"
            )
    for name, value, side in (("cx", intrinsics[2], size[0]), ("cy", intrinsics[3], size[1])):
        if not -side <= value <= 2 * side:
            raise SpinnerfError(
                f"{what}: {name} is {value:g}, far outside its photo of {size[0]}x{size[1]} pixels; correct it there "
                f"(about {side / 2:g} without a crop)"
            )


def check_distortion(distortion: npt.NDArray[np.float64], intrinsics: Sequence[float], size: tuple[int, int], what: str) -> None:
    """Raises SpinnerfError for distortion that no lens has.

    Args:
        distortion: (6,) k1, k2, k3, k4, p1, p2.
        intrinsics, size, what: as `check_intrinsics` takes them.
    """
    squared = (size[0] / (2 * intrinsics[0])) ** 2 + (size[1] / (2 * intrinsics[1])) ** 2
    for power, (name, value) in enumerate(zip(("k1", "k2", "k3"), distortion, strict=False), start=1):
        if not np.isfinite(value) or abs(value) * min(squared, 1.0) ** power > MOST_BENT:
            raise SpinnerfError(f"{what}: {name} is {value:g}, which no lens has; correct it there (0 without distortion)")
    if not np.isfinite(distortion).all():
        raise SpinnerfError(f"{what}: k4, p1, p2 are {distortion[3:].tolist()}, numbers were expected; correct them there")


def check_photos_exist(paths: Iterable[Path], where: Path) -> None:
    """Raises SpinnerfError with the names of the photos that are not on disk.

    Args:
        paths: the photos.
        where: the file or folder that names them.
    """
    paths = list(paths)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        names = ", ".join(str(path) for path in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise SpinnerfError(
            f"{where}: {len(missing)} of its {len(paths)} photos are missing on disk: {names}; "
            f"put them back, or go on without them: {command('ns-spinnerf', 'check', data=_capture_of(where), skip_missing=True)}"
        )


def _capture_of(where: Path) -> Path:
    """What --data is, for the file that names the photos."""
    return where.parent if where.name in ("transforms.json", "transforms_train.json", "poses_bounds.npy") else where
