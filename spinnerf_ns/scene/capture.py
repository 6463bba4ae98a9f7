"""A posed capture as views: photos, cameras and splits, read by nerfstudio's own parsers.

Two frames of coordinates:
    source      the capture's own world: transforms.json's, COLMAP's (turned to z up by nerfstudio's `applied_transform`) or
                Blender's. `View.c2w`, masks' depth and everything on disk are in it.
    training    what nerfstudio's parser makes of it (oriented, centred, scaled): `Capture.cameras`. `Capture.world_to_training`
                leads from the one to the other, and a source length times `Capture.world_scale` is a training length.

Nerfstudio's own `dataparser_transform` and `dataparser_scale` are no such way: they start before `applied_transform` (in
COLMAP's world) and contain `applied_scale`. So the way is taken from the poses themselves, which are known in both frames.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.scene.camera_path import order_along_path
from spinnerf_ns.scene.cameras import project, unproject
from spinnerf_ns.scene.find import find_dataparser
from spinnerf_ns.scene.frames import misplaced, similarity_between
from spinnerf_ns.scene.source import (
    PHOTO_SUFFIXES,
    SPLITS,
    check_distortion,
    check_intrinsics,
    check_lens,
    check_photos_exist,
    check_rotation,
)
from spinnerf_ns.scene.view import View

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras
    from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig

__all__ = ["Capture", "capture_from_dataparser", "load_capture", "order_along_path", "project", "unproject"]


@dataclass(frozen=True)
class _TrainingCamera:
    """A view's camera as the parser gives it."""

    c2w: torch.Tensor
    """(3, 4) float32, training frame."""
    camera_type: int
    metadata: dict[str, Any]
    """What the parser says of all its cameras (fisheye_crop_radius)."""


class Capture:
    """All photos of a capture with their poses, of every split.

    Args:
        data: the capture's folder or .json file.
        views: its views, in any order.
        training: photo -> its camera in the training frame.
        world_scale: training length per source length as the parser says it: what `world_to_training` falls back to where
            all cameras stand at one place.
        source_meta: what transforms.json says of the capture as a whole and a dataset made from it must repeat:
            camera_model, applied_transform, applied_scale, orientation_override, fisheye_crop_radius, measured_points (see
            `source`), and ply_file_path
            (absolute); each only when given.
        colmap_model: folder of the COLMAP model that it was read from, or that lies in it.
        bounds: photo -> nearest and furthest planar depth, source units, where the capture states them (LLFF).
    """

    def __init__(
        self,
        data: Path,
        views: Sequence[View],
        training: dict[str, _TrainingCamera],
        world_scale: float,
        source_meta: dict[str, Any],
        colmap_model: Path | None = None,
        bounds: dict[str, tuple[float, float]] | None = None,
    ) -> None:
        self.data = data
        self.views = tuple(sorted(views, key=lambda view: view.photo))
        self._parser_scale = world_scale
        self.source_meta = source_meta
        self.colmap_model = colmap_model
        self.bounds = bounds or {}
        self._training = training
        self._by_photo = {view.photo: view for view in self.views}

    @cached_property
    def world_to_training(self) -> npt.NDArray[np.float64]:
        """(4, 4) similarity from the source to the training frame: columns are points, `M @ (x, y, z, 1)`."""
        training = [self._training[view.photo].c2w.double().numpy() for view in self.views]
        return similarity_between([view.c2w for view in self.views], training, self._parser_scale)

    @property
    def world_scale(self) -> float:
        """Training length per source length."""
        return float(np.cbrt(np.linalg.det(self.world_to_training[:3, :3])))

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of what a result depends on besides the photos' pixels: their keys, sizes, poses, intrinsics, distortion,
        camera models, splits, masks and stated bounds, and the content of its sparse points. It moves with the capture."""
        digest = hashlib.sha256()
        for view in self.views:
            text = (view.photo, view.width, view.height, view.camera_model, sorted(view.splits), view.alpha_color)
            digest.update(repr(text).encode())
            numbers = [[view.fx, view.fy, view.cx, view.cy], view.distortion, np.ravel(view.c2w)]
            numbers.append(self.bounds.get(view.photo, ()))
            digest.update(np.concatenate(numbers).astype("<f8").tobytes())
        files = [view.mask_path for view in self.views] + [self.source_meta.get("ply_file_path")]
        if self.colmap_model is not None:
            files += [self.colmap_model / f"points3D{suffix}" for suffix in (".bin", ".txt")]
        for file in files:
            digest.update(Path(file).read_bytes() if file is not None and Path(file).is_file() else b"none")
        return digest.hexdigest()

    @property
    def photos(self) -> tuple[str, ...]:
        """The keys of all photos, sorted."""
        return tuple(view.photo for view in self.views)

    def split(self, name: str) -> list[View]:
        """The views of a split ("train", "val" or "test"), sorted by photo."""
        if name not in SPLITS:
            raise ValueError(f"{name} is no split; there are {', '.join(SPLITS)}")
        return [view for view in self.views if name in view.splits]

    def view(self, photo_or_file_name: str | Path) -> View:
        """The view of a photo: its key ("x"), its file name ("x.jpg") or a path that ends with it ("images/x.jpg").

        Raises:
            SpinnerfError: no photo or several photos are called so; the message lists near names.
        """
        name = Path(photo_or_file_name).as_posix()
        if name in self._by_photo:
            return self._by_photo[name]
        stem = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in PHOTO_SUFFIXES else name
        for given in dict.fromkeys((name, stem)):
            found = [v for v in self.views if f"/{given}".endswith(f"/{v.photo}") or v.photo.endswith(f"/{given}")]
            if len(found) == 1:
                return found[0]
            if found:
                names = ", ".join(view.photo for view in found[:5])
                raise SpinnerfError(f"{self.data}: '{name}' may be any of {names}; name the photo with its folder")
        short = stem.rsplit("/", 1)[-1]
        near = difflib.get_close_matches(short, self.photos, n=5, cutoff=0.3) or self.photos[:5]
        raise SpinnerfError(f"{self.data}: no photo is called '{name}'; near names: {', '.join(near)}")

    def cameras(self, views: Sequence[View]) -> Cameras:
        """The views' cameras in the training frame, so that a trained model can be rendered from any photo of any split.

        Args:
            views: views of this capture.

        Returns:
            nerfstudio Cameras of shape (len(views),), in the order given, on the CPU.
        """
        from nerfstudio.cameras.cameras import Cameras

        training = [self._training[view.photo] for view in views]

        def column(name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.tensor([getattr(view, name) for view in views], dtype=dtype)[:, None]

        return Cameras(
            camera_to_worlds=torch.cat([torch.zeros(0, 3, 4), *(camera.c2w[None] for camera in training)]),
            fx=column("fx"),
            fy=column("fy"),
            cx=column("cx"),
            cy=column("cy"),
            width=column("width", torch.int64),
            height=column("height", torch.int64),
            distortion_params=torch.tensor(np.array([view.distortion for view in views]).reshape(-1, 6)).float(),
            camera_type=torch.tensor([camera.camera_type for camera in training], dtype=torch.int64)[:, None],
            metadata=dict(training[0].metadata) if training else {},
        )


def load_capture(data: Path | str, dataparser: DataParserConfig | None = None, skipped: Collection[str] = ()) -> Capture:
    """Reads a posed capture.

    Args:
        data: its folder, or a .json file in transforms.json's format.
        dataparser: how to read it; by default by what is on disk (`find.find_dataparser`). Its own `data` is ignored, and it is
            left as it is.
        skipped: photos, as the source names them, that are left out (`Workspace.skipped`).

    Raises:
        SpinnerfError: no poses, photos missing on disk, or a damaged file; the message says what mends it.

    Example:
        >>> from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
        >>> twin = write_twin(Path("room"), TwinConfig(width=64, height=48, num_train=3, num_test=1, supersampling=1))
        >>> capture = load_capture("room")
        >>> len(capture.split("train")), capture.views[0].photo, capture.views[0].read_image().shape
        (3, 'frame_0001', (48, 64, 3))
    """
    data = Path(data)
    config = find_dataparser(data, skipped) if dataparser is None else dataclasses.replace(dataparser, data=data)
    return capture_from_dataparser(config.setup())


def capture_from_dataparser(dataparser: DataParser) -> Capture:
    """Reads a posed capture with a parser that is already set up (what ns-train uses).

    The parser and its configuration are left as they are. Sparse points are not loaded (`points.read_points` does).

    Raises:
        SpinnerfError: as `load_capture`.
    """
    from spinnerf_ns.scene import parsing

    parser = _without_points(dataparser)
    data = Path(parser.config.data)
    transforms = parsing.transforms_path(parser)
    meta = parsing.read_meta(parser)
    outputs = {}
    for split in SPLITS:
        if parsing.has_split(parser, meta, split):
            with _readable_errors(parser), _quiet(meta is not None):
                outputs[split] = parser.get_dataparser_outputs(split=split)
    frames = parsing.collect(parser, meta, outputs)
    check_photos_exist([frame.path for frame in frames], transforms or data)
    keys = photo_keys([frame.path for frame in frames])
    alpha = next((o.alpha_color for o in outputs.values() if o.alpha_color is not None), None)
    alpha_color = None if alpha is None else tuple(float(value) for value in alpha)
    views, training = [], {}
    for key, frame in zip(keys, frames, strict=True):
        what = f"{transforms or data}: {frame.path.name}"
        check_lens(frame.camera_model, transforms or data)
        check_intrinsics(frame.intrinsics, (frame.width, frame.height), what)
        check_distortion(frame.distortion, frame.intrinsics, (frame.width, frame.height), what)
        check_rotation(frame.c2w[:, :3], what)
        width, height = parsing.checked_size(frame, transforms or data)
        views.append(
            View(
                key, frame.path, width, height, *frame.intrinsics, frame.distortion, frame.camera_model, frame.c2w,
                frozenset(frame.splits), alpha_color, parsing.checked_mask(frame, (width, height), transforms or data),
            )
        )  # fmt: skip
        training[key] = _TrainingCamera(frame.training_c2w, frame.camera_type, frame.metadata)
    world_scale = parsing.parser_scale(meta, outputs["train"])
    capture = Capture(
        data, views, training, world_scale, parsing.source_meta(parser, meta, views[0].camera_model),
        parsing.colmap_model(parser), parsing.stated_bounds(parser, meta, {view.path: view.photo for view in views}),
    )  # fmt: skip
    _check_frames(capture, parser)
    return capture


def _check_frames(capture: Capture, parser: DataParser) -> None:
    """Raises SpinnerfError where the parser does more to the poses than to turn, move and scale the scene as a whole."""
    training = [capture._training[view.photo].c2w.double().numpy() for view in capture.views]
    bent = misplaced(capture.world_to_training, [view.c2w for view in capture.views], training)
    if len(bent):
        advice = "look at their transform_matrix"
        if (method := capture.source_meta.get("orientation_override", "up")) == "pca":
            own = getattr(parser.config, "orientation_method", None) == method
            advice = "give the parser --orientation-method up" if own else 'write "orientation_override": "up" in its json file'
        raise SpinnerfError(
            f"{capture.data}: nerfstudio's {type(parser).__name__} parser (orientation method {method}) moves not all cameras "
            f"alike, {capture.views[bent[0]].photo} for one; {advice}"
        )


def photo_keys(paths: Sequence[Path]) -> list[str]:
    """The photos' keys: paths below the folder common to all, without suffix; with suffix for all if two would be equal."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    common = Path(os.path.commonpath([path.parent for path in absolute]))
    names = [path.relative_to(common) for path in absolute]
    short = [name.with_suffix("").as_posix() for name in names]
    return short if len(set(short)) == len(short) else [name.as_posix() for name in names]


def _without_points(dataparser: DataParser) -> DataParser:
    """A copy that loads no sparse points: open3d takes seconds to import, and nobody here needs them."""
    parser = copy.copy(dataparser)
    fields = {field.name for field in dataclasses.fields(parser.config)}
    unwanted = {name: value for name, value in (("load_3D_points", False), ("ply_path", None)) if name in fields}
    parser.config = dataclasses.replace(parser.config, **unwanted)
    return parser


@contextmanager
def _readable_errors(parser: DataParser) -> Iterator[None]:
    """Parsers raise whatever their code runs into; users get one line."""
    try:
        yield
    except SpinnerfError:
        raise
    except (AssertionError, OSError, RuntimeError, ValueError, KeyError, IndexError, TypeError, EOFError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise SpinnerfError(
            f"{parser.config.data}: nerfstudio's {type(parser).__name__} parser cannot read this capture ({what}); "
            "mend the files, or make the capture again: ns-process-data images --data PHOTOS --output-dir FOLDER"
        ) from error


@contextmanager
def _quiet(really: bool) -> Iterator[None]:
    """Silences nerfstudio's console: the parser logs every split's list of indices.

    Not for COLMAP's parser, which may ask whether to downscale.
    """
    from nerfstudio.utils.rich_utils import CONSOLE

    before, CONSOLE.quiet = CONSOLE.quiet, CONSOLE.quiet or really
    try:
        yield
    finally:
        CONSOLE.quiet = before
