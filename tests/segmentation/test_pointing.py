"""Coordinates as people have them: of the original photo, as a viewer shows it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.segmentation.pointing import ORIENTATION_TAG, original_of, to_used
from spinnerf_ns.segmentation.prompts import Prompt, Stroke


class FakeView:
    """What `to_used` asks of a view."""

    def __init__(self, path) -> None:
        self.photo, self.path = path.stem, path
        self.width, self.height = Image.open(path).size


def save(path, size, orientation=1, seed=0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(tmp_path, orientation) -> None:
    """The pixel that a viewer shows at a place is the stored pixel at the place that comes out."""
    path = tmp_path / "images" / "a.png"
    save(path, (7, 5), orientation)
    stored = np.asarray(Image.open(path))
    shown = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    original = original_of(path)
    assert original.shown_size == (shown.shape[1], shown.shape[0])
    for y in range(shown.shape[0]):
        for x in range(shown.shape[1]):
            column, row = original.stored(x + 0.5, y + 0.5)
            assert (stored[int(row), int(column)] == shown[y, x]).all()


def test_a_box_in_a_turned_photo(tmp_path) -> None:
    path = tmp_path / "images" / "a.jpg"
    save(path, (40, 30), 6)
    view = FakeView(path)
    prompt, said = to_used(Prompt("a.jpg", ((29.0, 1.0),), (1,), (20.0, 0.0, 30.0, 10.0)), view)
    assert prompt.box == (0.0, 0.0, 10.0, 10.0) and prompt.points == ((1.0, 1.0),)
    assert (prompt.view, prompt.size) == ("a", (40, 30))
    assert "EXIF orientation 6" in said and "30x40" in said and "as shown there" in said
    with pytest.raises(SpinnerfError, match="y from 0 to 40"):  # the numbers that the person knows
        to_used(Prompt("a.jpg", ((5.0, 41.0),), (1,)), view)


def test_of_the_original_where_a_smaller_copy_is_used(tmp_path) -> None:
    save(tmp_path / "images" / "cam" / "a.JPG", (400, 300))
    save(tmp_path / "images_4" / "cam" / "a.png", (100, 75))
    view = FakeView(tmp_path / "images_4" / "cam" / "a.png")
    stroke = Stroke(((40.0, 40.0),), 8.0)
    prompt, said = to_used(Prompt("a", ((200.0, 100.0),), (1,), brush=(stroke,)), view)
    assert prompt.points == ((50.0, 25.0),) and prompt.brush == (Stroke(((10.0, 10.0),), 2.0),)
    assert prompt.size == (100, 75)
    for part in ("400x300", "100x75", "images/cam/a.JPG", "scaled to it"):
        assert part in said
    with pytest.raises(SpinnerfError, match="x goes from 0 to 400"):
        to_used(Prompt("a", ((401.0, 100.0),), (1,)), view)


def test_where_only_the_smaller_copy_is_there(tmp_path) -> None:
    save(tmp_path / "images_4" / "a.png", (100, 75))
    prompt, said = to_used(Prompt("a", ((50.0, 25.0),), (1,)), FakeView(tmp_path / "images_4" / "a.png"))
    assert prompt.points == ((50.0, 25.0),) and "100x75" in said and "scaled" not in said


def test_a_folder_that_only_looks_smaller(tmp_path) -> None:
    """A scene called trip_2 beside one called trip is no downscaled copy of it, unless it has the same photo."""
    save(tmp_path / "trip_2" / "images" / "a.png", (100, 75))
    (tmp_path / "trip").mkdir()
    assert original_of(tmp_path / "trip_2" / "images" / "a.png").path == tmp_path / "trip_2" / "images" / "a.png"
