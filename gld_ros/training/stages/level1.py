"""Stages `level1` and `cascade`: multi-view diffusion of latents.

All views are noised, references included; the loss runs over all views. Targets of the flow are
features of all views encoded together, the condition features of the references encoded alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gld_ros.diffusion.conditioning import (
    CoincidentCamerasError,
    DenoiserConditions,
    camera_conditions,
    unconditional,
)
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.flow import add_noise, training_times, velocity_target
from gld_ros.diffusion.flow import time_shift as latent_time_shift
from gld_ros.measured_latents import RenderedMeasurements, with_measurements
from gld_ros.novel_view_stages import sample
from gld_ros.training.config import ConfigError, RunConfig
from gld_ros.training.data import BadBatch, ScenePool
from gld_ros.training.latent_codec import LatentCodec
from gld_ros.training.loop import Stage
from gld_ros.training.measured_batch import draw_source_count, measured_targets
from gld_ros.training.randomness import (
    generator_for,
    normal_per_sample,
    sample_generators,
    uniform_per_sample,
)
from gld_ros.training.view_order import draw_reference_count, draw_view_order, evenly_spaced
from gld_ros.weights.bundle_config import BundleConfig

MIN_LOSS_TIME = 0.3  # predicted clean latents are weighted by 1 / max(t, this)^2


Exporter = Callable[[Path, Mapping[str, Mapping[str, Tensor]]], object]


@dataclass(frozen=True)
class DiffusionOptions:
    """Draws of a diffusion stage.

    `reference_weights[i]` is the weight of i + 1 references. `source_noise_tau` (cascade only)
    spreads noise on the level-1 side input, |N(0, tau^2)| per batch. Validation shows the one-step
    prediction and, with `validation_euler_points` of 2 or more, samples along that grid.
    `measured_probability` (level 1 only) is the share of scenes whose targets come with rendered
    measurements; above 0 a denoiser that cannot read them gains the embedders. A scene needs depth
    for it.
    """

    reference_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    interpolate_probability: float = 0.0
    camera_drop: float = 0.1
    source_noise_tau: float = 0.0
    validation_scenes: int = 32
    validation_references: int = 2
    validation_euler_points: int = 0
    measured_probability: float = 0.0


@dataclass(frozen=True)
class DiffusionModel:
    """The denoiser that a stage trains, under the name it is exported by.

    `plan` sets how cameras are presented; `time_shift` None: from the size of each latent.
    """

    name: str
    denoiser: Denoiser
    time_shift: float | None
    plan: BundleConfig
    export: Exporter


class DiffusionStage(Stage):
    """Trains a denoiser on latents of `codec`.

    `source_codec` gives the side input of a cascade (level 1), None otherwise.
    """

    def __init__(
        self,
        config: RunConfig,
        options: DiffusionOptions,
        model: DiffusionModel,
        codec: LatentCodec,
        source_codec: LatentCodec | None,
        source: ScenePool,
        held_out: ScenePool | None,
        device: torch.device,
    ) -> None:
        super().__init__()
        for count, what in (
            (len(options.reference_weights), "reference_weights allow"),
            (options.validation_references, "validation_references is"),
        ):
            if not 1 <= count < config.data.views:
                raise ConfigError(
                    f"{what} {count}, but a scene has {config.data.views} views; at least one must "
                    "be a reference and one a target"
                )
        if min(options.reference_weights) < 0 or sum(options.reference_weights) <= 0:
            raise ConfigError(
                f"reference_weights is {list(options.reference_weights)}; weights must not be "
                "negative, nor all zero"
            )
        if not 0 <= options.measured_probability <= 1:
            raise ConfigError(
                f"measured_probability is {options.measured_probability}; use a share from 0 to 1"
            )
        if options.measured_probability and source_codec is not None:
            raise ConfigError("measured_probability must be 0: a cascade takes no measurements")
        if config.distributed == "fsdp" and options.validation_euler_points:
            raise ConfigError("validation_euler_points must be 0 with distributed: fsdp")
        self.config, self.options, self.model = config, options, model
        self.codec, self.source_codec = codec, source_codec
        self.source, self.held_out, self.device = source, held_out, device
        self.denoiser = model.denoiser

    def batch(self, step: int, samples: range) -> dict[str, Any]:
        """Draw scenes, references, noise, times and dropped cameras; encode without gradients."""
        seed, options = self.config.seed, self.options
        references = draw_reference_count(seed, step, options.reference_weights)
        scenes = self.source.training_batch(
            seed, step, self.config.batch_size, samples, self.device
        )
        generators = sample_generators(seed, step, samples, "diffusion")
        views = scenes["images"].shape[1]
        orders = torch.tensor(
            [
                draw_view_order(views, references, options.interpolate_probability, g)
                for g in generators
            ]
        )
        scenes = reorder_views(scenes, orders)
        batch = self._encode(scenes, references)
        latents = batch["latents"]
        times = training_times(uniform_per_sample(generators), self._time_shift(scenes))
        batch["t"] = times.to(self.device)
        batch["noise"] = normal_per_sample(tuple(latents.shape[1:]), generators).to(self.device)
        drop = uniform_per_sample(generators) < options.camera_drop
        conditions = unconditional(batch["conditions"], scenes=drop)
        if conditions.source is not None:
            drawn = torch.randn((), generator=generator_for(seed, step, "source noise"))
            sigma = options.source_noise_tau * abs(float(drawn))
            noise = normal_per_sample(tuple(latents.shape[1:]), generators).to(self.device)
            noisy_source = (conditions.source + sigma * noise) / (1 + sigma**2) ** 0.5
            conditions = replace(conditions, source=noisy_source)
        if self.denoiser.config.measured:  # always: processes wait for gradients of all parameters
            measured = measured_targets(
                scenes,
                references,
                draw_source_count(seed, step, references, views),
                options.measured_probability,
                sample_generators(seed, step, samples, "measurements"),
            )
            conditions = self._with_measurements(conditions, scenes, measured)
        batch["conditions"] = conditions
        return batch

    def _with_measurements(
        self,
        conditions: DenoiserConditions,
        scenes: dict[str, Any],
        measured: RenderedMeasurements,
    ) -> DenoiserConditions:
        references = conditions.num_references
        length_scale = self._cameras(scenes, references)[2]
        shown = scenes["images"][:, :references]
        return with_measurements(conditions, measured, shown, self.codec.encode, length_scale)

    def _time_shift(self, scenes: dict[str, Any]) -> float:
        if self.model.time_shift is not None:
            return self.model.time_shift
        views, height, width = (scenes["images"].shape[i] for i in (1, 3, 4))
        patch = self.denoiser.config.camera_patch
        channels = self.denoiser.config.channels
        return latent_time_shift(channels, height // patch, width // patch, views)

    @torch.no_grad()
    def _encode(self, scenes: dict[str, Any], references: int) -> dict[str, Any]:
        images = scenes["images"]
        latents = self.codec.encode(images)
        alone = self.codec.encode(images[:, :references])
        condition = torch.cat([alone, torch.zeros_like(latents[:, references:])], dim=1)
        source = self.source_codec.encode(images) if self.source_codec is not None else None
        return {
            "latents": latents,
            "conditions": self._conditions(scenes, condition, references, source),
            "references": references,
        }

    def _conditions(
        self, scenes: dict[str, Any], condition: Tensor, references: int, source: Tensor | None
    ) -> DenoiserConditions:
        camera_map, viewmats, _ = self._cameras(scenes, references)
        image_hw = (scenes["images"].shape[-2], scenes["images"].shape[-1])
        return DenoiserConditions(
            condition, references, camera_map, viewmats, scenes["K_px"], image_hw, source
        )

    def _cameras(self, scenes: dict[str, Any], references: int) -> tuple[Tensor, Tensor, Tensor]:
        try:
            return camera_conditions(
                scenes["T_world_cam"],
                scenes["K_px"],
                (scenes["images"].shape[-2], scenes["images"].shape[-1]),
                references,
                ray_grid=self.model.plan.ray_grid,
                pose_scale=self.model.plan.pose_scale,
            )
        except CoincidentCamerasError as error:
            raise BadBatch(str(error)) from error

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the flow-matching loss, and its reference and target parts."""
        latents, noise, t = batch["latents"], batch["noise"], batch["t"]
        noisy = add_noise(latents, noise, t)
        output = self.denoiser(noisy, t, batch["conditions"])
        if self.denoiser.config.prediction == "clean":
            weight = t.clamp_min(MIN_LOSS_TIME).square().reciprocal()
            error = (output - latents).square() * weight.view(-1, *(1,) * (latents.ndim - 1))
        else:
            error = (output - velocity_target(latents, noise)).square()
        references = batch["references"]
        return {
            "loss": error.mean(),
            "reference_part": error[:, :references].mean(),
            "target_part": error[:, references:].mean(),
        }

    def validate(self) -> dict[str, float]:
        """Return errors of the one-step prediction at pure noise, with true and shuffled poses.

        Figures are latent errors of the targets and, once the bundle can decode, their PSNR. A
        model that ignores cameras scores the same with both.
        """
        references = self.options.validation_references
        sums: dict[str, float] = {}
        count = (
            0 if self.held_out is None else min(self.options.validation_scenes, len(self.held_out))
        )
        for first in range(0, count, 8):
            assert self.held_out is not None  # count would be 0
            indices = range(first, min(first + 8, count))
            scenes = self.held_out.held_out_batch(indices, self.device)
            views = scenes["images"].shape[1]
            chosen = evenly_spaced(views, references)
            order = chosen + [v for v in range(views) if v not in chosen]
            scenes = reorder_views(scenes, torch.tensor([order] * len(indices)))
            for name, value in self._figures(scenes, first, references).items():
                sums[name] = sums.get(name, 0.0) + value * len(indices) / count
        return sums

    def _figures(self, scenes: dict[str, Any], first: int, references: int) -> dict[str, float]:
        batch = self._encode(scenes, references)
        latents, true = batch["latents"], batch["conditions"]
        generators = sample_generators(0, first, range(len(latents)), "validation")
        noise = normal_per_sample(tuple(latents.shape[1:]), generators).to(self.device)
        other_cameras = with_other_motion(scenes["T_world_cam"], references)
        shuffled = self._conditions(
            {**scenes, "T_world_cam": other_cameras},
            true.reference_latent,
            references,
            true.source,
        )
        figures = self._errors(scenes, latents, self._one_step(noise, true), true)
        wrong = self._errors(scenes, latents, self._one_step(noise, shuffled), shuffled)
        figures |= {f"{name}_shuffled": value for name, value in wrong.items()}
        if self.options.validation_euler_points >= 2:
            steps = sample(
                self.denoiser,
                true,
                noise,
                num_steps=self.options.validation_euler_points - 1,
                shift=self._time_shift(scenes),
            )
            *_, last = steps
            sampled = self._errors(scenes, latents, last.latent, true)
            figures |= {f"{name}_sampled": value for name, value in sampled.items()}
        if self.options.measured_probability:
            figures |= self._measured_figures(scenes, first, latents, noise, true)
        return figures

    def _measured_figures(
        self,
        scenes: dict[str, Any],
        first: int,
        latents: Tensor,
        noise: Tensor,
        plain: DenoiserConditions,
    ) -> dict[str, float]:
        """Return figures with measurements, and errors of uncovered patches without and with."""
        references = plain.num_references
        generators = sample_generators(0, first, range(len(latents)), "validation measurements")
        measured = measured_targets(scenes, references, references, 1.0, generators)
        conditions = self._with_measurements(plain, scenes, measured)
        generated = self._one_step(noise, conditions)
        figures = {
            f"{name}_measured": value
            for name, value in self._errors(scenes, latents, generated, conditions).items()
        }
        patch = self.denoiser.config.camera_patch
        covered = F.max_pool2d(measured.covered.float(), patch)[:, :, None]
        for name, one in (
            ("latent_error_uncovered", self._one_step(noise, plain)),
            ("latent_error_uncovered_measured", generated),
        ):
            error = (one - latents)[:, references:].square().mean(2, keepdim=True)
            uncovered = 1 - covered
            figures[name] = float((error * uncovered).sum() / uncovered.sum().clamp_min(1))
        return figures

    def _one_step(self, noise: Tensor, conditions: DenoiserConditions) -> Tensor:
        t = torch.ones(len(noise), device=self.device)
        output: Tensor = self.denoiser(noise, t, conditions)
        return output if self.denoiser.config.prediction == "clean" else noise - output

    def _errors(
        self,
        scenes: dict[str, Any],
        latents: Tensor,
        generated: Tensor,
        conditions: DenoiserConditions,
    ) -> dict[str, float]:
        """Return latent error and PSNR of the targets."""
        targets = slice(conditions.num_references, None)
        figures = {"latent_error": float((generated - latents)[:, targets].square().mean())}
        if self.codec.can_decode:
            images = self.codec.decode(generated, scenes["images"], conditions.source)
            error = (images.clamp(0, 1) - scenes["images"])[:, targets].square().mean((2, 3, 4))
            figures["psnr"] = float((-10 * error.log10()).mean())
        return figures

    def trained_modules(self) -> dict[str, nn.Module]:
        """Return the denoiser under its name."""
        return {self.model.name: self.denoiser}

    def sharding_units(self) -> list[nn.Module]:
        """Return modulations, blocks and the whole denoiser.

        The modulation of a block is called from outside of it, so it must be a unit of its own.
        """
        blocks = [*self.denoiser.encoder_blocks, *self.denoiser.head_blocks]
        return [*(block.adaLN_modulation for block in blocks), *blocks, self.denoiser]

    def export(self, folder: Path, tensors: dict[str, dict[str, Tensor]]) -> None:
        """Write the denoiser beside what it needs."""
        self.model.export(folder, tensors)

    def data_counters(self) -> dict[str, float]:
        """Return how many samples the data could not give."""
        return {name: float(count) for name, count in self.source.skipped.items()}


def reorder_views(scenes: dict[str, Any], orders: Tensor) -> dict[str, Any]:
    """Return the scenes with the views of each permuted by its row of `orders` (B, V)."""
    rows = torch.arange(len(orders))[:, None]
    return {
        name: value[rows, orders] if isinstance(value, Tensor) and value.ndim >= 2 else value
        for name, value in scenes.items()
    }


def with_other_motion(T_world_cam: Tensor, references: int) -> Tensor:
    """Give each scene's targets the motion (relative to view 0) of the next scene's targets."""
    motion = torch.linalg.solve(T_world_cam[:, :1], T_world_cam).roll(1, dims=0)
    shuffled = T_world_cam[:, :1] @ motion
    return torch.cat([T_world_cam[:, :references], shuffled[:, references:]], dim=1)
