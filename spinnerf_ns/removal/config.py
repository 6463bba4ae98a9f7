"""The export's settings, apart from its work: ns-train --help builds every method's configuration, and waits for each import."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from spinnerf_ns.conventions import DILATION_PER_1000

BACKGROUND = "background"
"""Folder and stage of the field of what stays: field.pt and depths/."""

RIM = "rim"
"""Disparity continued from the region's rim, by no network."""

ELSEWHERE = "elsewhere"
"""In an option's metadata: why the object-free capture does not depend on it by itself."""


def _elsewhere(default: Any, why: str) -> Any:
    return field(default=default, metadata={ELSEWHERE: why})


@dataclass
class ExportConfig:
    """How photos and depth are cleaned."""

    inpainter: str = "auto"
    """2-D inpainter for what no photo shows: lama, diffusion, opencv, patchmatch, folder, or another package's; "auto" takes
    folder where --inpainted is given, else lama where its file can be had, else patchmatch."""
    inpainter_options: tuple[str, ...] = _elsewhere((), "what the inpainter made of them counts")
    """Its options, each FIELD=VALUE: memory_limit=4, weights=big-lama.pt, seed=1 (docs/backends.md lists them)."""
    inpainted: Path | None = _elsewhere(None, "the contents of its files count")
    """Folder of photos inpainted elsewhere (<photo>.png); used with --inpainter folder."""
    disparity_inpainter: str = RIM
    """What completes disparity. rim: the surfaces around the region are continued. lama: the network fills it like a picture
    (the paper)."""
    reference_view: str | None = None
    """Photo whose filling is taken at its word when the field is fitted; by default one with a large unseen area near the
    middle of the camera path."""
    reference_photo: Path | None = _elsewhere(None, "its content counts")
    """The reference view's photo mended by hand, of its size: what no photo shows is taken from it."""
    dilation: float = DILATION_PER_1000
    """Growth of the masks before anything is removed, in pixels of a 1000-pixel-wide photo; at least 3 of the photo's, or 0."""
    keep_outline: bool = _elsewhere(True, "counts where masks are rendered")
    """Whether a mask keeps the tracked one's outline, which followed the photo's edges, where the field is not sure; off: rendered
    objectness is cut at a half (the paper)."""
    background_steps: int | None = _elsewhere(None, "counts where that field is fitted")
    """Training steps of a field of what stays, which gives the depth without the object; by default as many as the
    segmentation was trained, at most 3000. 0: the depth around the object is continued."""
    by_surface: bool = True
    """Whether planes around the regions are looked for: depth near one is moved onto it, and what no photo shows is continued
    only from the surface that it lies on (opencv and patchmatch), where a rehearsal beside the region says that this is better."""
    carry: bool = True
    """Whether what no photo shows is completed in a few reference photos and carried by depth to all others; off: every photo
    is completed on its own (the release)."""
    invention: bool = True
    """Whether what no photo shows is completed at all; off: these pixels and their depth are left out of training (they are
    grey, and transforms.json has a mask_path without them), so that nothing is in the scene that nobody photographed."""
    clean_photos: tuple[str, ...] = _elsewhere((), "the photos that it names, and what they show, count")
    """Photos of the capture that show the same place without the object (taken later, posed with the others), exposure-matched:
    what the object hides is taken from them before anything is invented. Names, patterns ("later/*"), folders of the capture, or a
    .txt file with a name in each line; by default those that the workspace knows from before."""
    fill_from_views: bool = True
    """Whether masked pixels whose background other photos show are filled from there before anything is inpainted."""
    depth_tolerance: float = 0.01
    """Relative difference of depth up to which another photo is taken to show the same background."""
    downscale: int | None = _elsewhere(None, "counts where masks and depth are rendered")
    """Render masks and depth at 1/N of the photos' resolution and interpolate, for CPUs; by default at all of it."""
    workers: int | None = _elsewhere(None, "the result is the same with any number")
    """Processes that share the photos; by default as many as there are cores and memory for, where the inpainter uses one core."""
    keep: bool = _elsewhere(False, "another folder is written")
    """The inverse: keep only the object. In place of the object-free capture, the photos are written with everything but the
    object transparent, to kept/ in the workspace; nothing is inpainted."""
    overwrite: bool = _elsewhere(False, "says what may be replaced, not by what")
    """Whether an earlier export with other settings is replaced."""

    @property
    def rendered_at(self) -> int:
        """N of 1/N of the photos' resolution at which masks and depth are rendered."""
        return 1 if self.downscale is None else self.downscale

    def settings(self) -> dict[str, Any]:
        """The options that the object-free capture depends on, beside the masks and depths that it is made from."""
        return {each.name: getattr(self, each.name) for each in fields(self) if ELSEWHERE not in each.metadata}
