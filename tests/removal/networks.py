"""Networks of the published ones' classes with random weights, saved in the published files' formats."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn


# ------------------------------------------------------------------------------------------------------------------- LaMa
class Spectral(nn.Module):
    """A convolution in the frequency domain: it sees the whole photo (fast Fourier convolution, Chi et al. 2020)."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.enter = nn.Sequential(nn.Conv2d(channels, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(True))
        self.mix = nn.Sequential(nn.Conv2d(2 * half, 2 * half, 1, bias=False), nn.BatchNorm2d(2 * half), nn.ReLU(True))
        self.leave = nn.Conv2d(half, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        spectrum = torch.fft.rfft2(x, norm="ortho")
        real, imaginary = self.mix(torch.cat([spectrum.real, spectrum.imag], dim=1)).chunk(2, dim=1)
        back = torch.fft.irfft2(torch.complex(real, imaginary), s=(x.shape[2], x.shape[3]), norm="ortho")
        return self.leave(x + back)


class FourierLayer(nn.Module):
    """A quarter of the channels is local, the rest global."""

    def __init__(self, channels: int):
        super().__init__()
        self.local = channels // 4
        rest = channels - self.local
        options = {"kernel_size": 3, "padding": 1, "padding_mode": "reflect", "bias": False}
        self.to_local = nn.Conv2d(channels, self.local, **options)
        self.local_to_global = nn.Conv2d(self.local, rest, **options)
        self.global_to_global = Spectral(rest)
        self.after = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(True))

    def forward(self, x: Tensor) -> Tensor:
        near, far = x[:, : self.local], x[:, self.local :]
        return self.after(torch.cat([self.to_local(x), self.local_to_global(near) + self.global_to_global(far)], dim=1))


class FourierBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(FourierLayer(channels), FourierLayer(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Lama(nn.Module):
    """LaMa's class of network (Suvorov et al. 2022) with the published TorchScript file's signature.

    (1, 3, H, W) image in [0, 1] and (1, 1, H, W) mask, 1 = gap -> (1, 3, H, W) image; sides must be multiples of 8.
    The published one has width 64 and 18 blocks.
    """

    def __init__(self, width: int = 4, blocks: int = 1):
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(4, width, 7, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU(True)]
        for level in range(3):
            inside, outside = width * 2**level, width * 2 ** (level + 1)
            layers += [nn.Conv2d(inside, outside, 3, stride=2, padding=1, padding_mode="reflect", bias=False)]
            layers += [nn.BatchNorm2d(outside), nn.ReLU(True)]
        layers += [FourierBlock(8 * width) for _ in range(blocks)]
        for level in reversed(range(3)):
            inside, outside = width * 2 ** (level + 1), width * 2**level
            layers += [nn.ConvTranspose2d(inside, outside, 3, stride=2, padding=1, output_padding=1)]
            layers += [nn.BatchNorm2d(outside), nn.ReLU(True)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Sigmoid()]
        self.generator = nn.Sequential(*layers)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        seen = image * (1 - mask)
        return seen + self.generator(torch.cat([seen, mask], dim=1)) * mask


def save_lama(path: Path, width: int = 4, blocks: int = 1) -> Path:
    """A TorchScript file with LaMa's signature."""
    torch.manual_seed(0)
    torch.jit.script(Lama(width, blocks).eval()).save(str(path))
    return path


class MeanColour(nn.Module):
    """LaMa's signature and the simplest right answer: the known pixels' mean colour."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        mean = (image * (1 - mask)).sum(dim=(2, 3), keepdim=True) / (1 - mask).sum().clamp(min=1)
        return image * (1 - mask) + mean * mask


def save_mean_colour(path: Path) -> Path:
    """The mean colour as a TorchScript file with LaMa's signature."""
    torch.jit.script(MeanColour()).save(str(path))
    return path


# -------------------------------------------------------------------------------------------------------------- diffusion
def save_diffusion(folder: Path, side: int = 32) -> Path:
    """A Stable Diffusion inpainting pipeline in the published folder's layout, of models as small as they go."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    words = folder.parent / f"{folder.name}-words"
    words.mkdir(parents=True)
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (words / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(vocabulary)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=16)
    text = CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=8, bos_token_id=len(vocabulary) - 2, eos_token_id=len(vocabulary) - 1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=side // 2, in_channels=9, out_channels=4, block_out_channels=(8, 8), layers_per_block=1,
        norm_num_groups=4, cross_attention_dim=8, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=side,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    pipeline = StableDiffusionInpaintPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder
