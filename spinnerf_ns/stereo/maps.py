"""Dense depth of a capture's photos, kept in the workspace's `stereo/`: depth and how far it is to be believed.

stereo/depths/<photo>.npy       planar depth, 0 = unknown (as `files.save_depth`)
stereo/confidence/<photo>.png   8-bit confidence, 255 = 1
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import cv2
import numpy as np

from spinnerf_ns.conventions import disparity_to_z, resize_depth, resize_labels
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import atomic_path, load_depth, save_depth, write_png
from spinnerf_ns.hints import say
from spinnerf_ns.scene.camera_path import order_along_path
from spinnerf_ns.scene.view import pictures, sizes_of
from spinnerf_ns.stereo.consistency import believed, cross_check
from spinnerf_ns.stereo.dense import StereoOptions, Sweeper
from spinnerf_ns.stereo.neighbours import choose_neighbours
from spinnerf_ns.stereo.rig import Floats, Pinhole, pinhole, read_grey, to_photo

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.points import SparsePoints
    from spinnerf_ns.scene.view import View
    from spinnerf_ns.scene.workspace import Workspace

STAGE = "stereo"
"""The stage's name in the manifest."""

VERSION = 1
"""Of how depth is measured; another one measures it again."""

MOST_SECONDS = 900.0
"""Longer than this nobody waits for depth that was not asked for: what uses it does without."""

TIMED = 3
"""Photos whose time says how long all will take."""

LEAST_PHOTOS = 3
"""With fewer there is nobody to confirm a depth."""

KEPT = 200
"""Photos, and their planes, that are held in memory at a time: as many as a photo's neighbours may be spread over."""

DEPTHS, CONFIDENCE, RAW = "depths", "confidence", "raw"

Item = TypeVar("Item")


class Stereo(NamedTuple):
    """A photo's dense depth."""

    z: Floats
    """(H, W) planar depth in world units, 0 = unknown."""
    confidence: Floats
    """(H, W) in [0, 1]: see `consistency.CONFIDENT` and `consistency.BRIDGED`."""


def stereo_of(
    capture: Capture,
    workspace: Workspace,
    options: StereoOptions | None = None,
    points: SparsePoints | None = None,
    overwrite: bool = True,
    most_seconds: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Measures the depth of all photos that show the object; does nothing where that is done.

    Args:
        capture: the capture. Its object-free photos are left out: they show another scene.
        workspace: where it is kept. A run that was killed goes on where it was.
        options: how; None: as the depth that stands was measured, else as `StereoOptions` says.
        points: sparse points, which say how far content lies; without them that is found from the poses.
        overwrite: whether depth that was measured otherwise is replaced.
        most_seconds: how long it may take; where the first photos say that it would take longer, it is left, with a line.
        progress: called with steps done and steps in all. What it raises goes through, and the next call goes on from there.

    Returns:
        Whether there is any: not with fewer than three photos, where no two show the same, or where it would take too long.

    Raises:
        SpinnerfError: a photo cannot be read or projected.
    """
    options = options or standing_options(workspace) or StereoOptions()
    views = _used(capture, workspace)
    if len(views) < LEAST_PHOTOS:
        return False
    depth = None if points is None else content_depth(views, points)
    parameters = {
        "version": VERSION,
        "options": dataclasses.asdict(options),
        "depth": None if depth is None else float(f"{depth:.3g}"),
    }
    try:
        with workspace.stage(STAGE, parameters, pictures(views), [workspace.stereo], overwrite, capture) as stage:
            if not stage.fresh:
                folder = stage.folder(workspace.stereo)
                say(f"Depth of {len(views)} photos is measured at {sizes_of(views, options.width)} (photos of {sizes_of(views)})")
                _Run(views, options, parameters["depth"], folder, most_seconds, progress).make(stage)
                shutil.rmtree(folder / RAW, ignore_errors=True)
    except _TooLong as error:
        say(f"Dense depth of {len(views)} photos would take {error.args[0] / 60:.0f} minutes here; it is left out")
        return False
    return has_stereo(workspace)


def stereo_if_possible(
    capture: Capture,
    workspace: Workspace,
    progress: Callable[[int, int], None] | None = None,
    options: StereoOptions | None = None,
) -> bool:
    """`stereo_of` for what can do without: it takes at most `MOST_SECONDS`, and whatever is in its way is said in one line."""
    try:
        return stereo_of(capture, workspace, options, most_seconds=MOST_SECONDS, progress=progress)
    except (SpinnerfError, OSError) as error:
        say(f"Dense depth can't be measured, and is left out: {error}")
        return False


def standing_options(workspace: Workspace) -> StereoOptions | None:
    """How the depth that a workspace has was measured, as far as that is anybody's choice: at which width. None without any."""
    parameters = workspace.manifest["stages"].get(STAGE, {}).get("parameters")
    options = parameters.get("options") if isinstance(parameters, dict) else None
    width = options.get("width") if isinstance(options, dict) else None
    return StereoOptions(width=width) if isinstance(width, int) and width > 0 else None


def sample_seconds(
    capture: Capture, workspace: Workspace, widths: Sequence[int], clock: Callable[[], float] = time.perf_counter
) -> list[tuple[float, float]]:
    """How long the depth of one photo takes, that in the middle of the camera path; nothing is kept.

    Args:
        widths: pixels of width at which it is measured.
        clock: seconds.

    Returns:
        Per width the megapixels that were worked on, and seconds; none where there are too few photos.

    Raises:
        SpinnerfError: a photo cannot be read.
    """
    views = _used(capture, workspace)
    if len(views) < LEAST_PHOTOS:
        return []
    found, depth = [], None
    for width in [*widths[:1], *widths]:  # the first time, kernels are loaded and neighbours read
        cameras = [pinhole(view, width) for view in views]
        greys: _Kept[Floats] = _Kept(lambda index, cameras=cameras: read_grey(views[index], cameras[index])[0])
        sweeper = Sweeper(cameras, greys, StereoOptions(width=width), depth)
        depth, middle = sweeper.depth, len(views) // 2
        begun = clock()
        sweeper.measure(middle)
        found.append((cameras[middle].width * cameras[middle].height / 1e6, clock() - begun))
    return found[1:]


def _used(capture: Capture, workspace: Workspace) -> list[View]:
    """Photos that show the object, along the camera path."""
    views = workspace.views_with_object(capture)
    return [views[index] for index in order_along_path(views)] if len(views) >= LEAST_PHOTOS else views


class _TooLong(Exception):
    """Measuring would take so many seconds."""


def has_stereo(workspace: Workspace) -> bool:
    """Whether the workspace has dense depth of any photo."""
    return any(record.get("confident", 0) > 0 for record in workspace.records(STAGE).values())


def load_stereo(workspace: Workspace, photo: str, shape: tuple[int, int] | None = None) -> Stereo:
    """A photo's dense depth.

    Args:
        workspace: where it is kept.
        photo: the photo's key.
        shape: the (height, width) wanted, mostly the photo's; by default that at which it was measured.

    Raises:
        SpinnerfError: there is none of this photo.
    """
    file = workspace.stereo / CONFIDENCE / f"{photo}.png"
    stored = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_GRAYSCALE) if file.is_file() else None
    if stored is None:
        raise SpinnerfError(
            f"{file}: dense depth of photo '{photo}' is missing; remove {workspace.stereo} to have it measured again"
        )
    z = load_depth(workspace.stereo / DEPTHS / f"{photo}.npy")
    confidence = stored.astype(np.float32) / 255
    if shape is None:
        return Stereo(z, confidence)
    return Stereo(resize_depth(z, shape), resize_labels(confidence, shape))


def content_depth(views: Sequence[View], points: SparsePoints) -> float | None:
    """Median planar depth of sparse points, as photos see them; None where they see too few."""
    from spinnerf_ns.scene.cameras import project

    medians = []
    for view in views[:: max(1, len(views) // 10)]:
        xy, z = project(view, points.positions)
        with np.errstate(invalid="ignore"):
            seen = (z > 0) & (xy >= 0).all(axis=1) & (xy[:, 0] < view.width) & (xy[:, 1] < view.height)
        if seen.sum() >= 20:
            medians.append(float(np.median(z[seen])))
    return float(np.median(medians)) if medians else None


class _Run:
    """One run over all photos: first each one's own depth, then what they say of each other's."""

    def __init__(
        self, views: Sequence[View], options: StereoOptions, depth: float | None, folder: Path, most_seconds: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        self.views, self.options, self.folder, self.most_seconds, self.progress = views, options, folder, most_seconds, progress
        self.cameras: list[Pinhole] = [pinhole(view, options.width) for view in views]
        self._greys: _Kept[Floats] = _Kept(lambda index: read_grey(views[index], self.cameras[index])[0])
        self._planes: _Kept[Floats] = _Kept(self._measured)
        self.sweeper = Sweeper(self.cameras, self._greys, options, depth)

    def make(self, stage: Any) -> None:
        """Writes depth and confidence of all photos that the stage has not yet."""
        from nerfstudio.utils.rich_utils import CONSOLE
        from rich.progress import Progress

        left = [index for index, view in enumerate(self.views) if not stage.done(view.photo)]
        with Progress(console=CONSOLE, transient=True) as bar:
            task = bar.add_task("Measuring depth", total=2 * len(left))

            def advance() -> None:
                bar.advance(task)
                if self.progress is not None:
                    self.progress(int(bar.tasks[0].completed), 2 * len(left))

            open_ones = [index for index in left if not self._raw(index).is_file()]
            for index in left:
                self._planes(index)
                advance()
                if index in open_ones[:1]:
                    start = time.monotonic()  # the first one also reads its neighbours and loads the kernel
                elif index in open_ones[TIMED : TIMED + 1] and self.most_seconds is not None:
                    seconds = (time.monotonic() - start) / TIMED * (len(open_ones) - 1)
                    if seconds > self.most_seconds:
                        raise _TooLong(seconds)
            for index in left:
                stage.record(self.views[index].photo, **self._finish(index))
                advance()

    def _raw(self, index: int) -> Path:
        return self.folder / RAW / f"{self.views[index].photo}.npy"

    def _measured(self, index: int) -> Floats:
        """A photo's own planes; kept on disk, as they are needed again when its neighbours are compared with them."""
        path = self._raw(index)
        if path.is_file():
            return np.load(path)
        found = self.sweeper.measure(index)
        camera = self.cameras[index]
        planes = np.zeros((camera.height, camera.width, 3), np.float32) if found is None else found.planes
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, planes)
        return planes

    def _finish(self, index: int) -> dict[str, Any]:
        """Writes a photo's depth and confidence; returns what the manifest says of it."""
        camera, view = self.cameras[index], self.views[index]
        planes = self._planes(index)
        measured = planes[..., 0][planes[..., 0] > 0]
        typical = 1 / float(np.median(measured)) if measured.size else self.sweeper.depth
        others = choose_neighbours(self.cameras, index, typical, self.options.witnesses)
        agreement = cross_check(camera, planes, [(self.cameras[other], self._planes(other)) for other in others])
        confidence = believed(agreement)
        z, confidence = to_photo(view, camera, disparity_to_z(agreement.inverse), confidence)
        if view.has_mask:  # who walks before a photo is no part of the scene
            valid = view.valid_mask()
            z, confidence = np.where(valid, z, np.float32(0)), np.where(valid, confidence, 0)
        levels = np.round(confidence * 255).astype(np.uint8)
        save_depth(self.folder / DEPTHS / f"{view.photo}.npy", z)
        write_png(self.folder / CONFIDENCE / f"{view.photo}.png", levels)
        return {"confident": round(float((levels >= 128).mean()), 4), "witnesses": [self.views[other].photo for other in others]}


class _Kept(Generic[Item]):
    """The last `KEPT` of what a function returns."""

    def __init__(self, make: Callable[[int], Item]) -> None:
        self._make, self._kept = make, OrderedDict()

    def __call__(self, index: int) -> Item:
        if index not in self._kept:
            self._kept[index] = self._make(index)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(index)
        return self._kept[index]
