"""Stage `decoder`: features to RGB, with level dropout, and the geometry head for missing levels.

Decoders must work from what diffusion gives them: without a cascade that is level 1 (with some
noise), what the backbone propagates from it, and zeros for level 0. A share of the batches is
therefore exactly that; the rest are true features with random levels dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gld_ros.training.bundle_parts import WorkingBundle
from gld_ros.training.config import RunConfig
from gld_ros.training.data import SceneSource
from gld_ros.training.geometry_targets import geometry_losses, median_scaled_abs_rel
from gld_ros.training.latent_codec import FeatureCodec, decoder_inputs_from_level1
from gld_ros.training.loop import Stage
from gld_ros.training.losses import gradient_difference, structural_dissimilarity
from gld_ros.training.randomness import (
    batch_indices,
    derived_seed,
    generator_for,
    normal_per_sample,
    sample_generators,
)


@dataclass(frozen=True)
class DecoderOptions:
    """Loss weights, level dropout and the noise that prepares for imperfect latents.

    `propagated_probability` is the share of batches decoded from (noisy) level 1 alone;
    `noise_tau` the spread of its noise level |N(0, tau^2)|; `level_dropout` the probability of
    dropping each level in the other batches (never all four).
    """

    l1_weight: float = 1.0
    ssim_weight: float = 0.3
    gradient_weight: float = 0.5
    propagated_probability: float = 0.6
    level_dropout: float = 0.15
    noise_tau: float = 0.2
    geometry_weight: float = 0.0
    validation_scenes: int = 32


class DecoderStage(Stage):
    """Trains the RGB decoder and, with `geometry_weight` above 0, the dense geometry head."""

    def __init__(
        self,
        config: RunConfig,
        options: DecoderOptions,
        bundle: WorkingBundle,
        source: SceneSource,
        held_out: SceneSource,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.config, self.options, self.bundle = config, options, bundle
        self.source, self.held_out, self.device = source, held_out, device
        self.codec = FeatureCodec(bundle, device)
        self.decoder = bundle.trainable("rgb_decoder", device)
        self.backbone: nn.Module = self.codec.backbone  # type: ignore[assignment]
        if options.geometry_weight > 0:
            self.backbone.head.requires_grad_(True)

    def batch(self, step: int, samples: range) -> dict[str, Any]:
        """Draw scenes, and how their features reach the decoder."""
        seed, options = self.config.seed, self.options
        indices = batch_indices(seed, step, self.config.batch_size, len(self.source))
        size_wh = self.source.draw_size(derived_seed(seed, step, "size"))
        batch = self.source.batch([indices[i] for i in samples], size_wh, self.device)
        generator = generator_for(seed, step, "decoder mode")
        order = torch.randperm(batch["images"].shape[1], generator=generator)
        for name in ("images", "depth_m", "K_px", "T_world_cam"):
            batch[name] = batch[name][:, order]
        propagated = bool(torch.rand((), generator=generator) < options.propagated_probability)
        generators = sample_generators(seed, step, samples, "decoder")
        with torch.no_grad():
            batch["inputs"] = (
                self._propagated(batch["images"], generators)
                if propagated
                else self._with_dropout(batch["images"], generators)
            )
        return batch

    def _propagated(self, images: Tensor, generators: list[torch.Generator]) -> list[Tensor]:
        latents = self.codec.encode(images)
        sigma = (
            normal_per_sample((1, 1, 1, 1), generators).abs().to(latents) * self.options.noise_tau
        )
        noise = normal_per_sample(tuple(latents.shape[1:]), generators).to(latents)
        return decoder_inputs_from_level1(
            self.codec.backbone, self.codec.statistics, latents + sigma * noise, images[:, :1]
        )

    def _with_dropout(self, images: Tensor, generators: list[torch.Generator]) -> list[Tensor]:
        levels = self.codec.backbone.encode_levels(images, range(4))
        drawn = torch.stack([torch.rand(4, generator=g) for g in generators])
        keep = drawn >= self.options.level_dropout
        keep[:, 1] |= ~keep.any(dim=1)
        weights = keep.float().to(images.device)
        return [
            self.codec.backbone.decoder_input(levels[i]) * weights[:, i].view(-1, 1, 1, 1)
            for i in range(4)
        ]

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the picture losses and, when wanted, the geometry losses."""
        options, images, inputs = self.options, batch["images"], batch["inputs"]
        pictures = images.flatten(0, 1)
        decoded = self._decode(inputs, images)
        losses = {
            "l1": (decoded - pictures).abs().mean(),
            "ssim": structural_dissimilarity(decoded.float(), pictures),
            "gradient": gradient_difference(decoded, pictures),
        }
        losses["loss"] = (
            options.l1_weight * losses["l1"]
            + options.ssim_weight * losses["ssim"]
            + options.gradient_weight * losses["gradient"]
        )
        if options.geometry_weight > 0:
            geometry = self.codec.backbone.decode_geometry(inputs, images.shape[-2:])
            terms = geometry_losses(geometry, batch["depth_m"], batch["K_px"], batch["T_world_cam"])
            total = terms["depth"] + terms["ray"] + terms["points"] + 0.5 * terms["gradient"]
            losses |= {f"geometry_{name}": value for name, value in terms.items()}
            losses["loss"] = losses["loss"] + options.geometry_weight * total
        return losses

    def _decode(self, inputs: list[Tensor], images: Tensor) -> Tensor:
        patch = self.codec.backbone.patch_size
        grid_hw = (images.shape[-2] // patch, images.shape[-1] // patch)
        decoded: Tensor = self.decoder(torch.cat(inputs, -1).flatten(0, 1), grid_hw)
        return decoded

    def validate(self) -> dict[str, float]:
        """Return PSNR and depth error on held-out rooms: all true levels, and level 1 alone."""
        sums: dict[str, float] = {}
        count = min(self.options.validation_scenes, len(self.held_out))
        size_wh = self.held_out.draw_size(0)
        for first in range(0, count, 8):
            indices = list(range(first, min(first + 8, count)))
            batch = self.held_out.batch(indices, size_wh, self.device)
            images = batch["images"]
            levels = self.codec.backbone.encode_levels(images, range(4))
            true = [self.codec.backbone.decoder_input(levels[i]) for i in range(4)]
            latents = self.codec.encode(images)
            propagated = decoder_inputs_from_level1(
                self.codec.backbone, self.codec.statistics, latents, images[:, :1]
            )
            for name, inputs in (("all_levels", true), ("level1_propagated", propagated)):
                decoded = self._decode(inputs, images).clamp(0, 1)
                error = (decoded - images.flatten(0, 1)).square().mean((1, 2, 3))
                geometry = self.codec.backbone.decode_geometry(inputs, images.shape[-2:])
                share = len(indices) / count
                figures = {
                    f"psnr_{name}": float((-10 * error.log10()).mean()),
                    f"abs_rel_{name}": median_scaled_abs_rel(geometry.depth, batch["depth_m"]),
                }
                for key, value in figures.items():
                    sums[key] = sums.get(key, 0.0) + value * share
        return sums

    def export(self, folder: Path) -> None:
        """Write the RGB decoder, and the backbone with its fine-tuned head, into the bundle."""
        modules: dict[str, nn.Module] = {"rgb_decoder": self.decoder}
        if self.options.geometry_weight > 0:
            modules["backbone"] = self.backbone
        self.bundle.write(folder, modules)
