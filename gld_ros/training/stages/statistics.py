"""Stage `statistics`: per-channel mean and variance of the features, as GLD normalises them.

Not an optimisation: one pass of the frozen backbone over training scenes, through the same encode
function that the other stages use. All tokens of all views count, class tokens included.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from gld_ros.backbones.interface import GeometryBackbone
from gld_ros.training.data import SceneSource

log = logging.getLogger(__name__)

DEAD_CHANNEL_STD = 1e-3


@dataclass(frozen=True)
class StatisticsOptions:
    """How many scenes to look at."""

    scenes: int = 2000


@dataclass(frozen=True)
class LevelSummary:
    """Moments of one level and what they tell about its health."""

    mean: Tensor
    var: Tensor
    dead_channels: int
    effective_rank: float


@torch.no_grad()
def feature_statistics(
    backbone: GeometryBackbone,
    source: SceneSource,
    *,
    scenes: int,
    batch_size: int,
    device: torch.device,
) -> dict[int, LevelSummary]:
    """Accumulate float64 moments of levels 0..3 over `scenes` scenes.

    The effective rank is exp(entropy) of the normalised eigenvalues of the channel correlation.
    """
    count = 0
    first: list[Tensor] = []
    second: list[Tensor] = []
    scenes = min(scenes, len(source))
    size_wh = source.draw_size(0)
    for start in tqdm(range(0, scenes, batch_size), desc="statistics"):
        indices = list(range(start, min(start + batch_size, scenes)))
        images = source.batch(indices, size_wh, device)["images"]
        levels = backbone.encode_levels(images, range(4))
        for i in range(4):
            tokens = torch.cat([levels[i].special, levels[i].patches], dim=2)
            flat = tokens.flatten(0, 2).double()
            if len(first) <= i:
                channels = flat.shape[1]
                first.append(torch.zeros(channels, dtype=torch.float64, device=device))
                second.append(torch.zeros(channels, channels, dtype=torch.float64, device=device))
            first[i] += flat.sum(0)
            second[i] += flat.mT @ flat
        count += flat.shape[0]
    summaries = {}
    for i in range(4):
        mean = first[i] / count
        covariance = second[i] / count - mean[:, None] * mean
        var = covariance.diagonal().clamp_min(0)
        std = var.sqrt().clamp_min(1e-12)
        eigenvalues = torch.linalg.eigvalsh(covariance / (std[:, None] * std)).clamp_min(1e-12)
        share = eigenvalues / eigenvalues.sum()
        summaries[i] = LevelSummary(
            mean.float(),
            var.float(),
            int((std < DEAD_CHANNEL_STD).sum()),
            float((-(share * share.log()).sum()).exp()),
        )
        log.info(
            "level %d: std %.2f to %.2f, %d dead channels, effective rank %.0f of %d",
            i,
            float(std.min()),
            float(std.max()),
            summaries[i].dead_channels,
            summaries[i].effective_rank,
            len(std),
        )
    return summaries


def statistics_tensors(summaries: dict[int, LevelSummary]) -> dict[str, Tensor]:
    """Return the tensors of a bundle's statistics file."""
    tensors = {}
    for level, summary in summaries.items():
        tensors[f"level{level}.mean"] = summary.mean.cpu()
        tensors[f"level{level}.var"] = summary.var.cpu()
    return tensors
