"""The one way in: what a folder is, and the parser that every command reads it with."""

from __future__ import annotations

import dataclasses
import shlex
import struct
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinnerf_ns.decoding import photo_size
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.hints import command
from spinnerf_ns.scene.kinds import COLMAP_MASKS, blender_transforms, colmap_transforms, llff_transforms, text_names
from spinnerf_ns.scene.source import PHOTO_SUFFIXES, SPLITS, photo_folder, read_transforms, without_poses
from spinnerf_ns.scene.transforms import (
    MOST_PIXELS,
    Mended,
    downscaled_factor,
    find_photo,
    from_elsewhere,
    mended,
)

if TYPE_CHECKING:
    from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig

COLMAP_FOLDERS = ("colmap/sparse", "sparse", "colmap", "")
"""Where COLMAP's models are looked for: in these folders, in those directly in them, and (hloc) in */models/*."""

REGISTERED = {
    "sdfstudio-data": "meta_data.json",
    "scannetpp-data": "dslr/nerfstudio/transforms_undistorted.json",
    "scannet-data": "intrinsic/intrinsic_color.txt",
    "phototourism-data": "dense/sparse/images.bin",
    "dycheck-data": "dataset.json",
    "minimal-parser": "train.npz",
}
"""Registered parser -> a file that only its captures have."""

CARRIED = ("orientation_method", "center_method", "scale_factor", "auto_scale_poses", "scene_scale", "load_3D_points")
"""What a user may have set of nerfstudio's parser and holds for another one as well."""


def find_dataparser(data: Path, skipped: Collection[str] = (), given: Any = None) -> DataParserConfig:
    """The configuration of the parser that reads `data`, by what is on disk.

    Args:
        data: a folder, or a .json file in transforms.json's format.
        skipped: photos, as the source names them, that are left out.
        given: the configuration of nerfstudio's own parser as a command line has it, whose settings are carried over.

    Raises:
        SpinnerfError: nothing is there, nothing with poses, or photos are missing.
    """
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    from spinnerf_ns.scene.dataparser import MendedDataParserConfig

    data, kind = Path(data), kind_of(data)
    stock = NerfstudioDataParserConfig() if given is None else given
    settings = {name: getattr(stock, name) for name in CARRIED if given is not None}
    if kind in REGISTERED:
        from nerfstudio.configs.dataparser_configs import all_dataparsers

        return dataclasses.replace(all_dataparsers[kind], data=data)
    read = mended_source(data, skipped, stock.downscale_factor)
    if not read.reasons and kind == "nerfstudio":
        return dataclasses.replace(stock, data=data)
    if not read.reasons and kind == "blender":
        return BlenderDataParserConfig(data=data)
    if not read.reasons and kind == "colmap":
        assert read.colmap_model is not None
        model = read.colmap_model.relative_to(data)
        return ColmapDataParserConfig(**{**settings, "load_3D_points": False}, data=data, colmap_path=model, downscale_factor=1)
    values = {each.name: getattr(stock, each.name) for each in dataclasses.fields(NerfstudioDataParserConfig)}
    values.update(data=data, skipped=tuple(skipped))
    values.pop("_target")
    if kind == "colmap" and given is None:
        values["eval_mode"] = "interval"  # as nerfstudio's COLMAP parser splits
    return MendedDataParserConfig(**values)


def settled_dataparser(given: Any, data: Path, skipped: Collection[str] = ()) -> Any:
    """The parser that training takes for the one that a command line names.

    Nerfstudio's own, the default, gives way to what the capture wants; another one stays. COLMAP's asks nothing and loads no
    points: they are read otherwise, and one without points would end it.

    Args:
        given: its configuration.
        data: the capture, which is set in the result.
        skipped: as in `find_dataparser`.

    Raises:
        SpinnerfError: as `find_dataparser`.
    """
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    from spinnerf_ns.scene.dataparser import MendedDataParserConfig

    if type(given) is NerfstudioDataParserConfig:
        return find_dataparser(data, skipped, given)
    if skipped and not isinstance(given, MendedDataParserConfig):
        again = command("ns-train", "METHOD", data=data)
        raise SpinnerfError(
            f"{data}: {len(skipped)} photos of this capture are left out ({next(iter(skipped))}), which a parser that is named "
            f"does not do; name none: {again} (its options: {again} nerfstudio-data --downscale-factor 2, say)"
        )
    if isinstance(given, ColmapDataParserConfig):
        factor = colmap_factor(data, given.images_path) if given.downscale_factor is None else given.downscale_factor
        return dataclasses.replace(given, data=data, downscale_factor=factor, load_3D_points=False)
    return dataclasses.replace(given, data=data)


def kind_of(data: Path) -> str:
    """What a folder is: "nerfstudio", "blender", "colmap", "llff", or the name of a registered parser.

    Raises:
        SpinnerfError: nothing is there, or nothing with poses; the message says how to make them.
    """
    if not data.exists():
        raise SpinnerfError(f"{data}: no such folder or file; --data wants the folder of a posed capture")
    if data.is_file():
        if data.suffix != ".json":
            raise SpinnerfError(f"{data}: a folder, or a .json file in transforms.json's format, was expected")
        return "nerfstudio"
    if (data / "transforms.json").is_file():
        return "nerfstudio"
    if (data / "transforms_train.json").is_file():
        return "blender"
    model = best_colmap_model(data)
    if model is not None and any(folder.is_dir() for folder in (data / "images", *data.glob("images_*"))):
        return "colmap"
    if (data / "poses_bounds.npy").is_file():
        return "llff"
    found = next((name for name, file in REGISTERED.items() if (data / file).exists()), None)
    if found is None and model is not None and (photos := photo_folder(data)) is not None:
        link = shlex.join(["ln", "-s", photos.name, str(data / "images")])
        where = model.relative_to(data) or "here"
        raise SpinnerfError(f"{data}: COLMAP's model ({where}) wants its photos in images/, they lie in {photos.name}/; {link}")
    if found is None:
        raise SpinnerfError(without_poses(data))
    return found


def read_frames(data: Path) -> tuple[dict[str, Any], Path]:
    """What a capture's files say, in transforms.json's form but nothing mended, and the file or folder that says it.

    Raises:
        SpinnerfError: damaged files, or a kind that only a registered parser reads.
    """
    kind = kind_of(data)
    if kind == "nerfstudio":
        path = data if data.is_file() else data / "transforms.json"
        return read_transforms(path), path
    if kind == "blender":
        return blender_transforms(data), data / "transforms_train.json"
    if kind == "llff":
        return llff_transforms(data), data / "poses_bounds.npy"
    if kind == "colmap":
        model = best_colmap_model(data)
        assert model is not None
        return colmap_transforms(data, model), data
    raise SpinnerfError(f"{data}: is read by nerfstudio's {kind}, where no photo can be left out")


def colmap_factor(data: Path, images: Path) -> int:
    """N of the images_N that photos above nerfstudio's limit are taken from, 1 where there is none: nobody is asked."""
    photos = sorted(path for path in (data / images).rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    return downscaled_factor(data, photos) if photos else 1


def mended_source(data: Path, skipped: Collection[str] = (), downscale: int | None = None) -> Mended:
    """A capture in one form, with the reasons why a stock parser does not read it.

    Raises:
        SpinnerfError: damaged files, photos that are missing, or lenses that cannot be trained on.
    """
    kind, (meta, where) = kind_of(data), read_frames(data)
    if kind == "nerfstudio":
        return mended(meta, where, skipped, downscale)
    result = mended(meta, where, skipped, downscale, smaller=kind == "colmap")
    if kind == "blender":
        result.alpha = True
        result.reasons += _blender_reasons(data)
    elif kind == "llff":
        result.reasons.append("poses_bounds.npy is read as it is")
        model = data / "sparse/0"
        result.colmap_model = model if any((model / f"points3D{suffix}").is_file() for suffix in (".bin", ".txt")) else None
    elif kind == "colmap":
        result.colmap_model = best_colmap_model(data)
        if result.meta["frames"][0]["file_path"] != str(data / meta["frames"][0]["file_path"]):
            result.reasons.append(f"a downscaled folder is used (photos above {MOST_PIXELS} pixels)")
        if any(f"{split}_filenames" in meta for split in SPLITS):
            result.reasons.append("lists of photos per split")
        if any("mask_path" in frame for frame in meta["frames"]):
            result.reasons.append(f"{COLMAP_MASKS}/ is used as COLMAP does (<photo with suffix>.png, black is left out)")
    else:
        raise NotImplementedError(f"captures of the kind '{kind}' are read, but no branch here says why no stock parser reads them")
    return result


def unusable_photos(data: Path) -> dict[str, str]:
    """Photos that have a pose but no file, or a file that is no picture, as the capture's files name them -> why.

    Whether a picture is whole is not looked at: that takes reading all of it.
    """
    meta, where = read_frames(data)
    folder = where.parent if where.suffix else where
    smaller = [child for child in folder.glob("images_*") if child.is_dir()]
    found = {}
    for frame in meta["frames"]:
        path = from_elsewhere(folder, find_photo(folder / frame["file_path"]))
        path = next((file for file in (path, *(child / path.name for child in smaller)) if file.is_file()), None)
        if path is None:
            found[frame["file_path"]] = "absent"
            continue
        try:
            photo_size(path)
        except SpinnerfError:
            found[frame["file_path"]] = "no picture"
    return found


def _blender_reasons(data: Path) -> list[str]:
    """Why nerfstudio's Blender parser would not read a folder: it adds .png to every name and knows no lens but an angle."""
    for file in sorted(data.glob("transforms_*.json")):
        meta = read_transforms(file)
        if "camera_angle_x" not in meta or any(name in meta for name in ("fl_x", "k1", "camera_model")):
            return ["the lens is not told by camera_angle_x alone"]
        if not all((data / f"{frame['file_path']}.png").is_file() for frame in meta["frames"]):
            return ["names with suffixes"]
    return []


# ----------------------------------------------------------------------------------------------------------------- COLMAP
def colmap_models(data: Path) -> dict[Path, int]:
    """COLMAP's models below a folder -> how many photos each has posed; the largest first."""
    found: dict[Path, int] = {}
    for name in COLMAP_FOLDERS:
        parent = data / name
        inside = [*sorted(parent.glob("*/")), *sorted(parent.glob("*/models/*/"))] if name and parent.is_dir() else []
        for folder in (*inside, parent):
            count = _posed_photos(folder)
            if count is not None:
                found.setdefault(folder, count)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def best_colmap_model(data: Path) -> Path | None:
    """The model that poses most photos; COLMAP writes several where it could not join them."""
    return next(iter(colmap_models(data)), None)


def _posed_photos(folder: Path) -> int | None:
    """How many photos a COLMAP model poses; None where there is no model."""
    for suffix in (".bin", ".txt"):
        cameras, images = folder / f"cameras{suffix}", folder / f"images{suffix}"
        if cameras.is_file() and images.is_file():
            if suffix == ".bin":
                head = images.open("rb").read(8)
                return struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            return sum(1 for _ in text_names(images))
    return None
