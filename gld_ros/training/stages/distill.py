"""Stage `distill`: a student that samples in 1 to 4 calls, without guidance.

The student is the teacher's network on a fixed coarse grid of times. Each of its calls learns to
jump from one grid point to the next along the teacher's own trajectory, which the stage integrates
finely, with guidance, from the same noise. That is a flow map (Boffi et al., arXiv 2406.07507)
learnt from the teacher's trajectories (Luhman and Luhman, arXiv 2101.02388) with guidance built in
(Meng et al., arXiv 2210.03142), on the grid alone: a grid point implies where its call ends, so
the network gains no input. The loss is the pseudo-Huber distance of Song and Dhariwal (arXiv
2310.14189).

Owns trajectories and loss. Scenes, references, cameras and noise are drawn as for the teacher
(`level1`).
"""

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from gld_ros.diffusion.conditioning import DenoiserConditions, concatenate_conditions
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.flow import time_grid
from gld_ros.diffusion.guidance import Guidance
from gld_ros.diffusion.solvers import Solver
from gld_ros.novel_view_stages import sample
from gld_ros.training.config import ConfigError, RunConfig
from gld_ros.training.data import ScenePool
from gld_ros.training.latent_codec import LatentCodec
from gld_ros.training.randomness import normal_per_sample, sample_generators
from gld_ros.training.stages.level1 import DiffusionModel, DiffusionOptions, DiffusionStage

MOST_CALLS = 4
TEACHER_SOLVER: Solver = "ab2"
# Distances of features below this (per channel, which have unit variance) count quadratically, so
# that what is nearly determined already does not pull as hard as what is not.
SMALL_DISTANCE = 0.03


@dataclass(frozen=True)
class DistillOptions:
    """What is distilled, and how the teacher's trajectories are made.

    `cascade` distils the cascade, else level 1. `calls` of the student; `teacher_steps`, a multiple
    of it, of the trajectories. `guidance_scale` is distilled into the student (None: the bundle's).
    `time_shift` of the student's grid (None: the teacher's, or that of the largest image size). The
    rest is as in `DiffusionOptions`.
    """

    cascade: bool = False
    calls: int = 2
    teacher_steps: int = 8
    guidance_scale: float | None = None
    time_shift: float | None = None
    reference_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    interpolate_probability: float = 0.0
    source_noise_tau: float = 0.0
    measured_probability: float = 0.0
    validation_scenes: int = 8
    validation_references: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.calls <= MOST_CALLS:
            raise ConfigError(f"calls is {self.calls}; a student takes 1 to {MOST_CALLS}")
        if self.teacher_steps < self.calls or self.teacher_steps % self.calls:
            raise ConfigError(
                f"teacher_steps is {self.teacher_steps}; it must be a multiple of calls "
                f"({self.calls})"
            )
        for name in ("time_shift", "guidance_scale"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}; use a number above 0, or null")

    def diffusion(self) -> DiffusionOptions:
        """The options of the draws that a student has in common with its teacher."""
        return DiffusionOptions(
            reference_weights=self.reference_weights,
            interpolate_probability=self.interpolate_probability,
            camera_drop=0.0,
            source_noise_tau=self.source_noise_tau,
            measured_probability=self.measured_probability,
            validation_scenes=self.validation_scenes,
            validation_references=self.validation_references,
        )


class DistillStage(DiffusionStage):
    """Trains a student (`model.denoiser`) to follow `teacher`, which stays as it is."""

    def __init__(
        self,
        config: RunConfig,
        options: DistillOptions,
        model: DiffusionModel,
        teacher: Denoiser,
        guidance_scale: float,
        codec: LatentCodec,
        source_codec: LatentCodec | None,
        source: ScenePool,
        held_out: ScenePool | None,
        device: torch.device,
    ) -> None:
        if model.time_shift is None:
            raise ValueError("a student needs a fixed time shift: its calls are tied to its grid")
        super().__init__(
            config, options.diffusion(), model, codec, source_codec, source, held_out, device
        )
        self.distill = options
        self.teacher = teacher.requires_grad_(False)
        self.guidance = Guidance(guidance_scale)
        self.shift = model.time_shift

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return how far the student's jumps miss the teacher's, all calls alike."""
        calls, conditions, noise = self.distill.calls, batch["conditions"], batch["noise"]
        states = self._trajectory(noise, conditions)
        starts, ends = torch.cat(states[:-1]), torch.cat(states[1:])
        times = time_grid(calls + 1, self.shift).to(self.device).repeat_interleave(len(noise))
        t, t_next = times[: len(starts)], times[len(noise) :]
        output = self.denoiser(starts, t, repeated(conditions, calls))
        over = (-1, *(1,) * (starts.ndim - 1))
        t, t_next = t.view(over), t_next.view(over)
        # Compared as the clean latents that straight jumps come from, whatever is predicted.
        wanted = starts - t * (starts - ends) / (t - t_next)
        clean = output if self.denoiser.config.prediction == "clean" else starts - t * output
        error = pseudo_huber(clean, wanted)
        per_call = error.detach().unflatten(0, (calls, -1))[:, :, batch["references"] :]
        return {
            "loss": error.mean(),
            **{f"targets_call_{k}": one.mean() for k, one in enumerate(per_call, start=1)},
        }

    def _trajectory(self, noise: Tensor, conditions: DenoiserConditions) -> list[Tensor]:
        """The teacher's latents at the points of the student's grid, the noise first."""
        each = self.distill.teacher_steps // self.distill.calls
        steps = sample(
            self.teacher,
            conditions,
            noise,
            num_steps=self.distill.teacher_steps,
            shift=self.shift,
            guidance=self.guidance,
            solver=TEACHER_SOLVER,
        )
        return [noise, *(step.latent for step in steps if step.index % each == 0)]

    def _figures(self, scenes: dict[str, Any], first: int, references: int) -> dict[str, float]:
        """Deviation of the targets from the teacher's, of the student and of as many Euler steps.

        Norm of the difference over the norm, from the same noise.
        """
        batch = self._encode(scenes, references)
        latents, conditions = batch["latents"], batch["conditions"]
        generators = sample_generators(0, first, range(len(latents)), "validation")
        noise = normal_per_sample(tuple(latents.shape[1:]), generators).to(self.device)
        wanted = self._trajectory(noise, conditions)[-1]
        student = self._in_few_calls(self.denoiser, noise, conditions, Guidance())
        plain = self._in_few_calls(self.teacher, noise, conditions, self.guidance)
        figures = self._errors(scenes, latents, student, conditions)
        for name, latent in (("deviation", student), ("deviation_of_teacher", plain)):
            difference = (latent - wanted)[:, references:].norm()
            figures[name] = float(difference / wanted[:, references:].norm())
        return figures

    def _in_few_calls(
        self, denoiser: Denoiser, noise: Tensor, conditions: DenoiserConditions, guidance: Guidance
    ) -> Tensor:
        *_, last = sample(
            denoiser,
            conditions,
            noise,
            num_steps=self.distill.calls,
            shift=self.shift,
            guidance=guidance,
        )
        return last.latent


def repeated(conditions: DenoiserConditions, times: int) -> DenoiserConditions:
    """The scenes of `conditions`, `times` over: all of them, then all of them again."""
    return reduce(concatenate_conditions, [conditions] * times)


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """Distance of each token's features (B, V, C, ...) over the root of C: (B, V, ...)."""
    squared = (a.float() - b.float()).square().mean(2)
    return (squared + SMALL_DISTANCE**2).sqrt() - SMALL_DISTANCE
