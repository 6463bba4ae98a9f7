"""A twin: one synthetic capture photographed twice, with and without its target object.

A real capture has truth behind its object only if somebody took the object away and photographed again with the same
poses. `write_twin` makes such a capture in seconds, with exact poses, object masks and depth, as SPIn-NeRF's
protocol wants it: training photos show the object, test photos do not.

    <root>/transforms.json              a nerfstudio dataset: no masks, no depth, explicit splits (val == test)
    <root>/sparse_pc.ply                surface points that a training camera sees, coloured
    <root>/images/                      training photos with the object, test photos without it
    <root>/truth/images/                every photo without the object
    <root>/truth/images_with_object/    every photo with it
    <root>/truth/object_masks/          8-bit PNG, 255 = the pixel's centre shows the object (test photos: would show)
    <root>/truth/depths/                float32 .npy, planar z-depth at pixel centres in world units (metres), object-free
    <root>/truth/depths_with_object/    the same with the object
    <root>/twin.json                    configuration, object-free photos and a person's prompt; written last
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.scenes import TruthScene, new_folder, read_scene
from spinnerf_ns.evaluation.truth.twin_render import Pinhole, Room, render_depths, render_photos
from spinnerf_ns.evaluation.truth.twin_room import TARGET_CENTER, build_room
from spinnerf_ns.files import save_object_mask, write_json, write_png
from spinnerf_ns.scene.points import write_ply

TWIN_FILE = "twin.json"
TWIN_VERSION = 1
FOCAL_PER_WIDTH = 0.95
"""Focal length over photo width: 56 degrees across, between a phone's main and wide camera."""
SPARSE_POINTS = 2000


@dataclass(frozen=True)
class TwinConfig:
    """What to photograph."""

    layout: Literal["forward", "orbit"] = "forward"
    """forward: cameras on a jittered planar grid, facing the corner. orbit: an arc of 120 degrees around the object."""
    width: int = 192
    """Photo width in pixels."""
    height: int = 144
    """Photo height in pixels."""
    num_train: int = 30
    """Photos with the object."""
    num_test: int = 8
    """Photos without the object, from cameras between those of the training photos."""
    seed: int = 0
    """Draws the textures and the jitter of the cameras; the things stand where they stand."""
    contact_shadow: bool = False
    """The object shades the floor around it. Photos then differ outside the object's mask too, as in a real room."""
    supersampling: int = 2
    """Rays along each side of a pixel."""

    def __post_init__(self) -> None:
        if self.layout not in ("forward", "orbit"):
            raise SpinnerfError(f"TwinConfig: layout is {self.layout!r}, expected 'forward' or 'orbit'; choose one")
        for name, least in (("width", 16), ("height", 12), ("num_train", 2), ("num_test", 1), ("supersampling", 1)):
            if getattr(self, name) < least:
                raise SpinnerfError(f"TwinConfig: {name} is {getattr(self, name)}, expected at least {least}; raise it")


@dataclass(frozen=True, kw_only=True)
class TwinScene(TruthScene):
    """What was written, and where. `truth` has the kinds images, images_with_object, object_masks, depths and
    depths_with_object."""

    config: TwinConfig


def write_twin(root: Path, config: TwinConfig = TwinConfig()) -> TwinScene:
    """Renders and writes a twin.

    Args:
        root: the folder to make; it may exist if it is empty.
        config: what to photograph. Equal configurations give equal bytes.

    Returns:
        What was written; `load_twin(root)` gives the same.

    Raises:
        SpinnerfError: `root` exists and is not an empty folder. Nothing is left behind on any error.
    """
    with new_folder(root) as written:
        _write_into(written, config)
    return load_twin(root)


def load_twin(root: Path) -> TwinScene:
    """Reads what `write_twin` wrote.

    Raises:
        SpinnerfError: there is no twin.json, or it is of another version or broken, or photos are missing.
    """

    def own(content: dict) -> dict:
        return {"config": TwinConfig(**content["config"])}

    again = "write the twin again with write_twin into a new folder"
    return read_scene(Path(root) / TWIN_FILE, TWIN_VERSION, "a twin", again, TwinScene, own)


def build_cameras(config: TwinConfig) -> tuple[list[Pinhole], list[Pinhole]]:
    """The training and the test cameras; those next to each other in a list stand near each other in the room."""
    rng = np.random.default_rng([config.seed, 1])
    place = _forward_pose if config.layout == "forward" else _orbit_pose
    focal = FOCAL_PER_WIDTH * config.width

    def cameras(positions: NDArray[np.float64]) -> list[Pinhole]:
        return [Pinhole(place(u, v, rng), focal, config.width, config.height) for u, v in positions]

    if config.layout == "forward":
        return cameras(_serpentine(config.num_train, rng)), cameras(_lissajous(config.num_test))
    return cameras(_arc(config.num_train, 1.0, 0.0)), cameras(_arc(config.num_test, 0.9, np.pi / 2))


def prompt_from_mask(object_mask: BoolMask) -> tuple[tuple[float, float, float, float], list[tuple[float, float, int]]]:
    """What a person would point at: a loose box, two points on the object and one beside it.

    Args:
        object_mask: (H, W), True = object; neither empty nor everything.

    Returns:
        The box (x0, y0, x1, y1) and the points (x, y, label), in pixels; a pixel's centre lies at +0.5.
    """
    height, width = object_mask.shape
    padded = np.pad(object_mask.astype(np.uint8), 1)  # so that the photo's edge counts as the object's
    inside = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    outside = cv2.distanceTransform(1 - object_mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    rows, columns = np.nonzero(object_mask)
    margin = max(1, round(0.015 * width))
    box = (
        float(max(columns.min() - margin, 0)),
        float(max(rows.min() - margin, 0)),
        float(min(columns.max() + 1 + margin, width)),
        float(min(rows.max() + 1 + margin, height)),
    )
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    grid_y, grid_x = np.mgrid[:height, :width]
    # The second point lies far from the first, and safely inside.
    far = np.hypot(grid_x - x, grid_y - y) * (inside >= 0.45 * inside.max())
    second_y, second_x = np.unravel_index(far.argmax(), far.shape)
    # The third is about as far outside as the first is inside.
    beside_y, beside_x = np.unravel_index(np.abs(outside - inside.max()).argmin(), outside.shape)
    points = [(float(x) + 0.5, float(y) + 0.5, 1), (float(second_x) + 0.5, float(second_y) + 0.5, 1)]
    return box, points + [(float(beside_x) + 0.5, float(beside_y) + 0.5, 0)]


# ----------------------------------------------------------------------------------------------------------------- cameras
def _serpentine(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count, 2) jittered grid positions in about [-1, 1], row by row, every other row backwards."""
    rows = max(1, round((count / 1.5) ** 0.5))
    positions = []
    for row, members in enumerate(np.array_split(np.arange(count), rows)):
        u = np.linspace(-1, 1, len(members)) if len(members) > 1 else np.zeros(1)
        v = 2 * row / (rows - 1) - 1 if rows > 1 else 0.0
        positions += [(x, v) for x in (u if row % 2 == 0 else u[::-1])]
    cell = np.array([2 / max(1, count / rows - 1), 2 / max(1, rows - 1)])
    return np.array(positions) + rng.uniform(-0.25, 0.25, (count, 2)) * cell


def _lissajous(count: int) -> NDArray[np.float64]:
    """(count, 2) positions within the grid, on a curve that crosses it."""
    phase = 2 * np.pi * (np.arange(count) + 0.5) / count
    return 0.75 * np.stack([np.sin(phase), np.sin(2 * phase + 0.6)], axis=1)


def _arc(count: int, extent: float, phase: float) -> NDArray[np.float64]:
    """(count, 2): along the arc from -extent to extent, and up and down twice on the way."""
    u = extent * np.linspace(-1, 1, count) if count > 1 else np.zeros(1)
    return np.stack([u, np.sin(2 * np.pi * u + phase)], axis=1)


def _forward_pose(u: float, v: float, rng: np.random.Generator) -> NDArray[np.float64]:
    right, back, up = np.array([-1, 1, 0]) / 2**0.5, np.array([1, 1, 0]) / 2**0.5, np.array([0, 0, 1.0])
    eye = 3.45 * back + 1.15 * up + 0.45 * u * right + 0.25 * v * up + rng.uniform(-0.08, 0.08) * back
    # People turn a little towards what they photograph: half of the way keeps the views forward-facing.
    look = np.array([0.8, 0.8, 0.44]) + 0.5 * (0.45 * u * right + 0.25 * v * up) + rng.uniform(-0.03, 0.03, 3)
    return _look_at(eye, look, rng.uniform(-0.02, 0.02))


def _orbit_pose(u: float, v: float, rng: np.random.Generator) -> NDArray[np.float64]:
    azimuth = np.deg2rad(45 + 60 * u + rng.uniform(-1, 1))
    radius = 2.0 + rng.uniform(-0.08, 0.08)
    center = np.array(TARGET_CENTER)
    eye = np.array([center[0] + radius * np.cos(azimuth), center[1] + radius * np.sin(azimuth), 1.15 + 0.3 * v])
    return _look_at(eye, center + np.array([0, 0, 0.04]) + rng.uniform(-0.06, 0.06, 3), rng.uniform(-0.02, 0.02))


def _look_at(eye: NDArray[np.float64], look: NDArray[np.float64], roll: float) -> NDArray[np.float64]:
    """(4, 4) camera-to-world, OpenGL axes, z of the world up."""
    backward = (eye - look) / np.linalg.norm(eye - look)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    up = np.cross(backward, right)
    pose = np.eye(4)
    pose[:3, 0] = np.cos(roll) * right + np.sin(roll) * up
    pose[:3, 1] = np.cos(roll) * up - np.sin(roll) * right
    pose[:3, 2], pose[:3, 3] = backward, eye
    return pose


# ----------------------------------------------------------------------------------------------------------------- writing
def _write_into(root: Path, config: TwinConfig) -> None:
    room = build_room(np.random.default_rng([config.seed, 0]))
    train, test = build_cameras(config)
    photos = [f"images/frame_{index + 1:04d}.png" for index in range(len(train) + len(test))]
    centers = np.array([camera.camera_to_world[:3, 3] for camera in train])
    middle = int(np.linalg.norm(centers - centers.mean(axis=0), axis=1).argmin())
    rng = np.random.default_rng([config.seed, 2])
    points, colours = [], []
    for index, (photo, camera) in enumerate(zip(photos, train + test, strict=True)):
        shows_object = index < len(train)
        with_object, z_with_object, object_mask = _write_view(root, photo, room, camera, config, shows_object)
        if shows_object:
            pixels = rng.choice(object_mask.size, -(-SPARSE_POINTS // len(train)), replace=False)
            points.append(_surface_points(camera, z_with_object, pixels))
            colours.append(with_object.reshape(-1, 3)[pixels])
        if index == middle:
            box, prompt_points = prompt_from_mask(object_mask)
    write_ply(root / "sparse_pc.ply", np.concatenate(points), np.concatenate(colours))
    write_json(root / "transforms.json", _transforms(config, photos, train + test))
    write_json(
        root / TWIN_FILE,
        {
            "version": TWIN_VERSION,
            "config": asdict(config),
            "photos": photos,
            "object_free": photos[len(train) :],
            "prompt": {"view": photos[middle], "box": box, "points": prompt_points},
        },
    )


def _write_view(
    root: Path, photo: str, room: Room, camera: Pinhole, config: TwinConfig, shows_object: bool
) -> tuple[Image, NDArray[np.float64], BoolMask]:
    free, with_object = render_photos(room, camera, config.supersampling, config.contact_shadow)
    z_free, z_with_object = render_depths(room, camera)
    object_mask = z_with_object < z_free
    name = Path(photo).stem
    truth = root / "truth"
    write_png(root / photo, with_object if shows_object else free)
    write_png(truth / "images" / f"{name}.png", free)
    write_png(truth / "images_with_object" / f"{name}.png", with_object)
    save_object_mask(truth / "object_masks" / f"{name}.png", object_mask)
    for folder, z in (("depths", z_free), ("depths_with_object", z_with_object)):
        (truth / folder).mkdir(exist_ok=True)
        np.save(truth / folder / f"{name}.npy", z.astype(np.float32))
    return with_object, z_with_object, object_mask


def _surface_points(camera: Pinhole, z: NDArray[np.float64], pixels: NDArray[np.integer]) -> NDArray[np.float64]:
    origin, directions = camera.rays(0.5, 0.5, np.float64)
    return (origin + z.ravel()[pixels] * directions[:, pixels]).T


def _transforms(config: TwinConfig, photos: list[str], cameras: list[Pinhole]) -> dict:
    return {
        "camera_model": "OPENCV",
        "w": config.width,
        "h": config.height,
        "fl_x": cameras[0].focal,
        "fl_y": cameras[0].focal,
        "cx": config.width / 2,
        "cy": config.height / 2,
        "ply_file_path": "sparse_pc.ply",
        "train_filenames": photos[: config.num_train],
        "val_filenames": photos[config.num_train :],
        "test_filenames": photos[config.num_train :],
        "frames": [
            {"file_path": photo, "transform_matrix": camera.camera_to_world.tolist()}
            for photo, camera in zip(photos, cameras, strict=True)
        ],
    }
