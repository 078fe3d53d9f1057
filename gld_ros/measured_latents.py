"""Rendered measurements of target views as a denoiser's inputs: features, coverage, inverse depth.

Owns filling the holes of rendered images and encoding them beside the references. Rendering the
measurements is `measuring`; that a network reads them, `diffusion.denoiser`.

Shapes: B scenes, V views (references first), N = h x w patches of p pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gld_ros.backbones.interface import GeometryBackbone
from gld_ros.diffusion.conditioning import DenoiserConditions
from gld_ros.novel_view_stages import tokens_to_latent
from gld_ros.weights.statistics import LevelStatistics

NEAREST_M = 0.1  # inverse depth is limited to that of this distance


@dataclass(frozen=True)
class RenderedMeasurements:
    """Measured surfaces as the T target cameras see them.

    rgb (B, T, 3, H, W) in [0, 1] and depth_m (B, T, H, W) z-depth, both only meaningful where
    `covered` (B, T, H, W) bool.
    """

    rgb: Tensor
    depth_m: Tensor
    covered: Tensor


@torch.no_grad()
def with_measurements(
    conditions: DenoiserConditions,
    measured: RenderedMeasurements,
    reference_images: Tensor,
    backbone: GeometryBackbone,
    statistics: LevelStatistics,
    level: int,
    length_scale: Tensor | None = None,
) -> DenoiserConditions:
    """The same conditions with the targets' measurements.

    reference_images (B, R, 3, H, W); statistics and level are those of the latent. length_scale
    (B,) are the model's units per metre, from `camera_conditions` (None: metres).
    """
    references = reference_images.shape[1]
    filled = fill_holes(measured.rgb, measured.covered)
    tokens = backbone.encode_levels(torch.cat((reference_images, filled), dim=1), [level])[level]
    rows = reference_images.shape[-2] // backbone.patch_size
    latent = tokens_to_latent(tokens, statistics, rows)
    if latent.ndim != 5:
        raise ValueError("latents with special tokens take no measurements")
    covered = measured.covered[:, :, None].to(latent)
    share = F.avg_pool2d(covered.flatten(0, 1), backbone.patch_size).unflatten(0, covered.shape[:2])
    latent = torch.cat(
        (torch.zeros_like(latent[:, :references]), latent[:, references:] * share), 1
    )

    inverse = covered[:, :, 0] / measured.depth_m.clamp_min(NEAREST_M)
    if length_scale is not None:
        inverse = inverse / length_scale.to(inverse).view(-1, 1, 1, 1)
    pixels = torch.stack((covered[:, :, 0], inverse), dim=2)
    padding = pixels.new_zeros(len(pixels), references, *pixels.shape[2:])
    return replace(
        conditions,
        measured_latent=latent.to(conditions.reference_latent),
        measured_map=torch.cat((padding, pixels), dim=1).to(conditions.camera_map),
    )


def fill_holes(rgb: Tensor, covered: Tensor) -> Tensor:
    """Images (B, T, 3, H, W) whose uncovered pixels take the mean of the covered ones around.

    Around: over the smallest square of a pyramid that has any. Images without any become mid-grey.
    """
    batch = covered.shape[:2]
    weight = covered[:, :, None].to(rgb).flatten(0, 1)
    colour = rgb.flatten(0, 1) * weight
    levels = [(colour, weight)]
    while min(levels[-1][1].shape[-2:]) > 1:
        coarse = [F.avg_pool2d(part, 2, ceil_mode=True) for part in levels[-1]]
        levels.append((coarse[0], coarse[1]))
    total = levels[-1][1].mean((2, 3), keepdim=True)
    mean = levels[-1][0].mean((2, 3), keepdim=True) / total.clamp_min(1e-6)
    filled = torch.where(total > 0, mean, 0.5).expand_as(levels[-1][0])
    for colour, weight in reversed(levels):
        above = F.interpolate(filled, colour.shape[-2:], mode="bilinear", align_corners=False)
        known = weight > 0
        filled = torch.where(known, colour / weight.clamp_min(1e-6), above)
    return filled.unflatten(0, batch)
