"""What each kind of capture says, in transforms.json's form but nothing mended: Blender's files, LLFF's, COLMAP's models."""

from __future__ import annotations

import shlex
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spinnerf_ns.accel.replaced import replaced
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene.source import NOTED, PHOTO_SUFFIXES, SPLITS, pose_again, read_transforms
from spinnerf_ns.scene.transforms import CAPTURE_WIDE

COLMAP_MASKS = "masks"
"""Folder beside a COLMAP capture's images/ with masks as COLMAP names them for its features: <photo with suffix>.png, in which
black is left out. Under other names a folder of masks is not taken: nobody says what it is of."""


def blender_transforms(folder: Path) -> dict[str, Any]:
    """transforms_train.json, _val and _test as one; each frame keeps what its file says of all its frames."""
    meta: dict[str, Any] = {"frames": []}
    files = [split for split in SPLITS if (folder / f"transforms_{split}.json").is_file()]
    for split in files:
        own = read_transforms(folder / f"transforms_{split}.json")
        shared = {key: value for key, value in own.items() if key != "frames" and not key.endswith("_filenames")}
        for frame in own["frames"]:
            path = frame["file_path"]
            meta["frames"].append({**shared, **frame, "file_path": path[2:] if path.startswith("./") else path})
        if len(files) > 1:
            meta[f"{split}_filenames"] = [frame["file_path"] for frame in meta["frames"][-len(own["frames"]) :]]
    seen: set[str] = set()
    meta["frames"] = [f for f in meta["frames"] if not (f["file_path"] in seen or seen.add(f["file_path"]))]  # type: ignore[func-returns-value]
    if len(files) > 1:
        for split in SPLITS:  # one of val and test stands for the other
            other = meta.get("val_filenames", meta.get("test_filenames"))
            meta.setdefault(f"{split}_filenames", other)
        for key in CAPTURE_WIDE:
            if key in meta["frames"][0]:
                meta[key] = meta["frames"][0][key]
    return meta


def llff_transforms(folder: Path) -> dict[str, Any]:
    """An LLFF folder's poses_bounds.npy and photos; file paths are absolute, of the lowest images_N.

    Raises:
        SpinnerfError: what `convert_llff` raises; or a SPIn-NeRF scene, whose first photos are other than the rest.
    """
    from spinnerf_ns.hints import command
    from spinnerf_ns.scene.llff import SPIN_NERF_PHOTOS, llff_meta, read_poses_bounds
    from spinnerf_ns.scene.llff_folder import open_llff_folder

    poses = read_poses_bounds(folder / "poses_bounds.npy")
    opened = open_llff_folder(folder, None, len(poses))
    if opened.total == SPIN_NERF_PHOTOS and opened.labels:
        output = folder.with_name(f"{folder.resolve().name}-nerfstudio")
        convert = command("ns-spinnerf", "convert-llff", data=folder, output=output, split="spin-nerf")
        raise SpinnerfError(
            f"{folder}: {SPIN_NERF_PHOTOS} photos with masks, as SPIn-NeRF's scenes have, where the first 40 do not show the "
            f"object; convert it, so that they are truth and not trained on: {convert}"
        )
    meta = llff_meta(poses, opened)
    for (_, path), frame in zip(opened.photos, meta["frames"], strict=True):
        frame["file_path"] = str(path.absolute())
    return meta


def colmap_transforms(folder: Path, model: Path) -> dict[str, Any]:
    """A COLMAP model below a folder as transforms.json would have it, in nerfstudio's world with z up.

    Raises:
        SpinnerfError: a lens that nerfstudio does not have.
    """
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser, ColmapDataParserConfig
    from nerfstudio.data.utils import colmap_parsing_utils

    qvec2rotmat = colmap_parsing_utils.qvec2rotmat

    class Lenient(ColmapDataParser):
        """Frames alone; the stock method also wants one camera model for all."""

    parser = Lenient(ColmapDataParserConfig(data=folder, colmap_path=model.relative_to(folder)))
    turns: list[float] = []

    def noted(qvec: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        turns.append(float(np.linalg.norm(qvec)))
        return qvec2rotmat(qvec)

    try:
        with replaced(colmap_parsing_utils, qvec2rotmat=noted):
            meta = parser._get_all_images_and_cameras(model)
    except (AssertionError, NotImplementedError, KeyError) as error:
        what = " ".join(str(error).split()) or "a camera model that nerfstudio does not have"
        output = folder.with_name(f"{folder.resolve().name}-undistorted")
        paths = {"image_path": folder / "images", "input_path": model, "output_path": output}
        again = shlex.join(["colmap", "image_undistorter", *(str(x) for k, v in paths.items() for x in (f"--{k}", v))])
        raise SpinnerfError(f"{model}: {what}; undistort the photos first: {again}") from error
    except (struct.error, OSError, ValueError, IndexError, MemoryError, OverflowError) as error:
        if _without_point_lines(text := model / "images.txt"):
            part = shlex.join(["sed", "-i", "/^#/!G", str(text)])
            wanted = "a line of points, empty where there are none, was expected after each photo's"
            raise SpinnerfError(f"{text}: {wanted}, and there are none; add empty ones: {part}") from error
        what = " ".join(str(error).split()) or type(error).__name__
        raise SpinnerfError(f"{model}: cannot be read as COLMAP's model ({what}); write it again: {pose_again(folder)}") from error
    names = dict(text_names(model / "images.txt")) if (model / "images.txt").is_file() else {}
    for frame in meta["frames"]:
        frame["transform_matrix"] = np.asarray(frame["transform_matrix"]).tolist()
        frame["file_path"] = Path(frame["file_path"]).relative_to(folder).as_posix()
        number = frame.pop("colmap_im_id", None)
        if (name := names.get(number)) is not None and not frame["file_path"].endswith(f"/{name}"):
            frame["file_path"] = f"images/{name}"
            meta[NOTED] = ["names with blanks"]
    none = next((frame["file_path"] for frame, length in zip(meta["frames"], turns, strict=False) if not length > 0.5), None)
    if none is not None:  # the formula makes it the identity, which is a rotation
        again = pose_again(folder)
        raise SpinnerfError(f"{model}: {none}: a quaternion of zeros in place of a rotation; pose the photos again: {again}")
    for frame in meta["frames"]:
        mask = f"{COLMAP_MASKS}/{frame['file_path'].removeprefix('images/')}.png"
        if (folder / mask).is_file():
            frame["mask_path"] = mask
    for split in SPLITS:
        if (listed := folder / f"{split}_list.txt").is_file():
            lines = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines()]
            meta[f"{split}_filenames"] = [f"images/{line}" for line in lines if line]
    given = [split for split in SPLITS if f"{split}_filenames" in meta]
    if given:
        rest = [name for split in given for name in meta[f"{split}_filenames"]]
        everything = [frame["file_path"] for frame in meta["frames"]]
        meta.setdefault("train_filenames", [name for name in everything if name not in set(rest)])
        other = meta.get("val_filenames", meta.get("test_filenames", []))
        meta.setdefault("val_filenames", other)
        meta.setdefault("test_filenames", other)
    return meta


def _without_point_lines(path: Path) -> bool:
    """Whether COLMAP's images.txt has photos' lines alone, as people write it by hand."""
    if not path.is_file():
        return False
    lines = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if not line.startswith("#")]
    lines = [words for words in lines if words]
    return len(lines) > 1 and all(len(words) > 9 and Path(words[9]).suffix.lower() in PHOTO_SUFFIXES for words in lines)


def text_names(path: Path) -> Iterator[tuple[int, str]]:
    """The numbers and photos' names of COLMAP's images.txt, whose pose lines and point lines take turns; names may have blanks,
    at the first of which nerfstudio's reader ends them."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip() or line.startswith("#"):
                continue
            words = line.split(maxsplit=9)
            if len(words) == 10 and words[0].isdigit():
                yield int(words[0]), words[9].strip()
            next(lines, None)
