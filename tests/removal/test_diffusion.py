"""The diffusion inpainter beyond the contract: what it loads, what the model sees, how its answer comes back."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.inpainters import INPAINTERS
from spinnerf_ns.removal.inpainters.diffusion import square_around
from tests.removal.networks import save_diffusion
from tests.removal.test_inpainters import CASES, box, photo

pytest.importorskip("diffusers", reason="the extra diffusion is not installed")
pytest.importorskip("transformers", reason="the extra diffusion is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_diffusion(tmp_path_factory.mktemp("diffusion") / "model")


def create(folder, **options):
    return INPAINTERS.create("diffusion", weights=folder, device="cpu", **{"steps": 2, **options})


def test_the_seed_decides(folder):
    image, to_fill = CASES["ordinary"]
    one, same, other = (create(folder, seed=seed).inpaint(image, to_fill) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_only_inpainting_models_of_safetensors_in_the_published_layout(folder, tmp_path):
    def refused(path, match):
        with pytest.raises(SpinnerfError, match=match) as caught:
            create(path).prepare()
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)

    refused(tmp_path / "none", "missing")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "model_index.json")
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, pickled / "unet" / "diffusion_pytorch_model.bin")
    refused(pickled, "safetensors")
    cut = tmp_path / "cut"
    shutil.copytree(folder, cut)
    whole = (cut / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    (cut / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(cut, "cannot be loaded")
    unknown = tmp_path / "unknown"
    shutil.copytree(folder, unknown)
    index = json.loads((unknown / "model_index.json").read_text())
    (unknown / "model_index.json").write_text(json.dumps({**index, "_class_name": "DDPMPipeline"}))
    refused(unknown, "cannot be loaded")


def test_a_safety_checker_is_neither_needed_nor_used(folder, tmp_path):
    """The published folder names one; it would answer a suspicion with a black picture."""
    shutil.copytree(folder, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    image, to_fill = CASES["ordinary"]
    filled = create(tmp_path / "model").inpaint(image, to_fill)
    np.testing.assert_array_equal(filled, create(folder).inpaint(image, to_fill))


def test_options():
    for options in ({"steps": 0}, {"context": -1}, {"guidance": -1}):
        with pytest.raises(SpinnerfError, match=next(iter(options))):
            INPAINTERS.create("diffusion", **options)


class Shifted:
    """A pipeline that sees perfectly and, as an autoencoder does, shifts all colours; remembers what it was given."""

    unet = SimpleNamespace(config=SimpleNamespace(sample_size=16))
    vae_scale_factor = 2

    def __init__(self, truth):
        self.truth, self.given = truth, []

    def __call__(self, image, mask_image, **options):
        self.given.append((np.asarray(image), np.asarray(mask_image)))
        answer = np.full((32, 32, 3), self.truth / np.float32(255)) + np.float32(0.15)
        return SimpleNamespace(images=[answer])


def test_the_answer_is_shifted_to_meet_the_rim(folder):
    truth = np.array([100, 60, 20], np.uint8)
    image, to_fill = np.tile(truth, (90, 120, 1)), box(90, 120, slice(30, 60), slice(40, 80))
    given = image.copy()
    given[to_fill] = 255
    inpainter = create(folder)
    inpainter._pipeline = Shifted(truth)
    filled = inpainter.inpaint(given, to_fill)
    assert np.abs(filled.astype(int) - image).max() <= 1
    ((shown, mask),) = inpainter._pipeline.given
    assert shown.shape == (32, 32, 3) and np.abs(shown.astype(int) - truth).max() <= 1  # nothing of the object is shown
    assert set(np.unique(mask)) == {0, 255} and 0.05 < (mask > 0).mean() < 0.4


def test_the_models_answer_arrives_where_the_hole_is(folder):
    """A model that answers with what it is shown gives back a photo that was smooth enough for its resolution."""
    y, x = np.mgrid[:100, :140].astype(np.float32)
    image = np.stack([40 + x, 200 - y, 60 + (x + y) / 2], axis=-1).astype(np.uint8)
    to_fill = box(100, 140, slice(70, 100), slice(100, 140))  # in the corner: the square is shifted into the photo
    inpainter = create(folder)
    inpainter._pipeline = Shifted(image[0, 0])
    inpainter.inpaint(image, to_fill)
    echo = Shifted(image[0, 0])
    wanted = square_around(to_fill, inpainter.context, 32)
    import cv2

    answer = cv2.resize(image[wanted].astype(np.float32) / 255, (32, 32), interpolation=cv2.INTER_AREA)
    echo_call = SimpleNamespace(images=[answer])
    inpainter._pipeline = type("Echo", (Shifted,), {"__call__": lambda self, **options: echo_call})(echo.truth)
    filled = inpainter.inpaint(image, to_fill)
    assert np.abs(filled.astype(int) - image).max() <= 6


@pytest.mark.parametrize("context", [0.0, 0.75])
def test_the_square_holds_the_hole_and_stays_in_the_photo_where_it_fits(context):
    to_fill = box(200, 300, slice(150, 190), slice(0, 60))
    rows, columns = square_around(to_fill, context, 32)
    side = max(32, round((1 + 2 * context) * 60))
    assert rows.stop - rows.start == columns.stop - columns.start == side
    assert 0 <= rows.start <= 150 and 190 <= rows.stop <= 200 and columns.start == 0
    rows, columns = square_around(box(20, 300, slice(5, 10), slice(5, 10)), context, 32)
    assert rows.start == -6 and columns.start == 0  # the photo is lower than the model's resolution


def test_photos_smaller_than_the_models_resolution(folder):
    image, to_fill = photo(11, 19), box(11, 19, slice(3, 8), slice(0, 7))
    filled = create(folder).inpaint(image, to_fill)
    np.testing.assert_array_equal(filled[~to_fill], image[~to_fill])
