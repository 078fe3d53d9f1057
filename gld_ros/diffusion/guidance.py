"""Classifier-free guidance on cameras: one velocity function from a denoiser and its conditions.

Owns: combining the conditional and unconditional branch. Leaves to others: what "unconditional"
means (`conditioning.unconditional`), the network and its fast path, and integration (`flow`).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gld_ros.diffusion.conditioning import (
    DenoiserConditions,
    concatenate_conditions,
    unconditional,
)
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.fast_path import precompute, step, time_constants
from gld_ros.diffusion.flow import VelocityFn, to_velocity

Branches = Literal["together", "in turn"]


def guided_velocity(
    denoiser: Denoiser,
    conditions: DenoiserConditions,
    *,
    guidance_scale: float = 1.0,
    times: Tensor | None = None,
    branches: Branches = "together",
    unconditional_camera_map: Literal["dropped", "kept"] = "dropped",
) -> VelocityFn:
    """Velocity function of one sampling run: `v_u + scale * (v_c - v_u)`, via the fast path.

    guidance_scale above 1 enables guidance; 1 or less runs the conditional branch alone. times are
    those of the run if known (they are prepared for). branches "together" evaluates both as one
    doubled batch, "in turn" one after the other in half the memory. The unconditional branch loses
    poses always, and the camera map unless it is "kept".
    """
    if not (math.isfinite(guidance_scale) and guidance_scale >= 0):
        raise ValueError(
            f"guidance_scale is {guidance_scale}; use a number above 1, or 1 for no guidance"
        )
    if branches not in ("together", "in turn"):
        raise ValueError(f"branches is {branches!r}; use 'together' or 'in turn'")
    prediction = denoiser.config.prediction

    with torch.no_grad():
        if guidance_scale <= 1:
            batches = [conditions]
        else:
            without_cameras = unconditional(
                conditions,
                intrinsics=denoiser.config.unconditional_intrinsics,
                camera_map=unconditional_camera_map,
            )
            batches = [conditions, without_cameras]
            if branches == "together":
                batches = [concatenate_conditions(conditions, without_cameras)]
        runs = [precompute(denoiser, batch) for batch in batches]
        known = {}
        if times is not None:
            known = dict(zip(times.tolist(), time_constants(denoiser, times), strict=True))

    def velocity(noisy: Tensor, t: float) -> Tensor:
        time = known.get(t) or time_constants(denoiser, torch.tensor([t]))[0]
        outputs = [step(denoiser, noisy, time, run) for run in runs]
        output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
        if guidance_scale > 1:
            conditional, free = output.chunk(2)
            # The velocity is linear in the network output, so guiding either is the same.
            output = free + guidance_scale * (conditional - free)
        return to_velocity(output, noisy, t, prediction)

    return velocity
