"""Flow matching: the time grid, noising, and what a network may predict.

Owns everything about time and noise; knows nothing of networks, cameras or views. Integration along
the grid is `solvers`. Convention:
`x_t = (1 - t) * clean + t * noise`, so t = 1 is pure noise, and velocity = noise - clean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

LAST_TIME = 0.999  # unshifted times cover [0, 0.999] from the noise end; t = 0 is never reached
MIN_DIVISOR = 0.02  # smallest t a predicted clean latent is divided by

Prediction = Literal["velocity", "clean"]
VelocityFn = Callable[[Tensor, float], Tensor]


def time_shift(channels: int, rows: int, columns: int, views: int) -> float:
    """Shift towards noise that suits the size of a latent: sqrt(all its numbers / 4096).

    Larger latents keep more signal at equal t and therefore need larger times.
    """
    return math.sqrt(channels * rows * columns * views / 4096)


def shift_times(t: Tensor, shift: float) -> Tensor:
    """Warp times in [0, 1] towards 1: `shift * t / (1 + (shift - 1) * t)`; 1 changes nothing."""
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"time shift is {shift}; expected a positive number")
    return shift * t / (1 + (shift - 1) * t)


def unshift_time(t: float, shift: float) -> float:
    """The time in [0, 1] that `shift_times` warps to t."""
    return t / (shift - (shift - 1) * t)


def time_grid(num_points: int, shift: float) -> Tensor:
    """Decreasing times (num_points,) float32 from 1 to the last evaluated one (above 0).

    num_points grid points make num_points - 1 network evaluations.
    """
    if num_points < 2:
        raise ValueError(f"time grid has {num_points} points; it needs at least 2 (one step)")
    return shift_times(1 - torch.linspace(0.0, LAST_TIME, num_points), shift)


def training_times(uniform: Tensor, shift: float) -> Tensor:
    """Times (B,) to train at, one per scene, from uniform random numbers (B,) in [0, 1)."""
    return shift_times(LAST_TIME * uniform, shift)


def draw_noise(
    shape: Sequence[int],
    seed: int | torch.Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal float32 noise. An integer seed gives the same numbers on every device."""
    generator = seed
    if not isinstance(generator, torch.Generator):
        generator = torch.Generator().manual_seed(generator)
    return torch.randn(tuple(shape), generator=generator, device=generator.device).to(device)


def add_noise(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The latent at time t (B,): `(1 - t) * clean + t * noise`, clean and noise (B, ...)."""
    return torch.lerp(clean, noise, _per_scene(t, clean))


def velocity_target(clean: Tensor, noise: Tensor) -> Tensor:
    """What a velocity network learns: `noise - clean`, independent of t."""
    return noise - clean


def to_velocity(output: Tensor, noisy: Tensor, t: Tensor | float, prediction: Prediction) -> Tensor:
    """Velocity from a network output at time t: scalar or (B,), for latents (B, ...).

    A predicted clean latent gives `(noisy - output) / max(t, 0.02)`.
    """
    if prediction == "velocity":
        return output
    if isinstance(t, Tensor):
        return (noisy - output) / _per_scene(t, noisy).clamp(min=MIN_DIVISOR)
    return (noisy - output) / max(t, MIN_DIVISOR)


def _per_scene(t: Tensor, like: Tensor) -> Tensor:
    return t.to(like).reshape(-1, *(1,) * (like.ndim - 1)) if t.ndim else t.to(like)
