"""Names of the perceptual losses, apart from their code: configurations list them and must not wait for the losses' packages."""

from typing import Literal

PerceptualLossName = Literal["auto", "lpips-vgg", "lpips-alex", "lpips-squeeze", "ssim"]
"""What `perceptual.make_perceptual_loss` builds, and what --help offers."""
