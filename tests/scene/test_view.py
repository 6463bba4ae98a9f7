"""What a photo is, whatever its file: colours, and which pixels may be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.nerf.data.dataset import AnnotatedDataset
from spinnerf_ns.scene.capture import Capture, capture_from_dataparser, load_capture
from spinnerf_ns.scene.find import find_dataparser
from spinnerf_ns.scene.view import View, full_size, said_of_photos, sizes_of
from tests.scene.captures import SIZE, make_capture, read_meta, write_transforms

WIDTH, HEIGHT = SIZE


def colours(seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([4 * rows + seed, 5 * columns, 2 * (rows + columns) + 20], axis=-1).astype(np.uint8)


def half() -> np.ndarray:
    """(H, W) bool: the left half may be used."""
    return np.arange(WIDTH)[None].repeat(HEIGHT, axis=0) < WIDTH // 2


def rgba() -> Image.Image:
    return Image.fromarray(np.dstack([colours(), half().astype(np.uint8) * 255]))


FORMATS = {
    "rgb.png": (lambda: Image.fromarray(colours()), 0),
    "rgb.jpg": (lambda: Image.fromarray(colours()), 6),
    "turned.jpg": (lambda: Image.fromarray(colours()), 6),
    "palette.png": (lambda: Image.fromarray(colours()).quantize(256), 24),
    "palette-clear.png": (lambda: _clear(Image.fromarray(colours()).quantize(255)), 24),
    "cmyk.jpg": (lambda: Image.fromarray(colours()).convert("CMYK"), 10),
    "grey.png": (lambda: Image.fromarray(colours()[..., 1]), 0),
    "grey-16.png": (lambda: Image.fromarray(colours()[..., 1].astype(np.uint16) * 256 + 255), 0),
    "grey-alpha.png": (lambda: Image.fromarray(np.dstack([colours()[..., 1], half().astype(np.uint8) * 255]), "LA"), 0),
    "rgba.png": (rgba, 0),
    "bits.png": (lambda: Image.fromarray(colours()[..., 1] > 99), 255),
}


def _clear(picture: Image.Image) -> Image.Image:
    picture.info["transparency"] = 0
    return picture


def save(folder: Path, name: str) -> None:
    options = {"quality": 95} if name.endswith("jpg") else {}
    if name == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    FORMATS[name][0]().save(folder / name, **options)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """A capture with a photo of each format, RGBA among RGB."""
    root = make_capture(tmp_path_factory.mktemp("c") / "scene", [f"images/{name}" for name in FORMATS])
    for name in FORMATS:
        save(root / "images", name)
    return root


def photo_of(capture: Capture, name: str):
    return next(view for view in capture.views if view.path.name == name)


@pytest.mark.parametrize("name", FORMATS)
def test_training_segmentation_and_figures_see_the_same_photo(mixed, name) -> None:
    parser = find_dataparser(mixed).setup()
    capture = capture_from_dataparser(parser)
    view = photo_of(capture, name)
    image = view.read_image()
    meant = colours() if not name.startswith("grey") else np.repeat(colours()[..., 1:2], 3, axis=2)
    assert image.dtype == np.uint8 and image.shape == (HEIGHT, WIDTH, 3)
    assert abs(image.astype(int) - meant).mean() <= FORMATS[name][1]
    outputs = parser.get_dataparser_outputs("train")
    by_path = {v.path.resolve(): v for v in capture.views}
    dataset = AnnotatedDataset(outputs, view_of=lambda path: by_path[Path(path).resolve()])
    if view.path not in [Path(path) for path in outputs.image_filenames]:
        dataset = AnnotatedDataset(parser.get_dataparser_outputs("val"), view_of=lambda path: by_path[Path(path).resolve()])
    index = [Path(path) for path in dataset.image_filenames].index(view.path)
    assert np.array_equal(dataset.get_data(index, "uint8")["image"].numpy(), image)
    assert np.allclose(dataset[index]["image"].numpy(), image / 255, atol=1e-6)
    valid = view.valid_mask()
    assert ("mask" in dataset[index]) == (not valid.all())
    if "alpha" in name or "rgba" in name:
        assert np.array_equal(valid, half()) and np.array_equal(dataset[index]["mask"].numpy()[..., 0], half())
    elif "clear" not in name:
        assert valid.all()


def test_alpha_over_a_colour_is_all_valid(mixed) -> None:
    from dataclasses import replace

    view = replace(photo_of(load_capture(mixed), "rgba.png"), alpha_color=(1.0, 1.0, 1.0))
    assert view.valid_mask().all()
    assert (view.read_image()[~half()] == 255).all() and np.array_equal(view.read_image()[half()], colours()[half()])


# --------------------------------------------------------------------------------------------------------- the capture's masks
def with_masks(root: Path, make, size: tuple[int, int] = SIZE, suffix: str = ".png") -> Path:
    meta = read_meta(root)
    for frame in meta["frames"]:
        frame["mask_path"] = frame["file_path"].replace("images/", "masks/").replace(".png", suffix)
        (root / "masks").mkdir(exist_ok=True)
        picture = Image.fromarray(make().astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
        (picture.convert("RGB") if suffix == ".jpg" else picture).save(root / frame["mask_path"])
    write_transforms(root, meta)
    return root


@pytest.mark.parametrize(("size", "suffix"), [(SIZE, ".png"), (SIZE, ".jpg"), ((2 * WIDTH, 2 * HEIGHT), ".png")])
def test_the_captures_own_masks(tmp_path, size, suffix) -> None:
    capture = load_capture(with_masks(make_capture(tmp_path / "s", 4), half, size, suffix))
    for view in capture.views:
        assert view.mask_path is not None and (view.valid_mask() == half()).mean() > 0.97


def test_masks_that_cannot_be_used_are_named_early(tmp_path) -> None:
    root = with_masks(make_capture(tmp_path / "s", 4), half, (WIDTH + 7, HEIGHT))
    with pytest.raises(SpinnerfError, match=f"p00.png: the mask is {WIDTH + 7}x{HEIGHT}, its photo .*p00.png is {WIDTH}x{HEIGHT}"):
        load_capture(root)
    (root / "masks/p00.png").unlink()
    with pytest.raises(SpinnerfError, match="masks/p00.png: the mask of p00.png is missing"):
        load_capture(root)
    meta = read_meta(root)
    del meta["frames"][2]["mask_path"]
    write_transforms(root, meta)
    with pytest.raises(SpinnerfError, match=r"1 of 4 frames have no `mask_path` \(images/p02.png first\).*white = use"):
        load_capture(root)


# --------------------------------------------------------------------------------------------------- a camera one pixel smaller
@pytest.mark.parametrize("off", [(-1, -1), (1, 1), (-1, 0)])
def test_a_camera_one_pixel_off_takes_its_photos_size(tmp_path, off) -> None:
    root = make_capture(tmp_path / "s", 6, w=WIDTH + off[0], h=HEIGHT + off[1])
    parser = find_dataparser(root).setup()
    capture = capture_from_dataparser(parser)
    by_path = {view.path.resolve(): view for view in capture.views}
    outputs = parser.get_dataparser_outputs("train")
    dataset = AnnotatedDataset(outputs, view_of=lambda path: by_path[Path(path).resolve()])
    assert (int(dataset.cameras.width[0]), int(dataset.cameras.height[0])) == SIZE
    assert dataset.cameras[0].generate_rays(0, keep_shape=True).shape == dataset[0]["image"].shape[:2]
    assert (capture.views[0].width, capture.views[0].height) == SIZE


def test_a_photo_cut_short_is_named(tmp_path) -> None:
    view = load_capture(make_capture(tmp_path / "s", ["images/p0.png", "images/p1.png"])).views[0]
    view.path.write_bytes(view.path.read_bytes()[:-500])
    with pytest.raises(SpinnerfError, match="p0.png: this photo is cut short"):
        view.read_image()


# ----------------------------------------------------------------------------------------------------------------- in words
def sized(*sizes: tuple[int, int], folder: Path = Path("images")) -> list[View]:
    """Views of which nothing but size and file are of interest."""
    return [
        View(f"p{number}", folder / f"p{number}.png", *size, 1, 1, 1, 1, np.zeros(6), "OPENCV", np.eye(4)[:3], frozenset())
        for number, size in enumerate(sizes)
    ]


def test_sizes_in_words():
    assert sizes_of(sized((384, 288), (384, 288))) == "384x288"
    assert sizes_of(sized((192, 144), (384, 288))) == "384x288 and 192x144"
    assert sizes_of(sized((40, 30), (4, 3), (20, 20))) == "40x30 to 4x3 (3 sizes)"
    assert sizes_of(sized((384, 288)), scale=1 / 4) == "96x72"
    assert sizes_of(sized((1008, 567), (300, 200)), width=504) == "504x284 and 300x200", "a narrow photo is as it is"


def test_a_downscaled_copy_is_said_with_the_photo_that_it_stands_for(tmp_path):
    for name, size in (("images", (64, 48)), ("images_2", (32, 24))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size).save(tmp_path / name / "p0.png")
    assert said_of_photos(sized((32, 24), folder=tmp_path / "images_2")) == (
        "1 photos of 32x24, from images_2/ (the photos are 64x48)"
    )
    assert said_of_photos(sized((64, 48), folder=tmp_path / "images")) == "1 photos of 64x48"
    assert full_size(sized((64, 48), folder=tmp_path / "images")[0]) is None
