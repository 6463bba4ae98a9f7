"""Masks and photos of every kind that people have: what the decoder makes of them, and what it refuses with which words."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from spinnerf_ns.decoding import decode_mask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask, save_object_mask

HEIGHT, WIDTH = 120, 160


def meant() -> np.ndarray:
    """(H, W) bool: a disc with an arm."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    disc = (rows - 55) ** 2 + (columns - 70) ** 2 < 28**2
    return disc | ((abs(rows - 60) < 5) & (columns > 70) & (columns < 130))


def photo(seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: soft colours."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((HEIGHT, WIDTH, 3)).astype(np.float32), (0, 0), 3)
    return (255 * (noise - noise.min()) / (noise.max() - noise.min())).astype(np.uint8)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def white(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint8) * 255


def palette(ids: np.ndarray, colours: list[int]) -> Image.Image:
    picture = Image.fromarray(ids.astype(np.uint8), "P")
    picture.putpalette(colours)
    return picture


def halved_and_enlarged(mask: np.ndarray) -> np.ndarray:
    half = cv2.resize(white(mask), (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(half, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def cut_out(mask: np.ndarray, under: int = 255) -> Image.Image:
    colours = np.where(mask[..., None], photo(), under).astype(np.uint8)
    return Image.fromarray(np.dstack([colours, white(mask)]))


KINDS = {
    "zero-one.png": lambda m: Image.fromarray(m.astype(np.uint8)),
    "zero-255.png": lambda m: Image.fromarray(white(m)),
    "one-two.png": lambda m: Image.fromarray(1 + m.astype(np.uint8)),
    "bits.png": lambda m: Image.fromarray(m),
    "sixteen.png": lambda m: Image.fromarray(m.astype(np.uint16) * 65535),
    "sixteen-small.png": lambda m: Image.fromarray(m.astype(np.uint16) * 700),
    "float.tiff": lambda m: Image.fromarray(m.astype(np.float32)),
    "lossy-95.jpg": lambda m: Image.fromarray(white(m)),
    "lossy-rgb.jpg": lambda m: Image.fromarray(np.repeat(white(m)[..., None], 3, axis=2)),
    "red.jpg": lambda m: Image.fromarray(np.dstack([white(m), 0 * white(m), 0 * white(m)])),
    "halved.png": lambda m: Image.fromarray(halved_and_enlarged(m)),
    "blocks.png": lambda m: Image.fromarray(
        np.kron(cv2.resize(white(m), (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA), np.ones((2, 2), np.uint8))
    ),
    "blurred.png": lambda m: Image.fromarray(cv2.GaussianBlur(white(m), (0, 0), 3)),
    "blurred-dim.png": lambda m: Image.fromarray(cv2.GaussianBlur(white(m), (0, 0), 3) // 3),
    "rgb.png": lambda m: Image.fromarray(np.repeat(white(m)[..., None], 3, axis=2)),
    "opaque.png": lambda m: Image.fromarray(np.dstack([*[white(m)] * 3, np.full_like(white(m), 255)])),
    "cut-out-on-white.png": cut_out,
    "cut-out-on-black.png": lambda m: cut_out(m, 0),
    "cut-out.webp": cut_out,
    "silhouette.png": lambda m: Image.fromarray(np.dstack([*[0 * white(m)] * 3, white(m)])),
    "white-on-transparent.png": lambda m: Image.fromarray(np.dstack([*[white(m)] * 3, white(m)])),
    "grey-alpha.png": lambda m: Image.fromarray(np.dstack([photo()[..., 0], white(m)]), "LA"),
    "palette.png": lambda m: palette(m, [0, 0, 0, 128, 0, 0]),
    "palette-grey.png": lambda m: palette(white(m), [v for i in range(256) for v in (i, i, i)]),
    "cut-out-8-bit.png": lambda m: _eight_bit_cut_out(m),
}


def _eight_bit_cut_out(mask: np.ndarray) -> Image.Image:
    quantised = np.asarray(Image.fromarray(photo()).quantize(200)).copy() + 1
    quantised[~mask] = 0
    picture = palette(quantised, [255, 255, 255, *Image.fromarray(photo()).quantize(200).getpalette()[: 3 * 255]])
    picture.info["transparency"] = 0
    return picture


@pytest.mark.parametrize("name", KINDS)
def test_a_mask_of_any_kind(tmp_path: Path, name: str) -> None:
    KINDS[name](meant()).save(tmp_path / name, **({"quality": 95} if name.endswith(".jpg") else {}))
    least = 0.95 if name == "blocks.png" else 0.97  # half the resolution is lost there
    assert iou(load_object_mask(tmp_path / name), meant()) > least


@pytest.mark.parametrize("quality", [30, 60, 85])
def test_the_noise_of_a_lossy_file_is_no_object(tmp_path: Path, quality: int) -> None:
    Image.fromarray(white(meant())).save(tmp_path / "m.jpg", quality=quality)
    assert iou(load_object_mask(tmp_path / "m.jpg"), meant()) > 0.97


def test_own_masks_are_read_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for mask in (meant(), rng.random((HEIGHT, WIDTH)) > 0.5, np.zeros((9, 7), bool), np.ones((9, 7), bool)):
        save_object_mask(tmp_path / "m.png", mask)
        assert np.array_equal(load_object_mask(tmp_path / "m.png"), mask)


# ----------------------------------------------------------------------------------------------------------------- id maps
def ids() -> np.ndarray:
    """(H, W): 0 the room, 1 the floor, 2 the thing that is meant, 3 something small."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[90:] = 1
    found[meant()] = 2
    found[10:20, 130:140] = 3
    return found


COLOURS = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
ID_MAPS = {
    "small.png": (lambda: Image.fromarray(ids()), 2),
    "spread.png": (lambda: Image.fromarray(ids() * 60), 120),
    "sixteen.png": (lambda: Image.fromarray(ids().astype(np.uint16) * 1000), 2000),
    "high.png": (lambda: Image.fromarray(np.array([0, 253, 254, 255], np.uint8)[ids()]), 254),
    "palette.png": (lambda: palette(ids(), COLOURS), 2),
    "palette-grey.png": (lambda: palette(ids(), [v for i in range(4) for v in (60 * i,) * 3]), 120),
    "colours.png": (lambda: palette(ids(), COLOURS).convert("RGB"), 0x008000),
}


@pytest.mark.parametrize("name", ID_MAPS)
def test_an_id_map_is_refused_unless_one_is_chosen(tmp_path: Path, name: str) -> None:
    make, chosen = ID_MAPS[name]
    make().save(tmp_path / name)
    with pytest.raises(SpinnerfError, match="--mask-id") as error:
        load_object_mask(tmp_path / name)
    assert f"{decode_mask(tmp_path / name).name(chosen)} (14%)" in str(error.value) and "\n" not in str(error.value)
    assert np.array_equal(load_object_mask(tmp_path / name, object_id=chosen), meant())
    assert not load_object_mask(tmp_path / name, object_id=77).any()


def test_one_id_of_a_lossy_id_map(tmp_path: Path) -> None:
    Image.fromarray(ids() * 60).save(tmp_path / "m.jpg", quality=95)
    with pytest.raises(SpinnerfError, match="--mask-id"):
        load_object_mask(tmp_path / "m.jpg")
    assert iou(load_object_mask(tmp_path / "m.jpg", object_id=120), meant()) > 0.9


# ----------------------------------------------------------------------------------------------------------------- refused
def test_a_photo_is_no_mask(tmp_path: Path) -> None:
    for name, values in (("colour.png", photo()), ("colour.jpg", photo()), ("grey.png", photo()[..., 0])):
        Image.fromarray(values).save(tmp_path / name)
        with pytest.raises(SpinnerfError, match=f"{name}: is a .* not a mask.*white on black"):
            load_object_mask(tmp_path / name)


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    save_object_mask(tmp_path / "m.png", meant())
    for scale in (2, 4, 1 / 2):
        shape = (round(HEIGHT * scale), round(WIDTH * scale))
        found = load_object_mask(tmp_path / "m.png", shape)
        back = cv2.resize(white(found), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) > 127
        assert found.shape == shape and iou(back, meant()) > 0.93
    assert load_object_mask(tmp_path / "m.png", (HEIGHT // 2 + 1, WIDTH // 2)).shape == (61, 80)  # rounded up
    for shape in ((HEIGHT, WIDTH + 30), (HEIGHT * 3 // 2, WIDTH * 3 // 2), (WIDTH, HEIGHT)):
        with pytest.raises(SpinnerfError, match=f"m.png: the mask is 160x120, its photo is {shape[1]}x{shape[0]}"):
            load_object_mask(tmp_path / "m.png", shape)


def test_broken_masks(tmp_path: Path) -> None:
    with pytest.raises(SpinnerfError, match="m.png: this mask is missing"):
        load_object_mask(tmp_path / "m.png")
    (tmp_path / "m.png").write_bytes(b"no image")
    with pytest.raises(SpinnerfError, match="cannot be decoded"):
        load_object_mask(tmp_path / "m.png")
    for name in ("m.jpg", "m.png"):
        Image.fromarray(photo()).save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-3000])
        with pytest.raises(SpinnerfError, match=f"{name}: this mask is cut short"):
            load_object_mask(tmp_path / name)
