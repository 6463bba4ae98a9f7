"""Scenes of a benchmark: what a name or a folder on the command line stands for, and what is known of its photos.

`twin` and `twin-orbit` are rendered on the spot. A folder may hold a twin, a planted scene, a SPIn-NeRF scene as published,
or all scenes of that data set; any other posed capture has neither a prompt nor photos without its object.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.measure import Known
from spinnerf_ns.evaluation.truth.scenes import load_scene as load_truth_scene
from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
from spinnerf_ns.files import load_object_mask, read_image, save_object_mask, write_json, write_png
from spinnerf_ns.scene.capture import Capture, load_capture
from spinnerf_ns.scene.labels import LABEL_FOLDERS
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.segmentation.prompts import Prompt

TWINS = {"twin": "forward", "twin-orbit": "orbit"}
"""Scenes that are made on the spot: name -> layout."""

SPIN_NERF_SCENES = ("1", "2", "3", "4", "7", "9", "10", "12", "book", "trash")
"""The folders of the published SPIn-NeRF data set."""

SCENE_FILE = "benchmark_scene.json"
"""Written last into a prepared scene: what it was made from, its prompt, its photos without the object."""

POSES = "poses_bounds.npy"


@dataclass(frozen=True)
class SceneSource:
    """A scene that was asked for."""

    name: str
    """What tables and folders call it."""
    path: Path | None
    """Its folder; None for a scene that is made on the spot."""
    kind: str
    """"twin" (also a planted scene: truth of every photo is known) or "spin-nerf"."""


@dataclass(frozen=True)
class BenchmarkScene:
    """A prepared scene: a nerfstudio dataset, at the resolution used, with what is known of it."""

    root: Path
    """The dataset's folder."""
    prompt: Prompt
    """What a person would point at."""
    object_free: tuple[str, ...]
    """Keys of the test photos, which do not show the object."""

    @property
    def capture(self) -> Capture:
        """Its photos and poses."""
        return load_capture(self.root)

    def object_mask_path(self, photo: str) -> Path:
        """A photo's true object mask; in a test photo, where the object would be. The file may be absent."""
        return self.root / LABEL_FOLDERS[0] / f"{photo}.png"

    def with_object_path(self, photo: str) -> Path:
        """A test photo with the object in it. The file may be absent."""
        return self.root / "with_object" / f"{photo}.png"

    def known(self) -> list[Known]:
        """The test views, their photos and, where there are labels, their object masks; without those that are sources."""
        capture, clean = self.capture, Workspace.open(self.root).clean_photos
        found = []
        for view in (capture.view(photo) for photo in self.object_free if photo not in clean):
            path = self.object_mask_path(view.photo)
            object_mask = load_object_mask(path, (view.height, view.width)) if path.is_file() else None
            found.append(Known(view, view.read_image(), object_mask, valid_mask=view.valid_mask()))
        return found

    def training_masks(self) -> dict[str, np.ndarray]:
        """Training photo -> its true object mask, of those that have one."""
        without = {*self.object_free, *Workspace.open(self.root).clean_photos}
        views = [view for view in self.capture.views if view.photo not in without]
        paths = {view.photo: self.object_mask_path(view.photo) for view in views}
        return {photo: load_object_mask(path) for photo, path in paths.items() if path.is_file()}


def find_scenes(names: Sequence[str]) -> list[SceneSource]:
    """What each name stands for; a folder of all SPIn-NeRF scenes stands for its ten.

    Raises:
        SpinnerfError: a folder that is absent or is none of these, a scene of the data set that is missing from its folder,
            or two scenes of one name.
    """
    sources: list[SceneSource] = []
    for name in names:
        sources += [SceneSource(name, None, "twin")] if name in TWINS else _in_folder(Path(name))
    seen: dict[str, SceneSource] = {}
    for source in sources:
        if source.name in seen:
            raise SpinnerfError(f"{seen[source.name].path} and {source.path}: two scenes called {source.name}; rename one")
        seen[source.name] = source
    if not sources:
        raise SpinnerfError(f"no scene was named; give --scenes {' '.join(TWINS)}, or folders")
    return sources


def _in_folder(path: Path) -> list[SceneSource]:
    wanted = f"{', '.join(TWINS)}, a twin's or planted scene's folder, or SPIn-NeRF's"
    if not path.is_dir():
        raise SpinnerfError(f"{path}: no such scene; expected one of: {wanted}")
    path = path.resolve()
    if _description(path) is not None:
        return [SceneSource(path.name, path, "twin")]
    if (path / POSES).is_file():
        return [SceneSource(path.name, path, "spin-nerf")]
    inside = [name for name in SPIN_NERF_SCENES if (path / name).is_dir()]
    if not inside:
        raise SpinnerfError(
            f"{path}: no scene with a known truth (no twin.json, planted.json or {POSES}); expected one of: {wanted}; "
            "any posed capture becomes one with ns-spinnerf plant"
        )
    for name in SPIN_NERF_SCENES:
        if not (path / name / POSES).is_file():
            raise SpinnerfError(
                f"{path / name / POSES}: missing, and SPIn-NeRF's data set has the scenes {', '.join(SPIN_NERF_SCENES)}; "
                "unpack it again, or name the scenes that are there one by one"
            )
    return [SceneSource(name, path / name, "spin-nerf") for name in SPIN_NERF_SCENES]


def _description(path: Path) -> Path | None:
    return next((path / name for name in ("twin.json", "planted.json") if (path / name).is_file()), None)


def prepare_scene(source: SceneSource, root: Path, key: str, downscale: float = 1.0) -> BenchmarkScene:
    """Makes a scene ready for all methods, or finds it ready.

    Args:
        source: the scene.
        root: the dataset's folder; what an earlier preparation left there is replaced if its key differs.
        key: what the scene depends on; kept beside it.
        downscale: photos are made this much smaller per axis.

    Raises:
        SpinnerfError: photos, masks or poses are missing.
    """
    file = root / SCENE_FILE
    if file.is_file() and json.loads(file.read_text())["key"] == key:
        return load_scene(root)
    if root.exists():
        shutil.rmtree(root)
    original = root.with_name(f"{root.name}_original")
    shutil.rmtree(original, ignore_errors=True)
    try:
        prompt, object_free = _write(source, root, original, downscale)
    finally:
        shutil.rmtree(original, ignore_errors=True)
    Workspace.open(root).set_object_free(object_free)
    write_json(file, {"key": key, "prompt": prompt, "object_free": object_free})
    return load_scene(root)


def load_scene(root: Path) -> BenchmarkScene:
    """Reads what `prepare_scene` wrote."""
    content = json.loads((root / SCENE_FILE).read_text())
    prompt = content["prompt"]
    mask = None if prompt.get("mask") is None else root / prompt["mask"]
    box = None if prompt.get("box") is None else tuple(prompt["box"])
    return BenchmarkScene(root, Prompt(prompt["view"], box=box, mask_path=mask), tuple(content["object_free"]))


def _write(source: SceneSource, root: Path, original: Path, downscale: float) -> tuple[dict[str, Any], list[str]]:
    """Writes the dataset, labels/ and with_object/; returns the prompt and the object-free photos' keys."""
    if source.kind == "spin-nerf":
        from spinnerf_ns.scene.llff import convert_llff

        assert source.path is not None
        convert_llff(source.path, original, split="spin-nerf", link=True)
        object_free = list(Workspace.open(original).object_free)
        _write_scaled(original, root, downscale)
        views = [view for view in load_capture(root).views if view.photo not in object_free]
        labelled = [view.photo for view in views if _area(root / "labels" / f"{view.photo}.png")]
        if not labelled:
            raise SpinnerfError(f"{source.path}: no training photo has an object mask; images_N/label/ should hold them")
        middle = labelled[len(labelled) // 2]
        return {"view": middle, "mask": f"labels/{middle}.png"}, object_free
    if source.path is None:
        truth = write_twin(original, _twin_config(source.name))
    else:
        truth = load_truth_scene(source.path)
    _write_scaled(truth.root, root, downscale)
    capture = load_capture(root)
    keys = {photo: capture.view(photo).photo for photo in truth.photos}
    for photo, key in keys.items():
        for kind, folder in (("object_masks", "labels"), ("images_with_object", "with_object")):
            path = Path(truth.truth(photo, kind))
            if not path.is_file():
                continue
            view = capture.view(key)
            if kind == "object_masks":
                save_object_mask(root / folder / f"{key}.png", _scaled_mask(load_object_mask(path), view.width, view.height))
            else:
                write_png(root / folder / f"{key}.png", _scaled_image(read_image(path), view.width, view.height))
    box = [value / downscale for value in truth.prompt_box]
    return {"view": keys.get(truth.prompt_view, truth.prompt_view), "box": box}, [keys[photo] for photo in truth.object_free]


def _twin_config(name: str) -> TwinConfig:
    return TwinConfig(layout=TWINS[name])  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- downscaling
def _write_scaled(source: Path, root: Path, downscale: float) -> None:
    """Copies a nerfstudio dataset (photos, poses, points, labels) at 1 / downscale of its resolution."""
    meta = json.loads((source / "transforms.json").read_text(encoding="utf-8"))
    for frame in meta["frames"]:
        image = read_image(source / frame["file_path"])
        height, width = image.shape[:2]
        new_width, new_height = max(1, round(width / downscale)), max(1, round(height / downscale))
        frame["file_path"] = Path(frame["file_path"]).with_suffix(".png").as_posix()
        write_png(root / frame["file_path"], _scaled_image(image, new_width, new_height))
        camera = {name: frame.get(name, meta.get(name)) for name in ("fl_x", "fl_y", "cx", "cy")}
        camera["fl_y"] = camera["fl_x"] if camera["fl_y"] is None else camera["fl_y"]
        for name, value in camera.items():
            if value is not None:
                frame[name] = value * (new_width / width if name in ("fl_x", "cx") else new_height / height)
        frame |= {"w": new_width, "h": new_height}
    for name in ("train_filenames", "val_filenames", "test_filenames"):
        if name in meta:
            meta[name] = [Path(each).with_suffix(".png").as_posix() for each in meta[name]]
    for name in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
        meta.pop(name, None)
    if "ply_file_path" in meta:
        shutil.copyfile(source / meta["ply_file_path"], root / Path(meta["ply_file_path"]).name)
        meta["ply_file_path"] = Path(meta["ply_file_path"]).name
    for path in sorted((source / "labels").rglob("*.png")):
        name = path.relative_to(source / "labels")
        mask = load_object_mask(path)
        width, height = (max(1, round(side / downscale)) for side in mask.shape[::-1])
        save_object_mask(root / "labels" / name, _scaled_mask(mask, width, height))
    write_json(root / "transforms.json", meta)


def _scaled_image(image: np.ndarray, width: int, height: int) -> np.ndarray:
    if image.shape[1::-1] == (width, height):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _scaled_mask(object_mask: np.ndarray, width: int, height: int) -> np.ndarray:
    return _scaled_image(object_mask.astype(np.float32), width, height) > 0.5  # a pixel of which most shows the object


def _area(path: Path) -> int:
    return int(load_object_mask(path).sum()) if path.is_file() else 0
