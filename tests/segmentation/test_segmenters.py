"""GrabCut on pictures whose truth is known, and masks from a folder."""

from __future__ import annotations

import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
from spinnerf_ns.files import load_object_mask, read_image, save_object_mask
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.segmenters.folder import FolderSegmenter, mask_files
from spinnerf_ns.segmentation.segmenters.grabcut import GrabCutSegmenter, _missed_sides
from tests.segmentation.conftest import iou, texture


@pytest.fixture(scope="module", params=["forward", "orbit"])
def twin_photo(request, tmp_path_factory):
    """The photo of a twin of the demo's size that a person points at, its truth, box and points."""
    scene = write_twin(tmp_path_factory.mktemp("t") / "scene", TwinConfig(layout=request.param, num_train=3, num_test=1))
    points = tuple((x, y) for x, y, _ in scene.prompt_points)
    labels = tuple(label for *_, label in scene.prompt_points)
    true = load_object_mask(scene.truth(scene.prompt_view, "object_masks"))
    return read_image(scene.root / scene.prompt_view), true, scene.prompt_box, points, labels


def test_one_box_on_the_twin(twin_photo) -> None:
    image, true, box, _, _ = twin_photo
    assert iou(GrabCutSegmenter().segment(image, Prompt("a", box=box)), true) > 0.93


def test_a_side_that_was_missed_is_looked_at_again() -> None:
    true = np.zeros((100, 100), bool)
    true[25:75, 30:70] = True
    upper = true.copy()
    upper[60:] = False
    missed = _missed_sides(upper, (26, 21, 74, 79))
    assert missed[62:70, 45:55].all() and not missed[:60].any() and not missed[79:].any()
    assert _missed_sides(true, (26, 21, 74, 79)) is None
    assert _missed_sides(true, (15, 10, 85, 90)) is None  # a loose box, but evenly so
    assert _missed_sides(np.zeros_like(true), (26, 21, 74, 79)) is None


def test_three_points_on_the_twin(twin_photo) -> None:
    image, true, _, points, labels = twin_photo
    assert iou(GrabCutSegmenter().segment(image, Prompt("a", points, labels)), true) > 0.75


def test_clicks_mend_a_real_photo(statue_folder) -> None:
    image = read_image(statue_folder / "images_2" / "IMG_2721.png")
    true = load_object_mask(statue_folder / "images_2" / "label" / "IMG_2721.png")
    box = (184.0, 49.0, 326.0, 268.0)
    from_box = iou(GrabCutSegmenter().segment(image, Prompt("a", box=box)), true)
    points = ((270.0, 130.0), (290.0, 240.0), (262.0, 65.0), (262.0, 56.0), (220.0, 110.0), (205.0, 155.0))
    prompt = Prompt("a", points, (1, 1, 1, 1, 0, 0), (186.0, 51.0, 324.0, 266.0))  # on the statue; on the bush beside it
    mended = iou(GrabCutSegmenter().segment(image, prompt), true)
    assert from_box > 0.72  # OpenCV's GrabCut from the same box: 0.67
    assert mended > 0.9


def test_clicks_choose_between_equal_things() -> None:
    image = texture(80, 120, 1, 150, 220)
    left, right = np.zeros((80, 120), bool), np.zeros((80, 120), bool)
    left[25:55, 15:45], right[25:55, 75:105] = True, True
    image[left | right] = texture(80, 120, 2, 0, 60)[left | right]
    found = GrabCutSegmenter().segment(image, Prompt("a", ((90.0, 40.0), (30.0, 40.0)), (1, 0)))
    assert iou(found, right) > 0.9


def test_photos_of_many_sizes_agree() -> None:
    image = texture(60, 80, 1, 150, 220)
    true = np.zeros((60, 80), bool)
    true[20:45, 25:60] = True
    image[true] = texture(60, 80, 2, 0, 60)[true]
    large = np.kron(image, np.ones((20, 20, 1), np.uint8))
    found = GrabCutSegmenter().segment(large, Prompt("a", box=(400, 320, 1300, 960)))
    assert iou(found, np.kron(true, np.ones((20, 20), bool))) > 0.95


# ---------------------------------------------------------------------------------------------------------------- folder
def test_folder_reads_and_refuses(tmp_path) -> None:
    mask = np.eye(6, 8, dtype=bool)
    save_object_mask(tmp_path / "cam" / "a.png", mask)
    segmenter = FolderSegmenter(tmp_path)
    image = np.zeros((6, 8, 3), np.uint8)
    assert (segmenter.segment(image, Prompt("cam/a", ((1.0, 1.0),), (1,))) == mask).all()
    assert (segmenter.segment(image, Prompt("cam/a.jpg", ((1.0, 1.0),), (1,))) == mask).all()
    with pytest.raises(SpinnerfError, match="missing"):
        segmenter.segment(image, Prompt("cam/b"))
    with pytest.raises(SpinnerfError, match="8x6, its photo is 8x9"):
        segmenter.segment(np.zeros((9, 8, 3), np.uint8), Prompt("cam/a"))


def test_mask_files(tmp_path) -> None:
    with pytest.raises(SpinnerfError, match="no such folder"):
        mask_files(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no mask")
    with pytest.raises(SpinnerfError, match="no mask in it"):
        mask_files(tmp_path)
    for name in ("b.png", "a.PNG", ".hidden.png", "sub/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in mask_files(tmp_path)] == ["a.PNG", "b.png", "c.jpg"]
