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

from gld_ros.backbones.interface import GeometryBackbone, LevelTokens
from gld_ros.training.data import ScenePool

log = logging.getLogger(__name__)

DEAD_CHANNEL_STD = 1e-3


@dataclass(frozen=True)
class StatisticsOptions:
    """How many scenes to look at."""

    scenes: int = 2000


class Moments:
    """Float64 first and second moments of tokens, accumulated batch by batch."""

    def __init__(self, channels: int, device: torch.device) -> None:
        self.count = 0
        self.first = torch.zeros(channels, dtype=torch.float64, device=device)
        self.second = torch.zeros(channels, channels, dtype=torch.float64, device=device)

    def add(self, tokens: Tensor) -> None:
        """Count every token of (..., C)."""
        flat = tokens.flatten(0, -2).double()
        self.count += len(flat)
        self.first += flat.sum(0)
        self.second += flat.mT @ flat

    def summary(self) -> LevelSummary:
        """Return mean, variance and health."""
        mean = self.first / self.count
        covariance = self.second / self.count - mean[:, None] * mean
        var = covariance.diagonal().clamp_min(0)
        std = var.sqrt().clamp_min(1e-12)
        eigenvalues = torch.linalg.eigvalsh(covariance / (std[:, None] * std)).clamp_min(1e-12)
        share = eigenvalues / eigenvalues.sum()
        return LevelSummary(
            mean.float().cpu(),
            var.float().cpu(),
            int((std < DEAD_CHANNEL_STD).sum()),
            float((-(share * share.log()).sum()).exp()),
        )


@dataclass(frozen=True)
class LevelSummary:
    """Moments (C,) of one group of tokens and what they show of its health.

    The effective rank is exp(entropy) of the normalised eigenvalues of the channel correlation.
    """

    mean: Tensor
    var: Tensor
    dead_channels: int
    effective_rank: float


@torch.no_grad()
def feature_statistics(
    backbone: GeometryBackbone,
    source: ScenePool,
    *,
    scenes: int,
    batch_size: int,
    seed: int,
    device: torch.device,
) -> dict[str, LevelSummary]:
    """Accumulate moments of levels 0..3 over about `scenes` training scenes.

    Groups are named "level{n}". All tokens count there, class tokens included; where special
    tokens are diffused they have groups of their own, "special{n}".
    """
    moments: dict[str, Moments] = {}
    steps = max(1, min(scenes, len(source)) // batch_size)
    for step in tqdm(range(steps), desc="statistics", unit="batch", disable=None):
        batch = source.training_batch(seed, step, batch_size, range(batch_size), device)
        for level, tokens in backbone.encode_levels(batch["images"], range(4)).items():
            for name, group in _groups(backbone, level, tokens).items():
                if name not in moments:
                    moments[name] = Moments(group.shape[-1], device)
                moments[name].add(group)
    summaries = {name: moment.summary() for name, moment in moments.items()}
    for name, summary in summaries.items():
        log.info(
            "%s: std %.2f to %.2f, %d dead channels, effective rank %.0f of %d",
            name,
            float(summary.var.min().sqrt()),
            float(summary.var.max().sqrt()),
            summary.dead_channels,
            summary.effective_rank,
            len(summary.var),
        )
    return summaries


def _groups(backbone: GeometryBackbone, level: int, tokens: LevelTokens) -> dict[str, Tensor]:
    if backbone.diffused_special_tokens:
        return {f"level{level}": tokens.patches, f"special{level}": tokens.special}
    return {f"level{level}": torch.cat([tokens.special, tokens.patches], dim=2)}


def statistics_tensors(summaries: dict[str, LevelSummary]) -> dict[str, Tensor]:
    """Return the tensors of a bundle's statistics file."""
    tensors = {}
    for name, summary in summaries.items():
        tensors[f"{name}.mean"] = summary.mean
        tensors[f"{name}.var"] = summary.var
    return tensors
