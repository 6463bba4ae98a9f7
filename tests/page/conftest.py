"""A twin scene with a page on it, and quick stand-ins for segmenter and tracker."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

from spinnerf_ns.evaluation.truth.twin import TwinConfig, TwinScene, write_twin
from spinnerf_ns.files import load_object_mask
from spinnerf_ns.page.session import Session
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace


@dataclass
class Paints:
    """A segmenter that takes the box, or a square around the first point, for the object; others cut a square off."""

    name = "paints"

    def segment(self, image, prompt):
        mask = np.zeros(image.shape[:2], bool)
        if prompt.box is not None:
            x0, y0, x1, y1 = (int(value) for value in prompt.box)
            mask[y0:y1, x0:x1] = True
        for (x, y), label in zip(prompt.points, prompt.labels):
            mask[max(0, int(y) - 8) : int(y) + 8, max(0, int(x) - 8) : int(x) + 8] = label == 1
        return mask


@dataclass
class Shift:
    """A tracker that moves the nearest known mask a pixel per photo, slowly if it is told to."""

    seconds: float = 0.0
    name = "shift"
    found = None

    def track(self, images, source_masks, progress=None):
        masks = []
        for index in range(len(images)):
            time.sleep(self.seconds)
            nearest = min(source_masks, key=lambda one: (abs(one - index), one))
            masks.append(np.roll(source_masks[nearest], index - nearest, axis=1))
            if self.found is not None:
                self.found(index, masks[-1])
            if progress is not None:
                progress(index)
        return masks


@pytest.fixture(scope="session")
def twin(tmp_path_factory) -> TwinScene:
    """Six photos with the object, two without, at 160x120. Do not write into it."""
    return write_twin(tmp_path_factory.mktemp("twin") / "scene", TwinConfig(width=160, height=120, num_train=6, num_test=2))


@pytest.fixture(scope="session")
def capture(twin):
    return load_capture(twin.root)


@pytest.fixture
def workspace(twin, tmp_path) -> Workspace:
    opened = Workspace.open(twin.root, tmp_path / "work")
    opened.set_object_free([photo.removeprefix("images/").removesuffix(".png") for photo in twin.object_free])
    return opened


@pytest.fixture
def make_session(capture, workspace):
    """Opens the scene, as often as it is asked: as a server does that is started again."""
    return lambda segmenter=None, tracker=None, **options: Session(
        capture, workspace, segmenter or Paints(), tracker or Shift(), **options
    )


def true_mask(twin, photo: str) -> np.ndarray:
    return load_object_mask(twin.truth(f"images/{photo}.png", "object_masks"))


def box_of(mask) -> tuple[tuple[float, float], tuple[float, float]]:
    rows, columns = np.nonzero(mask)
    return (columns.min() - 2, rows.min() - 2), (columns.max() + 3, rows.max() + 3)


def in_thread(server) -> threading.Thread:
    """Serves beside the test."""
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    for _ in range(200):
        if hasattr(server, "_loop"):
            return thread
        time.sleep(0.02)
    raise AssertionError("the server did not start")
