"""The export's settings, apart from its work: ns-train --help builds every method's configuration, and waits for each import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spinnerf_ns.conventions import DILATION_PER_1000

BACKGROUND = "background"
"""Folder and stage of the field of what stays: field.pt and depths/."""

RIM = "rim"
"""Disparity continued from the region's rim, by no network."""


@dataclass
class ExportConfig:
    """How photos and depth are cleaned."""

    inpainter: str = "auto"
    """2-D inpainter for what no photo shows: lama, diffusion, opencv, patchmatch, folder, or another package's; "auto" takes
    folder where --inpainted is given, else lama where its file can be had, else patchmatch."""
    inpainter_options: tuple[str, ...] = ()
    """Its options, each FIELD=VALUE: memory_limit=4, weights=big-lama.pt, seed=1 (docs/backends.md lists them)."""
    inpainted: Path | None = None
    """Folder of photos inpainted elsewhere (<photo>.png); used with --inpainter folder."""
    disparity_inpainter: str = RIM
    """What completes disparity. rim: the surfaces around the region are continued. lama: the network fills it like a picture
    (the paper)."""
    reference_view: str | None = None
    """Photo whose filling is taken at its word when the field is fitted; by default one with a large unseen area near the
    middle of the camera path."""
    reference_photo: Path | None = None
    """The reference view's photo mended by hand, of its size: what no photo shows is taken from it."""
    dilation: float = DILATION_PER_1000
    """Growth of the masks before anything is removed, in pixels of a 1000-pixel-wide photo; at least 3 of the photo's, or 0."""
    keep_outline: bool = True
    """Whether a mask keeps the tracked one's outline, which followed the photo's edges, where the field is not sure; off: rendered
    objectness is cut at a half (the paper)."""
    background_steps: int | None = None
    """Training steps of a field of what stays, which gives the depth without the object; by default as many as the
    segmentation was trained, at most 3000. 0: the depth around the object is continued."""
    by_surface: bool = True
    """Whether planes around the regions are looked for: depth near one is moved onto it, and what no photo shows is continued
    only from the surface that it lies on (opencv and patchmatch), where a rehearsal beside the region says that this is better."""
    carry: bool = True
    """Whether what no photo shows is completed in a few reference photos and carried by depth to all others; off: every photo
    is completed on its own (the release)."""
    fill_from_views: bool = True
    """Whether masked pixels whose background other photos show are filled from there before anything is inpainted."""
    depth_tolerance: float = 0.01
    """Relative difference of depth up to which another photo is taken to show the same background."""
    downscale: int = 1
    """Render masks and depth at 1/N of the photos' resolution and interpolate; for CPUs."""
    overwrite: bool = False
    """Whether an earlier export with other settings is replaced."""
