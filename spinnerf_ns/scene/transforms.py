"""Any capture as one transforms.json in memory: what nerfstudio's parsers cannot read as it stands on disk.

People's files differ from what ns-process-data writes in a few ways, and each makes a stock parser fail or, worse, read
something else: names without a suffix, or with the suffix that photos had before they were converted; a lens or a size that is
told per frame, or by an angle; photos that are gone; downscaled folders in which sub-folders with equal names became one;
positions in a map's metres, which float32 cannot hold. `mended` brings all of them to one form, and says what it did.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spinnerf_ns.decoding import UNREADABLE, photo_size
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene.source import (
    NOTED,
    PHOTO_SUFFIXES,
    SPLITS,
    check_lens,
    check_photos_exist,
    check_places,
    check_rotation,
)

MOST_PIXELS = 1600
"""Longer side above which a downscaled folder is used where there is one: nerfstudio's limit."""

FAR_OFF = 500.0
"""Positions are moved to the origin before they become float32 where they lie this many times further off than they spread."""

CAPTURE_WIDE = ("applied_transform", "applied_scale", "orientation_override", "fisheye_crop_radius", "measured_points")
"""What transforms.json says of all frames together, besides the lens."""

DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2", "distortion_params")

PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
"""Camera models that nerfstudio reads alike: six numbers of distortion, some of them zero."""


@dataclass
class Mended:
    """A capture in one form."""

    meta: dict[str, Any]
    """As transforms.json; file paths are absolute and of the resolution used, and every frame has its intrinsics."""
    where: Path
    """The file that it comes from, for messages; or the folder."""
    reasons: list[str] = field(default_factory=list)
    """What nerfstudio's own parser would have stumbled over; empty where it reads the capture as well."""
    alpha: bool = False
    """Whether photos are laid over white, as nerfstudio's Blender parser does."""
    colmap_model: Path | None = None

    @property
    def shift(self) -> np.ndarray:
        """(3,) what is subtracted from all positions before they become float32; zeros where they are near the origin."""
        positions = np.array([np.array(frame["transform_matrix"], dtype=np.float64)[:3, 3] for frame in self.meta["frames"]])
        middle = np.median(positions, axis=0)
        spread = float(np.median(np.abs(positions - middle).max(axis=1)))
        return middle if np.abs(middle).max() > FAR_OFF * spread > 0 else np.zeros(3)


def mended(
    meta: dict[str, Any], where: Path, skipped: Collection[str] = (), downscale: int | None = None, smaller: bool = True
) -> Mended:
    """Brings what a transforms.json says to one form.

    Args:
        meta: its contents, as `read_transforms` gives them.
        where: the file, beside which its paths begin; or a folder.
        skipped: `file_path` of frames that are left out.
        downscale: N of images_N; None takes what nerfstudio's parser would take.
        smaller: whether there may be downscaled folders at all.

    Raises:
        SpinnerfError: photos are missing, or a lens is of no kind that can be trained on.
    """
    folder = where.parent if where.suffix else where
    result = Mended({}, where)
    frames = [frame for frame in meta["frames"] if frame["file_path"] not in set(skipped)]
    if not frames:
        raise SpinnerfError(f"{where}: all {len(meta['frames'])} photos are left out, so nothing is left; put some back")
    if len(frames) < len(meta["frames"]):
        result.reasons.append(f"{len(meta['frames']) - len(frames)} photos are left out")
    check_places(np.array([np.array(frame["transform_matrix"], dtype=np.float64)[:3, 3] for frame in frames]), where)
    for frame in frames:
        check_rotation(np.array(frame["transform_matrix"], dtype=np.float64)[:3, :3], f"{where}: {frame['file_path']}")
    full = _find_all(folder, frames, where, result)
    factor = (downscaled_factor(folder, full) if downscale is None else downscale) if smaller else 1
    used = full if factor <= 1 else _downscaled(folder, full, factor, result, given=downscale is not None)
    for key in ("mask_path", "depth_file_path"):
        count = sum(bool(frame.get(key)) for frame in frames)
        if 0 < count < len(frames):
            result.reasons.append(f"only {count} frames have {key}")
    result.reasons += meta.get(NOTED, [])
    names = {}
    entries = []
    for frame, path, original in zip(frames, used, full, strict=True):
        merged = {**frame, **meta}  # a value for the whole capture goes before a photo's own, as in nerfstudio
        try:
            camera = _camera(merged, original, 1 if path == original else factor, result)
        except (TypeError, ValueError) as error:
            raise SpinnerfError(f"{where}: {frame['file_path']}: intrinsics are no numbers ({error}); correct them") from error
        entry = {**camera, "file_path": str(path)}
        entry["transform_matrix"] = frame["transform_matrix"]
        for key in ("mask_path", "depth_file_path"):
            if frame.get(key):
                entry[key] = str(folder / frame[key])
        if "bounds" in frame:
            entry["bounds"] = frame["bounds"]
        names[Path(frame["file_path"]).as_posix()] = str(path)
        entries.append(entry)
    result.meta = {key: meta[key] for key in CAPTURE_WIDE if key in meta}
    if len(result.meta.get("applied_transform", ())) == 4:
        result.meta["applied_transform"] = result.meta["applied_transform"][:3]
        result.reasons.append("applied_transform has four rows")
    result.meta["camera_model"] = _model(meta, frames, where, result)
    if meta.get("ply_file_path"):
        result.meta["ply_file_path"] = str(folder / meta["ply_file_path"])
    for split in SPLITS:
        if f"{split}_filenames" in meta:
            listed = [Path(name).as_posix() for name in meta[f"{split}_filenames"]]
            unknown = [name for name in listed if name not in names and name not in set(skipped)]
            if unknown:
                raise SpinnerfError(f"{where}: {split}_filenames names {unknown[0]}, which is no frame; take it out")
            result.meta[f"{split}_filenames"] = [names[name] for name in listed if name in names]
    result.meta["frames"] = entries
    if result.shift.any():
        offset = float(np.abs(result.shift).max())
        result.reasons.append(f"positions lie {offset:.3g} from the origin: they are moved there for training, not on disk")
    return result


# ---------------------------------------------------------------------------------------------------------------- photos
def find_photo(path: Path) -> Path:
    """The file that a name means: itself, or the one beside it with another suffix of a photo, of other case, or with accents
    written otherwise (macOS parts them from their letters); itself where there is none."""
    if path.is_file() and path.suffix.lower() not in UNREADABLE:
        return path
    if "\\" in path.name:  # written on Windows
        return find_photo(path.parent / path.name.replace("\\", "/"))
    for start in (path, path.with_suffix("")):
        for suffix in (*PHOTO_SUFFIXES, *(suffix.upper() for suffix in PHOTO_SUFFIXES)):
            if (other := start.with_name(start.name + suffix)).is_file():
                return other
    return path if path.is_file() else _of_one_spelling(path)


def _of_one_spelling(path: Path) -> Path:
    """The one file of a folder whose name is a given one but for case and the way in which accents are written."""

    def spelt(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    if not path.parent.is_dir():
        return path
    found = [each for each in path.parent.iterdir() if spelt(each.name) == spelt(path.name) and each.is_file()]
    return found[0] if len(found) == 1 else path


def _find_all(folder: Path, frames: Sequence[dict[str, Any]], where: Path, result: Mended) -> list[Path]:
    named = [folder / Path(frame["file_path"]) for frame in frames]
    found = [from_elsewhere(folder, find_photo(path)) for path in named]
    in_smaller = {}
    for index, path in enumerate(found):
        if not path.is_file():  # only the downscaled copy was kept
            copies = [copy / path.name for copy in folder.glob("images_*") if (copy / path.name).is_file()]
            if copies:
                in_smaller[index] = copies[0]
    check_photos_exist([in_smaller.get(index, path) for index, path in enumerate(found)], where)
    other = sum(a != b for a, b in zip(named, found, strict=True))
    if other:
        result.reasons.append(f"{other} photos are found under another name (suffix or folder) than stated")
    if len(set(found)) < len(found):
        twice = next(path for path in found if found.count(path) > 1)
        raise SpinnerfError(f"{where}: several frames mean {twice}; keep the one with the right pose")
    return found


def from_elsewhere(folder: Path, path: Path) -> Path:
    """The photo below this folder that an absolute path of another machine, or of before a move, ends with."""
    if path.is_file() or not path.is_absolute():
        return path
    tails = (folder.joinpath(*path.parts[-count:]) for count in (3, 2, 1))
    return next((found for tail in tails if (found := find_photo(tail)).is_file()), path)


def downscaled_factor(folder: Path, paths: Sequence[Path]) -> int:
    """N of the images_N that nerfstudio's parser would take."""
    if not paths[0].is_file():
        kept = sorted(int(copy.name[7:]) for copy in folder.glob("images_*") if (copy / paths[0].name).is_file())
        return kept[0] if kept else 1
    longer, factor = max(photo_size(paths[0])), 1
    while longer / factor > MOST_PIXELS and _in_folder(folder, paths[0], 2 * factor).is_file():
        factor *= 2
    return factor


def _in_folder(folder: Path, path: Path, factor: int) -> Path:
    """A photo's copy in images_N: below the same sub-folder where that is there, else directly in it."""
    smaller = folder / f"images_{factor}"
    parts = path.relative_to(folder).parts if folder in path.parents else (path.name,)
    nested = smaller.joinpath(*parts[1:]) if len(parts) > 2 else smaller / path.name
    return nested if nested.is_file() else smaller / path.name


def _downscaled(folder: Path, full: list[Path], factor: int, result: Mended, given: bool) -> list[Path]:
    used = [_in_folder(folder, path, factor) for path in full]
    if len(set(used)) < len(used):
        result.reasons.append(f"images_{factor}/ has one file for several photos of one name: full size is used")
        return full
    if any(path.parent != folder / f"images_{factor}" for path in used):
        result.reasons.append(f"images_{factor}/ has sub-folders")
    absent = [path for path in used if not path.is_file()]
    if absent and not given and all(path.is_file() for path in full):  # a conversion that ended early
        lacks = f"images_{factor}/ lacks {len(absent)} of {len(used)} photos ({absent[0].name})"
        result.reasons.append(f"{lacks}: full size is used")
        return full
    check_photos_exist(used, folder)
    return used


# ----------------------------------------------------------------------------------------------------------------- lenses
def _camera(merged: dict[str, Any], photo: Path, factor: int, result: Mended) -> dict[str, Any]:
    """A frame's size, intrinsics and distortion, at 1/factor of what is stated."""
    absent = [name for name in ("w", "h", "fl_x", "fl_y", "cx", "cy") if name not in merged]
    if absent:
        text = f"{', '.join(absent)} not stated"
        if text not in result.reasons:
            result.reasons.append(text)
    if "w" not in merged or "h" not in merged:
        width, height = photo_size(photo)
    else:
        width, height = int(merged["w"]), int(merged["h"])
    fx = _focal(merged, "fl_x", "camera_angle_x", width)
    fy = _focal(merged, "fl_y", "camera_angle_y", height)
    fx, fy = fx if fx is not None else fy, fy if fy is not None else fx
    if fx is None or fy is None:
        raise SpinnerfError(
            f"{result.where}: no focal length of {photo.name} (neither fl_x nor camera_angle_x); add it, in pixels of the "
            f"{width}x{height} photo"
        )
    camera = {
        "w": width // factor,
        "h": height // factor,
        "fl_x": fx / factor,
        "fl_y": fy / factor,
        "cx": float(merged.get("cx", width / 2)) / factor,
        "cy": float(merged.get("cy", height / 2)) / factor,
    }
    given = {name: merged[name] for name in DISTORTION if name in merged}
    return {**camera, **(given or {"k1": 0.0})}


def _focal(merged: dict[str, Any], name: str, angle: str, pixels: int) -> float | None:
    if name in merged:
        return float(merged[name])
    return 0.5 * pixels / math.tan(0.5 * float(merged[angle])) if angle in merged else None


def _model(meta: dict[str, Any], frames: Sequence[dict[str, Any]], where: Path, result: Mended) -> str:
    """The one camera model of all frames."""
    fisheye = {"camera_model": "OPENCV_FISHEYE"} if meta.get("is_fisheye") is True else {}  # instant-ngp's word for it
    models = {str({**fisheye, **meta, **frame}.get("camera_model", "OPENCV")).upper() for frame in frames}
    kinds = {"OPENCV" if model in PERSPECTIVE else model for model in models}
    if len(kinds) > 1:
        raise SpinnerfError(
            f"{where}: photos of several lenses ({', '.join(sorted(kinds))}) in one capture; undistort them all to PINHOLE "
            "(colmap image_undistorter), or keep the frames of one lens"
        )
    model = models.pop() if len(models) == 1 else kinds.pop()
    check_lens(model, where)
    if model != meta.get("camera_model", "OPENCV"):
        result.reasons.append(f"the lens is told per frame ({model})")
    return model
