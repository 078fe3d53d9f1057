"""Classifier-free guidance on cameras: one velocity function from a denoiser and its conditions.

Owns: combining the conditional and unconditional branch, and when to. Leaves to others: what
"unconditional" means (`conditioning.unconditional`), the network and its fast path, and integration
(`solvers`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gld_ros.diffusion.conditioning import (
    DenoiserConditions,
    concatenate_conditions,
    unconditional,
)
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.fast_path import (
    RunConstants,
    TimeConstants,
    precompute,
    step,
    time_constants,
)
from gld_ros.diffusion.flow import VelocityFn, to_velocity

Branches = Literal["together", "in turn"]


@dataclass(frozen=True)
class Guidance:
    """How much to guide, and when.

    scale: above 1 enables guidance, 1 or less runs the conditional branch alone.
    interval: times (from, to) in which guidance acts; outside, the conditional branch runs alone.
    every: evaluate the unconditional branch in every k-th guided step only, and reuse its
        difference to the conditional one in between.
    camera_map: the unconditional branch loses poses always, and the camera map unless it is "kept".
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    every: int = 1
    camera_map: Literal["dropped", "kept"] = "dropped"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(
                f"guidance scale is {self.scale}; use a number above 1, or 1 for no guidance"
            )
        first, last = self.interval
        if not 0 <= first <= last <= 1:
            raise ValueError(f"guidance interval is {self.interval}; use 0 <= from <= to <= 1")
        if self.every < 1:
            raise ValueError(f"guidance every {self.every} steps; use 1 or more")

    def acts_at(self, t: float) -> bool:
        """Whether the velocity at time t is a guided one."""
        return self.scale > 1 and self.interval[0] <= t <= self.interval[1]


def guided_velocity(
    denoiser: Denoiser,
    conditions: DenoiserConditions,
    guidance: Guidance = Guidance(),
    *,
    times: Tensor | None = None,
    branches: Branches = "together",
) -> VelocityFn:
    """Velocity function of one sampling run: `v_u + scale * (v_c - v_u)`, via the fast path.

    times are those of the run if known (they are prepared for). branches "together" evaluates both
    as one doubled batch, "in turn" one after the other in half the memory. The function keeps the
    state of its run (`Guidance.every`): make one per run.
    """
    if branches not in ("together", "in turn"):
        raise ValueError(f"branches is {branches!r}; use 'together' or 'in turn'")
    prediction = denoiser.config.prediction
    with torch.no_grad():
        known: dict[float, TimeConstants] = {}
        if times is not None:
            known = dict(zip(times.tolist(), time_constants(denoiser, times), strict=True))
        run = _Branches(denoiser, conditions, guidance, together=branches == "together")
    difference: Tensor | None = None
    guided_steps = 0

    def velocity(noisy: Tensor, t: float) -> Tensor:
        nonlocal difference, guided_steps
        time = known.get(t) or time_constants(denoiser, torch.tensor([t]))[0]
        # The velocity is linear in the network output, so guiding either is the same.
        if not guidance.acts_at(t):
            output = run.conditional(noisy, time)
        elif difference is None or guided_steps % guidance.every == 0:
            output, free = run.both(noisy, time)
            difference = output - free
        else:
            output = run.conditional(noisy, time)
        if guidance.acts_at(t) and difference is not None:
            guided_steps += 1
            output = output + (guidance.scale - 1) * difference
            if guidance.every == 1:
                difference = None  # not needed again, and as large as a latent
        return to_velocity(output, noisy, t, prediction)

    return velocity


class _Branches:
    """The constants of a run with and without cameras, and the evaluation of both."""

    def __init__(
        self,
        denoiser: Denoiser,
        conditions: DenoiserConditions,
        guidance: Guidance,
        *,
        together: bool,
    ) -> None:
        self.denoiser = denoiser
        self.doubled: RunConstants | None = None
        self.without_cameras: RunConstants | None = None
        if guidance.scale <= 1:
            self.with_cameras = precompute(denoiser, conditions)
            return
        free = unconditional(
            conditions,
            intrinsics=denoiser.config.unconditional_intrinsics,
            camera_map=guidance.camera_map,
        )
        if together:
            self.doubled = precompute(denoiser, concatenate_conditions(conditions, free))
            self.with_cameras = self.doubled.first_scenes(len(conditions.viewmats))
        else:
            self.with_cameras = precompute(denoiser, conditions)
            self.without_cameras = precompute(denoiser, free)

    def conditional(self, noisy: Tensor, time: TimeConstants) -> Tensor:
        return step(self.denoiser, noisy, time, self.with_cameras)

    def both(self, noisy: Tensor, time: TimeConstants) -> tuple[Tensor, Tensor]:
        if self.doubled is not None:
            conditional, free = step(self.denoiser, noisy, time, self.doubled).chunk(2)
            return conditional, free
        assert self.without_cameras is not None  # guidance acts, so it was prepared
        return self.conditional(noisy, time), step(self.denoiser, noisy, time, self.without_cameras)
