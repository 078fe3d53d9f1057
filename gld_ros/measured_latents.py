"""Rendered measurements of target views as a denoiser's inputs: features, coverage, inverse depth.

Owns filling the holes of rendered images and encoding them beside the references. How surfaces
look from a camera is `measuring.rendering`; that a network reads them, `diffusion.denoiser`.

Shapes: B scenes, V views (references first), N = h x w patches of p pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gld_ros.diffusion.conditioning import DenoiserConditions
from gld_ros.measuring.rendering import RenderedView, render_views
from gld_ros.measuring.surfaces import Surface

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


def render_measurements(
    surfaces: Sequence[Surface],
    K_px: NDArray[np.floating[Any]],
    T_fixed_cam: NDArray[np.floating[Any]],
    image_hw: tuple[int, int],
) -> RenderedMeasurements:
    """Surfaces in the T targets of one scene (B = 1): K_px (T, 3, 3), T_fixed_cam (T, 4, 4)."""
    cameras = zip(K_px, T_fixed_cam, strict=True)
    return stacked_measurements([render_views(surfaces, cameras, image_hw)])


def stacked_measurements(views: Sequence[Sequence[RenderedView]]) -> RenderedMeasurements:
    """Rendered views of B scenes with T targets each, on the CPU."""
    rgb = np.stack([[view.color for view in scene] for scene in views])
    depth_m = np.stack([[view.depth_m for view in scene] for scene in views])
    return RenderedMeasurements(
        torch.from_numpy(rgb).permute(0, 1, 4, 2, 3).float().div_(255),
        torch.from_numpy(np.nan_to_num(depth_m)),
        torch.from_numpy(np.isfinite(depth_m)),
    )


@torch.no_grad()
def with_measurements(
    conditions: DenoiserConditions,
    measured: RenderedMeasurements,
    reference_images: Tensor,
    encode: Callable[[Tensor], Tensor],
    length_scale: Tensor,
) -> DenoiserConditions:
    """The same conditions with the targets' measurements, for training and sampling alike.

    reference_images (B, R, 3, H, W). `encode` takes images (B, V, 3, H, W), seen together, to the
    normalised latents (B, V, C, h, w) that are diffused. length_scale (B,) is that of
    `camera_conditions`, model units per metre: measured inverse depth is told in the unit that the
    camera positions have. Scenes in which nothing is measured are not encoded. Raises ValueError
    for latents with special tokens.
    """
    references = reference_images.shape[1]
    like = conditions.reference_latent
    if like.ndim != 5:
        raise ValueError("latents with special tokens take no measurements")
    covered = measured.covered.to(like.device)
    latent = torch.zeros_like(like)
    some = covered.flatten(1).any(1)
    if bool(some.any()):
        filled = fill_holes(measured.rgb.to(like.device)[some], covered[some])
        seen = encode(torch.cat((reference_images[some], filled.to(reference_images)), dim=1))
        patch = covered.shape[-2] // like.shape[-2]
        share = F.avg_pool2d(covered[some].float(), patch)[:, :, None]
        latent[some, references:] = (seen[:, references:] * share).to(like)

    inverse = torch.where(covered, 1 / measured.depth_m.to(like.device).clamp_min(NEAREST_M), 0.0)
    inverse = inverse / length_scale.to(inverse).view(-1, 1, 1, 1)
    pixels = torch.stack((covered.to(inverse), inverse), dim=2).to(conditions.camera_map)
    padding = pixels.new_zeros(len(pixels), references, *pixels.shape[2:])
    return replace(
        conditions, measured_latent=latent, measured_map=torch.cat((padding, pixels), dim=1)
    )


def fill_holes(rgb: Tensor, covered: Tensor) -> Tensor:
    """Images (B, T, 3, H, W) whose uncovered pixels take the mean of the covered ones around.

    Around: over the smallest square of a pyramid that has any. Images without any become mid-grey.
    A hole in one plain colour would have an edge all around it that no room has, and the encoder,
    whose features reach beyond a patch, would tell of that edge; colours of the border have none.
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
