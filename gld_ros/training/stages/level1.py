"""Stages `level1` and `cascade`: multi-view diffusion of features (training recipe of GLD).

All views are noised, references included; the loss runs over all views. Targets of the flow are
features of all views encoded together, the condition features of the references encoded alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gld_ros.diffusion.conditioning import camera_conditions, unconditional
from gld_ros.diffusion.denoiser import Denoiser, DenoiserConditions
from gld_ros.diffusion.flow import LAST_TIME, add_noise, shift_times, velocity_target
from gld_ros.diffusion.flow import time_shift as latent_time_shift
from gld_ros.training.bundle_parts import WorkingBundle
from gld_ros.training.config import ConfigError, RunConfig
from gld_ros.training.data import SceneSource
from gld_ros.training.latent_codec import LatentCodec
from gld_ros.training.loop import Stage
from gld_ros.training.randomness import (
    batch_indices,
    derived_seed,
    normal_per_sample,
    sample_generators,
    uniform_per_sample,
)
from gld_ros.training.view_order import draw_reference_count, draw_view_order, evenly_spaced

MIN_LOSS_TIME = 0.3  # predicted clean latents are weighted by 1 / max(t, this)^2


@dataclass(frozen=True)
class DiffusionOptions:
    """Draws of a diffusion stage.

    `reference_weights[i]` is the weight of i + 1 references. `source_noise_tau` (cascade only)
    spreads noise on the level-1 side input, |N(0, tau^2)| per batch.
    """

    reference_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    interpolate_probability: float = 0.0
    camera_drop: float = 0.1
    source_noise_tau: float = 0.0
    validation_scenes: int = 32
    validation_references: int = 2


class DiffusionStage(Stage):
    """Trains the denoiser `name` of a bundle on latents of `codec`.

    `source_codec` gives the side input of a cascade (level 1), None otherwise.
    """

    def __init__(
        self,
        config: RunConfig,
        options: DiffusionOptions,
        bundle: WorkingBundle,
        name: str,
        codec: LatentCodec,
        source_codec: LatentCodec | None,
        source: SceneSource,
        held_out: SceneSource,
        device: torch.device,
    ) -> None:
        super().__init__()
        if name not in bundle.plan.denoisers:
            raise ConfigError(f"the model plan has no denoiser {name!r}")
        if len(options.reference_weights) >= config.data.views:
            raise ConfigError(
                f"reference_weights allow {len(options.reference_weights)} references, but a scene "
                f"has only {config.data.views} views; at least one must be a target"
            )
        self.config, self.options, self.bundle, self.name = config, options, bundle, name
        self.codec, self.source_codec = codec, source_codec
        self.source, self.held_out, self.device = source, held_out, device
        self.denoiser: Denoiser = bundle.trainable(name, device)  # type: ignore[assignment]

    def batch(self, step: int, samples: range) -> dict[str, Any]:
        """Draw scenes, references, noise, times and dropped cameras; encode without gradients."""
        seed, options = self.config.seed, self.options
        references = draw_reference_count(seed, step, options.reference_weights)
        indices = batch_indices(seed, step, self.config.batch_size, len(self.source))
        size_wh = self.source.draw_size(derived_seed(seed, step, "size"))
        scenes = self.source.batch([indices[i] for i in samples], size_wh, self.device)
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
        uniform = uniform_per_sample(generators)
        shift = self._time_shift(latents)
        batch["t"] = shift_times(LAST_TIME * uniform, shift).to(self.device)
        batch["noise"] = normal_per_sample(tuple(latents.shape[1:]), generators).to(self.device)
        drop = uniform_per_sample(generators) < options.camera_drop
        batch["conditions"] = unconditional(batch["conditions"], scenes=drop)
        if self.source_codec is not None:
            source = batch["conditions"].source
            sigma = options.source_noise_tau * abs(
                float(
                    torch.randn(
                        (), generator=torch.Generator().manual_seed(derived_seed(seed, step, "tau"))
                    )
                )
            )
            noise = normal_per_sample(tuple(source.shape[1:]), generators).to(self.device)
            batch["conditions"].source.copy_((source + sigma * noise) / (1 + sigma**2) ** 0.5)
        return batch

    def _time_shift(self, latents: Tensor) -> float:
        planned = self.bundle.plan.denoisers[self.name].time_shift
        if planned is not None:
            return planned
        _, views, channels, rows, columns = latents.shape
        return latent_time_shift(channels, rows, columns, views)

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
        image_hw = (scenes["images"].shape[-2], scenes["images"].shape[-1])
        camera_map, viewmats, _ = camera_conditions(
            scenes["T_world_cam"],
            scenes["K_px"],
            image_hw,
            references,
            ray_grid=self.bundle.plan.ray_grid,
            pose_scale=self.bundle.plan.pose_scale,
        )
        return DenoiserConditions(
            condition, references, camera_map, viewmats, scenes["K_px"], image_hw, source
        )

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the flow-matching loss, and its reference and target parts."""
        latents, noise, t = batch["latents"], batch["noise"], batch["t"]
        noisy = add_noise(latents, noise, t)
        output = self.denoiser(noisy, t, batch["conditions"])
        if self.denoiser.config.prediction == "clean":
            weight = t.clamp_min(MIN_LOSS_TIME).square().reciprocal()
            error = (output - latents).square() * weight.view(-1, 1, 1, 1, 1)
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
        count = min(self.options.validation_scenes, len(self.held_out)) // 8 * 8
        if count == 0:
            return {}
        size_wh = self.held_out.draw_size(0)
        for first in range(0, count, 8):
            scenes = self.held_out.batch(list(range(first, first + 8)), size_wh, self.device)
            views = scenes["images"].shape[1]
            chosen = evenly_spaced(views, references)
            order = chosen + [v for v in range(views) if v not in chosen]
            scenes = reorder_views(scenes, torch.tensor([order] * 8))
            batch = self._encode(scenes, references)
            noise = normal_per_sample(
                tuple(batch["latents"].shape[1:]),
                sample_generators(0, first, range(8), "validation"),
            ).to(self.device)
            for name, T_world_cam in (
                ("", scenes["T_world_cam"]),
                ("_shuffled", with_other_motion(scenes["T_world_cam"], references)),
            ):
                conditions = self._conditions(
                    scenes | {"T_world_cam": T_world_cam},
                    batch["conditions"].reference_latent,
                    references,
                    batch["conditions"].source,
                )
                figures = self._one_step(scenes, batch["latents"], noise, conditions, references)
                for key, value in figures.items():
                    sums[key + name] = sums.get(key + name, 0.0) + value * 8 / count
        return sums

    def _one_step(
        self,
        scenes: dict[str, Any],
        latents: Tensor,
        noise: Tensor,
        conditions: DenoiserConditions,
        references: int,
    ) -> dict[str, float]:
        t = torch.ones(len(latents), device=self.device)
        output = self.denoiser(noise, t, conditions)
        clean = output if self.denoiser.config.prediction == "clean" else noise - output
        figures = {
            "latent_error": float((clean - latents)[:, references:].square().mean()),
        }
        if getattr(self.codec, "rgb_decoder", None) is not None:
            pictures = self.codec.decode(clean, scenes["images"], references).clamp(0, 1)
            error = (pictures - scenes["images"])[:, references:].square().mean((2, 3, 4))
            figures["psnr"] = float((-10 * error.log10()).mean())
        return figures

    def export(self, folder: Path) -> None:
        """Write the denoiser into bundle `folder`."""
        self.bundle.write(folder, {self.name: self.denoiser})


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
