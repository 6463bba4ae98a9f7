"""Ready masks as people have them: inverted, large, of another size, of many things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spinnerf_ns.cli.segment import Segment
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask, save_object_mask
from spinnerf_ns.segmentation.given import border_share, read_given
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.segment import segment_capture
from spinnerf_ns.segmentation.sources import check_mask
from tests.segmentation.conftest import iou, truth
from tests.segmentation.test_segment import Shift, key

HEIGHT, WIDTH = 120, 160


def large(shift: int = 0) -> np.ndarray:
    """(H, W) bool: an object of more than half of its photo, which ends at the photo's lower edge."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[8:, 20 + shift : 140 + shift] = True
    assert mask.mean() > 0.6
    return mask


def given(twin, capture, folder: Path, make, **options) -> dict[str, np.ndarray]:
    """What is read of masks of the first photos."""
    folder.mkdir(exist_ok=True)
    paths = {}
    for index, photo in enumerate(twin.train_photos[:5]):
        paths[key(photo)] = folder / f"{key(photo)}.png"
        picture = make(index, truth(twin, photo))
        if isinstance(picture, Image.Image):
            picture.save(paths[key(photo)])
        else:
            save_object_mask(paths[key(photo)], picture)
    return read_given(paths, {view.photo: view for view in capture.views}, **options)


def test_inverted_masks_are_turned_round_and_said(twin, capture, tmp_path, capsys) -> None:
    found = given(twin, capture, tmp_path / "m", lambda _, true: ~true)
    for photo, mask in found.items():
        assert np.array_equal(mask, truth(twin, f"images/{photo}.png"))
    assert "black is the object" in capsys.readouterr().out
    as_they_are = given(twin, capture, tmp_path / "m", lambda _, true: ~true, as_they_are=True)
    assert all(mask.mean() > 0.5 for mask in as_they_are.values()) and not capsys.readouterr().out


def test_a_large_object_is_no_background(twin, capture, tmp_path, capsys) -> None:
    for index, mask in enumerate(given(twin, capture, tmp_path / "m", lambda index, _: large(3 * index)).values()):
        assert np.array_equal(mask, large(3 * index))
    assert not capsys.readouterr().out
    for index, mask in enumerate(given(twin, capture, tmp_path / "m", lambda index, _: ~large(3 * index)).values()):
        assert np.array_equal(mask, large(3 * index))  # inverted ones cover less than half
    assert "black is the object" in capsys.readouterr().out
    check_mask(large(), "m.png", False, "paint it")
    with pytest.raises(SpinnerfError, match="m.png: the mask runs along 7.% of the photo's border.*--allow-large-mask"):
        check_mask(~large(), "m.png", False, "paint it")


def test_one_inverted_mask_among_others_is_named(twin, capture, tmp_path, capsys) -> None:
    given(twin, capture, tmp_path / "m", lambda index, true: ~true if index == 1 else true)
    assert f"look inverted beside the others, and are taken as they are: {key(twin.train_photos[1])}" in capsys.readouterr().out


def test_masks_of_another_size_are_scaled_and_said(twin, capture, tmp_path, capsys) -> None:
    def double(_, true):
        return np.kron(true, np.ones((2, 2), bool))

    for photo, mask in given(twin, capture, tmp_path / "m", double).items():
        assert np.array_equal(mask, truth(twin, f"images/{photo}.png"))
    assert "5 of 5 masks of 320x240 are scaled to their photos' 160x120" in capsys.readouterr().out


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_of_photos_as_a_viewer_shows_them(tmp_path, orientation, capsys) -> None:
    from PIL import ImageOps

    from spinnerf_ns.scene.capture import load_capture
    from tests.scene.captures import make_capture

    root = make_capture(tmp_path / "s", ["images/a.png", "images/b.png"])
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(root / "images/a.png").save(root / "images/a.png", exif=exif)
    meant = np.zeros((30, 40), bool)
    meant[5:12, 20:35] = True
    Image.fromarray(meant.astype(np.uint8) * 255).save(tmp_path / "stored.png", exif=exif)
    ImageOps.exif_transpose(Image.open(tmp_path / "stored.png")).save(tmp_path / "m.png")
    found = read_given({"a": tmp_path / "m.png"}, {view.photo: view for view in load_capture(root).views})
    assert np.array_equal(found["a"], meant) and "EXIF orientation" in capsys.readouterr().out


def things(index: int, true: np.ndarray) -> Image.Image:
    """An id map: 2 is meant, 1 the floor, 3 something small that is not in every photo."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[100:] = 1
    ids[true] = 2
    ids[4:12, 4:12] = 3 * (index % 2)
    return Image.fromarray(ids)


def test_one_id_of_id_maps(twin, capture, workspace, tmp_path) -> None:
    with pytest.raises(SpinnerfError, match=r"the ids 0 \(7.%\), 1 \(1.%\), 2 \(\d+%\) \(5 of 5 masks do\).*--mask-id ID"):
        given(twin, capture, tmp_path / "m", things)
    for photo, mask in given(twin, capture, tmp_path / "m", things, mask_id=2).items():
        assert np.array_equal(mask, truth(twin, f"images/{photo}.png"))
    with pytest.raises(SpinnerfError, match="--mask-id 7: no mask has this id; there are "):
        given(twin, capture, tmp_path / "m", things, mask_id=7)
    segment_capture(capture, workspace, tmp_path / "m", tracker=Shift(), mask_id=2)
    photo = key(twin.train_photos[0])
    assert np.array_equal(load_object_mask(workspace.mask_path("masks_2d", photo)), truth(twin, twin.train_photos[0]))


def test_one_thing_in_each_photo_but_not_the_same(twin, capture, tmp_path) -> None:
    with pytest.raises(SpinnerfError, match=r"different ids \(1, 2\).*--mask-id ID"):
        given(twin, capture, tmp_path / "m", lambda index, true: Image.fromarray(true.astype(np.uint8) * (1 + index % 2)))


def test_an_id_in_one_photo_and_in_prompts_json(twin, capture, workspace, tmp_path) -> None:
    things(1, truth(twin, twin.prompt_view)).save(tmp_path / "ids.png")
    prompt = Prompt(key(twin.prompt_view), mask_path=tmp_path / "ids.png", mask_id=2)
    segment_capture(capture, workspace, prompt, tracker=Shift())
    before = workspace.mask_path("masks_2d", key(twin.prompt_view)).stat().st_mtime_ns
    segment_capture(capture, workspace, None, tracker=Shift())
    assert workspace.mask_path("masks_2d", key(twin.prompt_view)).stat().st_mtime_ns == before
    assert iou(load_object_mask(workspace.mask_path("masks_2d", key(twin.prompt_view))), truth(twin, twin.prompt_view)) == 1


def test_the_option(tmp_path) -> None:
    assert Segment(data=tmp_path, view="a", mask=Path("m.png"), mask_id="0xff0000").request()[0].mask_id == 0xFF0000
    assert Segment(data=tmp_path, masks=tmp_path, mask_id="2").chosen_id() == 2
    with pytest.raises(SpinnerfError, match="--mask-id two: expected a number"):
        Segment(data=tmp_path, masks=tmp_path, mask_id="two").chosen_id()
    with pytest.raises(SpinnerfError, match="--mask-id was given, but no mask"):
        Segment(data=tmp_path, view="a", points=("1,2",), mask_id="2").chosen_id()


def test_how_much_of_the_border() -> None:
    mask = np.zeros((4, 5), bool)
    mask[0] = True
    assert border_share(mask) == 5 / 14 and border_share(~mask) == 9 / 14
