"""Small captures on disk for the tests of `scene`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (40, 30)
"""(width, height)."""

CAMERA = {"w": 40, "h": 30, "fl_x": 35.0, "fl_y": 34.0, "cx": 20.5, "cy": 14.5, "k1": 0.05, "k2": 0, "p1": 0.001, "p2": 0}


def look_at(position: Any, target: Any = (0, 0, 0), up: Any = (0, 0, 1)) -> np.ndarray:
    """(4, 4) camera-to-world, OpenGL axes."""
    backwards = np.array(position, dtype=float) - np.array(target, dtype=float)
    backwards /= np.linalg.norm(backwards)
    right = np.cross(up, backwards)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(backwards, right), backwards, position], axis=1)
    return pose


def orbit(count: int, radius: float = 3.0) -> list[np.ndarray]:
    """Poses on three quarters of a circle, looking inwards; heights differ."""
    angles = np.linspace(0, 1.5 * np.pi, count)
    return [look_at((radius * np.cos(a), radius * np.sin(a), 0.5 + 0.1 * np.sin(3 * a))) for a in angles]


def save_photo(path: Path, seed: int, size: tuple[int, int] = SIZE) -> None:
    """A photo of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def make_capture(folder: Path, names: list[str] | int = 6, **meta: Any) -> Path:
    """A nerfstudio folder: `names` are file paths below it. Further entries of transforms.json by keyword."""
    if isinstance(names, int):
        names = [f"images/p{i:02d}.png" for i in range(names)]
    frames = []
    for seed, (name, pose) in enumerate(zip(names, orbit(len(names)))):
        save_photo(folder / name, seed)
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    write_transforms(folder, {"camera_model": "OPENCV", **CAMERA, **meta, "frames": frames})
    return folder


def write_transforms(folder: Path, meta: dict) -> None:
    (folder / "transforms.json").write_text(json.dumps(meta))


def read_meta(folder: Path) -> dict:
    return json.loads((folder / "transforms.json").read_text())
