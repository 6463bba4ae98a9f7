"""Geometry on captures with known truth: what is found out about depth and masks, by subject. By hand; not part of the tests.

    python benchmarks/geometry.py points SCENE ...             own points: how many, how exact, how long; 30, 60, 120 photos
    python benchmarks/geometry.py frames SCENE ...             whether points of another frame are found out
    python benchmarks/geometry.py masks SCENE ... [options]    tracked and refined masks, with points, without, sabotaged
    python benchmarks/geometry.py stereo SCENE ...             dense depth: how much, how exact, how long
    python benchmarks/geometry.py tracking SCENE ...           masks of all photos from a box in one
    python benchmarks/geometry.py fields SCENE ... [options]   fields with and without measured depth

SCENE is a folder in the layout of `ns-spinnerf demo --keep`: transforms.json, twin.json and truth/. Results are printed as rows of
a table.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from geometry_depth import FieldsBenchmark, StereoBenchmark, TrackingBenchmark, true_depth

from spinnerf_ns.files import load_object_mask, save_object_mask
from spinnerf_ns.scene.cameras import project
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.points import SparsePoints, check_frame, read_points
from spinnerf_ns.scene.view import View
from spinnerf_ns.scene.workspace import Workspace


# ------------------------------------------------------------------------------------------------------------------ points
@dataclass
class PointsBenchmark:
    """Own sparse points of scenes: number, depth against truth, seconds."""

    scenes: tuple[Path, ...]
    """Captures; depth is compared where they have truth/depths_with_object."""
    photos: tuple[int, ...] = ()
    """Photos to take of each, evenly spread and, beyond their number, again (time alone means something then); by default all."""
    width: int | None = None
    """Photos are resized to this width first."""

    def run(self) -> None:
        from spinnerf_ns.stereo.sparse import sparse_points

        print("| scene | photos | points | points per photo | CPU s | depth within 1 % | 3 % |\n|---|---|---|---|---|---|---|")
        for scene in self.scenes:
            capture = load_capture(scene)
            for count in self.photos or (len(capture.split("train")),):
                views = _spread(capture.split("train"), count)
                images = {}
                for view in views:
                    image = view.read_image()
                    images[view.photo] = image if self.width is None else _resized(image, self.width)
                views = [_at_width(view, images[view.photo].shape[1], images[view.photo].shape[0]) for view in views]
                start = time.process_time()  # of all threads: steadier than wall time beside other work
                points = sparse_points(views, lambda view: images[view.photo])  # noqa: B023
                seconds = time.process_time() - start
                within = _depth_within(scene, views, points) if self.width is None else None
                shares = " | | |" if within is None else f" {within[0]:.3f} | {within[1]:.3f} |"
                number = max(1, len(points.positions))
                row = f"| {scene.name} | {count} | {number} | {len(points.seen.point) / count:.0f} | {seconds:.1f} |{shares}"
                print(row, flush=True)


def _spread(views: list[View], count: int) -> list[View]:
    chosen = [views[i] for i in np.linspace(0, len(views) - 1, min(count, len(views))).round().astype(int)]
    while len(chosen) < count:  # the same photos from a little beside
        again = chosen[len(chosen) % len(views)]
        chosen.append(replace(again, c2w=again.c2w + 1e-4 * len(chosen)))
    return chosen


def _at_width(view: View, width: int, height: int) -> View:
    x, y = width / view.width, height / view.height
    return replace(view, width=width, height=height, fx=view.fx * x, cx=view.cx * x, fy=view.fy * y, cy=view.cy * y)


def _resized(image: np.ndarray, width: int) -> np.ndarray:
    import cv2

    return cv2.resize(image, (width, round(image.shape[0] * width / image.shape[1])), interpolation=cv2.INTER_AREA)


def _depth_within(scene: Path, views: list[View], points: SparsePoints) -> tuple[float, float] | None:
    errors = []
    for view in views:
        own = points.seen.photo == points.seen.photos.index(view.photo)
        z = project(view, points.positions[points.seen.point[own]])[1]
        truth = true_depth(scene, view.photo)
        if truth is None:
            return None
        at = np.clip(np.floor(points.seen.xy[own]).astype(int), 0, [view.width - 1, view.height - 1])
        true = truth[at[:, 1], at[:, 0]]
        errors.append(np.where(true > 0, np.abs(z / np.maximum(true, 1e-9) - 1), np.inf))
    error = np.concatenate(errors)
    return float((error < 0.01).mean()), float((error < 0.03).mean())


# ------------------------------------------------------------------------------------------------------------------ frames
@dataclass
class FramesBenchmark:
    """Whether points of another frame are found out, and right ones are not."""

    scenes: tuple[Path, ...]
    """Captures with points."""

    def run(self) -> None:
        print("| scene | points | median ratio | mean ratio | taken |\n|---|---|---|---|---|")
        for scene in self.scenes:
            capture = load_capture(scene)
            points = read_points(capture)
            if points is None:
                from spinnerf_ns.stereo.sparse import sparse_points

                points = sparse_points(capture.split("train"))
            x = points.positions
            rng = np.random.default_rng(0)
            middle = np.median(x, axis=0)
            moved = {
                "right": x,
                "axes yzx": x[:, [1, 2, 0]],
                "axes zxy": x[:, [2, 0, 1]],
                "axes yxz": x[:, [1, 0, 2]],
                "z up for y up": x[:, [0, 2, 1]] * [1, 1, -1],
                "shuffled": x[rng.permutation(len(x))],
                "scaled 1.5": x * 1.5,
                "scaled 1.1": x * 1.1,
                "mirrored": x * [-1, 1, 1],
                "mirrored about the middle": (x - middle) * [-1, 1, 1] + middle,
                "moved": x + 0.1 * x.std(axis=0).mean(),
            }
            for name, positions in moved.items():
                check = check_frame(capture.views, SparsePoints(positions, points.colors))
                print(f"| {scene.name} | {name} | {check.ratio:.2f} | {check.mean_ratio:.2f} | {'yes' if check.fits else 'no'} |")


# ------------------------------------------------------------------------------------------------------------------- masks
@dataclass
class MasksBenchmark:
    """Refined against tracked masks, with the points that a capture brings, without, and with something broken."""

    scenes: tuple[Path, ...]
    """Rendered captures (twin.json, truth/)."""
    points: tuple[str, ...] = ("own",)
    """given: as the capture is. own: its ply removed. swapped: the ply's axes swapped."""
    broken: tuple[str, ...] = ("none",)
    """What is wrong with a tenth of the tracked masks: none, shifted, empty, other, or mixed."""
    true_masks: bool = False
    """Whether the true masks stand for the tracked ones, some of them broken: where the tracker loses the object."""
    seeds: tuple[int, ...] = (0,)
    steps: int = 0
    """Steps of the segmentation field; 0: the -lite method's."""
    downscale: int = 2
    """Masks are rendered at 1/N of the photos' resolution."""
    work: Path = Path("outputs/geometry")
    """Captures and runs are kept here."""
    keep_rendered: bool = False
    """Whether objectness and depth of each photo are kept, as <work>/<run>.npz."""

    def run(self) -> None:
        print("| scene | points | broken | seed | tracked | refined | field alone | worst photo | masks taken of |")
        print("|---|---|---|---|---|---|---|---|---|")
        for scene in self.scenes:
            for points in self.points:
                for broken in self.broken:
                    for seed in self.seeds:
                        print(self._row(scene, points, broken, seed), flush=True)

    def _row(self, scene: Path, points: str, broken: str, seed: int) -> str:
        from spinnerf_ns.evaluation.baselines import load_pipeline, with_steps
        from spinnerf_ns.nerf.mask_choice import MaskChoice
        from spinnerf_ns.nerf.refinement import agreement, refined
        from spinnerf_ns.nerf.rendering import render_objectness
        from spinnerf_ns.runs import apply, method_config, train

        root = self._prepared(scene, points)
        name = f"{scene.name}-{points}-{'true-' if self.true_masks else ''}{broken}-{seed}-{self.steps}"
        workspace = Workspace.open(root, self.work / "workspaces" / name)
        if workspace.object_free != Workspace.open(root).object_free:
            workspace.set_object_free(Workspace.open(root).object_free)
        masks = self._broken(scene, root, broken)
        config = method_config("spinnerf-seg-lite")
        if self.steps:
            with_steps(config, self.steps)
        settings = {
            "pipeline.export_on_completion": False, "pipeline.datamanager.workspace": workspace.root,
            "pipeline.datamanager.masks": masks, "machine.seed": seed,
        }  # fmt: skip
        run = train(apply(config, settings), root, self.work / "runs", name, {"name": name})
        pipeline = load_pipeline(run.config_path)
        manager = pipeline.datamanager
        capture, truth = manager.capture, {}
        for view in capture.views:
            file = scene / "truth/object_masks" / f"{view.photo}.png"
            if view.photo not in workspace.object_free and file.is_file():
                truth[view.photo] = load_object_mask(file)
        if self.keep_rendered:
            _keep(self.work / f"{name}.npz", pipeline, truth)
        before, after, alone, taken = {}, {}, {}, {"field": 0, "tracked": 0, "others": 0}
        choice = MaskChoice(pipeline.model, manager)
        choice.say_check()
        for photo, true in truth.items():
            view = capture.view(photo)
            label = manager.read_label(view)
            objectness = render_objectness(pipeline.model, capture.cameras([view]), self.downscale)
            chosen = choice.choose(view, objectness, label)
            taken[chosen.source] += 1
            before[photo] = agreement(np.zeros_like(true) if label is None else label == 1, true)
            after[photo] = agreement(chosen.object_mask, true)
            alone[photo] = agreement(refined(objectness, np.full(true.shape, 2, np.uint8) if label is None else label), true)
        choice.say_photos()
        worst = min(truth, key=lambda photo: after[photo] - before[photo])
        means = " | ".join(f"{np.mean(list(each.values())):.4f}" for each in (before, after, alone))
        counts = ", ".join(f"{name} {count}" for name, count in taken.items() if count)
        return f"| {scene.name} | {points} | {broken} | {seed} | {means} | {before[worst]:.3f} -> {after[worst]:.3f} | {counts} |"

    def _prepared(self, scene: Path, points: str) -> Path:
        """A copy of the capture with tracked masks; the same masks for every kind of points."""
        from spinnerf_ns.evaluation.matrix.scenes import find_scenes, prepare_scene
        from spinnerf_ns.segmentation.segment import segment_capture

        base = self.work / "captures" / scene.name
        prepared = prepare_scene(find_scenes([str(scene)])[0], base, "geometry")
        workspace = Workspace.open(base)
        segment_capture(prepared.capture, workspace, prepared.prompt, overwrite=True, allow_large_mask=True)
        if points == "given":
            return base
        root = self.work / "captures" / f"{scene.name}-{points}"
        if not root.is_dir():
            shutil.copytree(base, root)
            meta = json.loads((root / "transforms.json").read_text())
            ply = meta.pop("ply_file_path", None)
            if points == "swapped" and ply is not None:
                from spinnerf_ns.scene.points import read_ply, write_ply

                given = read_ply(root / ply)
                write_ply(root / ply, given.positions[:, [1, 2, 0]], given.colors.astype(np.uint8))
                meta["ply_file_path"] = ply
            (root / "transforms.json").write_text(json.dumps(meta))
        return root

    def _broken(self, scene: Path, root: Path, how: str) -> Path:
        """A folder of masks of which a tenth, evenly spread, are wrong."""
        masks = scene / "truth/object_masks" if self.true_masks else Workspace.open(root).masks_2d
        if how == "none":
            return masks.resolve()
        target = self.work / "masks" / f"{root.name}-{'true-' if self.true_masks else ''}{how}"
        shutil.rmtree(target, ignore_errors=True)
        files = sorted(masks.rglob("*.png"))
        wrong = np.linspace(0, len(files) - 1, max(1, round(0.1 * len(files))) + 2).round().astype(int)[1:-1]
        for index, file in enumerate(files):
            object_mask = load_object_mask(file)
            if index in wrong:
                kinds = ("shifted", "empty", "other")
                object_mask = break_mask(object_mask, how if how in kinds else kinds[int(np.flatnonzero(wrong == index)[0]) % 3])
            save_object_mask(target / file.relative_to(masks), object_mask)
        return target.resolve()


def break_mask(object_mask: np.ndarray, how: str) -> np.ndarray:
    """A wrong mask: shifted by half its width, empty, or one of something else."""
    rows, columns = np.nonzero(object_mask)
    if how == "empty" or not len(rows):
        return np.zeros_like(object_mask)
    if how == "shifted":
        return np.roll(object_mask, (np.ptp(columns) + 1) // 2, axis=1)
    other = np.zeros_like(object_mask)
    height, width = (np.ptp(rows) + 1) // 2, (np.ptp(columns) + 1) // 2
    other[:height, :width] = True
    return other


def _keep(path: Path, pipeline, truth: dict[str, np.ndarray]) -> None:
    from spinnerf_ns.nerf.rendering import render_objectness_and_depth

    manager = pipeline.datamanager
    capture, points = manager.capture, manager.points
    arrays = {"positions": points.positions, "colors": points.colors}
    for photo, true in truth.items():
        view = capture.view(photo)
        objectness, z = render_objectness_and_depth(pipeline.model, capture.cameras([view]), capture.world_scale, 2)
        label = manager.read_label(view)
        arrays |= {f"objectness/{photo}": objectness, f"z/{photo}": z, f"truth/{photo}": true}
        if label is not None:
            arrays[f"label/{photo}"] = label
    np.savez_compressed(path, **arrays)


def main() -> None:
    """One sub-command per subject."""
    subjects = {
        "points": PointsBenchmark, "frames": FramesBenchmark, "masks": MasksBenchmark,
        "stereo": StereoBenchmark, "tracking": TrackingBenchmark, "fields": FieldsBenchmark,
    }  # fmt: skip
    if len(sys.argv) < 2 or sys.argv[1] not in subjects:
        sys.exit(__doc__)
    tyro.cli(subjects[sys.argv[1]], args=sys.argv[2:]).run()


if __name__ == "__main__":
    main()
