"""What this machine does in a second: steps of the trainers that will run, rendered rays, megapixels of measured depth."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from spinnerf_ns.cli.budget import line_fit

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.workspace import Workspace

STEPS = 20
"""Steps that are timed: all that moves with the steps (warm-ups, schedules) moves within them, as in the whole training."""
SKIPPED = 4
"""Steps before that: kernels are loaded, memory is asked for."""
ROOM = (64, 48)
"""Size of the made-up photos: a training step costs the same whatever the photos' size."""
PHOTOS = 4
RENDERED = 5
"""Photos of the room that are rendered, of which the fastest counts."""
STEREO_WIDTHS = (144, 288)
"""Widths at which a photo's depth is measured, to know the time at any other."""


class Steps(NamedTuple):
    """What a short training took."""

    step: float
    """Seconds per step."""
    setup: float
    """Seconds before the first one: photos are read, the model is built."""


def segmentation_pace(method: str, clock: Callable[[], float] = time.perf_counter) -> tuple[float, float]:
    """Trains a method of the segmentation stage for some steps, on a room of its own that is made for it and deleted.

    Args:
        method: spinnerf-seg or spinnerf-seg-lite.
        clock: seconds.

    Returns:
        Seconds per step, and per ray of a rendered photo.
    """
    from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
    from spinnerf_ns.files import load_object_mask, save_object_mask
    from spinnerf_ns.nerf.rendering import render_pixels
    from spinnerf_ns.runs import apply, load_run, mean_step, method_config, restore, train, with_steps
    from spinnerf_ns.scene.workspace import Workspace

    with tempfile.TemporaryDirectory(prefix="spinnerf-pace-") as folder, quietly():
        width, height = ROOM
        twin = write_twin(
            Path(folder) / "room", TwinConfig(width=width, height=height, num_train=PHOTOS, num_test=1, supersampling=1)
        )
        workspace = Workspace.open(twin.root)
        workspace.set_object_free([Path(photo).stem for photo in twin.object_free])
        for photo in twin.train_photos:
            save_object_mask(workspace.mask_path("masks_2d", Path(photo).stem), load_object_mask(twin.truth(photo, "object_masks")))
        config = with_steps(method_config(method), SKIPPED + STEPS)
        apply(
            config, {"pipeline.export_on_completion": False, "pipeline.mask_round_steps": (), "pipeline.datamanager.stereo": True}
        )
        run = train(config, twin.root, Path(folder) / "runs", "pace")
        found = load_run(run.config_path)
        pipeline = found.pipeline.setup(device=config.machine.device_type, test_mode="test")
        restore(found, pipeline)
        cameras = pipeline.datamanager.capture.cameras(pipeline.datamanager.capture.views[:1])
        each = []
        for _ in range(RENDERED):
            begun = clock()
            render_pixels(pipeline.model, cameras, ("objectness", "z"))
            each.append((clock() - begun) / (width * height))
        return mean_step(run.step_ends[SKIPPED:]), min(each)


def inpainting_pace(method: str, removed: Path, settings: Callable[..., object] | None = None) -> Steps:
    """Trains a method of the inpainting stage for some steps, on the object-free capture that it will be trained on.

    Args:
        method: spinnerf-inpaint or spinnerf-inpaint-lite.
        removed: the capture's folder.
        settings: is given the method's configuration, to change it.
    """
    from spinnerf_ns.runs import mean_step, method_config, train, with_steps

    with tempfile.TemporaryDirectory(prefix="spinnerf-pace-") as folder, quietly():
        config = method_config(method)
        if settings is not None:
            settings(config)
        with_steps(config, SKIPPED + STEPS)
        begun = time.perf_counter()
        run = train(config, removed, Path(folder), "pace")
        return Steps(mean_step(run.step_ends[SKIPPED:]), max(0.0, time.perf_counter() - begun - run.seconds))


def stereo_pace(capture: Capture, workspace: Workspace) -> tuple[float, float] | None:
    """How long depth takes per photo, whatever its size, and per megapixel; None where it can't be measured."""
    from spinnerf_ns.errors import SpinnerfError
    from spinnerf_ns.stereo.maps import sample_seconds

    try:
        samples = sample_seconds(capture, workspace, STEREO_WIDTHS)
    except (SpinnerfError, OSError):  # the stage itself says what is wrong
        return None
    return line_fit(samples) if samples else None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Within this context nothing is shown: what is measured is nobody's result."""
    import logging

    from nerfstudio.utils.rich_utils import CONSOLE

    before, CONSOLE.quiet = CONSOLE.quiet, True
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        CONSOLE.quiet = before
        logging.disable(logging.NOTSET)
