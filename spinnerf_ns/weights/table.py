"""The table of every pretrained file that the package may use: source, size, checksums, licence, what uses it.

How far the checksums can be trusted: `publisher_digest` is the publisher's own (a part of the file's name, as torchvision,
torch-fidelity and SAM do it, or a number in the publisher's code). The full `sha256` and the size were read in several
unrelated projects that pin the same file, and agree with the publisher's digest where it is of the same kind; nobody who
wrote this table downloaded the files, hence `verified=False`. Both are checked on every download.
LPIPS' own heads are no entry: they lie in the package lpips.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightsFile:
    """One pretrained file."""

    name: str
    """What users and code call it."""
    url: str
    """Where it is published."""
    size: int | None
    """Bytes."""
    sha256: str | None
    """SHA-256 in full; None where it is not known: then the publisher's digest and the size must do."""
    publisher_digest: tuple[str, str] | None
    """(hash algorithm, first hex digits), as the publisher gives it."""
    licence: str
    """Its licence."""
    used_by: str
    """What it is for."""
    verified: bool = False
    """Whether the authors of this table computed the sha256 from the published file themselves."""

    @property
    def file_name(self) -> str:
        """The file's name in the cache: the published one."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class HubModel:
    """A model folder on the Hugging Face hub, kept in that library's own cache."""

    name: str
    """What users and code call it."""
    hub_id: str
    """owner/name on the hub."""
    licence: str
    """Its licence."""
    used_by: str
    """What it is for."""
    size: int | None = None
    """Bytes, about: four for each of the published number of parameters; None where nobody published one."""

    @property
    def url(self) -> str:
        """Its page."""
        return f"https://huggingface.co/{self.hub_id}"


_SAM = "https://dl.fbaipublicfiles.com/segment_anything"  # README of facebookresearch/segment-anything; names end in the md5
_TORCH = "https://download.pytorch.org/models"  # torchvision.models.*_Weights; names end in the sha256's beginning
_TORCHVISION = "BSD-3-Clause (torchvision; trained on ImageNet, whose terms may apply)"
_FILES = (
    WeightsFile(
        "sam_vit_b",
        f"{_SAM}/sam_vit_b_01ec64.pth",
        375042383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ("md5", "01ec64"),
        "Apache-2.0",
        "segmenter sam",
    ),
    WeightsFile(
        "sam_vit_l",
        f"{_SAM}/sam_vit_l_0b3195.pth",
        1249524607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ("md5", "0b3195"),
        "Apache-2.0",
        "segmenter sam",
    ),
    WeightsFile(
        "sam_vit_h",
        f"{_SAM}/sam_vit_h_4b8939.pth",
        2564550879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ("md5", "4b8939"),
        "Apache-2.0",
        "segmenter sam",
    ),
    WeightsFile(
        "big-lama",  # TorchScript; url and md5 as in iopaint/model/lama.py, by the author of the release
        "https://github.com/Sanster/models/releases/download/add_big_lama/big-lama.pt",
        205669692,
        "344c77bbcb158f17dd143070d1e789f38a66c04202311ae3a258ef66667a9ea9",
        ("md5", "e3aa4aaa15225a33ec84f9f4bc47e500"),
        "Apache-2.0",
        "inpainter lama",
    ),
    WeightsFile(
        "vgg16",
        f"{_TORCH}/vgg16-397923af.pth",
        553433881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        ("sha256", "397923af"),
        _TORCHVISION,
        "perceptual loss lpips-vgg, LPIPS figures",
    ),
    WeightsFile(
        "alexnet",
        f"{_TORCH}/alexnet-owt-7be5be79.pth",
        244408911,
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        ("sha256", "7be5be79"),
        _TORCHVISION,
        "perceptual loss lpips-alex, LPIPS figures",
    ),
    WeightsFile(
        "squeezenet1_1",
        f"{_TORCH}/squeezenet1_1-b8a52dc0.pth",
        4958839,
        "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
        ("sha256", "b8a52dc0"),
        _TORCHVISION,
        "perceptual loss lpips-squeeze, LPIPS figures",
    ),
    WeightsFile(
        "inception-fid",  # url as in torch_fidelity/feature_extractor_inceptionv3.py
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        95628359,
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        ("sha256", "6726825d"),
        "Apache-2.0",
        "FID figures",
    ),
)
_HUB = (
    HubModel("sam2.1-hiera-tiny", "facebook/sam2.1-hiera-tiny", "Apache-2.0", "tracker and segmenter sam2", 155_000_000),
    HubModel("sam2.1-hiera-small", "facebook/sam2.1-hiera-small", "Apache-2.0", "tracker and segmenter sam2", 184_000_000),
    HubModel("sam2.1-hiera-base-plus", "facebook/sam2.1-hiera-base-plus", "Apache-2.0", "tracker and segmenter sam2", 323_000_000),
    HubModel("sam2.1-hiera-large", "facebook/sam2.1-hiera-large", "Apache-2.0", "tracker and segmenter sam2", 897_000_000),
    HubModel("grounding-dino-tiny", "IDEA-Research/grounding-dino-tiny", "Apache-2.0", "prompts in words"),
    HubModel("grounding-dino-base", "IDEA-Research/grounding-dino-base", "Apache-2.0", "prompts in words"),
    HubModel(
        "sd-inpainting",
        "stable-diffusion-v1-5/stable-diffusion-inpainting",
        "CreativeML Open RAIL-M (use restrictions)",
        "inpainter diffusion",
    ),
    HubModel(
        "sdxl-inpainting",
        "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        "CreativeML Open RAIL++-M (use restrictions)",
        "inpainter diffusion",
    ),
)
WEIGHTS: dict[str, WeightsFile | HubModel] = {entry.name: entry for entry in (*_FILES, *_HUB)}
"""Every pretrained file and folder, by name."""
