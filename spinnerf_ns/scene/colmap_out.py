"""A COLMAP model of posed photos, as text and binary, for trainers that read nothing else (gsplat, 3DGS, LichtFeld, Brush, ...).

    <folder>/sparse/0/{cameras,images,points3D}.{txt,bin}
    <folder>/images     the photos: a relative link where the file system has links, else hard links, else copies
    <folder>/masks/     valid masks (white = use), named like the photos

Frame: COLMAP's own world, that is the capture's source world with `applied_scale` and then `applied_transform` undone (source
point = applied_scale * applied_transform(COLMAP point), as ns-process-data writes them). A capture that was made from a COLMAP
model gets that model's coordinates back, and splats trained on either lie in one place; a capture without the two keys keeps
its source world. Nerfstudio's COLMAP parser turns this world (y down) to z up again by itself.

Camera axes are OpenCV's (x right, y down, looks along +z); pixels are COLMAP's, which are `conventions`' too: (0, 0) is the
outer corner of the top-left pixel. One camera model serves all photos, the plainest that holds all of them exactly:
undistorted photos become PINHOLE whatever the capture called them, since 3DGS reads no other. The format is COLMAP's
(https://colmap.github.io/format.html, without rigs). Its text cannot hold file names with white space, and nerfstudio reads the
text where there is one: for such photos there is the binary model alone.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import atomic_path, save_object_mask
from spinnerf_ns.scene.cameras import project
from spinnerf_ns.scene.view import View

MODEL_FOLDER = "sparse/0"

MODEL_IDS = {"PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4, "OPENCV_FISHEYE": 5, "FULL_OPENCV": 6}
"""COLMAP's numbers of the camera models that are written."""

MAX_TRACK = 12
"""Photos per point at most that are noted to show it: more tell a trainer nothing and make large files."""

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class ModelPoints:
    """Points with what shows them."""

    positions: npt.NDArray[np.float64]
    """(P, 3) in the source frame of the views."""
    colors: npt.NDArray[np.uint8]
    """(P, 3) RGB."""
    seen: npt.NDArray[np.bool_]
    """(V, P) whether a photo shows a point."""


def write_colmap(
    folder: Path,
    views: Sequence[View],
    names: Sequence[str],
    photos: Path,
    points: ModelPoints,
    source_meta: dict[str, Any],
    valid_mask: Callable[[View], BoolMask],
) -> None:
    """Writes a COLMAP model.

    Args:
        folder: the folder to write; it may be moved together with `photos` later.
        views: the photos' cameras.
        names: the photos' files, relative to `photos`, with "/" between folders.
        photos: the folder that holds them.
        points: the model's points.
        source_meta: `Capture.source_meta`: says how the source frame came from COLMAP's.
        valid_mask: gives a photo's (H, W) bool mask, True = use.

    Raises:
        SpinnerfError: a camera that no COLMAP model holds exactly. Nothing is written then.
    """
    model, parameters = shared_camera_model(views)
    cameras = _numbered([(view.width, view.height, *own) for view, own in zip(views, parameters, strict=True)])
    scale, rotation, shift = frame_from_colmap(source_meta)
    poses = [_world_to_camera(view.c2w, scale, rotation, shift) for view in views]
    tracks = _Tracks.of(views, points)
    positions = _to_colmap(points.positions, scale, rotation, shift)
    target = folder / MODEL_FOLDER
    images = list(zip(poses, [number for number in cameras[1]], names, strict=True))
    writers = {".bin": _write_binary, ".txt": _write_text}
    if any(len(name.split()) > 1 for name in names):
        del writers[".txt"]
    for suffix, write in writers.items():
        paths = [target / f"{name}{suffix}" for name in ("cameras", "images", "points3D")]
        write(paths, model, cameras[0], images, positions, points.colors, tracks)
    _link_photos(folder / "images", photos, names)
    for view, name in zip(views, names, strict=True):
        save_object_mask(folder / "masks" / Path(name).with_suffix(".png"), valid_mask(view))


# ----------------------------------------------------------------------------------------------------------------- cameras
def shared_camera_model(views: Sequence[View]) -> tuple[str, list[tuple[float, ...]]]:
    """The plainest COLMAP camera model that holds all views' lenses exactly, and each view's parameters of it.

    Raises:
        SpinnerfError: there is none: other projections, perspective and fisheye mixed, k4 of a perspective lens (COLMAP's
            k4 is another thing), tangential distortion of a fisheye.
    """
    fisheye = [view.camera_model == "OPENCV_FISHEYE" for view in views]
    for view in views:
        if view.camera_model not in ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"):
            raise _no_model(view, f"its projection is {view.camera_model}")
        k4, p1, p2 = view.distortion[3:]
        if view.camera_model == "OPENCV_FISHEYE":
            if p1 or p2:
                raise _no_model(view, "it is a fisheye with tangential distortion")
            if not all(fisheye):
                raise _no_model(view, "other photos of the capture are perspective")
        elif k4:
            raise _no_model(view, f"its k4 is {k4:g}")
    k1, k2, k3, _, p1, p2 = np.any([view.distortion != 0 for view in views], axis=0) if views else np.zeros(6, bool)
    one_focal = all(view.fx == view.fy for view in views)
    if any(fisheye):
        model = "OPENCV_FISHEYE"
    elif k3:
        model = "FULL_OPENCV"
    elif p1 or p2 or ((k1 or k2) and not one_focal):
        model = "OPENCV"
    elif k2:
        model = "RADIAL"
    else:
        model = "SIMPLE_RADIAL" if k1 else "PINHOLE"
    return model, [_parameters(model, view) for view in views]


def _parameters(model: str, view: View) -> tuple[float, ...]:
    k1, k2, k3, k4, p1, p2 = (float(value) for value in view.distortion)
    lens = {
        "PINHOLE": (),
        "SIMPLE_RADIAL": (k1,),
        "RADIAL": (k1, k2),
        "OPENCV": (k1, k2, p1, p2),
        "OPENCV_FISHEYE": (k1, k2, k3, k4),
        "FULL_OPENCV": (k1, k2, p1, p2, k3, 0.0, 0.0, 0.0),
    }[model]
    focal = (view.fx,) if model in ("SIMPLE_RADIAL", "RADIAL") else (view.fx, view.fy)
    return (*(float(value) for value in focal), float(view.cx), float(view.cy), *lens)


def _no_model(view: View, why: str) -> SpinnerfError:
    return SpinnerfError(f"{view.path}: no COLMAP camera model holds this lens exactly ({why})")


def _numbered(cameras: list[tuple]) -> tuple[list[tuple], list[int]]:
    """The different cameras, and for each view the number (from 1) of its own."""
    different = list(dict.fromkeys(cameras))
    return different, [different.index(camera) + 1 for camera in cameras]


# ------------------------------------------------------------------------------------------------------------------- frame
def frame_from_colmap(source_meta: dict[str, Any]) -> tuple[float, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How the source frame came from COLMAP's: source = scale * rotation @ colmap + shift.

    Args:
        source_meta: `Capture.source_meta`.

    Returns:
        scale, rotation (3, 3), shift (3,). An `applied_transform` that is no rotation with a shift and one scale (a mirror
        image has no COLMAP model) counts as none.
    """
    scale = float(source_meta.get("applied_scale", 1.0))
    applied = np.asarray(source_meta.get("applied_transform", np.eye(4)), dtype=np.float64)[:3]
    stretch = np.cbrt(np.linalg.det(applied[:, :3]))
    if stretch <= 0 or not np.allclose(applied[:, :3] @ applied[:, :3].T, stretch**2 * np.eye(3), atol=1e-6 * stretch**2):
        return scale, np.eye(3), np.zeros(3)
    return scale * stretch, applied[:, :3] / stretch, scale * applied[:, 3]


def _to_colmap(
    positions: npt.NDArray[np.float64], scale: float, rotation: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return (positions - shift) @ rotation / scale


def _world_to_camera(
    c2w: npt.NDArray[np.float64], scale: float, rotation: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """COLMAP's quaternion (w, x, y, z) and translation of a (3, 4) source pose with OpenGL axes."""
    from scipy.spatial.transform import Rotation

    turned = (rotation.T @ c2w[:, :3] @ _OPENGL_TO_OPENCV).T
    center = _to_colmap(c2w[None, :, 3], scale, rotation, shift)[0]
    x, y, z, w = Rotation.from_matrix(turned).as_quat()
    quaternion = np.array([w, x, y, z]) * (1.0 if w >= 0 else -1.0)
    return quaternion, -turned @ center


# ------------------------------------------------------------------------------------------------------------------ tracks
@dataclass(frozen=True)
class _Tracks:
    """Who shows what, in both directions."""

    by_image: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]
    """Per photo: its points (K,), sorted, and where it shows them (K, 2)."""
    by_point: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]
    """Photos (T,) and places in those photos' lists (T,), point after point; and (P + 1,) where each point's begin."""

    @classmethod
    def of(cls, views: Sequence[View], points: ModelPoints) -> _Tracks:
        """Thins the photos of each point to `MAX_TRACK`, evenly over the photos."""
        count = points.seen.sum(axis=0)
        step = np.maximum(1, -(-count // MAX_TRACK))
        before = np.zeros(len(count), np.int64)
        by_image, owners, places = [], [], []
        for view, seen in zip(views, points.seen, strict=True):
            which = np.flatnonzero(seen & (before % step == 0))
            before += seen
            xy, _ = project(view, points.positions[which])
            by_image.append((which, xy))
            owners.append(which)
            places.append(np.arange(len(which)))
        photo = np.repeat(np.arange(len(views)), [len(which) for which in owners])
        owner = np.concatenate([np.zeros(0, np.int64), *owners])
        order = np.argsort(owner, kind="stable")
        starts = np.searchsorted(owner[order], np.arange(len(count) + 1))
        return cls(by_image, (photo[order], np.concatenate([np.zeros(0, np.int64), *places])[order], starts))

    def of_point(self, point: int) -> npt.NDArray[np.int64]:
        """(L, 2) photo's number (from 1) and place."""
        photo, place, starts = self.by_point
        part = slice(starts[point], starts[point + 1])
        return np.stack([photo[part] + 1, place[part]], axis=1)


# ------------------------------------------------------------------------------------------------------------------- files
def _write_binary(paths: list[Path], model: str, cameras: list, images: list, positions, colors, tracks: _Tracks) -> None:
    parts = [struct.pack("<Q", len(cameras))]
    for number, (width, height, *parameters) in enumerate(cameras, 1):
        parts.append(struct.pack(f"<iiQQ{len(parameters)}d", number, MODEL_IDS[model], width, height, *parameters))
    _write(paths[0], parts)
    parts = [struct.pack("<Q", len(images))]
    for number, (((quaternion, translation), camera, name), (which, xy)) in enumerate(zip(images, tracks.by_image, strict=True), 1):
        parts.append(struct.pack("<I7dI", number, *quaternion, *translation, camera) + name.encode("utf-8") + b"\0")
        table = np.empty(len(which), [("xy", "<f8", 2), ("point", "<i8")])
        table["xy"], table["point"] = xy, which + 1
        parts.append(struct.pack("<Q", len(which)) + table.tobytes())
    _write(paths[1], parts)
    parts = [struct.pack("<Q", len(positions))]
    for point, (position, color) in enumerate(zip(positions.tolist(), colors.tolist(), strict=True)):
        track = tracks.of_point(point)
        parts.append(struct.pack("<Q3d3BdQ", point + 1, *position, *color, 0.0, len(track)) + track.astype("<u4").tobytes())
    _write(paths[2], parts)


def _write_text(paths: list[Path], model: str, cameras: list, images: list, positions, colors, tracks: _Tracks) -> None:
    lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    for number, (width, height, *parameters) in enumerate(cameras, 1):
        lines.append(f"{number} {model} {width} {height} {_numbers(parameters)}")
    _write(paths[0], [_joined(lines)])
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "# POINTS2D[] as (X, Y, POINT3D_ID)"]
    for number, (((quaternion, translation), camera, name), (which, xy)) in enumerate(zip(images, tracks.by_image, strict=True), 1):
        lines.append(f"{number} {_numbers(quaternion)} {_numbers(translation)} {camera} {name}")
        lines.append(" ".join(f"{x!r} {y!r} {point}" for (x, y), point in zip(xy.tolist(), (which + 1).tolist(), strict=True)))
    _write(paths[1], [_joined(lines)])
    lines = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"]
    for point, (position, color) in enumerate(zip(positions.tolist(), colors.tolist(), strict=True)):
        track = " ".join(map(str, tracks.of_point(point).ravel().tolist()))
        lines.append(f"{point + 1} {_numbers(position)} {' '.join(map(str, color))} 0.0 {track}".rstrip())
    _write(paths[2], [_joined(lines)])


def _numbers(values: Sequence[float]) -> str:
    return " ".join(repr(float(value)) for value in values)  # the shortest text that reads back as the same number


def _joined(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode("utf-8")


def _write(path: Path, parts: list[bytes]) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.writelines(parts)


def _link_photos(link: Path, photos: Path, names: Sequence[str]) -> None:
    """Makes the photos reachable as `link` without a second copy, where the file system can."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() or link.is_dir():  # of a run that was interrupted
        link.unlink() if link.is_symlink() else shutil.rmtree(link)
    try:
        link.symlink_to(os.path.relpath(photos, link.parent), target_is_directory=True)
        return
    except OSError:  # Windows without the right to, exFAT, some network drives
        pass
    for name in names:
        (link / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(photos / name, link / name)
        except OSError:
            shutil.copyfile(photos / name, link / name)
