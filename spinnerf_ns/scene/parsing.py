"""From nerfstudio's parser outputs to one record per photo. Used by `capture`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, CameraType
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio

from spinnerf_ns.decoding import photo_size
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import scale_between
from spinnerf_ns.scene.dataparser import MendedDataParser
from spinnerf_ns.scene.frames import similarity_between, transform_pose
from spinnerf_ns.scene.source import MEASURED_POINTS, SPLITS, check_photos_exist, read_transforms

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras
    from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs

COLMAP_Z_UP = ((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, -1.0, 0.0, 0.0))
"""What nerfstudio's COLMAP parser applies to COLMAP's world (`assume_colmap_world_coordinate_convention`)."""

PROCESSED_COLMAP = ((0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, -1.0, 0.0))
"""What old ns-process-data applied without saying so; nerfstudio's parser adds it to folders with colmap/sparse/0."""


@dataclass
class Frame:
    """A photo as the parser sees it."""

    path: Path
    """Its file at the resolution used."""
    intrinsics: tuple[float, float, float, float]
    """fx, fy, cx, cy in pixels."""
    width: int
    height: int
    distortion: npt.NDArray[np.float64]
    """(6,)"""
    camera_type: int
    camera_model: str
    training_c2w: torch.Tensor
    """(3, 4) float32."""
    c2w: npt.NDArray[np.float64]
    """(3, 4), source frame."""
    metadata: dict[str, Any] = field(default_factory=dict)
    splits: set[str] = field(default_factory=set)
    mask_path: Path | None = None
    """The capture's own mask."""


def transforms_path(parser: DataParser) -> Path | None:
    """The transforms.json that a parser reads, or None for a parser of another kind."""
    if isinstance(parser, MendedDataParser):
        return parser.mended.where
    if not isinstance(parser, Nerfstudio):
        return None
    data = Path(parser.config.data)
    return data if data.suffix == ".json" else data / "transforms.json"


def read_meta(parser: DataParser) -> dict[str, Any] | None:
    """What the parser's transforms.json says, its photos found; None for a parser of another kind.

    Raises:
        SpinnerfError: it is damaged, or photos are missing.
    """
    if isinstance(parser, MendedDataParser):
        return parser.mended.meta
    transforms = transforms_path(parser)
    if transforms is None:
        return None
    meta = read_transforms(transforms)
    check_named_photos(meta, transforms)
    return meta


def check_named_photos(meta: dict[str, Any], transforms: Path) -> None:
    """Raises SpinnerfError for photos that are there neither at full size nor in a downscaled folder (images_N)."""
    folder = transforms.parent
    smaller = [child for child in folder.glob("images_*") if child.is_dir()]

    def best(name: Path) -> Path:
        candidates = [folder / name, *(child / name.name for child in smaller)]
        return next((path for path in candidates if path.is_file()), candidates[0])

    check_photos_exist([best(Path(frame["file_path"])) for frame in meta["frames"]], transforms)


def has_split(parser: DataParser, meta: dict[str, Any] | None, split: str) -> bool:
    """Whether a split can be asked for: a source that lists its splits may list only some."""
    if split == "train":
        return True
    if meta is not None:
        listed = [name for name in SPLITS if f"{name}_filenames" in meta]
        return not listed or split in listed
    data = Path(parser.config.data)
    if isinstance(parser, ColmapDataParser):
        listed = any((data / f"{name}_list.txt").exists() for name in ("train", "test", "validation"))
        return not listed or (data / f"{split}_list.txt").exists()
    if (data / "transforms_train.json").is_file():
        return (data / f"transforms_{split}.json").is_file()
    return True


def collect(parser: DataParser, meta: dict[str, Any] | None, outputs: dict[str, DataparserOutputs]) -> list[Frame]:
    """One record per photo of all splits, and of transforms.json's photos that are in none.

    Raises:
        SpinnerfError: a camera model whose distortion has more than six parameters.
    """
    model = (meta or {}).get("camera_model")
    frames: dict[str, Frame] = {}
    for split, output in outputs.items():
        to_source = _to_source(parser, output) if meta is None else None
        for index, path in enumerate(output.image_filenames):
            key = os.path.abspath(path)
            if key not in frames:
                frames[key] = _frame(Path(path), output.cameras, index, model, to_source)
                if output.mask_filenames is not None:
                    frames[key].mask_path = Path(output.mask_filenames[index])
            frames[key].splits.add(split)
    if meta is not None:
        _add_source_poses(parser, meta, frames, outputs["train"])
    if not frames:
        raise SpinnerfError(f"{parser.config.data}: no photos with poses; find the poses first: ns-process-data images")
    return [frames[key] for key in sorted(frames)]


def _frame(path: Path, cameras: Cameras, index: int, model: str | None, to_source: npt.NDArray | None) -> Frame:
    camera_type = int(cameras.camera_type[index])
    name = CameraType(camera_type).name
    distortion = np.zeros(6)
    if cameras.distortion_params is not None:
        given = cameras.distortion_params[index].double().numpy().reshape(-1)
        if len(given) > 6 and np.any(given):
            raise SpinnerfError(
                f"{path}: the camera model {model or name} has {len(given)} distortion parameters, six are supported; "
                "undistort the photos first (colmap image_undistorter)"
            )
        distortion[: min(6, len(given))] = given[:6]
    training_c2w = cameras.camera_to_worlds[index].float().clone()
    metadata = {key: value for key, value in (cameras.metadata or {}).items() if not torch.is_tensor(value)}
    return Frame(
        path=path,
        intrinsics=tuple(float(getattr(cameras, name)[index]) for name in ("fx", "fy", "cx", "cy")),
        width=int(cameras.width[index]),
        height=int(cameras.height[index]),
        distortion=distortion,
        camera_type=camera_type,
        camera_model=model or {"PERSPECTIVE": "OPENCV", "FISHEYE": "OPENCV_FISHEYE"}.get(name, name),
        training_c2w=training_c2w,
        c2w=np.zeros((3, 4)) if to_source is None else _in_source(training_c2w, to_source),
        metadata=metadata,
    )


def _to_source(parser: DataParser, output: DataparserOutputs) -> npt.NDArray[np.float64]:
    """(4, 4) similarity from the training to the source frame."""
    transform = _square(output.dataparser_transform.double().numpy())
    if isinstance(parser, ColmapDataParser) and parser.config.assume_colmap_world_coordinate_convention:
        transform = transform @ np.linalg.inv(_square(np.array(COLMAP_Z_UP)))
    transform[:3] *= float(output.dataparser_scale)
    return np.linalg.inv(transform)


def _in_source(training_c2w: torch.Tensor, to_source: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    pose = to_source[:3] @ _square(training_c2w.double().numpy())
    pose[:, :3] /= np.linalg.norm(pose[:, :3], axis=0, keepdims=True)  # the similarity's scale is no part of a rotation
    return pose


def _add_source_poses(parser: Nerfstudio, meta: dict[str, Any], frames: dict[str, Frame], train: DataparserOutputs) -> None:
    """Sets c2w to transforms.json's own numbers, and adds its photos that are in no split."""
    folder = transforms_path(parser).parent
    left_over = []
    for entry in meta["frames"]:
        path = Path(parser._get_fname(Path(entry["file_path"]), folder))
        pose = np.array(entry["transform_matrix"], dtype=np.float64)[:3]
        frame = frames.get(os.path.abspath(path))
        lost = frame is not None and entry.get("mask_path") and (frame.mask_path is None or not frame.mask_path.is_file())
        if lost:
            frame.mask_path = folder / entry["mask_path"]  # photos have a downscaled folder, masks have none: scaled when read
        if frame is None:
            left_over.append((path, entry, pose))
        else:
            frame.c2w = pose
    if not left_over:
        return
    known = next(iter(frames.values()), None)
    if known is None:
        raise SpinnerfError(f"{transforms_path(parser)}: no photo is in any split; name some in train_filenames")
    placed = [(frame.c2w, frame.training_c2w.double().numpy()) for frame in frames.values()]
    world_to_training = similarity_between(
        [own for own, _ in placed], [training for _, training in placed], parser_scale(meta, train)
    )
    for path, entry, pose in left_over:
        training = transform_pose(world_to_training, pose)
        frame = _frame_from_json(parser, meta, entry, path, pose, training, known)
        frame.mask_path = folder / entry["mask_path"] if entry.get("mask_path") else None
        frames[os.path.abspath(path)] = frame


def parser_scale(meta: dict[str, Any] | None, train: DataparserOutputs) -> float:
    """Training length per source length as the parser says it; its own scale contains `applied_scale`."""
    return float(train.dataparser_scale) / float((meta or {}).get("applied_scale", 1.0))


def _frame_from_json(
    parser: Nerfstudio, meta: dict, entry: dict, path: Path, pose: npt.NDArray, training: npt.NDArray, known: Frame
) -> Frame:
    """A photo in no split, whose camera the parser does not give: read as the parser reads the others."""
    merged = {**entry, **meta}  # a value for the whole capture goes before a photo's own, as in the parser
    shrink = parser.downscale_factor or 1
    try:
        intrinsics = tuple(float(np.float32(float(merged[name]) / shrink)) for name in ("fl_x", "fl_y", "cx", "cy"))
        width, height = int(merged["w"]) // shrink, int(merged["h"]) // shrink
    except KeyError as error:
        raise SpinnerfError(f"{transforms_path(parser)}: {entry['file_path']} has no {error}; add it") from error
    for_all = any(name in meta for name in ("k1", "k2", "k3", "p1", "p2", "distortion_params"))
    source = meta if for_all else entry
    distortion = np.zeros(6)
    given = source.get("distortion_params", [float(source.get(name, 0)) for name in ("k1", "k2", "k3", "k4", "p1", "p2")])
    distortion[: min(6, len(given))] = given[:6]
    camera_type = CAMERA_MODEL_TO_TYPE.get(known.camera_model, CameraType.PERSPECTIVE).value
    return Frame(
        path, intrinsics, width, height, distortion, camera_type, known.camera_model,
        torch.tensor(training, dtype=torch.float32), pose, dict(known.metadata),
    )  # fmt: skip


def checked_size(frame: Frame, where: Path) -> tuple[int, int]:
    """(width, height) of the photo's file. A camera may be a pixel off: programs round differently when they downscale.

    Raises:
        SpinnerfError: it differs by more, or the file is no image.
    """
    width, height = photo_size(frame.path)
    if max(abs(width - frame.width), abs(height - frame.height)) > 1:
        raise SpinnerfError(
            f"{frame.path}: the photo is {width}x{height}, {where} says {frame.width}x{frame.height}; "
            "correct w, h, fl_x, fl_y, cx and cy there, or put the photo of that size back"
        )
    return width, height


def checked_mask(frame: Frame, size: tuple[int, int], where: Path) -> Path | None:
    """The capture's own mask of a photo of (width, height), if it has one.

    Raises:
        SpinnerfError: it is missing, no image, or of another size than the photo at N times or 1/N of its resolution.
    """
    if frame.mask_path is None:
        return None
    if not frame.mask_path.is_file():
        raise SpinnerfError(
            f"{frame.mask_path}: the mask of {frame.path.name} is missing; put it there, or take mask_path from every frame "
            f"of {where}"
        )
    width, height = photo_size(frame.mask_path)
    if scale_between((height, width), (size[1], size[0])) is None:
        raise SpinnerfError(
            f"{frame.mask_path}: the mask is {width}x{height}, its photo {frame.path} is {size[0]}x{size[1]}; "
            "export the mask at the photo's size"
        )
    return frame.mask_path


def source_meta(parser: DataParser, meta: dict[str, Any] | None, camera_model: str) -> dict[str, Any]:
    """What a dataset made from this one must repeat; see `Capture`."""
    result: dict[str, Any] = {"camera_model": camera_model}
    orientation = getattr(parser.config, "orientation_method", "up")
    if orientation != "up":  # a dataset that is parsed with default options must be oriented alike
        result["orientation_override"] = orientation
    if meta is None:
        if isinstance(parser, ColmapDataParser) and parser.config.assume_colmap_world_coordinate_convention:
            result["applied_transform"] = [list(row) for row in COLMAP_Z_UP]
        return result
    for name in ("applied_transform", "applied_scale", "orientation_override", "fisheye_crop_radius", MEASURED_POINTS):
        if name in meta:
            result[name] = meta[name]
    if "applied_transform" not in meta and (Path(parser.config.data) / "colmap/sparse/0").exists():
        result["applied_transform"] = [list(row) for row in PROCESSED_COLMAP]
    if meta.get("ply_file_path"):
        result["ply_file_path"] = Path(os.path.abspath(transforms_path(parser).parent / meta["ply_file_path"]))
    return result


def colmap_model(parser: DataParser) -> Path | None:
    """The folder of the COLMAP model that a parser reads, or that ns-process-data left beside the photos; None without one."""
    data = Path(parser.config.data)
    if isinstance(parser, MendedDataParser) and parser.mended.colmap_model is not None:
        return parser.mended.colmap_model
    if isinstance(parser, ColmapDataParser):
        return data / parser.config.colmap_path
    if not isinstance(parser, Nerfstudio):
        return None
    folder = (data.parent if data.suffix == ".json" else data) / "colmap/sparse/0"
    return folder if folder.is_dir() else None


def stated_bounds(parser: DataParser, meta: dict[str, Any] | None, photos: dict[Path, str]) -> dict[str, tuple[float, float]]:
    """Photo -> near and far planar depth, of the frames of transforms.json that state sensible `bounds` (LLFF's do).

    Args:
        photos: a photo's file -> its key.
    """
    keys = {os.path.abspath(path): photo for path, photo in photos.items()}
    result = {}
    for frame in (meta or {}).get("frames", ()):
        given = frame.get("bounds")
        if not isinstance(given, (list, tuple)) or len(given) != 2 or not all(isinstance(x, (int, float)) for x in given):
            continue
        file = parser._get_fname(Path(frame["file_path"]), transforms_path(parser).parent)
        photo = keys.get(os.path.abspath(file))
        if photo is not None and 0 < given[0] < given[1] < float("inf"):
            result[photo] = (float(given[0]), float(given[1]))
    return result


def _square(pose: npt.NDArray) -> npt.NDArray[np.float64]:
    """(3, 4) -> (4, 4)."""
    return np.concatenate([np.asarray(pose, dtype=np.float64)[:3], [[0.0, 0.0, 0.0, 1.0]]])
