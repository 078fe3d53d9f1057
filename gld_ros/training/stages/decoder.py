"""Stage `decoder`: features to RGB, with level dropout, and the geometry head for missing levels.

Decoders must work from what diffusion gives them: without a cascade that is the boundary level
(with some noise), what the backbone propagates from it, and zeros for level 0. A share of the
batches is therefore exactly that; the rest are true features with random levels dropped.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gld_ros.training.adversary import Adversary, AdversaryOptions
from gld_ros.training.bundle_parts import WorkingBundle
from gld_ros.training.config import ConfigError, RunConfig
from gld_ros.training.data import ScenePool
from gld_ros.training.geometry_targets import (
    geometry_losses,
    median_scaled_abs_rel,
    true_camera_tokens,
    weighted_geometry_loss,
)
from gld_ros.training.latent_codec import FeatureCodec
from gld_ros.training.loop import Stage
from gld_ros.training.losses import (
    ImageLossWeights,
    adaptive_weight,
    image_losses,
    weighted_image_loss,
)
from gld_ros.training.perceptual import open_perceptual
from gld_ros.training.randomness import (
    generator_for,
    normal_per_sample,
    sample_generators,
)


@dataclass(frozen=True)
class DecoderOptions:
    """Loss weights, level dropout and the noise that prepares for imperfect latents.

    `propagated_probability` is the share of batches decoded from the (noisy) boundary level alone;
    `noise_tau` the spread of its noise level |N(0, tau^2)|; `level_dropout` the probability of
    dropping each level in the other batches (never all four). Of these, `posed_probability` is the
    share encoded with known cameras, in scenes with depth: a geometry head that is tuned without
    forgets them. `perceptual` names a pretrained network to compare images in (see
    `perceptual.py`), `adversary` adds a discriminator; both are off by default, as small models
    have neither the weights nor the time for them.
    """

    l1_weight: float = 1.0
    ssim_weight: float = 0.3
    gradient_weight: float = 0.5
    propagated_probability: float = 0.6
    level_dropout: float = 0.15
    noise_tau: float = 0.2
    geometry_weight: float = 0.0
    posed_probability: float = 0.0
    perceptual: str = "none"
    perceptual_weight: float = 1.0
    adversary: AdversaryOptions | None = None
    validation_scenes: int = 32


class DecoderStage(Stage):
    """Trains the RGB decoder and, with `geometry_weight` above 0, the dense geometry head."""

    def __init__(
        self,
        config: RunConfig,
        options: DecoderOptions,
        bundle: WorkingBundle,
        source: ScenePool,
        held_out: ScenePool | None,
        device: torch.device,
    ) -> None:
        super().__init__()
        if bundle.plan.rgb_decoder is None:
            raise ConfigError(
                "the model plan has no rgb_decoder; give one with --model FOLDER (config.json)"
            )
        self.config, self.options, self.bundle = config, options, bundle
        self.source, self.held_out, self.device = source, held_out, device
        self.codec = FeatureCodec(bundle, device, bundle.plan.boundary_level)
        self.decoder = bundle.trainable("rgb_decoder", device)
        self.backbone: nn.Module = self.codec.backbone  # type: ignore[assignment]
        if options.geometry_weight > 0:
            self.codec.backbone.geometry_head.requires_grad_(True)
        self.image_weights = ImageLossWeights(
            options.l1_weight, options.ssim_weight, options.gradient_weight
        )
        self.perceptual = open_perceptual(options.perceptual, device)
        # Kept out of the module tree: it has its own optimiser, and is neither averaged nor left
        # behind.
        self._adversary: list[Adversary] = []
        if options.adversary is not None:
            self._adversary.append(
                Adversary(options.adversary, self.codec.backbone, config.seed, device)
            )

    def batch(self, step: int, samples: range) -> dict[str, Any]:
        """Draw scenes, and how their features reach the decoder."""
        seed, options = self.config.seed, self.options
        scenes = self.source.training_batch(
            seed, step, self.config.batch_size, samples, self.device
        )
        generator = generator_for(seed, step, "decoder mode")
        order = torch.randperm(scenes["images"].shape[1], generator=generator)
        batch: dict[str, Any] = {name: value[:, order] for name, value in scenes.items()}
        propagated = bool(torch.rand((), generator=generator) < options.propagated_probability)
        posed = bool(torch.rand((), generator=generator) < options.posed_probability)
        generators = sample_generators(seed, step, samples, "decoder")
        with torch.no_grad():
            batch["inputs"] = (
                self._propagated(batch["images"], generators)
                if propagated
                else self._with_dropout(batch, posed, generators)
            )
        return {**batch, "step": step}

    def _propagated(self, images: Tensor, generators: list[torch.Generator]) -> list[Tensor]:
        latents = self.codec.encode(images)
        ones = (1,) * (latents.ndim - 1)
        sigma = normal_per_sample(ones, generators).abs().to(latents) * self.options.noise_tau
        noise = normal_per_sample(tuple(latents.shape[1:]), generators).to(latents)
        return self.codec.decoder_inputs({self.codec.level: latents + sigma * noise}, images)

    def _with_dropout(
        self, batch: dict[str, Any], posed: bool, generators: list[torch.Generator]
    ) -> list[Tensor]:
        images = batch["images"]
        tokens = self._camera_tokens(batch) if posed else None
        levels = self.codec.backbone.encode_levels(images, range(4), tokens)
        drawn = torch.stack([torch.rand(4, generator=g) for g in generators])
        keep = drawn >= self.options.level_dropout
        keep[:, 1] |= ~keep.any(dim=1)
        weights = keep.float().to(images.device)
        return [
            self.codec.backbone.decoder_input(levels[i]) * weights[:, i].view(-1, 1, 1, 1)
            for i in range(4)
        ]

    def _camera_tokens(self, batch: dict[str, Any]) -> Tensor | None:
        height, width = batch["images"].shape[-2:]
        return true_camera_tokens(
            self.codec.backbone,
            batch["depth_m"],
            batch["K_px"],
            batch["T_world_cam"],
            (height, width),
        )

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the image losses and, when wanted, perceptual, geometry and adversarial ones."""
        options, inputs = self.options, batch["inputs"]
        images = batch["images"].flatten(0, 1)
        decoded = self._decode(inputs, images).float()
        losses = image_losses(decoded, images)
        total = weighted_image_loss(losses, self.image_weights)
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(decoded, images)
            total = total + options.perceptual_weight * losses["perceptual"]
        for adversary in self._adversary:
            if self.training and adversary.generator_active(batch["step"]):
                fooling = adversary.generator_loss(decoded, batch["step"])
                weight = adaptive_weight(total, fooling, self._last_weight())
                losses |= {"adversarial": fooling, "adversarial_weight": weight}
                total = total + adversary.options.weight * weight * fooling
        if options.geometry_weight > 0:
            geometry = self.codec.backbone.decode_geometry(inputs, images.shape[-2:])
            terms = geometry_losses(geometry, batch["depth_m"], batch["K_px"], batch["T_world_cam"])
            losses |= {f"geometry_{name}": value for name, value in terms.items()}
            total = total + options.geometry_weight * weighted_geometry_loss(
                terms, ray=1.0, points=1.0, gradient=0.5, origin=0.05
            )
        losses["loss"] = total
        return losses

    def _last_weight(self) -> Tensor:
        return self.decoder.get_parameter("decoder_pred.weight")

    def _decode(self, inputs: list[Tensor], images: Tensor) -> Tensor:
        patch = self.codec.backbone.patch_size
        grid_hw = (images.shape[-2] // patch, images.shape[-1] // patch)
        decoded: Tensor = self.decoder(torch.cat(inputs, -1).flatten(0, 1), grid_hw)
        return decoded

    def after_step(self, step: int, batch: dict[str, Any]) -> dict[str, float]:
        """Train the discriminator, if there is one, on images decoded once more."""
        figures: dict[str, float] = {}
        for adversary in self._adversary:
            if adversary.discriminator_active(step):
                self.decoder.eval()
                with torch.no_grad():
                    decoded = self._decode(batch["inputs"], batch["images"]).float()
                figures |= adversary.train_step(batch["images"].flatten(0, 1), decoded, step)
        return figures

    def extra_state(self) -> dict[str, Any]:
        """Return the discriminator's state."""
        return {"adversary": [adversary.state_dict() for adversary in self._adversary]}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the discriminator."""
        for adversary, saved in zip(self._adversary, state.get("adversary", []), strict=False):
            adversary.load_state_dict(saved)

    def validate(self) -> dict[str, float]:
        """Return PSNR and depth error, from all true levels and from the boundary level alone.

        Depth error also with known cameras, where the backbone takes them.
        """
        sums: dict[str, float] = {}
        if self.held_out is None:
            return sums
        count = min(self.options.validation_scenes, len(self.held_out))
        for first in range(0, count, 8):
            indices = list(range(first, min(first + 8, count)))
            batch = self.held_out.held_out_batch(indices, self.device)
            images = batch["images"]
            levels = self.codec.backbone.encode_levels(images, range(4))
            true = [self.codec.backbone.decoder_input(levels[i]) for i in range(4)]
            latents = self.codec.encode(images)
            propagated = self.codec.decoder_inputs({self.codec.level: latents}, images)
            image_hw = (images.shape[-2], images.shape[-1])
            for name, inputs in (("all_levels", true), ("level1_propagated", propagated)):
                decoded = self._decode(inputs, images).clamp(0, 1)
                error = (decoded - images.flatten(0, 1)).square().mean((1, 2, 3))
                figures = {f"psnr_{name}": float((-10 * error.log10()).mean())}
                if self.held_out.has_depth:
                    geometry = self.codec.backbone.decode_geometry(inputs, image_hw)
                    figures[f"abs_rel_{name}"] = median_scaled_abs_rel(
                        geometry.depth, batch["depth_m"]
                    )
                self._add(sums, figures, len(indices) / count)
            tokens = self._camera_tokens(batch) if self.held_out.has_depth else None
            if tokens is not None:
                levels = self.codec.backbone.encode_levels(images, range(4), tokens)
                inputs = [self.codec.backbone.decoder_input(levels[i]) for i in range(4)]
                geometry = self.codec.backbone.decode_geometry(inputs, image_hw)
                posed = median_scaled_abs_rel(geometry.depth, batch["depth_m"])
                self._add(sums, {"abs_rel_posed": posed}, len(indices) / count)
        return sums

    @staticmethod
    def _add(sums: dict[str, float], figures: dict[str, float], share: float) -> None:
        for key, value in figures.items():
            sums[key] = sums.get(key, 0.0) + value * share

    def trained_modules(self) -> dict[str, nn.Module]:
        """Return the RGB decoder, and the backbone when its head was tuned."""
        modules: dict[str, nn.Module] = {"rgb_decoder": self.decoder}
        if self.options.geometry_weight > 0:
            modules["backbone"] = self.backbone
        return modules

    def export(self, folder: Path, tensors: dict[str, dict[str, Tensor]]) -> None:
        """Write a bundle with the trained modules."""
        self.bundle.write(folder, tensors)

    def data_counters(self) -> dict[str, float]:
        """Return how many samples the data could not give."""
        return {name: float(count) for name, count in self.source.skipped.items()}
