"""Perceptual losses: values against the reference package, gradients, and what happens without weights."""

from __future__ import annotations

import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.nerf import perceptual
from spinnerf_ns.nerf.perceptual import PerceptualLoss, SsimLoss, make_perceptual_loss
from spinnerf_ns.nerf.perceptual_names import PerceptualLossName

pytest.importorskip("lpips")


@pytest.fixture(scope="session")
def caffe_weights(real_data: Path) -> Path:
    """A trained SqueezeNet in torchvision's layout."""
    path = real_data.parent / "weights" / "squeezenet1_1_caffe.pth"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    return path


@pytest.fixture
def random_squeezenet(tmp_path: Path) -> Path:
    """An untrained SqueezeNet's state dict as a file: enough for all but the ranking of pictures."""
    return _save_random("squeezenet1_1", tmp_path / "squeezenet1_1.pth")


def _save_random(architecture: str, path: Path) -> Path:
    import torchvision

    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):  # VGG's classifier alone takes seconds to draw
        shapes = getattr(torchvision.models, architecture)(weights=None).state_dict()
    state = {}
    for key, value in shapes.items():
        if key.startswith("features."):
            fan_in = max(value[0].numel(), 1)
            state[key] = torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5 * (value.ndim > 1)
    torch.save(state, path)
    return path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Any socket is an error, and the caches are empty."""

    def refuse(*arguments, **keywords):
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SPINNERF_WEIGHTS", str(tmp_path / "weights"))


def _texture(seed: int = 0, height: int = 64, width: int = 64) -> torch.Tensor:
    """A smooth random picture [1, 3, h, w] in [0, 1]."""
    noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return torch.from_numpy(smooth).permute(2, 0, 1)[None].contiguous()


def _blur(picture: torch.Tensor, sigma: float) -> torch.Tensor:
    """A Gaussian blur of a picture [1, 3, h, w]."""
    return torch.from_numpy(cv2.GaussianBlur(picture[0].permute(1, 2, 0).numpy(), (0, 0), sigma)).permute(2, 0, 1)[None]


def _both(random_squeezenet: Path) -> list[PerceptualLoss]:
    return [make_perceptual_loss("ssim"), make_perceptual_loss("lpips-squeeze", weights=random_squeezenet)]


def test_gradient_reaches_the_prediction_only(random_squeezenet: Path) -> None:
    for loss in _both(random_squeezenet):
        prediction, target = _texture(0).requires_grad_(), _texture(1).requires_grad_()
        values = loss(prediction, target)
        assert values.shape == (1,)
        values.sum().backward()
        assert target.grad is None
        assert torch.isfinite(prediction.grad).all() and prediction.grad.abs().max() > 0


def test_zero_for_identical_and_larger_for_shuffled(random_squeezenet: Path) -> None:
    picture = torch.cat([_texture(0), _texture(1)])
    pixels = picture.flatten(2)
    shuffled = pixels[..., torch.randperm(pixels.shape[-1], generator=torch.Generator().manual_seed(0))].view_as(picture)
    for loss in _both(random_squeezenet):
        assert loss(picture, picture).abs().max() < 1e-6
        slightly = loss((picture + 0.02).clamp(0, 1), picture)
        assert (loss(shuffled, picture) > 3 * slightly).all() and (slightly > 0).all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradients_are_finite_for_constant_patches(random_squeezenet: Path, value: float) -> None:
    for loss in _both(random_squeezenet):
        for target in (torch.full((1, 3, 40, 40), value), torch.full((1, 3, 40, 40), 0.3)):
            prediction = torch.full((1, 3, 40, 40), value, requires_grad=True)
            loss(prediction, target).sum().backward()
            assert torch.isfinite(prediction.grad).all()


def test_features_that_are_all_zero_give_no_nan(random_squeezenet: Path) -> None:
    loss = make_perceptual_loss("lpips-squeeze", weights=random_squeezenet)
    with torch.no_grad():  # a first layer that is dead everywhere, as a black patch can make a real one's pixels
        loss.network.net.slice1[0].bias.fill_(-1e3)
    prediction = _texture(0).requires_grad_()
    loss(prediction, _texture(1)).sum().backward()
    assert torch.isfinite(prediction.grad).all()


def test_patches_of_any_size_and_half_precision(random_squeezenet: Path) -> None:
    for loss in _both(random_squeezenet):
        for height, width in [(1, 1), (5, 9), (16, 40), (35, 63)]:
            prediction = _texture(0, height, width).nan_to_num(0.5).requires_grad_()
            value = loss(prediction, torch.rand(1, 3, height, width))
            value.sum().backward()
            assert value.item() > 0 and torch.isfinite(prediction.grad).all()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            values = loss(_texture(0).bfloat16(), _texture(1))
        assert values.dtype == torch.float32
        with pytest.raises(ValueError, match="were expected"):
            loss(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9))


@pytest.mark.parametrize("network", ["vgg", "alex", "squeeze"])
def test_equals_the_reference_package(network: str, tmp_path: Path) -> None:
    import lpips

    path = _save_random(perceptual.BACKBONES[network], tmp_path / f"{perceptual.BACKBONES[network]}.pth")
    loss = make_perceptual_loss(f"lpips-{network}", weights=path)
    assert loss.name == f"lpips-{network}"
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        reference = lpips.LPIPS(net=network, pretrained=False, pnet_rand=True, verbose=False)
    reference.to_empty(device="cpu").scaling_layer = lpips.ScalingLayer()
    heads = torch.load(Path(lpips.__file__).parent / f"weights/v0.1/{network}.pth", map_location="cpu", weights_only=True)
    reference.load_state_dict(heads, strict=False)
    own = torch.load(path, weights_only=True)
    for key, parameter in reference.net.named_parameters():
        parameter.data.copy_(own["features." + key.split(".", 1)[1]])
    a, b = torch.cat([_texture(0), _texture(2)]), torch.cat([_texture(1), _texture(3)])
    with torch.no_grad():
        expected = reference(a, b, normalize=True).flatten()
        reference.spatial = True
        expected_map = reference(a, b, normalize=True)[:, 0]
    assert torch.allclose(loss(a, b), expected, rtol=1e-4, atol=1e-7)
    values, spatial = loss.with_map(a, b)
    assert torch.equal(values, loss(a, b)) and torch.allclose(spatial, expected_map, rtol=1e-4, atol=1e-6)


def test_stays_out_of_a_model_and_leaves_random_numbers_alone(random_squeezenet: Path) -> None:
    before = torch.random.get_rng_state()
    loss = make_perceptual_loss("lpips-squeeze", weights=random_squeezenet)
    assert torch.equal(before, torch.random.get_rng_state())
    model = nn.Linear(2, 2)
    model.perceptual = loss
    assert set(model.state_dict()) == {"weight", "bias"} and len(list(model.parameters())) == 2
    assert not loss.network.training and not any(p.requires_grad for p in loss.network.parameters())


def test_trained_squeezenet_ranks_as_lpips_is_known_to(caffe_weights: Path) -> None:
    loss = make_perceptual_loss("lpips-squeeze", weights=caffe_weights)
    assert loss.name == "lpips-squeeze-caffe"
    assert make_perceptual_loss("auto", weights=caffe_weights).name == "lpips-squeeze-caffe"
    photo = cv2.imread(str(sorted((caffe_weights.parent.parent / "data" / "statue" / "images_2").glob("*.*"))[0]))
    photo = torch.from_numpy(photo[100:228, 100:228, ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    blurred = _blur(photo, 3)
    error = (blurred - photo).square().mean().sqrt()
    brighter = photo + error  # the same squared error: to an eye, and to LPIPS, much nearer than the blur
    assert loss(blurred, photo).item() > 3 * loss(brighter, photo).item() > 0
    shifted = torch.roll(photo, 1, dims=-1)
    assert loss(blurred, photo).item() > 2 * loss(shifted, photo).item()


def test_a_file_that_does_not_fit_is_named(random_squeezenet: Path, tmp_path: Path) -> None:
    state = torch.load(random_squeezenet, weights_only=True)
    lacking = tmp_path / "lacking.pth"
    torch.save({key: value for key, value in state.items() if key != "features.7.squeeze.bias"}, lacking)
    with pytest.raises(SpinnerfError, match=r"lacking\.pth.*features\.7\.squeeze\.bias"):
        make_perceptual_loss("lpips-squeeze", weights=lacking)
    surplus = tmp_path / "surplus.pth"
    torch.save({**state, "features.99.weight": torch.zeros(1)}, surplus)
    with pytest.raises(SpinnerfError, match=r"surplus\.pth.*features\.99\.weight"):
        make_perceptual_loss("lpips-squeeze", weights=surplus)
    with pytest.raises(SpinnerfError, match=r"squeezenet1_1\.pth: holds squeezenet1_1.*vgg16"):
        make_perceptual_loss("lpips-vgg", weights=random_squeezenet)
    text = tmp_path / "text.pth"
    text.write_text("<html>not found</html>")
    with pytest.raises(SpinnerfError, match=r"text\.pth: cannot be read"):
        make_perceptual_loss("auto", weights=text)
    with pytest.raises(SpinnerfError, match=r"nowhere\.pth.*missing"):
        make_perceptual_loss("auto", weights=tmp_path / "nowhere.pth")
    with pytest.raises(SpinnerfError, match="'lpisp' is unknown"):
        make_perceptual_loss("lpisp")


def test_auto_without_weights_says_so_and_opens_no_socket(no_network, capsys: pytest.CaptureFixture) -> None:
    loss = make_perceptual_loss("auto", allow_download=False)
    assert loss.name == "ssim"
    assert "taking 'ssim' instead of 'lpips-vgg'" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SpinnerfError):
        make_perceptual_loss("lpips-vgg", allow_download=False)


def test_auto_takes_vgg_where_it_can_be_had(no_network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spinnerf_ns.weights import store as weights

    file = _save_random("vgg16", tmp_path / "vgg16-397923af.pth")
    monkeypatch.setattr(weights, "ensure_weights", lambda name, allow_download: {"vgg16": file}[name])
    assert make_perceptual_loss("auto", allow_download=False).name == "lpips-vgg"


def test_auto_says_it_in_full_without_the_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    assert make_perceptual_loss("auto").name == "ssim"
    assert "pip install 'lpips>=" in " ".join(capsys.readouterr().out.split())


def test_importing_loads_no_network_package() -> None:
    code = "import sys, spinnerf_ns.nerf.perceptual; sys.exit('lpips' in sys.modules or 'pytorch_msssim' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ssim_forgives_a_small_shift_more_than_a_squared_error() -> None:
    """A shift by a pixel against a blur of the same squared error: the blur must cost more."""
    picture = _texture(0)
    shifted = torch.roll(picture, 1, dims=-1)
    target_error = (shifted - picture).square().mean()
    for sigma in np.linspace(0.3, 6, 60):
        blurred = _blur(picture, sigma)
        if (blurred - picture).square().mean() >= target_error:
            break
    loss = make_perceptual_loss("ssim")
    assert loss(blurred, picture) > loss(shifted, picture)


def test_every_listed_name_is_built_and_the_error_lists_them(monkeypatch, random_squeezenet):
    """One list: of --help, of the error, and of what can be built."""
    built = []
    monkeypatch.setattr(perceptual, "_lpips_from_file", lambda network, *_: built.append(network) or SsimLoss())
    for name in get_args(PerceptualLossName):
        make_perceptual_loss(name, weights=random_squeezenet)
    assert built == [None, "vgg", "alex", "squeeze"]
    with pytest.raises(SpinnerfError, match=", ".join(get_args(PerceptualLossName))):
        make_perceptual_loss("lpips-vg")
