"""Integration of the flow from noise to data along a time grid: the loop, and its update rules.

Owns solvers; knows nothing of networks. All rules make one
evaluation per step and differ in what they keep of earlier ones; the first step of each is Euler's.
Times fall from 1 (noise); velocity = noise - clean, as in `flow`. Which solver a bundle is sampled
with is `presets`.
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

from gld_ros.diffusion.flow import VelocityFn, shift_times, time_grid, unshift_time

Solver = Literal["euler", "ab2", "ab3", "abm2", "dpm2m"]
MAX_HISTORY = 3  # evaluations that a rule may look at
# The grid of "abm2": the bundle's shift times this, and to which power unshifted time falls, which
# grows with the number of steps: 1.5 up to 5, 2 from 9 on. Chosen among powers from 1 to 2.5 and
# shifts from 1 to 10 times the bundle's, as nearest to the exact solution with the embedded
# denoiser in 4, 5, 9 and 12 steps; `benchmark/presets.py quality` measures what comes out.
FINER_SHIFT = 2.0
LEAST_POWER, MOST_POWER, FEW_STEPS, STEPS_PER_POWER = 1.5, 2.0, 5, 8
# Nodes and weights on [-1, 1] that integrate unshifted over shifted time: exact to rounding errors
# even for shifts of 50, where the grid's last steps are the longest.
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(32)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the velocity: where, at which latent, and what it was."""

    t: float
    latent: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class Goal:
    """Where a step goes: the time, whether the grid ends there, and the grid's time shift."""

    t: float
    last: bool
    shift: float


# (evaluations, newest last; where to go) -> latent there
UpdateRule = Callable[[Sequence[Evaluation], Goal], Tensor]


@dataclass(frozen=True)
class SamplingStep:
    """State after step number index (1..total): the latent at time t."""

    index: int
    total: int
    t: float
    latent: Tensor


def sampling_grid(num_steps: int, shift: float, solver: Solver) -> tuple[Tensor, float]:
    """Decreasing times (num_steps + 1,) float32 for a solver, and the shift to give `integrate`.

    `shift` is the bundle's (`flow.time_shift`). All solvers but "abm2" step along the published
    grid. That is spaced for Euler: a solver of second order makes most of its error near the data,
    at the far end of a grid whose last shifted steps are the longest. So "abm2" goes to the same
    last time in steps that shorten, from a larger shift. Raises ValueError for less than one step.
    """
    published = time_grid(num_steps + 1, shift)
    if solver != "abm2":
        return published, shift
    power = min(LEAST_POWER + max(0, num_steps - FEW_STEPS) / STEPS_PER_POWER, MOST_POWER)
    finer = FINER_SHIFT * shift
    end = unshift_time(float(published[-1]), finer)
    to_go = torch.linspace(1.0, 0.0, num_steps + 1) ** power
    return shift_times(end + (1.0 - end) * to_go, finer), finer


def integrate(
    velocity_fn: VelocityFn,
    noise: Tensor,
    grid: Tensor | Sequence[float],
    *,
    solver: Solver = "euler",
    shift: float = 1.0,
) -> Iterator[SamplingStep]:
    """Integrate from noise along the grid, yielding after every step; stop iterating to cancel.

    velocity_fn(latent, t) returns the velocity at time t; grid (T,) decreases from 1. "abm2"
    extrapolates in the time that `shift` warps to t; both as `sampling_grid` gives them.
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
            here = Evaluation(t, latent, velocity_fn(latent, t))
            if solver == "abm2" and history:
                here = adams_moulton_2(history[-1], here, shift)
            history.append(here)
            latent = update(history, Goal(t_next, index == total, shift))
        yield SamplingStep(index, total, t_next, latent)


def euler(history: Sequence[Evaluation], goal: Goal) -> Tensor:
    """Straight on along the newest velocity."""
    now = history[-1]
    return now.latent + (goal.t - now.t) * now.velocity


def adams_bashforth_2(history: Sequence[Evaluation], goal: Goal) -> Tensor:
    """Along the line through the two newest velocities (Adams-Bashforth of second order)."""
    return _adams_bashforth(history, goal.t, order=2)


def adams_bashforth_3(history: Sequence[Evaluation], goal: Goal) -> Tensor:
    """Along the parabola through the three newest velocities."""
    return _adams_bashforth(history, goal.t, order=3)


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


def adams_bashforth_2_unshifted(history: Sequence[Evaluation], goal: Goal) -> Tensor:
    """As `adams_bashforth_2`, but the line runs through the velocities over unshifted time.

    Shifted steps may grow to several times the one before, and a line over shifted time exaggerates
    what it extrapolates then. `adams_moulton_2` corrects each result.
    """
    now = history[-1]
    if len(history) == 1:
        return euler(history, goal)
    before = history[-2]
    share = _line_integral(now.t, goal.t, before.t, goal.shift)
    return euler(history, goal) + share * (before.velocity - now.velocity)


def adams_moulton_2(before: Evaluation, now: Evaluation, shift: float) -> Evaluation:
    """The newest evaluation with its latent corrected, now that the velocity there is known.

    The step that led to it is made again along the line through both velocities (over unshifted
    time, Adams-Moulton of second order). The network is not asked again at the corrected latent, so
    this costs no evaluation: "PEC" among predictor-corrector methods, and what the corrector of
    UniPC (arXiv 2302.04867) does.
    """
    share = _line_integral(before.t, now.t, now.t, shift)
    step = (now.t - before.t) * before.velocity + share * (now.velocity - before.velocity)
    return Evaluation(now.t, before.latent + step, now.velocity)


def _line_integral(t_from: float, t_to: float, t_one: float, shift: float) -> float:
    """Integral over t of a line in unshifted time that is 0 at t_from and 1 at t_one."""
    half = (t_to - t_from) / 2
    times = (t_from + half * (1 + NODES)).tolist()
    past_zero = [unshift_time(t, shift) - unshift_time(t_from, shift) for t in times]
    at_one = unshift_time(t_one, shift) - unshift_time(t_from, shift)
    return half * float(np.dot(NODE_WEIGHTS, past_zero)) / at_one


def dpm_solver_2m(history: Sequence[Evaluation], goal: Goal) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095) for x_t = (1 - t) clean + t noise.

    Extrapolates the predicted clean latent linearly in half the log signal-to-noise ratio. The last
    step is of first order, as usual: the ratio grows too fast there.
    """
    now = history[-1]
    clean = now.latent - now.t * now.velocity
    if len(history) > 1 and not goal.last:
        before = history[-2]
        step, step_before = _log_snr(goal.t) - _log_snr(now.t), _log_snr(now.t) - _log_snr(before.t)
        change = clean - (before.latent - before.t * before.velocity)
        clean = clean + 0.5 * (step / step_before) * change
    ratio = goal.t / now.t
    return ratio * now.latent + (1 - ratio) * clean


def _log_snr(t: float) -> float:
    """Log of signal over noise at time t; minus infinity where there is no signal."""
    return math.log((1 - t) / t) if t < 1 else -math.inf


UPDATE_RULES: dict[Solver, UpdateRule] = {
    "euler": euler,
    "ab2": adams_bashforth_2,
    "ab3": adams_bashforth_3,
    "abm2": adams_bashforth_2_unshifted,
    "dpm2m": dpm_solver_2m,
}
