"""Rendered measurements of a training batch: which scenes have some, and what measured them.

Owns those draws. What stereo gets wrong is `spoilt_depth`, the way into the targets
`carried_measurements`, what a denoiser reads of it `gld_ros.measured_latents`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gld_ros.measured_latents import RenderedMeasurements
from gld_ros.scenes.visibility import DepthViews
from gld_ros.training.carried_measurements import carry
from gld_ros.training.randomness import generator_for, uniform_per_sample
from gld_ros.training.spoilt_depth import spoil


@torch.no_grad()
def measured_targets(
    scenes: Mapping[str, Tensor],
    references: int,
    sources: int,
    probability: float,
    generators: list[torch.Generator],
) -> RenderedMeasurements:
    """What the targets of a batch show of surfaces that its first `sources` views have measured.

    scenes: images (B, V, 3, H, W), depth_m (B, V, H, W) with 0 where unknown, K_px and T_world_cam,
    references first. A scene is chosen with the given probability; the others, and those without
    depth, have nothing covered.
    """
    images, depth_m = scenes["images"], scenes["depth_m"]
    targets = images[:, references:]
    rgb = torch.zeros_like(targets)
    target_depth_m = torch.zeros_like(depth_m[:, references:])
    covered = torch.zeros_like(target_depth_m, dtype=torch.bool)
    chosen = uniform_per_sample(generators).to(depth_m.device) < probability
    index = (chosen & (depth_m[:, :sources] > 0).flatten(1).any(1)).nonzero()[:, 0]
    if len(index):
        K_px, T_world_cam = scenes["K_px"][index], scenes["T_world_cam"][index]
        exposed, spoilt_m = spoil(
            images[index, :sources], depth_m[index, :sources], [generators[i] for i in index]
        )
        views = DepthViews(spoilt_m, K_px[:, :sources], T_world_cam[:, :sources])
        carried = carry(exposed, views, K_px[:, references:], T_world_cam[:, references:])
        rgb[index], target_depth_m[index] = carried.rgb, carried.depth_m
        covered[index] = carried.covered
    return RenderedMeasurements(rgb, target_depth_m, covered)


def draw_source_count(seed: int, step: int, references: int, views: int) -> int:
    """How many views, references first, have measured: the references, or all, half of the time.

    A robot's keyframes are more than the references of a job: some have seen what no reference
    shows, and may cover all of a target.
    """
    all_views = bool(torch.rand((), generator=generator_for(seed, step, "sources")) < 0.5)
    return views if all_views else references
