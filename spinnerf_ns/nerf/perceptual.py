"""How different two small pictures look: the loss on patches inside the gap, where pixel errors would blur.

The photos inpainted one by one disagree with each other inside the gap. A squared error there asks for their mean, which
is a blur; a perceptual distance asks for a texture like theirs (SPIn-NeRF). Two kinds:

lpips
    Learned perceptual distance (Zhang et al., CVPR 2018; package `lpips`), with a VGG-16, AlexNet or SqueezeNet backbone.
    The backbone's ImageNet weights are not in the package: they come from torch's hub cache, a given file, or a download.
ssim
    Multi-scale structural dissimilarity with a coarse colour term (package `pytorch-msssim`). Needs no weights.

The losses are plain objects and no modules: a model that keeps one does not write it into its checkpoints. They follow
their input to its device. Building one may read a large file or go to the network, so build it at first use, not when a
model is constructed.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape
from torch import Tensor

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.nerf.perceptual_names import PerceptualLossName
from spinnerf_ns.registry import install_command
from spinnerf_ns.weights.consent import asking_first

BACKBONES = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}
"""torchvision's name of each LPIPS backbone: also its weights' name in `spinnerf_ns.weights.store`, and the beginning of their
file's name."""

LPIPS_MIN_SIDE = 32
"""Patches with a shorter side are upsampled to it for LPIPS: below 16 (VGG) to 31 pixels (AlexNet) a pooling layer has
nothing left to pool. The release's smallest patch, 35 x 63, is left alone."""

SSIM_WINDOW = 7
"""Side of SSIM's Gaussian window. Smaller patches are upsampled to it."""

SSIM_SCALES = 3
"""SSIM is averaged over scales 1, 1/2, 1/4, as far as the window fits into the shrunk patch."""


@runtime_checkable
class PerceptualLoss(Protocol):
    """A differentiable distance between pictures."""

    name: str
    """What was really used, as a run records it: "lpips-vgg", "lpips-squeeze-caffe", "ssim"."""

    def __call__(self, prediction: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """One distance per picture; both in [0, 1]. The gradient goes to `prediction` only."""
        ...


def make_perceptual_loss(
    name: PerceptualLossName = "auto",
    weights: Path | None = None,
    device: str | torch.device = "cpu",
    allow_download: bool = True,
) -> PerceptualLoss:
    """Builds a perceptual loss.

    Args:
        name: which one. "auto" is LPIPS-VGG where its weights are here or the user lets them be fetched (or, with `weights`, LPIPS
            with the network that the file belongs to), else "ssim", and one printed line says so.
        weights: file with the backbone's weights in torchvision's layout.
        device: where to put the network at first.
        allow_download: whether weights that are in no cache may be downloaded.

    Raises:
        SpinnerfError: unknown name, weights that cannot be had, or a file that does not fit the network.
    """
    if name == "ssim":
        return SsimLoss()
    if name == "auto":
        if weights is not None:
            return _lpips_from_file(None, Path(weights), device)
        try:
            with asking_first():
                return make_perceptual_loss("lpips-vgg", None, device, allow_download)
        except _Unavailable as error:
            # Escaped: rich would take "spinnerf-ns[lpips]" in the reason for markup and drop a part of it.
            text = f"Perceptual loss: taking 'ssim' instead of 'lpips-vgg', which gives sharper textures: {error}"
            CONSOLE.print(f"[bold yellow]{escape(text)}", soft_wrap=True)
            return SsimLoss()
    network = name.removeprefix("lpips-")
    if network not in BACKBONES:
        raise SpinnerfError(f"perceptual loss '{name}' is unknown; take one of {', '.join(get_args(PerceptualLossName))}")
    _import_lpips()  # before a download that would be of no use without it
    path = Path(weights) if weights is not None else _find_weights(network, allow_download)
    return _lpips_from_file(network, path, device)


# ----------------------------------------------------------------------------------------------------------------- lpips
class LpipsLoss:
    """LPIPS v0.1 with frozen weights, always in evaluation mode and in float32.

    Same values as `lpips.LPIPS(net=...)(prediction, target, normalize=True)`, but a feature that is zero in all channels
    (a black patch) gives a zero gradient instead of NaN, and the target's side builds no graph.
    """

    def __init__(self, network: torch.nn.Module, name: str) -> None:
        """Takes a loaded `lpips.LPIPS`."""
        self.name = name
        self.network = network.eval().requires_grad_(False)

    def __call__(self, prediction: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The distance per picture; both in [0, 1]."""
        return sum(layer.mean(dim=(1, 2, 3)) for layer in self._layers(prediction, target))

    @torch.no_grad()
    def with_map(
        self, prediction: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "b h w"]]:
        """The distance per picture and per pixel (LPIPS' `spatial=True`), for figures inside a mask. No gradient."""
        layers = self._layers(prediction, target)
        value = sum(layer.mean(dim=(1, 2, 3)) for layer in layers)
        shape = prediction.shape[-2:]
        return value, sum(F.interpolate(layer, shape, mode="bilinear", align_corners=False)[:, 0] for layer in layers)

    def _layers(self, prediction: Tensor, target: Tensor) -> list[Tensor]:
        """Per layer, the weighted squared difference of unit-length features, [b, 1, h', w']."""
        _check_pictures(prediction, target)
        device = prediction.device
        if next(self.network.parameters()).device != device:
            self.network.to(device)
        with torch.autocast(device.type, enabled=False):  # half precision has no room for the normalisation's epsilon
            features = self._features(prediction.float())
            with torch.no_grad():
                truth = self._features(target.to(device).float())
            heads = self.network.lins
            return [head((a - b) ** 2) for head, a, b in zip(heads, features, truth, strict=True)]

    def _features(self, pictures: Tensor) -> list[Tensor]:
        pictures = _at_least(pictures, LPIPS_MIN_SIDE)
        outputs = self.network.net(self.network.scaling_layer(2 * pictures - 1))  # type: ignore[operator]
        return [_unit_length(features) for features in outputs]


def _unit_length(features: Tensor) -> Tensor:
    """Features divided by their length over channels; all-zero features stay zero, with a zero gradient."""
    squared = (features**2).sum(dim=1, keepdim=True)
    return features / (squared.clamp_min(1e-30).sqrt() + 1e-10)


class _Unavailable(SpinnerfError):
    """LPIPS cannot be had on this machine now: what "auto" may step back from, unlike a file that does not fit."""


def _import_lpips() -> ModuleType:
    try:
        import lpips
    except ImportError as error:
        raise _Unavailable(f"the package lpips is not installed; {install_command('lpips')}") from error
    return lpips


def _find_weights(network: str, allow_download: bool) -> Path:
    """The backbone's weights from the package's cache, torch's, or a download, checked."""
    from spinnerf_ns.weights.store import WeightsUnavailable, ensure_weights

    try:
        return ensure_weights(BACKBONES[network], allow_download=allow_download)
    except WeightsUnavailable as error:
        raise _Unavailable(str(error)) from error


def _lpips_from_file(network: str | None, path: Path, device: str | torch.device) -> LpipsLoss:
    """LPIPS with the backbone's weights from a file; `network` None: the one that the file belongs to."""
    state = _read_state(path)
    found = _network_of(state)
    if network is None:
        network = found
    if found != network:
        raise SpinnerfError(
            f"{path}: holds {'no known backbone' if found is None else BACKBONES[found]}, the weights of "
            f"{'an LPIPS backbone' if network is None else BACKBONES[network]} in torchvision's layout were expected; "
            "give another file or another --perceptual-loss"
        )
    return LpipsLoss(_build_lpips(network, state, path).to(device), _recorded_name(network, path))


def _recorded_name(network: str, path: Path) -> str:
    """The loss's name, with what sets the file apart from torchvision's: squeezenet1_1_caffe.pth: lpips-squeeze-caffe."""
    rest = path.stem.removeprefix(BACKBONES[network]).strip("-_.")
    if re.fullmatch(r"((owt-)?[0-9a-f]{8})?", rest):
        return f"lpips-{network}"
    return f"lpips-{network}-{re.sub(r'[^a-z0-9]+', '-', rest.lower()).strip('-')}"


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise SpinnerfError(f"{path}: this weights file is missing; correct the path, or leave it out to use torch's cache")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for what is no state dict
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpinnerfError(f"{path}: cannot be read as a state dict ({reason}); get the file again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        found = type(state).__name__
        raise SpinnerfError(f"{path}: holds a {found}, a state dict of tensors was expected; get the file again")
    return state


def _network_of(state: dict[str, Tensor]) -> str | None:
    """Which LPIPS backbone a torchvision state dict is, judged by its first convolution."""
    if any(".squeeze." in key for key in state):
        return "squeeze"
    first = state.get("features.0.weight")
    shapes = {(64, 3, 3, 3): "vgg", (64, 3, 11, 11): "alex"}
    return None if first is None else shapes.get(tuple(first.shape))


def _build_lpips(network: str, backbone: dict[str, Tensor], path: Path) -> torch.nn.Module:
    """`lpips.LPIPS` with the package's own heads and a torchvision backbone, every key accounted for.

    Built on the meta device: no random initialisation of (VGG) 138 million weights that are thrown away, no draw from the
    training's random numbers, and no download, which the package's default would start.
    """
    lpips = _import_lpips()
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # the package's torchvision call is of an older style
        model = lpips.LPIPS(net=network, pretrained=False, pnet_rand=True, verbose=False)
    model.scaling_layer = lpips.ScalingLayer()
    heads = _read_state(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{network}.pth")

    unused = {key for key in backbone if key.startswith("features.")}
    state, missing = {}, []
    for key, parameter in model.state_dict().items():
        if key.startswith("net.slice"):
            source = "features." + key.split(".", 2)[2]  # net.slice3.12.weight is features.12.weight
            value = backbone.get(source)
        else:
            # The package registers each head twice, as lin0 and as lins.0; its file has the first.
            source = re.sub(r"^lins\.(\d+)\.", r"lin\1.", key)
            value = heads.get(source, parameter)
        if value is None or value.shape != parameter.shape or value.is_meta:
            missing.append(source)
        else:
            state[key] = value.float()
        unused.discard(source)
    if missing or unused:
        raise SpinnerfError(
            f"{path}: does not fit {BACKBONES[network]}: missing or of another shape {_some(missing)}, "
            f"unexpected {_some(sorted(unused))}; get torchvision's: ns-spinnerf weights fetch {BACKBONES[network]}"
        )
    model.load_state_dict(state, strict=True, assign=True)
    return model


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "") if keys else "none"


# ------------------------------------------------------------------------------------------------------------------ ssim
class SsimLoss:
    """Structural dissimilarity over several scales plus a coarse colour difference; needs no weights.

    `mean_s(1 - SSIM_s) + |pooled prediction - pooled target|`, the latter at the coarsest scale. SSIM hardly sees a shift
    of colour; pooled L1 does, and like the coarse scales it forgives a misalignment of a pixel or two. (The mix of SSIM
    and a blurred L1: Zhao et al., "Loss functions for image restoration with neural networks", 2017.)
    """

    name = "ssim"

    def __call__(self, prediction: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The dissimilarity per picture; both in [0, 1]. 0 for equal pictures."""
        from pytorch_msssim import ssim

        _check_pictures(prediction, target)
        with torch.autocast(prediction.device.type, enabled=False):
            a = _at_least(prediction.float(), SSIM_WINDOW)
            b = _at_least(target.detach().to(prediction.device).float(), SSIM_WINDOW)
            terms = []
            while True:
                terms.append(1 - ssim(a, b, data_range=1.0, size_average=False, win_size=SSIM_WINDOW))
                if len(terms) == SSIM_SCALES or min(a.shape[-2:]) // 2 < SSIM_WINDOW:
                    break
                a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
            return torch.stack(terms).mean(dim=0) + (a - b).abs().mean(dim=(1, 2, 3))


# --------------------------------------------------------------------------------------------------------------- pictures
def _check_pictures(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape or prediction.ndim != 4 or prediction.shape[1] != 3:
        found = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        raise ValueError(f"two batches [b, 3, h, w] of the same shape were expected, found {found}")


def _at_least(pictures: Tensor, side: int) -> Tensor:
    """Pictures, upsampled so that the shorter side has at least `side` pixels; the aspect ratio is kept."""
    height, width = pictures.shape[-2:]
    shorter = min(height, width)
    if shorter >= side:
        return pictures
    size = (round(height * side / shorter), round(width * side / shorter))
    return F.interpolate(pictures, size, mode="bilinear", align_corners=False)
