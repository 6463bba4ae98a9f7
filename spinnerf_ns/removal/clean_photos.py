"""Photos of the place without the object as sources: made as bright as the photos with it, and read as these are.

A person takes them later, so the light or the camera's exposure is another. Each is matched once to the photos that show the
object, by the points that both show outside the object, and is then a photo like the others: it trains the field of what stays, is
asked for what the object hides, and trains the object-free field. What is left of a difference between two photos
`views.offers.Exposure` takes away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import LEAST_DILATION, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import write_png
from spinnerf_ns.hints import say
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.layers import Layers, Recent, ViewLayers, kept_photos
from spinnerf_ns.removal.plan import CLEAN, NEEDS_BACKGROUND, check_rendered, layers_path, object_mask_path, read_layers
from spinnerf_ns.removal.views.fill import Sources
from spinnerf_ns.removal.views.offers import ALIKE, LIT, colours_at
from spinnerf_ns.removal.views.photos import LOOSE, look
from spinnerf_ns.scene.cameras import unproject_pixels
from spinnerf_ns.scene.capture import Capture
from spinnerf_ns.scene.view import View, pictures
from spinnerf_ns.scene.workspace import Workspace

if TYPE_CHECKING:
    from spinnerf_ns.nerf.data.datamanager import SpinnerfSegDataManagerConfig

STAGE = "clean"
"""The stage's name in the manifest."""

ASKED = 12
"""Photos with the object that a clean photo is compared with, the nearest ones."""
POINTS = 4000
"""Points of a clean photo that are looked for in them."""
LEAST_PAIRS = 50
"""With fewer colours to compare, a photo is taken as it is."""
MOST_GAIN = 2.0
"""Gains beyond this (or below its inverse) are cut: a stop and more in display values."""
MOST_OFFSET = 32.0
"""8-bit levels that an offset has at most."""
LINE_GAINS = 0.8
"""A gain with an offset has to leave no more than this part of the difference that a gain alone leaves: sharp photos' noise bends
lines, and one number is found more surely than two."""


@dataclass(frozen=True)
class Match:
    """What makes a photo as bright as the others: `gain * colour + offset`, 8-bit levels."""

    gain: npt.NDArray[np.float64]
    """(3,) per channel."""
    offset: npt.NDArray[np.float64]
    """(3,) per channel."""
    pairs: int
    """Colours that were compared."""
    before: float
    """Median difference of these, 8-bit levels."""
    after: float
    """The same once matched."""

    def apply(self, image: Image) -> Image:
        """(H, W, 3) uint8: the image, matched."""
        return np.clip(np.round(image * self.gain + self.offset), 0, 255).astype(np.uint8)


def match_stage(capture: Capture, workspace: Workspace, config: ExportConfig) -> None:
    """Writes `clean/<photo>.png`: every clean photo as bright as the photos with the object; nothing where there are none.

    Args:
        capture, workspace: of the scene; `masks_3d/` and `layers/` are there, clean photos' included.
        config: of the export.

    Raises:
        SpinnerfError: masks or depths are missing.
    """
    clean = workspace.clean_views(capture)
    if not clean:
        return
    others = workspace.views_with_object(capture)
    inputs = [*pictures([*others, *clean])]
    inputs += [path for view in others for path in (object_mask_path(workspace, view), layers_path(workspace, view.photo))]
    inputs += [layers_path(workspace, view.photo) for view in clean]
    check_rendered(workspace, inputs)
    parameters = {
        "dilation": config.dilation,
        "least_dilation": LEAST_DILATION,
        "depth_tolerance": config.depth_tolerance,
        "clean_photos": sorted(workspace.clean_photos),
    }
    folder = workspace.root / CLEAN
    with workspace.stage(STAGE, parameters, inputs, [folder], config.overwrite, capture) as stage:
        if stage.fresh:
            return
        views = [*others, *clean]
        is_source = [view.trains for view in others] + [False] * len(clean)
        image = Recent(lambda number: views[number].read_image(), ASKED + 1)

        def read(number: int) -> ViewLayers:  # with depth as the segmentation field shows it
            view = views[number]
            return read_layers(workspace, view, config, image(number), layers_path(workspace, view.photo))

        layers = Layers(views, is_source, Recent(read, kept_photos(views, 4_000_000)), image)
        sources = Sources(layers)
        gains = []
        for number, view in enumerate(clean, len(others)):
            match = match_photo(layers[number], sources, number, config.depth_tolerance)
            _say_doubt(view, match)
            write_png(stage.folder(folder) / f"{view.photo}.png", match.apply(image(number)))
            gains.append(float(match.gain.mean()))
            stage.record(
                view.photo, gain=match.gain.round(4).tolist(), offset=match.offset.round(2).tolist(), pairs=match.pairs,
                before=round(match.before, 2), after=round(match.after, 2),
            )  # fmt: skip
        named = ", ".join(f"{gain:.2f}" for gain in gains[:8]) + (", ..." if len(gains) > 8 else "")
        say(f"Photos without the object: {len(clean)}, their exposure matched to the others' (times {named})")


def match_photo(layer: ViewLayers, sources: Sources, number: int, tolerance: float = 0.01) -> Match:
    """How a clean photo is made as bright as the photos around it.

    Args:
        layer: the clean photo with its depth, which may have the object in it: what the others show in their regions says nothing.
        sources: the others, with their regions.
        number: the clean photo's among them.
        tolerance: relative, of depth.
    """
    usable = layer.z_visible > 0
    rows, columns = np.nonzero(usable)
    if not rows.size:
        return fit_match(np.zeros((0, 3)), np.zeros((0, 3)))
    chosen = np.linspace(0, rows.size - 1, min(rows.size, POINTS)).astype(np.int64)
    rows, columns = rows[chosen], columns[chosen]
    points = np.ascontiguousarray(unproject_pixels(layer.view, rows, columns, layer.z_visible).T)
    photos = sources.of(number, layer, ASKED)
    if not len(photos):
        return fit_match(np.zeros((0, 3)), np.zeros((0, 3)))
    seen = look(photos, points, tolerance)
    seen = seen[(seen.deviation <= LOOSE * tolerance) & ~seen.edge]
    theirs = colours_at(photos.image, len(photos), seen.photo, seen.x, seen.y)
    return fit_match(layer.image[rows, columns][seen.point], theirs)


def fit_match(colours: npt.NDArray, wanted: npt.NDArray) -> Match:
    """What makes colours (M, 3) like those wanted (M, 3) of the same points, where most pairs are right; 8-bit levels.

    The gain is the median of ratios. With an offset, it is the line through the quantiles of both, which errors in either do not
    tilt; it is taken where it explains the pairs clearly better.
    """
    lit = ((colours > LIT) & (colours < 255 - LIT) & (wanted > LIT) & (wanted < 255 - LIT)).all(axis=1)
    ours, theirs = colours[lit].astype(np.float64), wanted[lit].astype(np.float64)
    one, none = np.ones(3), np.zeros(3)
    if len(ours) < LEAST_PAIRS:
        return Match(one, none, len(ours), float("nan"), float("nan"))

    def left(gain: npt.NDArray, offset: npt.NDArray) -> float:
        return float(np.median(np.abs(ours * gain + offset - theirs)))

    gain = np.clip(np.exp(np.median(np.log(theirs / ours), axis=0)), 1 / MOST_GAIN, MOST_GAIN)
    offset = none
    quantiles = np.linspace(0.05, 0.95, 19)
    low, high = np.quantile(ours, quantiles, axis=0), np.quantile(theirs, quantiles, axis=0)
    if (np.ptp(low, axis=0) > ALIKE).all():  # else there is no contrast to tell an offset by
        lines = np.array([np.polyfit(low[:, channel], high[:, channel], 1) for channel in range(3)])
        slope = np.clip(lines[:, 0], 1 / MOST_GAIN, MOST_GAIN)
        shift = np.clip(np.median(theirs - ours * slope, axis=0), -MOST_OFFSET, MOST_OFFSET)
        if left(slope, shift) < LINE_GAINS * left(gain, none):
            gain, offset = slope, shift
    return Match(gain, offset, len(ours), left(one, none), left(gain, offset))


def name_for_export(manager: SpinnerfSegDataManagerConfig, export: ExportConfig) -> None:
    """Notes the photos that an export's settings name as clean, before a run's photos are loaded.

    Args:
        manager: the configuration of the segmentation run's data manager.
        export: the settings.

    Raises:
        SpinnerfError: as `segmentation.clean_photos.name_clean_photos`; or the settings leave no use for them.
    """
    if not export.clean_photos:
        return
    from spinnerf_ns.scene.capture import capture_from_dataparser
    from spinnerf_ns.scene.find import settled_dataparser
    from spinnerf_ns.segmentation.clean_photos import name_clean_photos

    if export.background_steps == 0 and not export.keep:
        raise SpinnerfError(NEEDS_BACKGROUND)
    data = Path(manager.data if manager.data is not None else manager.dataparser.data)
    workspace = Workspace.open(data, manager.workspace)
    capture = capture_from_dataparser(settled_dataparser(manager.dataparser, data, workspace.skipped).setup())
    masks: Sequence[Path] = [] if manager.masks is None else [Path(manager.masks)]
    name_clean_photos(capture, workspace, export.clean_photos, masks=masks)


def _say_doubt(view: View, match: Match) -> None:
    if match.pairs < LEAST_PAIRS:
        say(f"{view.path}: shows nothing that photos with the object show, so its exposure is taken as it is")
    elif match.after > ALIKE:
        say(
            f"WARNING: {view.path}: differs from the photos with the object by {match.after:.0f} of 255 where both show the same: "
            "is its pose right, and did more change than the object? Name it no longer where not"
        )
