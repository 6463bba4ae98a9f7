"""The subjects of geometry.py that rest on dense depth: stereo itself, masks carried by it, fields that learn it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from spinnerf_ns.conventions import dilate_mask
from spinnerf_ns.files import load_object_mask, write_png
from spinnerf_ns.scene.camera_path import order_along_path
from spinnerf_ns.scene.capture import Capture, load_capture
from spinnerf_ns.scene.view import View
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.stereo.consistency import CONFIDENT
from spinnerf_ns.stereo.maps import load_stereo, stereo_of

TEXTURE = 16.0
"""Variance of grey (of 255) in a window of 5 pixels from which a pixel is textured."""
GROWTH = 5
"""Pixels by which true masks are grown to what is left out of a field of what stays."""


def true_depth(scene: Path, photo: str, kind: str = "depths_with_object") -> np.ndarray | None:
    """(H, W) planar depth in world units of a rendered capture, 0 = sky; None where there is none."""
    file = scene / "truth" / kind / f"{photo}.npy"
    if not file.is_file():
        return None
    depth = np.load(file)
    return depth.astype(np.float64) * (1e-3 if depth.dtype == np.float16 else 1.0)


def prepared(scene: Path, work: Path) -> tuple[Capture, Workspace]:
    """A copy of a capture whose object-free photos are known, and its workspace; a capture without twin.json as it is."""
    from spinnerf_ns.evaluation.matrix.scenes import find_scenes, prepare_scene

    if not (scene / "twin.json").is_file():
        work.mkdir(parents=True, exist_ok=True)
        return load_capture(scene), Workspace.open(scene, work / f"{scene.name}-spinnerf")
    base = work / "captures" / scene.name
    found = prepare_scene(find_scenes([str(scene)])[0], base, "geometry")
    workspace = Workspace.open(base)
    workspace.set_object_free(found.object_free)
    return found.capture, workspace


def shown(capture: Capture, workspace: Workspace) -> list[View]:
    """The photos with the object, along the camera path."""
    views = [view for view in capture.views if view.photo not in workspace.object_free]
    return [views[index] for index in order_along_path(views)]


# ------------------------------------------------------------------------------------------------------------------ stereo
@dataclass
class StereoBenchmark:
    """Dense depth of scenes: how much is confident, how much of that is right, how long it takes."""

    scenes: tuple[Path, ...]
    """Captures; depth is compared where they have truth/depths_with_object."""
    photos: int | None = None
    """Photos to take of each, evenly spread; by default all."""
    size: tuple[int, int] | None = None
    """Photos are cropped to this shape and resized to this (width, height) first."""
    work: Path = Path("outputs/geometry")
    """Depth is kept here."""

    def run(self) -> None:
        print("| scene | photos | CPU s | wall s | confident | textured, confident | confident within 1 % | 3 % |")
        print("|---|---|---|---|---|---|---|---|")
        for scene in self.scenes:
            capture, workspace = prepared(scene, self.work)
            if self.photos or self.size:
                capture, workspace = self._resized(scene, capture)
            cpu, wall = time.process_time(), time.monotonic()
            stereo_of(capture, workspace)
            cpu, wall = time.process_time() - cpu, time.monotonic() - wall
            rows = [self._photo(scene, view, workspace) for view in shown(capture, workspace)]
            with np.errstate(all="ignore"):
                shares = " | ".join(f"{value:.3f}" for value in np.nanmean(np.array(rows), axis=0))
            print(f"| {scene.name} | {len(rows)} | {cpu:.1f} | {wall:.1f} | {shares} |", flush=True)

    @staticmethod
    def _photo(scene: Path, view: View, workspace: Workspace) -> list[float]:
        depth = load_stereo(workspace, view.photo, (view.height, view.width))
        sure = depth.confidence >= CONFIDENT
        grey = cv2.cvtColor(view.read_image(), cv2.COLOR_RGB2GRAY).astype(np.float32)
        textured = cv2.blur(grey * grey, (5, 5)) - cv2.blur(grey, (5, 5)) ** 2 > TEXTURE
        true = true_depth(scene, view.photo)
        if true is None or true.shape != sure.shape:
            return [sure.mean(), sure[textured].mean(), np.nan, np.nan]
        error = np.abs(depth.z / np.maximum(true, 1e-9) - 1)[sure]
        return [sure.mean(), sure[textured & (true > 0)].mean(), (error < 0.01).mean(), (error < 0.03).mean()]

    def _resized(self, scene: Path, capture: Capture) -> tuple[Capture, Workspace]:
        """Some of the photos, at another size."""
        views = capture.split("train") or capture.views
        count = min(self.photos or len(views), len(views))
        root = self.work / "captures" / f"{scene.name}-{count}"
        frames = []
        for view in (views[index] for index in np.linspace(0, len(views) - 1, count).round().astype(int)):
            image = view.read_image()
            width, height = self.size or (view.width, view.height)
            rows = round(view.width * height / width)
            top = (view.height - rows) // 2
            write_png(
                root / "images" / f"{view.photo}.png",
                cv2.resize(image[top : top + rows], (width, height), interpolation=cv2.INTER_AREA),
            )
            by = width / view.width
            lens = {
                "fl_x": view.fx * by,
                "fl_y": view.fy * by,
                "cx": view.cx * by,
                "cy": (view.cy - top) * by,
                "w": width,
                "h": height,
            }
            lens |= dict(zip(("k1", "k2", "k3", "k4", "p1", "p2"), map(float, view.distortion), strict=True))
            pose = np.vstack([view.c2w, [0, 0, 0, 1]]).tolist()
            frames.append({"file_path": f"images/{view.photo}.png", "transform_matrix": pose, **lens})
        (root / "transforms.json").write_text(json.dumps({"camera_model": "OPENCV", "frames": frames}))
        return load_capture(root), Workspace.open(root)


# ---------------------------------------------------------------------------------------------------------------- tracking
@dataclass
class TrackingBenchmark:
    """Masks of all photos from a person's box in one."""

    scenes: tuple[Path, ...]
    """Rendered captures (twin.json, truth/)."""
    trackers: tuple[str, ...] = ("flow", "geometry")
    """Which."""
    work: Path = Path("outputs/geometry")
    """Captures and their depth are kept here."""

    def run(self) -> None:
        from spinnerf_ns.evaluation.matrix.scenes import find_scenes, prepare_scene
        from spinnerf_ns.nerf.refinement import agreement
        from spinnerf_ns.segmentation.segment import give_depth
        from spinnerf_ns.segmentation.segmenters.grabcut import GrabCutSegmenter
        from spinnerf_ns.segmentation.trackers import TRACKERS

        print("| scene | tracker | mask pointed at | photos | mean IoU | least | CPU s |\n|---|---|---|---|---|---|---|")
        for scene in self.scenes:
            capture, workspace = prepared(scene, self.work)
            prompt = prepare_scene(find_scenes([str(scene)])[0], capture.data, "geometry").prompt
            views = shown(capture, workspace)
            source = next(index for index, view in enumerate(views) if view.photo == capture.view(prompt.view).photo)
            mask = GrabCutSegmenter().segment(views[source].read_image(), prompt)
            truth = [load_object_mask(scene / "truth/object_masks" / f"{view.photo}.png") for view in views]
            for name in self.trackers:
                tracker = TRACKERS.create(name)
                give_depth(tracker, capture, workspace, views)
                cpu = time.process_time()
                masks = tracker.track([view.read_image for view in views], {source: mask})
                cpu = time.process_time() - cpu
                found = [agreement(each, true) for each, true in zip(masks, truth, strict=True) if each is not None]
                row = f"| {scene.name} | {name} | {agreement(mask, truth[source]):.3f} | {len(found)} of {len(views)} | "
                print(row + f"{np.mean(found):.4f} | {min(found):.3f} | {cpu:.1f} |", flush=True)


# ------------------------------------------------------------------------------------------------------------------ fields
@dataclass
class FieldsBenchmark:
    """Depth and colours of fields with and without measured depth."""

    scenes: tuple[Path, ...]
    """Rendered captures (twin.json, truth/)."""
    kinds: tuple[str, ...] = ("all", "rest")
    """all: the object included. rest: what stays, outside the true masks, grown."""
    weights: tuple[float, ...] = (0.0, 0.05)
    """Weights of the depth loss; 0: without stereo."""
    tolerance: float = 0.03
    """Its tolerance."""
    steps: int = 800
    """Training steps of the -lite field."""
    every: int = 3
    """One photo of so many is rendered, at half its resolution."""
    work: Path = Path("outputs/geometry")
    """Captures and their depth are kept here."""

    def run(self) -> None:
        print("| scene | field of | weight | within 1 % | 3 % | test photos outside the mask, dB |\n|---|---|---|---|---|---|")
        for scene in self.scenes:
            capture, workspace = prepared(scene, self.work)
            stereo_of(capture, workspace)
            for kind in self.kinds:
                for weight in self.weights:
                    print(self._row(scene, workspace, kind, weight), flush=True)

    def _row(self, scene: Path, workspace: Workspace, kind: str, weight: float) -> str:
        from spinnerf_ns.nerf.background_field import fit_background
        from spinnerf_ns.nerf.rendering import render_depth, render_pixels
        from spinnerf_ns.runs import apply, method_config

        settings = {
            "pipeline.datamanager.data": workspace.scene, "pipeline.datamanager.workspace": workspace.root,
            "pipeline.datamanager.masks": (scene / "truth/object_masks").resolve(), "pipeline.datamanager.stereo": weight > 0,
            "pipeline.model.stereo_depth_loss_mult": weight, "pipeline.model.stereo_depth_tolerance": self.tolerance,
        }  # fmt: skip
        torch.manual_seed(0)
        pipeline = apply(method_config("spinnerf-seg-lite"), settings).pipeline.setup(device="cpu")
        manager, capture = pipeline.datamanager, pipeline.datamanager.capture
        regions = {
            view.photo: dilate_mask(load_object_mask(scene / "truth/object_masks" / f"{view.photo}.png"), GROWTH)
            for view in shown(capture, workspace)
        }
        photos = [manager.view_of(path).photo for path in manager.train_dataset.image_filenames]
        left_out = np.concatenate([regions[photo].reshape(-1) & (kind == "rest") for photo in photos])
        model = fit_background(pipeline.model, manager, torch.from_numpy(~left_out), self.steps)
        shares, figures = [], []
        for view in shown(capture, workspace)[:: self.every]:
            true = true_depth(scene, view.photo, "depths" if kind == "rest" else "depths_with_object")
            z = render_depth(model, capture.cameras([view]), capture.world_scale, 2)
            counted = true > 0 if kind == "all" else (true > 0) & ~regions[view.photo]
            error = np.abs(z / np.maximum(true, 1e-9) - 1)[counted]
            shares.append([(error < 0.01).mean(), (error < 0.03).mean()])
        for photo in workspace.object_free:
            view = capture.view(photo)
            rendered = render_pixels(model, capture.cameras([view]), ("rgb",))["rgb"]
            outside = ~dilate_mask(load_object_mask(scene / "truth/object_masks" / f"{photo}.png"), GROWTH)
            figures.append(-10 * np.log10(np.mean((rendered - view.read_image() / 255)[outside] ** 2)))
        within = np.mean(shares, axis=0)
        return f"| {scene.name} | {kind} | {weight:g} | {within[0]:.3f} | {within[1]:.3f} | {np.mean(figures):.2f} |"
