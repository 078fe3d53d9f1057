"""Per-channel statistics of one feature level: normalising and de-normalising latents.

The files that hold them belong to `bundle` and `official`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

STATISTICS_EPS = 1e-5


@dataclass(frozen=True)
class LevelStatistics:
    """Mean and variance of the raw features of one level, float32, shape (C,).

    `special` holds those of its special tokens, where these are diffused along with the patches.
    """

    mean: Tensor
    var: Tensor
    special: "LevelStatistics | None" = None

    def normalise(self, raw: Tensor, channel_dim: int = 1) -> Tensor:
        """Return (raw - mean) / sqrt(var + 1e-5); channels on `channel_dim`, float32 math."""
        mean, std = self._shaped(raw, channel_dim)
        return ((raw.float() - mean) / std).to(raw.dtype)

    def denormalise(self, normalised: Tensor, channel_dim: int = 1) -> Tensor:
        """Return z * sqrt(var + 1e-5) + mean; channels on `channel_dim`, float32 math."""
        mean, std = self._shaped(normalised, channel_dim)
        return (normalised.float() * std + mean).to(normalised.dtype)

    def _shaped(self, like: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
        channels = like.shape[channel_dim]
        if channels != self.mean.numel():
            raise ValueError(
                f"features have {channels} channels on axis {channel_dim} (shape "
                f"{tuple(like.shape)}), the statistics have {self.mean.numel()}"
            )
        shape = [1] * like.ndim
        shape[channel_dim] = channels
        mean = self.mean.to(like.device, torch.float32)
        var = self.var.to(like.device, torch.float32)
        return mean.view(shape), torch.sqrt(var + STATISTICS_EPS).view(shape)
