"""Stage `autoencoder`: the baseline's autoencoder, trained with the decoder's image losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from autoencoder import Autoencoder, AutoencoderConfig, kl_divergence, save_autoencoder
from torch import Tensor, nn

from gld_ros.training.config import ConfigError, RunConfig
from gld_ros.training.data import ScenePool
from gld_ros.training.loop import Stage
from gld_ros.training.losses import ImageLossWeights, image_losses, weighted_image_loss
from gld_ros.training.randomness import normal_per_sample, sample_generators


@dataclass(frozen=True)
class AutoencoderOptions:
    """Sizes and loss weights; `statistics_batches` batches measure the trained latents."""

    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    l1_weight: float = 1.0
    ssim_weight: float = 0.3
    gradient_weight: float = 0.5
    kl_weight: float = 1e-6
    statistics_batches: int = 16
    validation_scenes: int = 32


class AutoencoderStage(Stage):
    """Trains the autoencoder on single images."""

    def __init__(
        self,
        config: RunConfig,
        options: AutoencoderOptions,
        source: ScenePool,
        held_out: ScenePool | None,
        device: torch.device,
    ) -> None:
        super().__init__()
        side = options.model.token_pixels
        for size in config.data.sizes_wh:
            if size[0] % side or size[1] % side:
                raise ConfigError(
                    f"data.sizes_wh has {list(size)}; one token of this autoencoder is {side} "
                    "pixels wide, so both sides must be multiples of that"
                )
        self.config, self.options = config, options
        self.source, self.held_out, self.device = source, held_out, device
        self.autoencoder = Autoencoder(options.model).to(device)
        self.weights = ImageLossWeights(
            options.l1_weight, options.ssim_weight, options.gradient_weight
        )

    def batch(self, step: int, samples: range) -> dict[str, Any]:
        """Draw scenes and the noise of their latents."""
        scenes = self.source.training_batch(
            self.config.seed, step, self.config.batch_size, samples, self.device
        )
        images = scenes["images"]
        cells = [side // self.options.model.downscale for side in images.shape[-2:]]
        shape = (images.shape[1], self.options.model.channels, *cells)
        generators = sample_generators(self.config.seed, step, samples, "autoencoder")
        noise = normal_per_sample(shape, generators).to(self.device)
        return {"images": images.flatten(0, 1), "noise": noise.flatten(0, 1)}

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the image losses and the divergence from the unit normal."""
        images, options = batch["images"], self.options
        mean, log_variance = self.autoencoder.moments(images)
        latents = mean + (0.5 * log_variance).exp() * batch["noise"]
        losses = image_losses(self.autoencoder.decode(latents).float(), images)
        losses["kl"] = kl_divergence(mean.float(), log_variance.float())
        losses["loss"] = (
            weighted_image_loss(losses, self.weights) + options.kl_weight * losses["kl"]
        )
        return losses

    def validate(self) -> dict[str, float]:
        """Return the reconstruction PSNR on held-out scenes."""
        if self.held_out is None:
            return {}
        total = 0.0
        count = min(self.options.validation_scenes, len(self.held_out))
        for first in range(0, count, 8):
            indices = range(first, min(first + 8, count))
            images = self.held_out.held_out_batch(indices, self.device)["images"].flatten(0, 1)
            decoded = self.autoencoder.decode(self.autoencoder.moments(images)[0]).clamp(0, 1)
            error = (decoded - images).square().mean((1, 2, 3))
            total += float((-10 * error.log10()).mean()) * len(indices) / count
        return {"psnr": total}

    def trained_modules(self) -> dict[str, nn.Module]:
        """Return the autoencoder."""
        return {"autoencoder": self.autoencoder}

    @torch.no_grad()
    def export(self, folder: Path, tensors: dict[str, dict[str, Tensor]]) -> None:
        """Write the autoencoder with mean and deviation of its latents on training scenes."""
        averaged = Autoencoder(self.options.model).to(self.device).eval()
        averaged.load_state_dict(tensors["autoencoder"])
        size = self.config.batch_size
        latents = []
        for step in range(self.options.statistics_batches):
            scenes = self.source.training_batch(
                self.config.seed, step, size, range(size), self.device
            )
            mean = averaged.moments(scenes["images"].flatten(0, 1))[0]
            latents.append(mean.transpose(0, 1).flatten(1).double())
        together = torch.cat(latents, dim=1)
        save_autoencoder(
            folder,
            self.options.model,
            tensors["autoencoder"],
            together.mean(1).float(),
            together.std(1).clamp_min(1e-6).float(),
        )

    def data_counters(self) -> dict[str, float]:
        """Return how many samples the data could not give."""
        return {name: float(count) for name, count in self.source.skipped.items()}
