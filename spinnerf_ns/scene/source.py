"""What a folder of photos is, and what to say where it is none that can be used."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spinnerf_ns.errors import SpinnerfError

if TYPE_CHECKING:
    from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig

SPLITS = ("train", "val", "test")
"""nerfstudio's names of a capture's parts."""

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

MEASURED_POINTS = "measured_points"
"""Key of an object-free capture's transforms.json: how many points of its .ply, the first ones, were measured in photos. The
others were made from completed depth: a start for splats, but nothing to train a field's depth on."""

COLMAP_FOLDERS = ("colmap/sparse/0", "sparse/0", "sparse")
"""Where COLMAP's model is looked for; the first is nerfstudio's default."""


def find_dataparser(data: Path) -> DataParserConfig:
    """The configuration of the nerfstudio parser that reads `data`: nerfstudio, COLMAP or Blender, by what is on disk.

    Args:
        data: a folder, or a .json file in transforms.json's format.

    Raises:
        SpinnerfError: nothing is there, or nothing with poses.
    """
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    if not data.exists():
        raise SpinnerfError(f"{data}: no such folder or file; --data wants the folder of a posed capture")
    if data.is_file():
        if data.suffix != ".json":
            raise SpinnerfError(f"{data}: a folder, or a .json file in transforms.json's format, was expected")
        return NerfstudioDataParserConfig(data=data)
    if (data / "transforms.json").is_file():
        return NerfstudioDataParserConfig(data=data)
    if (data / "transforms_train.json").is_file():
        return BlenderDataParserConfig(data=data)
    colmap = next((folder for folder in COLMAP_FOLDERS if _is_colmap_model(data / folder)), None)
    if colmap is not None and (data / "images").is_dir():
        return ColmapDataParserConfig(data=data, colmap_path=Path(colmap), load_3D_points=False)
    raise SpinnerfError(_without_poses(data))


def _is_colmap_model(folder: Path) -> bool:
    return any(all((folder / f"{name}{suffix}").is_file() for name in ("cameras", "images")) for suffix in (".bin", ".txt"))


def _without_poses(data: Path) -> str:
    photos = {folder: number for folder in sorted(_folders(data)) if (number := _count_photos(folder))}
    found = ", ".join(f"{number} photos in {folder.relative_to(data) or '.'}" for folder, number in list(photos.items())[:3])
    start = f"{data}: no poses (no transforms.json, transforms_train.json or COLMAP model with images/); found "
    output = data.with_name(f"{data.resolve().name}-posed")
    if (data / "poses_bounds.npy").is_file():
        return (
            f"{start}poses_bounds.npy{', ' + found if found else ''}; convert it first: "
            f"ns-spinnerf convert-llff --data {data} --output {output}"
        )
    if not photos:
        return f"{start}no photos either; --data wants the folder of a posed capture"
    source = max(photos, key=lambda folder: photos[folder])
    return f"{start}{found}; find the poses first: ns-process-data images --data {source} --output-dir {output}"


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
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpinnerfError(f"{path}: cannot be read ({error.strerror}); --data wants a posed capture") from error
    except ValueError as error:
        raise SpinnerfError(f"{path}: is no valid JSON ({error}); write it again: ns-process-data") from error
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not frames:
        raise SpinnerfError(f"{path}: a list of `frames` was expected, found none; write it again: ns-process-data")
    seen: set[str] = set()
    for index, frame in enumerate(frames):
        name = frame.get("file_path") if isinstance(frame, dict) else None
        if not isinstance(name, str):
            raise SpinnerfError(f"{path}: frame {index} has no `file_path`; add it, or remove the frame")
        if name in seen:
            raise SpinnerfError(f"{path}: {name} has two frames; keep the one with the right pose")
        seen.add(name)
        try:
            matrix = np.array(frame.get("transform_matrix"), dtype=np.float64)
        except (TypeError, ValueError):
            matrix = np.zeros(0)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise SpinnerfError(
                f"{path}: {name} has no `transform_matrix` of 4x4 finite numbers; remove or pose it: ns-process-data"
            )
    return meta


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
            "put them back, or remove their frames"
        )
