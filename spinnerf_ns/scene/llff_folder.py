"""What lies in an LLFF or SPIn-NeRF folder: which photos, which row of the poses each has, labels, COLMAP's model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinnerf_ns.errors import SpinnerfError

PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg")
TEST_LABEL = "test_label"
LABEL_FOLDERS = ("label", "labels", TEST_LABEL)
"""Folders below images_N where SPIn-NeRF scenes keep object masks."""
MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0")
"""Where COLMAP's model may lie."""


@dataclass(frozen=True)
class LlffFolder:
    """An LLFF folder, read."""

    source: Path
    """The folder."""
    photos: list[tuple[int, Path]]
    """(row of poses_bounds.npy, photo), by row. Rows whose photo is missing are left out."""
    total: int
    """Rows of poses_bounds.npy."""
    labels: dict[int, Path]
    """Row -> object mask; rows without one are absent."""
    shrink: float | None
    """The photos are to be downscaled by this; None: they are used as they are."""
    camera: dict[str, Any] | None
    """The intrinsics (nerfstudio's keys) of COLMAP's only camera, at its own w and h."""
    points: Path | None
    """COLMAP's points3D file."""

    def say(self, text: str) -> None:
        """Prints a notice."""
        from nerfstudio.utils.rich_utils import CONSOLE

        CONSOLE.print(f"convert-llff: {text}", markup=False, highlight=False, soft_wrap=True)


def open_llff_folder(source: Path, factor: float | None, rows: int) -> LlffFolder:
    """Finds the photos of `factor` and pairs them with the rows of poses_bounds.npy.

    Args:
        source: the LLFF folder.
        factor: N of images_N; 1 is images/; None takes the lowest N, or images/ where there is no images_N.
        rows: how many poses there are.

    Raises:
        SpinnerfError: no photos of that factor, or photos and poses cannot be paired.
    """
    folders = _photo_folders(source)
    if not folders:
        raise SpinnerfError(f"{source}: no photos; an images/ or images_N/ folder with .png or .jpg files was expected")
    if factor is None:
        factor = min(folders, key=lambda known: (known == 1, known))
    if factor <= 0:
        raise SpinnerfError(f"--factor {format_factor(factor)}: a positive number is needed")
    shrink = None
    if factor in folders:
        used = folders[factor]
    elif 1 in folders:
        used, shrink = folders[1], factor
    else:
        known = ", ".join(format_factor(each) for each in sorted(folders))
        raise SpinnerfError(
            f"{source}: no folder images_{format_factor(factor)} (and no images/ to shrink); there are: --factor {known}"
        )
    photos = _pair(source, used, folders, rows)
    model = next((source / name for name in MODEL_FOLDERS if (source / name).is_dir()), None)
    points = None
    if model is not None:
        candidates = (model / "points3D.bin", model / "points3D.txt")
        points = next((path for path in candidates if path.is_file()), None)
    folder = LlffFolder(source, photos, rows, _labels(source, used, photos), shrink, _camera(model), points)
    by_order = [
        (path, label)
        for row, path in photos
        if (label := folder.labels.get(row)) is not None and not label.stem.startswith(path.stem)
    ]
    if by_order:
        (first, first_label), (last, last_label) = by_order[0], by_order[-1]
        folder.say(
            f"the {len(by_order)} masks of {TEST_LABEL}/ have other names than photos: in order, they are taken for the first "
            f"{len(by_order)} photos, {first.name} ({first_label.name}) to {last.name} ({last_label.name})"
        )
    if shrink is not None:
        name = format_factor(factor)
        folder.say(f"there is no images_{name}: the photos of {used.name}/ are downscaled {name} times")
    if len(photos) < rows:
        folder.say(f"{rows - len(photos)} of {rows} poses have no photo in {used.name}/ and are left out")
    return folder


def format_factor(factor: float) -> str:
    """4.0 -> "4", 2.5 -> "2.5"."""
    return f"{factor:g}"


def photo_files(folder: Path) -> list[Path]:
    """Photos directly in a folder, in order of names as LLFF sorts them (plain string order); hidden files are none."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted((path for path in files if path.suffix.lower() in PHOTO_SUFFIXES), key=lambda path: path.name)


def _photo_folders(source: Path) -> dict[float, Path]:
    """Factor -> folder, for every images/ and images_N/ that holds photos."""
    found: dict[float, Path] = {}
    for path in sorted(source.iterdir()) if source.is_dir() else []:
        match = re.fullmatch(r"images(?:_(\d+(?:\.\d+)?))?", path.name)
        if match and path.is_dir() and photo_files(path):
            found.setdefault(float(match.group(1) or 1), path)
    return found


def _pair(source: Path, used: Path, folders: dict[float, Path], rows: int) -> list[tuple[int, Path]]:
    """Pairs photos with rows: by order where the counts agree, else by the names in COLMAP's images or another folder."""
    photos = photo_files(used)
    if len(photos) == rows:
        return list(enumerate(photos))
    by_stem = {path.stem: path for path in photos}
    lists = [registered_names(source)]
    lists += [[path.name for path in photo_files(other)] for other in folders.values() if other != used]
    for names in lists:
        # Names in the order of the poses. If they hold none of the photos, they are other names for the same scene.
        paired = [(row, by_stem[Path(name).stem]) for row, name in enumerate(names) if Path(name).stem in by_stem]
        if len(names) == rows and paired:
            return paired
    raise SpinnerfError(
        f"{used} holds {len(photos)} photos, poses_bounds.npy has {rows} poses; without COLMAP's images.bin nobody can tell "
        "which photo is missing or was not registered: restore the missing photos, or move away those without a pose"
    )


def registered_names(source: Path) -> list[str]:
    """File names of COLMAP's registered photos in LLFF's order (sorted), or [] without images.bin / images.txt."""
    from nerfstudio.data.utils import colmap_parsing_utils as colmap

    for model in MODEL_FOLDERS:
        for suffix, read in ((".bin", colmap.read_images_binary), (".txt", colmap.read_images_text)):
            path = source / model / f"images{suffix}"
            if path.is_file():
                return sorted(image.name for image in _read_colmap(read, path).values())
    return []


def _labels(source: Path, used: Path, photos: list[tuple[int, Path]]) -> dict[int, Path]:
    """Object masks beside the photos, else beside those of another factor; found by the photo's name or stem."""
    others = [path for path in sorted(source.glob("images*")) if path != used and path.is_dir()]
    for parent in (used, *others):
        folders = [parent / name for name in LABEL_FOLDERS if (parent / name).is_dir()]
        found = {}
        for row, photo in photos:
            names = (f"{photo.name}.png", f"{photo.stem}.png", photo.name)
            candidates = [folder / name for folder in folders for name in names]
            label = next((path for path in candidates if path.is_file()), None)
            if label is not None:
                found[row] = label
        found.update(_test_labels(parent, photos, found))
        if found:
            return found
    return {}


def _test_labels(parent: Path, photos: list[tuple[int, Path]], by_name: dict[int, Path]) -> dict[int, Path]:
    """Masks of the test photos, which come first and whose masks SPIn-NeRF's scenes call otherwise: paired in order.

    Args:
        by_name: the photos that have a mask of their name.
    """
    folder = parent / TEST_LABEL
    masks = sorted(photo_files(folder), key=_natural) if folder.is_dir() else []
    rows = [row for row, _ in photos[: len(masks)]]
    if not masks or len(masks) >= len(photos) or any(row in by_name for row in rows):
        return {}
    return dict(zip(rows, masks, strict=True))


def _natural(path: Path) -> list[Any]:
    """Sorts 2.png before 10.png."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _camera(model: Path | None) -> dict[str, Any] | None:
    """COLMAP's intrinsics as nerfstudio's keys, where the model has exactly one camera of a kind that nerfstudio knows."""
    if model is None:
        return None
    from nerfstudio.data.utils import colmap_parsing_utils as colmap
    from nerfstudio.process_data.colmap_utils import parse_colmap_camera_params

    for suffix, read in ((".bin", colmap.read_cameras_binary), (".txt", colmap.read_cameras_text)):
        path = model / f"cameras{suffix}"
        if not path.is_file():
            continue
        cameras = list(_read_colmap(read, path).values())
        if len(cameras) != 1:
            return None
        try:
            return parse_colmap_camera_params(cameras[0])
        except NotImplementedError:
            return None
    return None


def _read_colmap(read: Any, path: Path) -> dict[int, Any]:
    """Runs one of nerfstudio's COLMAP readers on `path`."""
    try:
        return read(path)
    except Exception as error:  # a foreign parser: struct.error, KeyError, MemoryError, ... on a damaged file
        raise SpinnerfError(f"{path} cannot be read as COLMAP's file ({error}); write it again, or remove it") from error
