"""What a capture is, and what would go wrong with it: looked at before the first stage works on it."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from spinnerf_ns.decoding import check_photo, photo_orientation
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.hints import command
from spinnerf_ns.scene.capture import Capture, load_capture
from spinnerf_ns.scene.find import best_colmap_model, colmap_models, kind_of, mended_source, read_frames, unusable_photos
from spinnerf_ns.scene.frames import look_away
from spinnerf_ns.scene.source import PHOTO_SUFFIXES, pose_again
from spinnerf_ns.scene.view import full_size
from spinnerf_ns.scene.workspace import Workspace

Level = Literal["error", "warning", "ok"]

LEAST_PHOTOS = 3
"""Fewer photos do not say where anything is."""

FEW_PHOTOS = 10
"""Below this, depth is uncertain, and little of what stands behind an object is seen."""

OUTLIER = 100.0
"""A camera this many times the median distance from the middle of all is a mistake."""

SAME_POSE = 1e-6
"""Largest difference between two poses that are one, as a part of the typical distance."""

WORKSPACE_BYTES = 24
"""Bytes per pixel and photo that all stages write: masks, three depths in float32, clean photos."""

RUN_BYTES = 1 << 30
"""Bytes of both trainings' checkpoints and logs."""

POOL_BYTES = 5
"""Bytes per pixel and photo that training holds in memory: colours, labels, what may be used."""

SOME_MASKS = 8
"""Of so many of a capture's own masks, evenly spread, it is said how much they leave."""

DARK = 0.2
"""Masks that leave less than this may be inverted."""

WIDEST, NARROWEST = 130.0, 5.0
"""Fields of view in degrees beyond which a perspective camera's focal length is doubted."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    subject: str
    text: str
    command: str | None = None
    """What mends it, runnable as printed."""

    def line(self) -> str:
        """As it is printed."""
        return f"{self.subject}: {self.text}" + (f"; {self.command}" if self.command else "")


@dataclass
class Check:
    """All that was found."""

    data: Path
    findings: list[Finding] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    """Photos that are absent or broken, as the capture's files name them -> why."""
    capture: Capture | None = None

    def add(self, level: Level, subject: str, text: str, command: str | None = None) -> None:
        """Enters a finding."""
        self.findings.append(Finding(level, subject, text, command))

    def of(self, level: Level) -> list[Finding]:
        """The findings of a level."""
        return [finding for finding in self.findings if finding.level == level]


def check_capture(data: Path, workspace: Path | None = None, skip_missing: bool = False) -> Check:
    """Looks at a capture as a whole; reads every photo to its last pixel.

    Args:
        data: its folder or .json file.
        workspace: where the stages write; by default <data>/spinnerf.
        skip_missing: whether photos that are absent or broken are noted in the workspace, so that every command leaves them out.

    Returns:
        The findings; problems are among them, not raised.
    """
    check = Check(data)
    try:
        kind = kind_of(data)
        place = Workspace.open(data, workspace)
        check.unusable = {} if not skip_missing else unusable_photos(data)
        skipped = {**place.skipped, **check.unusable}
        check.add("ok", "capture", _description(data, kind))
        check.capture = load_capture(data, skipped=skipped)
        broken = _broken_photos(data, check.capture, skipped, kind)
        if broken and skip_missing:
            check.unusable |= broken
            check.capture = load_capture(data, skipped={**skipped, **broken})
        elif broken:
            _report_broken(check, broken, workspace)
    except SpinnerfError as error:
        check.add("error", "capture", str(error), _way_on(data, workspace, skip_missing, str(error)))
        return check
    left_out = {**place.skipped, **check.unusable}
    if left_out:
        why = ", ".join(f"{name} ({reason})" for name, reason in list(left_out.items())[:3])
        check.add("warning", "photos", f"{len(left_out)} are left out: {why}{', ...' if len(left_out) > 3 else ''}")
    for look in (_photos, _lens, _poses, _points, _masks, _space):
        if not (look is _points and check.of("error")):  # which reads photos, and broken ones are among them
            look(check, check.capture, place)
    if check.unusable and not check.of("error"):
        place.set_skipped(left_out)
    return check


def checked_capture(data: Path, workspace: Path | None, skip_missing: bool, say: Callable[[str], None] | None = None) -> Capture:
    """`check_capture` as the first thing that a command does.

    Args:
        say: is given what the user should know: warnings, and how many things were in order.

    Returns:
        The capture.

    Raises:
        SpinnerfError: the first error, and how many more there are.
    """
    check = check_capture(data, workspace, skip_missing)
    errors = check.of("error")
    if errors:
        first = errors[0].line().removeprefix("capture: ")
        more = command("ns-spinnerf", "check", data=data, workspace=workspace)
        raise SpinnerfError(first + (f" ({len(errors) - 1} more errors: {more})" if len(errors) > 1 else ""))
    if say is not None:
        for finding in check.of("warning"):
            say(f"Note: {finding.line()}")
    assert check.capture is not None
    return check.capture


def require_depth(capture: Capture) -> None:
    """Raises SpinnerfError for a capture whose cameras show no depth: too few, or all at one place. Reads no photo."""
    found = [*count_findings(capture), *pose_findings(capture)]
    first = next((finding for finding in found if finding.level == "error"), None)
    if first is not None:
        raise SpinnerfError(f"{capture.data}: {first.line()}")


def _description(data: Path, kind: str) -> str:
    names = {"nerfstudio": "a nerfstudio dataset", "blender": "transforms_train.json", "llff": "an LLFF folder"}
    text = names.get(kind, f"read by nerfstudio's {kind}")
    if kind == "colmap":
        models = colmap_models(data)
        best = best_colmap_model(data)
        text = f"COLMAP's model {best.relative_to(data)} with {models[best]} photos"
        others = [f"{model.relative_to(data)} ({count})" for model, count in models.items() if model != best]
        text += f"; not used: {', '.join(others)}" if others else ""
    reasons = []
    if kind in (*names, "colmap") and len(unusable := unusable_photos(data)) < len(read_frames(data)[0]["frames"]):
        reasons = mended_source(data, unusable).reasons
    return f"{text}{'; ' + '; '.join(reasons) if reasons else ''}"


def _way_on(data: Path, workspace: Path | None, skip_missing: bool, text: str) -> str | None:
    """The command that goes on without photos that are no pictures, where they are what stopped the reader."""
    if skip_missing or "--skip-missing" in text or "cannot be decoded" not in text:
        return None
    return "or go on without: " + command("ns-spinnerf", "check", data=data, workspace=workspace, skip_missing=True)


# ----------------------------------------------------------------------------------------------------------------- photos
def _broken_photos(data: Path, capture: Capture, skipped: Collection[str], kind: str) -> dict[str, str]:
    """Photos that cannot be decoded to the end, as the capture's files name them -> why."""
    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 2)) as pool:
        reasons = dict(zip(capture.views, pool.map(_why_broken, [view.path for view in capture.views]), strict=True))
    broken = {view.path: reason for view, reason in reasons.items() if reason is not None}
    if not broken:
        return {}
    names = _names_by_path(data, skipped, kind)
    return {names.get(path, str(path)): reason for path, reason in broken.items()}


def _why_broken(path: Path) -> str | None:
    try:
        check_photo(path)
    except SpinnerfError as error:
        return str(error).removeprefix(f"{path}: ").split(";")[0]
    return None


def _names_by_path(data: Path, skipped: Collection[str], kind: str) -> dict[Path, str]:
    """A photo's file -> how the capture's files name it."""
    from spinnerf_ns.scene.find import REGISTERED

    if kind in REGISTERED:
        return {}
    names = [frame["file_path"] for frame in read_frames(data)[0]["frames"] if frame["file_path"] not in set(skipped)]
    used = [Path(frame["file_path"]) for frame in mended_source(data, skipped).meta["frames"]]
    return dict(zip(used, names, strict=True))


def _report_broken(check: Check, broken: dict[str, str], workspace: Path | None) -> None:
    name, reason = next(iter(broken.items()))
    again = command("ns-spinnerf", "check", data=check.data, workspace=workspace, skip_missing=True)
    more = f" ({len(broken) - 1} more are broken)" if len(broken) > 1 else ""
    check.add("error", "photos", f"{name}: {reason}{more}; put the whole file back, or go on without", again)


def _photos(check: Check, capture: Capture, workspace: Workspace) -> None:
    views = capture.views
    sizes = sorted({(view.width, view.height) for view in views})
    folders = sorted({view.path.parent.name for view in views})
    text = f"{len(views)} of {' and '.join(f'{w}x{h}' for w, h in sizes[:3])} pixels in {', '.join(folders[:3])}/"
    if len(sizes) > 3:
        text = f"{len(views)} of {len(sizes)} sizes in {', '.join(folders[:3])}/"
    counts = ", ".join(f"{len(capture.split(split))} {split}" for split in ("train", "val", "test"))
    check.add("ok", "photos", f"{text}; {counts}")
    folder = views[0].path.parent
    size = full_size(views[0])
    if size is not None:
        check.add("ok", "resolution", f"{folder.name}/ is used, at {views[0].width}x{views[0].height} of {size[0]}x{size[1]}")
    elif max(sizes[-1]) > 2000:
        check.add("warning", "resolution", f"{sizes[-1][0]}x{sizes[-1][1]} is used; copies of half the size in images_2/ would be")
    check.findings += count_findings(capture)
    posed = {view.path for view in views}
    beside = [path for parent in {path.parent for path in posed} for path in parent.iterdir()]  # not label/ below them
    beside = [path for path in beside if not path.name.startswith(".")]  # macOS' ._photo.jpg
    without = [path for path in beside if path.suffix.lower() in PHOTO_SUFFIXES and path not in posed]
    if without:
        text = (
            f"{len(without)} of {len(without) + len(posed)} in {folder.name}/ have no pose ({min(without).name}), and are not used"
        )
        check.add("warning", "photos", text)
    turned = [view.photo for view in views if photo_orientation(view.path) != 1]
    if turned:
        check.add(
            "warning", "orientation", f"{len(turned)} photos have a tag that turns them in viewers ({turned[0]}); poses are of "
            "the stored pixels, which are used as they are; places in photos are given as a viewer shows them",
        )  # fmt: skip


def count_findings(capture: Capture) -> Iterator[Finding]:
    """Whether there are enough photos."""
    count = len(capture.views)
    if not capture.split("train"):
        text = "none is trained on: train_filenames is empty"
        yield Finding("error", "photos", f"{text}; name some there, or take the lists of all splits out of {capture.data}")
    if count < LEAST_PHOTOS:
        text = f"{count} {'is' if count == 1 else 'are'} too few: depth shows only between photos from different places"
        make = pose_again(capture.data)
        yield Finding("error", "photos", f"{text}, 20 are a good start; add photos and pose them together", make)
    elif count < FEW_PHOTOS:
        yield Finding("warning", "photos", f"only {count}: depth will be uncertain, and much behind the object invented")


# ------------------------------------------------------------------------------------------------------- lenses and poses
def _lens(check: Check, capture: Capture, workspace: Workspace) -> None:
    views = capture.views
    wide = np.degrees(2 * np.arctan(np.array([view.width / (2 * view.fx) for view in views])))
    text = f"{views[0].camera_model}, {wide.min():.0f} to {wide.max():.0f} degrees wide"
    check.add("ok", "lens", text if np.ptp(wide) > 1 else f"{views[0].camera_model}, {wide.mean():.0f} degrees wide")
    for view, degrees in zip(views, wide, strict=True):
        where = f"{view.photo}: "
        if "FISHEYE" not in view.camera_model and not NARROWEST <= degrees <= WIDEST:
            text = f"a focal length of {view.fx:.4g} pixels for a {view.width} pixels wide photo is {degrees:.0f} degrees"
            check.add("warning", "lens", f"{where}{text}; are the intrinsics those of another size?")
            return
        if not 2 / 3 < view.fx / view.fy < 3 / 2:
            check.add("warning", "lens", f"{where}fl_x {view.fx:.4g} and fl_y {view.fy:.4g} differ much; are both right?")
            return
        if not (0 <= view.cx <= view.width and 0 <= view.cy <= view.height):
            check.add("warning", "lens", f"{where}the principal point {view.cx:.4g}, {view.cy:.4g} is outside of the photo")
            return


def _poses(check: Check, capture: Capture, workspace: Workspace) -> None:
    for finding in pose_findings(capture):
        check.findings.append(finding)


def pose_findings(capture: Capture) -> Iterator[Finding]:
    """What is wrong with where a capture's cameras stand; from the poses alone."""
    views, poses = capture.views, np.stack([view.c2w for view in capture.views])
    middle = np.median(poses[:, :, 3], axis=0)
    distances = np.linalg.norm(poses[:, :, 3] - middle, axis=1)
    spread = float(distances.max())
    again = pose_again(capture.data)
    typical = float(np.median(distances[distances > 0])) if (distances > 0).any() else 1.0
    far = np.flatnonzero(distances > OUTLIER * typical)
    if len(far) and len(far) < len(views) / 2:
        names = ", ".join(views[index].photo for index in far[:3])
        where = f"{distances[far[0]]:.3g} from the rest, which lie within {typical:.3g}"
        yield Finding("error", "poses", f"{names}: {where}; remove the frame, or pose the photos again", again)
    rounded = np.round(poses.reshape(len(poses), -1) / (SAME_POSE * max(typical, 1e-3)))
    _, first, counts = np.unique(rounded, axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        pair = np.flatnonzero((rounded == rounded[first[counts > 1][0]]).all(axis=1))
        text = f"{int((counts - 1).sum())} are copies of others ({views[pair[0]].photo} and {views[pair[1]].photo} are one)"
        if len(counts) <= LEAST_PHOTOS - 1:
            yield Finding("error", "poses", f"{text}, which leaves {len(counts)} places; pose the photos again", again)
        else:
            yield Finding("warning", "poses", f"{text}; photos from one place show nothing new")
    if (skipped := np.abs(middle)).max() > 1e3 * typical:
        text = f"positions are up to {skipped.max():.4g} from the origin and {spread:.3g} apart: training works around their middle"
        yield Finding("warning", "poses", f"{text}, files keep them; other programs round them to float32")
    if look_away(poses):
        text = "all cameras look away from where their axes meet: are these OpenCV's poses, or world-to-camera? Expected are "
        text += "camera-to-world, y up, z backwards; right only for photos that look outwards from one place"
        yield Finding("warning", "poses", text)
    yield Finding("ok", "poses", f"{len(views)} within {2 * spread:.3g} of each other")


# --------------------------------------------------------------------------------------------------------- points, masks
def _points(check: Check, capture: Capture, workspace: Workspace) -> None:
    from spinnerf_ns.scene.points import LEAST_POINTS, check_frame, read_points

    points = read_points(capture)
    if points is None or len(points.positions) < LEAST_POINTS:
        stated = Path(capture.source_meta.get("ply_file_path", "no such file"))
        unread = points is None and stated.is_file()
        found = "no sparse points" if points is None else f"{len(points.positions)} sparse points"
        found = f"none with colours can be read from {stated}" if unread else found
        check.add("warning" if unread else "ok", "points", f"{found}: own ones are made from the photos")
        return
    found = check_frame(capture.views, points)
    tracks = " with tracks" if points.seen is not None else ""
    if found.fits:
        check.add("ok", "points", f"{len(points.positions)}{tracks}, of the poses' frame")
    else:
        text = f"{len(points.positions)} whose colours are not the photos': another frame than the poses'"
        check.add("warning", "points", f"{text}; they are not used, own ones are made from the photos")


def _masks(check: Check, capture: Capture, workspace: Workspace) -> None:
    masked = [view for view in capture.views if view.mask_path is not None]
    if masked:
        usable = float(np.mean([view.valid_mask().mean() for view in masked[:: max(1, len(masked) // SOME_MASKS)]]))
        text = f"{len(masked)} of {len(capture.views)} photos have masks of the capture: dark is not used"
        if usable == 0:
            check.add("error", "masks", f"{text}, and that is all of it ({masked[0].mask_path}); invert them: white = use")
        else:
            check.add("ok" if usable > DARK else "warning", "masks", f"{text}; {usable:.0%} of it is")
    elif (folder := capture.views[0].path.parent.parent / "masks").is_dir():
        text = f"{folder} is not used: name its files in mask_path of every frame (white = use)"
        check.add("warning", "masks", f"{text}, or point at the object with them: --masks {shlex.quote(str(folder))}")
    if workspace.object_free:
        clean = f"; {len(workspace.clean_photos)} clean: sources, trained on" if workspace.clean_photos else ""
        check.add("ok", "object-free", f"{len(workspace.truth_photos)} photos are named object-free: truth, not trained on{clean}")


# ------------------------------------------------------------------------------------------------------------ the machine
def _space(check: Check, capture: Capture, workspace: Workspace) -> None:
    pixels = sum(view.width * view.height for view in capture.views)
    parent = workspace.root
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    other = command("ns-spinnerf", "check", data=check.data, workspace="FOLDER")
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        text = f"{workspace.root} cannot be written; name another place with --workspace FOLDER, here and in every command"
        check.add("error", "workspace", text, other)
    need, free = WORKSPACE_BYTES * pixels + RUN_BYTES, shutil.disk_usage(parent).free
    text = f"{free / 1e9:.1f} GB free, about {need / 1e9:.1f} GB are written"
    if free < need:
        text = f"{text} below {workspace.root}; make room, or name another place with --workspace FOLDER"
        check.add("error" if free < need / 4 else "warning", "disk", text, other)
    else:
        check.add("ok", "disk", text)
    memory = _memory()
    held = POOL_BYTES * pixels
    if memory is not None and held > memory / 2:
        text = f"training holds {held / 1e9:.1f} GB of pixels, the machine has {memory / 1e9:.1f} GB; "
        check.add("warning", "memory", text + "use smaller copies of the photos (images_2/, images_4/)")
    card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    suited = "the methods spinnerf-seg and spinnerf-inpaint" if card else "no CUDA: the -lite methods (--lite)"
    check.add("ok", "machine", f"{card + ': ' if card else ''}{suited}")


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
