"""True depth of views made like what stereo measures: holes, ragged borders, wrong places.

Owns what a plane sweep gets wrong, and other exposures, drawn anew for every scene. Carrying the
result into other cameras is `carried_measurements`.

Shapes: B scenes, V views. Every draw is a function of the scene's generator alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gld_ros.training.randomness import uniform_per_sample

BLOB_PX = 21  # spacing of the noise that holes and wrong places are cut from
FRAY_PX, FRAY_SHARE = 4, 0.4  # finer noise that makes their borders ragged, and its weight
PLAIN_PROBABILITY = 0.5  # of scenes in which plain surfaces are not measured at all
PLAIN_STD = (0.003, 0.03)  # standard deviation of grey around a pixel, below which it is plain
PLAIN_WINDOW_PX = 5
EDGE = 0.05  # second difference of inverse depth, relative: more is no plane
MAX_WRONG_SHARE, WRONG_LOG_DEPTH = 0.1, 0.3
MAX_NOISE_LOG_DEPTH = 0.03  # what is right is off by a percent or two as well
GAIN_LOG, CHANNEL_GAIN_LOG = 0.08, 0.02  # of exposure and of white balance


@torch.no_grad()
def spoil(
    images: Tensor, depth_m: Tensor, generators: list[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Images (B, V, 3, H, W) in [0, 1] and depth (B, V, H, W), 0 unknown, as stereo leaves them.

    A share of every scene, uniform from none to all, keeps its depth; the generators are one per
    scene.
    """
    views, (height, width) = images.shape[1], images.shape[-2:]
    hw = (height, width)
    kept, plain, plain_level, wrong, noise = (
        uniform_per_sample(generators).to(depth_m).view(-1, 1, 1, 1) for _ in range(5)
    )

    def blobs(spacing_px: float) -> Tensor:
        return _noise(generators, views, hw, spacing_px).to(depth_m)

    ragged = (blobs(BLOB_PX) + FRAY_SHARE * blobs(FRAY_PX)) / math.hypot(1, FRAY_SHARE)
    measured = (depth_m > 0) & (ragged < _quantile(kept)) & ~_beside_edges(depth_m)
    low, high = (math.log(value) for value in PLAIN_STD)
    least_std = torch.exp(low + (high - low) * plain_level) * (plain < PLAIN_PROBABILITY)
    measured &= _grey_std(images) >= least_std

    is_wrong = (blobs(BLOB_PX) + FRAY_SHARE * blobs(FRAY_PX)) / math.hypot(1, FRAY_SHARE)
    is_wrong = is_wrong < _quantile(MAX_WRONG_SHARE * wrong)
    log_factor = MAX_NOISE_LOG_DEPTH * noise * blobs(2 * FRAY_PX)
    log_factor = log_factor + is_wrong * WRONG_LOG_DEPTH * blobs(BLOB_PX)

    gains = torch.stack([torch.randn(views, 4, generator=g) for g in generators]).to(images)
    gain = torch.exp(GAIN_LOG * gains[..., :1] + CHANNEL_GAIN_LOG * gains[..., 1:])
    exposed = (images * gain[..., None, None]).clamp(0, 1)
    return exposed, torch.where(measured, depth_m * log_factor.exp(), 0.0)


def _quantile(share: Tensor) -> Tensor:
    """The value that this share of standard normal numbers is below."""
    return math.sqrt(2) * torch.erfinv(2 * share - 1)


def _noise(
    generators: list[torch.Generator], views: int, image_hw: tuple[int, int], spacing_px: float
) -> Tensor:
    """Smooth noise (B, V, H, W) of about unit variance, drawn every so many pixels."""
    grid = [math.ceil(side / spacing_px) + 1 for side in image_hw]
    drawn = torch.stack([torch.randn(views, *grid, generator=g) for g in generators])
    smooth = F.interpolate(drawn, image_hw, mode="bilinear", align_corners=True)
    return smooth * 1.5  # linear interpolation leaves 2/3 of the standard deviation


def _beside_edges(depth_m: Tensor) -> Tensor:
    """Where depth jumps: a pixel there sees both sides. On planes inverse depth is linear."""
    inverse = torch.where(depth_m > 0, 1 / depth_m.clamp_min(1e-6), 0.0)
    edge = torch.zeros_like(depth_m, dtype=torch.bool)
    for axis in (-2, -1):
        bend = inverse.diff(n=2, dim=axis).abs()
        middle = inverse.narrow(axis, 1, inverse.shape[axis] - 2)
        edge.narrow(axis, 1, middle.shape[axis]).logical_or_(bend > EDGE * middle)
    return edge


def _grey_std(images: Tensor) -> Tensor:
    """Standard deviation (B, V, H, W) of grey over the window around each pixel."""
    grey = images.mean(2)

    def mean(values: Tensor) -> Tensor:
        pad = PLAIN_WINDOW_PX // 2
        return F.avg_pool2d(values, PLAIN_WINDOW_PX, 1, pad, count_include_pad=False)

    return (mean(grey.square()) - mean(grey).square()).clamp_min(0).sqrt()
