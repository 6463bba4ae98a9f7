"""The twin in other people's layouts: what captures look like that were not made for this package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from tests.scene.captures import read_meta, write_transforms

INTRINSICS = ("w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4", "p1", "p2", "camera_model")

COLMAP_WORLD = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
"""From nerfstudio's world, z up, to COLMAP's, y down."""


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """Edits a transforms.json in place; returns its folder."""
    meta = read_meta(folder)
    edit(meta)
    write_transforms(folder, meta)
    return folder


def as_colmap(source: Path, target: Path, model: str = "sparse/0", photos: int | None = None, binary: bool = False) -> Path:
    """A nerfstudio folder as images/ and a COLMAP model, its poses in COLMAP's world and no points."""
    meta = read_meta(source)
    frames = meta["frames"][:photos]
    (target / model).mkdir(parents=True)
    (target / "images").mkdir(exist_ok=True)
    w, h, fx, fy, cx, cy = (meta[name] for name in INTRINSICS[:6])
    lines, records = [], []
    for index, frame in enumerate(frames):
        path = source / frame["file_path"]
        if not (target / "images" / path.name).exists():
            shutil.copy(path, target / "images" / path.name)
        w2c = np.linalg.inv(COLMAP_WORLD @ np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1]))
        x, y, z, scalar = Rotation.from_matrix(w2c[:3, :3]).as_quat()
        numbers = [scalar, x, y, z, *w2c[:3, 3]]
        lines.append(f"{index + 1} {' '.join(map(str, numbers))} 1 {path.name}\n\n")
        records.append((index + 1, numbers, path.name))
    if binary:
        write_colmap_binary(target / model, (w, h, fx, fy, cx, cy), records)
    else:
        (target / model / "cameras.txt").write_text(f"1 PINHOLE {w} {h} {fx} {fy} {cx} {cy}\n")
        (target / model / "images.txt").write_text("# of COLMAP\n" + "".join(lines))
        (target / model / "points3D.txt").write_text("")
    return target


def write_colmap_binary(model: Path, camera: tuple, records: list[tuple[int, list[float], str]]) -> None:
    """cameras.bin, images.bin and an empty points3D.bin as COLMAP's documentation lays them out."""
    import struct

    w, h, *parameters = camera
    (model / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 1, 1, w, h, *parameters))
    content = struct.pack("<Q", len(records))
    for number, pose, name in records:
        content += struct.pack("<i7di", number, *pose, 1) + name.encode() + b"\0" + struct.pack("<Q", 0)
    (model / "images.bin").write_bytes(content)
    (model / "points3D.bin").write_bytes(struct.pack("<Q", 0))


def as_instant_ngp(source: Path, suffixes: bool = True) -> Path:
    """Renames transforms.json to transforms_train.json and transforms_test.json, as instant-ngp's converters write them."""
    meta = read_meta(source)
    frames = meta.pop("frames")
    meta = {key: value for key, value in meta.items() if key in INTRINSICS}
    for split, part in (("train", frames[:9]), ("test", frames[9:])):
        for frame in part:
            frame["file_path"] = f"./{frame['file_path']}" if suffixes else f"./{frame['file_path'][:-4]}"
        (source / f"transforms_{split}.json").write_text(json.dumps({**meta, "frames": part}))
    (source / "transforms.json").unlink()
    return source


def as_llff(source: Path) -> Path:
    """Writes poses_bounds.npy in place of transforms.json."""
    meta = read_meta(source)
    rows = []
    for frame in sorted(meta["frames"], key=lambda frame: frame["file_path"]):
        pose = np.array(frame["transform_matrix"])[:3]
        down, right, back = -pose[:, 1], pose[:, 0], pose[:, 2]
        size = [meta["h"], meta["w"], meta["fl_x"]]
        rows.append([*np.stack([down, right, back, pose[:, 3], size], axis=1).ravel(), 0.5, 20.0])
    np.save(source / "poses_bounds.npy", np.array(rows))
    (source / "transforms.json").unlink()
    return source
