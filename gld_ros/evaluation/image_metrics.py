"""How similar an image is to the true one: PSNR, SSIM, and a perceptual distance.

Images are (N, 3, H, W) in [0, 1]; predictions are clipped to it. Every figure is per image, and
NaN where it is not defined (too few pixels in a mask).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gld_ros.training.config import ConfigError
from gld_ros.training.losses import gradient_difference, structural_dissimilarity
from gld_ros.training.perceptual import open_perceptual

MIN_SQUARED_ERROR = 1e-10  # equal images have 100 dB, a number that can be averaged
MIN_MASK_PIXELS = 16  # a figure of fewer pixels is meaningless
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SUBSTITUTE_NAME = "1-SSIM + gradient (substitute)"


@dataclass(frozen=True)
class PerceptualDistance:
    """A distance (N,) of images, smaller is nearer, under the name that reports print."""

    name: str
    distance: Callable[[Tensor, Tensor], Tensor]
    why_substitute: str = ""  # why it is not LPIPS


def psnr(predicted: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
    """-10 log10 of the mean squared error (N,), in dB; over the pixels of mask (N, H, W) bool."""
    error = (predicted.clamp(0, 1) - true).square().mean(1)
    if mask is None:
        return -10 * error.mean((1, 2)).clamp_min(MIN_SQUARED_ERROR).log10()
    count = mask.sum((1, 2))
    mean = ((error * mask).sum((1, 2)) / count).clamp_min(MIN_SQUARED_ERROR)
    return torch.where(count >= MIN_MASK_PIXELS, -10 * mean.log10(), torch.nan)


def ssim(predicted: Tensor, true: Tensor) -> Tensor:
    """Structural similarity (N,) with a Gaussian window of 11 pixels, mean over channels.

    Constants for data range 1; only windows that lie inside the image count (Wang et al. 2004).
    Raises ValueError for images smaller than the window.
    """
    if min(true.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, "
            f"got {true.shape[-1]}x{true.shape[-2]}"
        )
    x, y = predicted.clamp(0, 1), true
    offset = torch.arange(SSIM_WINDOW, device=true.device) - SSIM_WINDOW // 2
    profile = torch.exp(-0.5 * (offset / SSIM_SIGMA) ** 2).to(true.dtype)
    profile = (profile / profile.sum()).expand(3, 1, 1, -1)

    def windowed(values: Tensor) -> Tensor:
        rows = F.conv2d(values, profile, groups=3)
        return F.conv2d(rows, profile.mT, groups=3)

    mean_x, mean_y = windowed(x), windowed(y)
    var_x = windowed(x * x) - mean_x**2
    var_y = windowed(y * y) - mean_y**2
    covariance = windowed(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return similarity.mean((1, 2, 3))


def perceptual_distance(device: torch.device) -> PerceptualDistance:
    """LPIPS (VGG) if its package and weights are installed, else the substitute, under its name."""
    try:
        lpips = open_perceptual("lpips", device)
    except ConfigError as error:
        return PerceptualDistance(SUBSTITUTE_NAME, structure_and_gradient, str(error))
    assert lpips is not None  # only "none" gives None

    def one_by_one(predicted: Tensor, true: Tensor) -> Tensor:
        pairs = zip(predicted.clamp(0, 1).split(1), true.split(1), strict=True)
        return torch.stack([lpips(p, t) for p, t in pairs])

    return PerceptualDistance("LPIPS", one_by_one)


def structure_and_gradient(predicted: Tensor, true: Tensor) -> Tensor:
    """Structural dissimilarity plus gradient difference at several sizes, (N,). Not LPIPS."""
    pairs = zip(predicted.clamp(0, 1).split(1), true.split(1), strict=True)
    return torch.stack(
        [structural_dissimilarity(p, t) + gradient_difference(p, t) for p, t in pairs]
    )
