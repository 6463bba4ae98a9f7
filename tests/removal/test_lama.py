"""LaMa beyond the contract: the file it runs, photos too large for the memory, and disparity. Networks: networks.py."""

import hashlib
import re

import numpy as np
import pytest
import torch

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.inpainters import INPAINTERS
from spinnerf_ns.removal.inpainters.lama import BYTES_PER_PIXEL, MULTIPLE, largest_window
from spinnerf_ns.removal.inpainters.upsampling import guided_upsample, reduce_known
from spinnerf_ns.weights import store as weights
from tests.removal.networks import save_lama, save_mean_colour
from tests.removal.test_inpainters import CASES, box, photo


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_lama(tmp_path_factory.mktemp("lama") / "small.pt")


@pytest.fixture(scope="module")
def mean_colour(tmp_path_factory):
    return save_mean_colour(tmp_path_factory.mktemp("mean") / "mean.pt")


def create(path, **options):
    return INPAINTERS.create("lama", weights=path, trust_weights=True, device="cpu", **options)


def limit(pixels):
    """memory_limit that allows so many pixels."""
    return (pixels + 0.5) * BYTES_PER_PIXEL / 1e9


# ------------------------------------------------------------------------------------------------------------- the file
def test_equals_the_network_called_by_hand(network):
    image, to_fill = photo(64, 72), box(64, 72, slice(20, 40), slice(10, 50))  # sides are multiples of 8: nothing is padded
    with torch.no_grad():
        given = torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None]
        answer = torch.jit.load(str(network))(given, torch.from_numpy(to_fill.astype(np.float32))[None, None])
    expected = np.round(answer[0].permute(1, 2, 0).numpy() * 255)
    filled = create(network).inpaint(image, to_fill)
    assert np.abs(filled.astype(float) - expected).max() <= 1 and filled[to_fill].std() > 0


def test_sides_are_padded_and_the_padding_knows_no_object(network):
    shapes = []

    def recorded(image, mask):
        shapes.append(tuple(image.shape[2:]))
        assert not image[:, :, mask[0, 0] > 0].any()  # neither the gap nor its mirror image shows what stood there
        return image * (1 - mask)

    image, to_fill = CASES["odd size"]  # 37 x 53, the gap at the border
    inpainter = create(network)
    inpainter.prepare()
    inpainter._network = recorded
    inpainter.inpaint(image, to_fill)
    assert shapes == [(40, 56)] and all(side % MULTIPLE == 0 for side in shapes[0])


def test_only_the_published_file_or_one_vouched_for(network, monkeypatch):
    with pytest.raises(SpinnerfError, match="small.pt: TorchScript is a program.*sha256") as caught:
        INPAINTERS.create("lama", weights=network).prepare()
    assert "\n" not in str(caught.value)
    import dataclasses

    known = dataclasses.replace(weights.WEIGHTS["big-lama"], sha256=hashlib.sha256(network.read_bytes()).hexdigest())
    monkeypatch.setitem(weights.WEIGHTS, "big-lama", known)
    INPAINTERS.create("lama", weights=network, device="cpu").prepare()


def test_the_published_file_is_found_in_the_cache(network, monkeypatch, tmp_path):
    import dataclasses

    content = network.read_bytes()
    monkeypatch.setenv("SPINNERF_WEIGHTS", str(tmp_path))
    known = dataclasses.replace(
        weights.WEIGHTS["big-lama"],
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        publisher_digest=("md5", hashlib.md5(content).hexdigest()),
    )
    monkeypatch.setitem(weights.WEIGHTS, "big-lama", known)
    (tmp_path / "big-lama.pt").write_bytes(content)
    image, to_fill = CASES["ordinary"]
    filled = INPAINTERS.create("lama", device="cpu").inpaint(image, to_fill)
    np.testing.assert_array_equal(filled, create(network).inpaint(image, to_fill))


class Wrong(torch.nn.Module):
    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return mask


class NotFinite(torch.nn.Module):
    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return image / 0


class OneInput(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


@pytest.mark.parametrize("module", [Wrong, NotFinite, OneInput])
def test_a_network_of_another_kind_is_named(module, tmp_path):
    torch.jit.script(module()).save(str(tmp_path / "other.pt"))
    with pytest.raises(SpinnerfError, match="other.pt: no network with LaMa's signature") as caught:
        create(tmp_path / "other.pt").inpaint(*CASES["ordinary"])
    assert "\n" not in str(caught.value)


def test_options(network):
    for options in ({"disparity": "magic"}, {"memory_limit": 0}):
        with pytest.raises(SpinnerfError, match=next(iter(options))):
            create(network, **options)
    with pytest.raises(SpinnerfError, match="not enough for a single patch"):
        create(network, memory_limit=1e-6).prepare()
    with pytest.raises(SpinnerfError, match="device is 'abacus'"):
        INPAINTERS.create("lama", weights=network, trust_weights=True, device="abacus").prepare()


# --------------------------------------------------------------------------------------------------------- large photos
def test_a_window_is_looked_at_where_the_photo_does_not_fit(mean_colour, capsys):
    image = np.zeros((200, 300, 3), np.uint8)
    image[:, :150], image[:, 150:] = (250, 0, 0), (0, 0, 250)
    to_fill = box(200, 300, slice(90, 110), slice(40, 60))
    whole = create(mean_colour).inpaint(image, to_fill)
    assert whole[100, 50, 2] > 50  # the other half of the photo is in the mean
    window = create(mean_colour, memory_limit=limit(100 * 100))
    filled = [window.inpaint(image, to_fill) for _ in range(2)][0]
    assert (filled[to_fill] == (250, 0, 0)).all()
    said = capsys.readouterr().out
    assert said.count("around the gap") == 1 and "300x200" in said


def test_the_window_is_as_large_as_the_memory_allows():
    to_fill = box(300, 400, slice(100, 140), slice(350, 390))
    for most in (10_000, 30_000, 80_000):
        (rows, columns), fits = largest_window(to_fill, most)
        pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
        assert fits and 0.85 * most < pixels <= most
        assert rows.start >= 0 and rows.stop <= 300 and columns.start >= 0 and columns.stop <= 400
        assert to_fill[rows, columns].sum() == to_fill.sum()
    assert not largest_window(to_fill, 5_000)[1]


def test_what_fits_in_no_window_is_reduced(mean_colour):
    generator = np.random.default_rng(0)
    image = np.clip(generator.normal(120, 30, (240, 320, 1)) + [40, 0, -40], 0, 255).astype(np.uint8)
    to_fill = box(240, 320, slice(70, 170), slice(100, 220))
    inpainter = create(mean_colour, memory_limit=limit(96 * 96))
    seen = []
    inpainter.prepare()
    network = inpainter._network
    inpainter._network = lambda picture, mask: seen.append(mask.numel()) or network(picture, mask)
    given = image.copy()
    given[to_fill] = (0, 255, 0)
    filled = inpainter.inpaint(given, to_fill)
    np.testing.assert_array_equal(filled[~to_fill], image[~to_fill])
    assert max(seen) <= 96 * 96 + 16 * 96 and len(seen) == 1
    assert np.abs(filled[to_fill].mean(axis=0) - image[~to_fill].mean(axis=0)).max() < 6  # nothing green anywhere
    np.testing.assert_array_equal(inpainter.inpaint(given, to_fill), filled)


class TestUpsampling:
    def picture(self, amplitude=0.1):
        """A slow ramp with fine texture that is lost at a quarter of the resolution."""
        y, x = np.mgrid[:160, :240].astype(np.float32)
        ramp = np.stack([0.3 + x / 600, 0.4 + y / 500, np.full_like(x, 0.5)], axis=-1)
        noise = np.random.default_rng(1).normal(0, amplitude, (160, 240, 1)).astype(np.float32)
        return np.clip(ramp + noise, 0, 1), ramp, box(160, 240, slice(50, 110), slice(80, 160))

    def test_detail_is_put_back_and_structure_kept(self):
        picture, ramp, to_fill = self.picture()
        small, small_to_fill = reduce_known(picture, to_fill, 0.25)
        small_ramp = reduce_known(ramp, np.zeros_like(to_fill), 0.25)[0]
        filled_small = np.where(small_to_fill[..., None], small_ramp, small)
        plain = guided_upsample(filled_small, small_to_fill, picture, to_fill, detail=False)
        guided = guided_upsample(filled_small, small_to_fill, picture, to_fill)
        inner = box(160, 240, slice(60, 100), slice(90, 150))
        texture = (picture - ramp)[~to_fill].std()
        assert (plain - ramp)[inner].std() < 0.2 * texture
        assert 0.6 * texture < (guided - ramp)[inner].std() < 1.4 * texture
        assert np.abs((guided - ramp)[inner].mean(axis=0)).max() < 0.02
        for answer in (plain, guided):
            np.testing.assert_array_equal(answer[~to_fill], picture[~to_fill])

    def test_the_hole_does_not_leak_into_the_small_picture(self):
        picture, _, to_fill = self.picture()
        other = np.where(to_fill[..., None], np.float32(1), picture)
        one, two = (reduce_known(each, to_fill, 0.3) for each in (picture, other))
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1].shape == (48, 72) and one[1].sum() >= 18 * 24

    def test_tiny_pictures_and_holes_without_surroundings(self):
        picture, _, to_fill = self.picture()
        for window in ((slice(40, 60), slice(70, 100)), (slice(45, 115), slice(75, 165))):
            crop, piece = picture[window], to_fill[window]
            small, small_to_fill = reduce_known(crop, piece, 0.5)
            answer = guided_upsample(small, small_to_fill, crop, piece)
            assert np.isfinite(answer).all() and answer.shape == crop.shape


# ------------------------------------------------------------------------------------------------------------ disparity
def plane(height=61, width=83):
    y, x = np.mgrid[:height, :width]
    return (0.02 + 1e-4 * x + 2e-4 * y).astype(np.float32), box(height, width, slice(20, 45), slice(30, 60))


@pytest.mark.parametrize("kind", ["network", "mean_colour"])
@pytest.mark.parametrize("unit", [1.0, 1e4])
def test_disparity_by_the_network_is_float_and_meets_the_rim(request, kind, unit):
    """Whatever the network draws, a mean or random strokes: no step at the rim, no 8-bit steps, nothing else changed."""
    truth, to_fill = plane()
    truth *= unit
    inpainter = create(request.getfixturevalue(kind), disparity="network")
    given = np.where(to_fill, 0, truth)
    given[0, :5] = 0  # unknown outside the gap stays so
    filled = inpainter.inpaint_disparity(given, to_fill)
    np.testing.assert_array_equal(filled[~to_fill], given[~to_fill])
    assert filled.dtype == np.float32 and (filled[to_fill] > 0).all()
    rim = np.abs(filled - truth)[box(61, 83, slice(20, 45), slice(30, 31))]
    assert rim.max() < 0.05 * truth[to_fill].mean()
    assert len(np.unique(filled[to_fill])) > 600
    np.testing.assert_array_equal(inpainter.inpaint_disparity(given, to_fill), filled)
    np.testing.assert_array_equal(inpainter.inpaint_disparity(truth, np.zeros_like(to_fill)), truth)
    for bad in (np.ones_like(to_fill), to_fill[1:], to_fill.astype(np.uint8)):
        with pytest.raises(SpinnerfError, match="mend|make it"):
            inpainter.inpaint_disparity(truth, bad)


def test_disparity_scale_does_not_matter(network):
    truth, to_fill = plane()
    inpainter = create(network, disparity="network")
    small, large = (inpainter.inpaint_disparity(truth * unit, to_fill) / unit for unit in (1.0, 1024.0))
    np.testing.assert_allclose(small, large, rtol=1e-4)


def test_rim_is_the_default_for_disparity(network):
    truth, to_fill = plane()
    filled = create(network).inpaint_disparity(np.where(to_fill, 0, truth), to_fill)
    assert np.abs(filled / truth - 1).max() < 0.02


def test_offline_names_file_url_and_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SPINNERF_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(weights.WeightsUnavailable) as caught:
        INPAINTERS.create("lama").prepare()
    text = str(caught.value)
    assert re.search(r"big-lama\.pt", text) and weights.WEIGHTS["big-lama"].url in text and str(tmp_path / "cache") in text
