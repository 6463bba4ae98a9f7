"""A small twin scene that the tests of this folder share, and pictures drawn on the spot."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spinnerf_ns.evaluation.truth.twin import TwinConfig, TwinScene, write_twin
from spinnerf_ns.files import load_object_mask, read_image
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from tests.segmentation.networks import grounding_dino_folder, sam2_folder, sam_file  # noqa: F401  fixtures


@pytest.fixture(scope="session")
def twin(tmp_path_factory) -> TwinScene:
    """Ten photos with the object, two without, at 160x120. Do not write into it."""
    return write_twin(tmp_path_factory.mktemp("twin") / "scene", TwinConfig(width=160, height=120, num_train=10, num_test=2))


@pytest.fixture(scope="module")
def capture(twin):
    return load_capture(twin.root)


@pytest.fixture
def workspace(twin, tmp_path) -> Workspace:
    opened = Workspace.open(twin.root, tmp_path / "spinnerf")
    opened.set_object_free([photo.removeprefix("images/").removesuffix(".png") for photo in twin.object_free])
    return opened


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two (H, W) bool masks."""
    return float((first & second).sum() / (first | second).sum())


def truth(twin: TwinScene, photo: str) -> np.ndarray:
    """(H, W) bool, the true object mask."""
    return load_object_mask(twin.truth(photo, "object_masks"))


def photos(twin: TwinScene) -> list[np.ndarray]:
    """The photos with the object, in the order of the camera path."""
    return [read_image(twin.root / photo) for photo in twin.train_photos]


def texture(height: int, width: int, seed: int, low: int = 0, high: int = 255) -> np.ndarray:
    """(H, W, 3) uint8: blobs of a few pixels in random colours."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.random((height, width, 3)).astype(np.float32), (0, 0), 2.0)
    image = (image - image.min()) / (image.max() - image.min())
    return (low + (high - low) * image).astype(np.uint8)


def moving_disc(count: int = 5, size: int = 96, step: int = 5) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Photos of a textured disc that moves over a background which moves the other way, and its true masks."""
    wide, disc = texture(size, size + 6 * count, 1, 90, 255), texture(size, size, 2, 0, 150)
    rows, columns = np.mgrid[:size, :size]
    images, masks = [], []
    for index in range(count):
        shift = step * (index - count // 2)
        mask = (columns - size // 2 - shift) ** 2 + (rows - size // 2) ** 2 < (size // 5) ** 2
        image = wide[:, 3 * (count - index) : 3 * (count - index) + size].copy()
        image[mask] = np.roll(disc, shift, axis=1)[mask]
        images.append(image)
        masks.append(mask)
    return images, masks
