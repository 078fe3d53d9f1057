"""Integration of the flow from noise to data along a time grid: the loop, and its update rules.

Owns solvers; knows nothing of networks. All rules make one
evaluation per step and differ in what they keep of earlier ones; the first step of each is Euler's.
Times fall from 1 (noise); velocity = noise - clean, as in `flow`.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gld_ros.diffusion.flow import VelocityFn

Solver = Literal["euler", "ab2", "ab3", "dpm2m"]
MAX_HISTORY = 3  # evaluations that a rule may look at


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the velocity: where, at which latent, and what it was."""

    t: float
    latent: Tensor
    velocity: Tensor


# (evaluations, newest last; time to go to; whether it is the last) -> latent at that time
UpdateRule = Callable[[Sequence[Evaluation], float, bool], Tensor]


@dataclass(frozen=True)
class SamplingStep:
    """State after step number index (1..total): the latent at time t."""

    index: int
    total: int
    t: float
    latent: Tensor


def integrate(
    velocity_fn: VelocityFn,
    noise: Tensor,
    grid: Tensor | Sequence[float],
    *,
    solver: Solver = "euler",
) -> Iterator[SamplingStep]:
    """Integrate from noise along the grid, yielding after every step; stop iterating to cancel.

    velocity_fn(latent, t) returns the velocity at time t; grid (T,) decreases from 1.
    Raises ValueError before the first step for a grid that does not fall or an unknown solver.
    """
    times = [float(t) for t in grid]
    if len(times) < 2 or any(after >= before for before, after in itertools.pairwise(times)):
        raise ValueError(f"time grid must have at least 2 decreasing times, got {times}")
    if solver not in UPDATE_RULES:
        raise ValueError(f"solver is {solver!r}; use one of {', '.join(UPDATE_RULES)}")
    update, total = UPDATE_RULES[solver], len(times) - 1
    history: deque[Evaluation] = deque(maxlen=MAX_HISTORY)
    latent = noise
    for index, (t, t_next) in enumerate(itertools.pairwise(times), start=1):
        with torch.no_grad():
            history.append(Evaluation(t, latent, velocity_fn(latent, t)))
            latent = update(history, t_next, index == total)
        yield SamplingStep(index, total, t_next, latent)


def euler(history: Sequence[Evaluation], t_next: float, last: bool) -> Tensor:
    """Straight on along the newest velocity."""
    now = history[-1]
    return now.latent + (t_next - now.t) * now.velocity


def adams_bashforth_2(history: Sequence[Evaluation], t_next: float, last: bool) -> Tensor:
    """Along the line through the two newest velocities (Adams-Bashforth of second order)."""
    return _adams_bashforth(history, t_next, order=2)


def adams_bashforth_3(history: Sequence[Evaluation], t_next: float, last: bool) -> Tensor:
    """Along the parabola through the three newest velocities."""
    return _adams_bashforth(history, t_next, order=3)


def _adams_bashforth(history: Sequence[Evaluation], t_next: float, order: int) -> Tensor:
    used = list(history)[-order:]
    now, latent = used[-1], used[-1].latent
    for i, one in enumerate(used):
        # The share of this velocity: the integral of its Lagrange polynomial over the step.
        others = [other.t - now.t for j, other in enumerate(used) if j != i]
        basis = np.atleast_1d(np.poly(others)) / math.prod(one.t - now.t - o for o in others)
        weight = float(np.polyval(np.polyint(basis), t_next - now.t))
        latent = latent + weight * one.velocity
    return latent


def dpm_solver_2m(history: Sequence[Evaluation], t_next: float, last: bool) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095) for x_t = (1 - t) clean + t noise.

    Extrapolates the predicted clean latent linearly in half the log signal-to-noise ratio. The last
    step is of first order, as usual: the ratio grows too fast there.
    """
    now = history[-1]
    clean = now.latent - now.t * now.velocity
    if len(history) > 1 and not last:
        before = history[-2]
        step, step_before = _log_snr(t_next) - _log_snr(now.t), _log_snr(now.t) - _log_snr(before.t)
        change = clean - (before.latent - before.t * before.velocity)
        clean = clean + 0.5 * (step / step_before) * change
    ratio = t_next / now.t
    return ratio * now.latent + (1 - ratio) * clean


def _log_snr(t: float) -> float:
    """Log of signal over noise at time t; minus infinity where there is no signal."""
    return math.log((1 - t) / t) if t < 1 else -math.inf


UPDATE_RULES: dict[Solver, UpdateRule] = {
    "euler": euler,
    "ab2": adams_bashforth_2,
    "ab3": adams_bashforth_3,
    "dpm2m": dpm_solver_2m,
}
