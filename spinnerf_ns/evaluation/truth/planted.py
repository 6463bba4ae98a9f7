"""A made-up object planted in a real capture: its photos then are the exact truth behind the object.

A twin (`evaluation.twin`) is exact but made up. Here photos, noise, exposure and pose errors are real, the object is not.

    <root>/transforms.json              a nerfstudio dataset with the source's poses: explicit splits (val == test)
    <root>/sparse_pc.ply                the source's points that training photos still show, and points on the object
    <root>/images/                      training photos with the object, test photos as they were
    <root>/spinnerf/manifest.json       names the test photos as object-free
    <root>/truth/images/                every photo as it was, at the size written
    <root>/truth/images_with_object/    every photo with the object
    <root>/truth/object_masks/          8-bit PNG, 255 = the pixel's centre shows the object (test photos: would show)
    <root>/planted.json                 configuration, place, object-free photos and a person's prompt; written last

Photos taken from so near that the object would fill them are left out.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.conventions import OBJECTNESS_THRESHOLD, BoolMask, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.planted_object import Rendering, Solid, composed, linear, render_solid, shadow_light
from spinnerf_ns.evaluation.truth.planted_occlusion import KnownDepth, front_by_depth, front_by_points
from spinnerf_ns.evaluation.truth.planted_place import LARGEST, SIZE_RANGE, Place, SeenPoints, choose_place
from spinnerf_ns.evaluation.truth.scenes import TruthScene, new_folder, read_scene
from spinnerf_ns.evaluation.truth.twin import prompt_from_mask
from spinnerf_ns.files import save_object_mask, write_json, write_png
from spinnerf_ns.scene.cameras import project, unproject
from spinnerf_ns.scene.capture import Capture, load_capture
from spinnerf_ns.scene.points import read_points, visible_points, write_ply
from spinnerf_ns.scene.removed import camera_entries
from spinnerf_ns.scene.source import MEASURED_POINTS
from spinnerf_ns.scene.view import View
from spinnerf_ns.scene.workspace import Workspace

PLANTED_FILE = "planted.json"
PLANTED_VERSION = 1
LEAST_TEST_PHOTOS = 3
MOST_TEST_EVERY = 6
"""So that at least 15 % of the photos are test photos."""
LEAST_AREA = 0.01
"""Part of a photo that the object must fill there for it to be a test photo, or the one that is clicked on."""
WHITE = 0.7
"""Albedo that the brightest tenth of the surfaces are taken to have; sets how bright the light is."""


@dataclass(frozen=True)
class PlantConfig:
    """What to plant, and how."""

    seed: int = 0
    """Draws the object's form, pattern and colours, and thins the places that are tried."""
    size: float = 0.06
    """Part of the photo that the object fills, median over the photos that see it; 0.03 to 0.10."""
    shadow: bool = False
    """The object shades the ground around it softly. Photos then differ outside its mask too, as real ones do."""
    width: int | None = None
    """Width of the written photos in pixels; by default as captured."""
    test_every: int = 6
    """One photo in so many becomes an object-free test photo (never fewer than three); 2 to 6."""
    max_photos: int | None = None
    """Use at most so many photos of the capture, evenly spaced by name."""
    supersampling: int = 3
    """Rays along each side of a pixel."""

    def __post_init__(self) -> None:
        def check(good: bool, name: str, expected: str) -> None:
            if not good:
                raise SpinnerfError(f"PlantConfig: {name} is {getattr(self, name)}, expected {expected}; correct it")

        check(SIZE_RANGE[0] <= self.size <= SIZE_RANGE[1], "size", f"{SIZE_RANGE[0]} to {SIZE_RANGE[1]}")
        check(self.width is None or self.width >= 32, "width", "32 or more")
        check(2 <= self.test_every <= MOST_TEST_EVERY, "test_every", f"2 to {MOST_TEST_EVERY}")
        check(self.max_photos is None or self.max_photos >= 6, "max_photos", "6 or more")
        check(1 <= self.supersampling <= 8, "supersampling", "1 to 8")


@dataclass(frozen=True, kw_only=True)
class PlantedScene(TruthScene):
    """What was written, and where. `truth` has the kinds images, images_with_object and object_masks."""

    config: PlantConfig
    figures: dict[str, float]
    """Of the place: see `planted_place.Place`."""


def plant(data: Path, output: Path, config: PlantConfig = PlantConfig()) -> PlantedScene:
    """Plants an object in a capture.

    Args:
        data: a posed capture with sparse points: what `load_capture` reads, or an LLFF or SPIn-NeRF folder. Never modified.
        output: the folder to make; it may exist if it is empty.
        config: what to plant. Equal captures and configurations give equal bytes.

    Returns:
        What was written; `load_planted(output)` gives the same.

    Raises:
        SpinnerfError: no poses or no points, too few photos, no place that enough photos see, or `output` is not empty.
            Nothing is left behind on any error.
    """
    data, output = Path(data), Path(output)
    with new_folder(output) as written:
        capture = _open(data, written.parent / "converted")
        _Planter(capture, data, config).write(written)
    return load_planted(output)


def load_planted(root: Path) -> PlantedScene:
    """Reads what `plant` wrote.

    Raises:
        SpinnerfError: there is no planted.json, or it is of another version or broken, or photos are missing.
    """

    def own(content: dict) -> dict:
        return {"config": PlantConfig(**content["config"]), "figures": dict(content["figures"])}

    again = "plant again into a new folder: ns-spinnerf plant"
    return read_scene(Path(root) / PLANTED_FILE, PLANTED_VERSION, "a planted scene", again, PlantedScene, own)


def _open(data: Path, converted: Path) -> Capture:
    if (data / "poses_bounds.npy").is_file() and not (data / "transforms.json").is_file():
        from spinnerf_ns.scene.llff import convert_llff

        data = convert_llff(data, converted, link=True)
    return load_capture(data)


@dataclass
class _Shown:
    """The sparse points that a photo shows."""

    indices: NDArray[np.int64]
    pixels: NDArray[np.int64]
    z: NDArray[np.float32]
    exposure: float
    """How bright the photo is, the points' colours being 1."""


@dataclass
class _Planted:
    """A photo with the object."""

    object_mask: BoolMask
    points: NDArray[np.float64]
    """(K, 3) on the object."""
    colors: NDArray[np.uint8]


class _Planter:
    def __init__(self, capture: Capture, data: Path, config: PlantConfig) -> None:
        self.capture, self.config, self.data = capture, config, data
        views = list(capture.views)
        if config.max_photos is not None and len(views) > config.max_photos:
            views = [views[i] for i in np.linspace(0, len(views) - 1, config.max_photos).round().astype(int)]
        self.sources = views
        self.views = [_scaled(view, config.width) for view in views]
        self.names = [f"images/{view.photo}.png" for view in views]
        points = read_points(capture)
        if points is None:
            raise SpinnerfError(
                f"{data}: no coloured sparse points (ply_file_path), expected some to stand an object on; make the capture "
                "again: ns-process-data images --data PHOTOS --output-dir FOLDER"
            )
        self.points = points
        self.depth = KnownDepth.of(capture)

    def write(self, root: Path) -> None:
        rng = np.random.default_rng([self.config.seed, 0])
        shown = [self._shown(index) for index in range(len(self.views))]
        visible = np.zeros((len(shown), len(self.points.positions)), dtype=bool)
        for row, each in zip(visible, shown, strict=True):
            row[each.indices] = True
        place = choose_place(self.views, SeenPoints(self.points.positions, visible), self.config.size, rng)
        solid = Solid.draw(np.random.default_rng([self.config.seed, 1]), place.position, place.axes, place.height)
        brightness = self._brightness(solid, visible)
        planted = [self._plant(root, index, solid, shown[index], brightness) for index in range(len(self.views))]
        # Nobody photographs from so near that the object fills the photo: what was taken from there is left out.
        used = [index for index, each in enumerate(planted) if each.object_mask.mean() <= LARGEST]
        left_out = [self.names[index] for index in range(len(self.names)) if index not in used]
        for name in left_out:
            for kind in ("images", "images_with_object", "object_masks"):
                (root / "truth" / kind / name.removeprefix("images/")).unlink()
        self.sources, self.views = [self.sources[i] for i in used], [self.views[i] for i in used]
        self.names = [self.names[i] for i in used]
        planted, visible = [planted[i] for i in used], visible[used]
        test = self._test_photos([each.object_mask for each in planted])
        for index, name in enumerate(self.names):
            kind = "images" if index in test else "images_with_object"
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / "truth" / kind / Path(name).relative_to("images"), target)
        train = [index for index in range(len(self.views)) if index not in test]
        self._write_points(root, solid, [planted[i] for i in train], [self.views[i] for i in train], visible[train])
        write_json(root / "transforms.json", self._transforms(test))
        object_free = [self.names[index] for index in test]
        Workspace.open(root).set_object_free(name.removeprefix("images/").removesuffix(".png") for name in object_free)
        prompt = self._prompt(train, planted)
        box, points = prompt_from_mask(planted[prompt].object_mask)
        write_json(
            root / PLANTED_FILE,
            {
                "version": PLANTED_VERSION,
                "source": self.data.resolve().name,
                "config": asdict(self.config),
                "figures": place.figures,
                "object": _object(place),
                "photos": self.names,
                "left_out": left_out,
                "object_free": object_free,
                "prompt": {"view": self.names[prompt], "box": box, "points": points},
            },
        )

    def _photo(self, index: int) -> Image:
        image, view = self.sources[index].read_image(), self.views[index]
        if image.shape[:2] == (view.height, view.width):
            return image
        return cv2.resize(image, (view.width, view.height), interpolation=cv2.INTER_AREA)

    def _shown(self, index: int) -> _Shown:
        photo = self._photo(index)
        indices, pixels, z = visible_points(self.views[index], photo, self.points)
        if not len(indices):
            return _Shown(indices, pixels, z, 1.0)
        there = linear(photo[pixels[:, 0], pixels[:, 1]]).mean(axis=1)
        usual = linear(self.points.colors[indices]).mean(axis=1)
        exposure = float(np.median((there + 0.01) / (usual + 0.01)))
        return _Shown(indices, pixels, z, float(np.clip(exposure, 0.5, 2.0)))

    def _brightness(self, solid: Solid, visible: BoolMask) -> float:
        """How much light falls on the place: white things there would be about as bright as the brightest around."""
        seen = visible.any(axis=0)
        distance = np.linalg.norm(self.points.positions - solid.position, axis=1)
        near = seen & (distance <= np.sort(distance[seen])[: max(50, seen.sum() // 4)][-1])
        return float(np.clip(np.percentile(linear(self.points.colors[near]).mean(axis=1), 90) / WHITE, 0.1, 1.3))

    def _plant(self, root: Path, index: int, solid: Solid, shown: _Shown, brightness: float) -> _Planted:
        photo, view = self._photo(index), self.views[index]
        rendering = render_solid(solid, view, self.config.supersampling)
        image, object_mask = photo, np.zeros(photo.shape[:2], dtype=bool)
        points, colors = np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
        if rendering is not None:
            front = self._front(index, photo, shown, rendering, solid)
            shadow = shadow_light(solid, view) if self.config.shadow else None
            image = composed(photo, rendering, front, brightness * shown.exposure, shadow)
            object_mask[rendering.rows, rendering.columns] = np.isfinite(rendering.z) & (front < OBJECTNESS_THRESHOLD)
            points, colors = self._surface_points(index, view, image, rendering, object_mask, len(shown.indices))
        name = Path(self.names[index]).relative_to("images")
        write_png(root / "truth" / "images" / name, photo)
        write_png(root / "truth" / "images_with_object" / name, image)
        save_object_mask(root / "truth" / "object_masks" / name, object_mask)
        return _Planted(object_mask, points, colors)

    def _front(self, index: int, photo: Image, shown: _Shown, rendering: Rendering, solid: Solid) -> NDArray[np.float32]:
        depth = self.depth.read(self.sources[index], photo.shape[:2])
        if depth is not None:
            return front_by_depth(depth, rendering, solid.height)
        return front_by_points(photo, shown.pixels, shown.z, rendering, solid.height)

    def _surface_points(
        self, index: int, view: View, image: Image, rendering: Rendering, object_mask: BoolMask, in_photo: int
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Points on the object as dense as the capture's own, each found in one of the photos."""
        rows, columns = np.nonzero(object_mask)
        wanted = in_photo * object_mask.mean() / max(1, len(self.views) // 4)
        rng = np.random.default_rng([self.config.seed, 2, index])
        chosen = rng.choice(len(rows), min(len(rows), math.ceil(wanted)), replace=False)
        rows, columns = rows[chosen], columns[chosen]
        z = rendering.z[rows - rendering.rows.start, columns - rendering.columns.start]
        return unproject(view, np.stack([columns + 0.5, rows + 0.5], axis=1), z), image[rows, columns]

    def _test_photos(self, masks: Sequence[BoolMask]) -> list[int]:
        """Every N-th of the photos that show the object well."""
        count = max(LEAST_TEST_PHOTOS, math.ceil(len(masks) / self.config.test_every))
        shows = [index for index, mask in enumerate(masks) if mask.mean() >= LEAST_AREA]
        if len(shows) < count + 3:
            raise SpinnerfError(
                f"{self.data}: {len(shows)} of {len(masks)} photos show the object, expected {count + 3} or more ({count} "
                "test photos and three that show it); take a capture with more photos"
            )
        return [shows[int((k + 0.5) * len(shows) / count)] for k in range(count)]

    def _prompt(self, train: list[int], planted: list[_Planted]) -> int:
        """The most central training photo that shows the object as large as most do."""
        areas = np.array([planted[i].object_mask.mean() for i in train])
        large = np.median(areas[areas >= LEAST_AREA])
        good = [i for i, area in zip(train, areas, strict=True) if area >= 0.8 * large]
        centers = np.array([self.views[i].c2w[:, 3] for i in good])
        return good[int(np.linalg.norm(centers - np.median(centers, axis=0), axis=1).argmin())]

    def _write_points(self, root: Path, solid: Solid, planted: list[_Planted], views: list[View], visible: BoolMask) -> None:
        """A reconstruction from the training photos would not have the points that the object hides in all of them."""
        hidden = np.zeros_like(visible)
        for row, each, view in zip(hidden, planted, views, strict=True):
            xy, z = project(view, self.points.positions)
            with np.errstate(invalid="ignore"):
                inside = np.flatnonzero((z > 0) & ((xy >= 0) & (xy < [view.width, view.height])).all(axis=1))
            columns, rows = np.floor(xy[inside]).astype(int).T
            row[inside] = each.object_mask[rows, columns]
        shown = (visible & ~hidden).sum(axis=0)
        # Two photos make a point; those that the test for visibility finds in fewer photos anyway are lost if hidden in any.
        kept = (shown >= 2) | ~hidden.any(axis=0)
        kept &= ~solid.contains(self.points.positions)
        positions = np.concatenate([self.points.positions[kept], *(each.points for each in planted)])
        colors = np.concatenate([self.points.colors[kept].astype(np.uint8), *(each.colors for each in planted)])
        write_ply(root / "sparse_pc.ply", positions, colors)

    def _transforms(self, test: list[int]) -> dict[str, Any]:
        meta = {key: value for key, value in self.capture.source_meta.items() if key not in ("ply_file_path", MEASURED_POINTS)}
        cameras = [camera_entries(view) for view in self.views]
        shared = cameras[0] if all(camera == cameras[0] for camera in cameras) else {}
        held_out = [self.names[index] for index in test]
        frames = [
            {"file_path": name, **({} if shared else camera), "transform_matrix": [*view.c2w.tolist(), [0.0, 0.0, 0.0, 1.0]]}
            for name, camera, view in zip(self.names, cameras, self.views, strict=True)
        ]
        return {
            **meta,
            **shared,
            "ply_file_path": "sparse_pc.ply",
            "train_filenames": [name for name in self.names if name not in held_out],
            "val_filenames": held_out,
            "test_filenames": held_out,
            "frames": frames,
        }


def _scaled(view: View, width: int | None) -> View:
    """The view's camera for a photo of `width` pixels."""
    if width is None or width >= view.width:
        return view
    height = max(1, round(view.height * width / view.width))
    x, y = width / view.width, height / view.height
    return dataclasses.replace(view, width=width, height=height, fx=view.fx * x, cx=view.cx * x, fy=view.fy * y, cy=view.cy * y)


def _object(place: Place) -> dict[str, Any]:
    return {"position": place.position.tolist(), "axes": place.axes.tolist(), "height": place.height}
