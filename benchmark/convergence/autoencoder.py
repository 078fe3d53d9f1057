"""The convolutional autoencoder that GLD's feature space is compared with.

Every view is encoded by itself, as latent diffusion of images does; the diffusion transformer on
top is GLD's own. `save_autoencoder` writes a folder that `AutoencoderCodec` reads.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from gld_ros.training.config import ConfigError
from gld_ros.weights.atomic_folder import new_folder
from gld_ros.weights.config_json import config_from_json
from gld_ros.weights.errors import BundleError
from gld_ros.weights.tensor_file import PlannedTensor, write_tensor_file

CONFIG_FILE = "autoencoder.json"
WEIGHTS_FILE = "autoencoder.safetensors"


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes: pixels per latent cell, latent channels, and width and blocks of both halves.

    `latent_patch` cells a side make one token of the transformer.
    """

    downscale: int = 7
    channels: int = 8
    encoder_width: int = 96
    encoder_blocks: int = 3
    decoder_width: int = 128
    decoder_blocks: int = 5
    latent_patch: int = 2

    @property
    def token_channels(self) -> int:
        """Channels that the transformer sees per token."""
        return self.channels * self.latent_patch**2

    @property
    def token_pixels(self) -> int:
        """Side of one token in pixels."""
        return self.downscale * self.latent_patch


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group normalisation, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        groups = next(g for g in range(min(16, width), 0, -1) if width % g == 0)
        self.body = nn.Sequential(
            nn.GroupNorm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to the same."""
        return x + self.body(x)


class Autoencoder(nn.Module):
    """Images (N, 3, H, W) in [0, 1] to latents (N, channels, H/downscale, W/downscale)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        pixels = 3 * config.downscale**2
        self.encoder = nn.Sequential(
            nn.Conv2d(pixels, config.encoder_width, 3, padding=1),
            *(ResidualBlock(config.encoder_width) for _ in range(config.encoder_blocks)),
            nn.SiLU(),
            nn.Conv2d(config.encoder_width, 2 * config.channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.channels, config.decoder_width, 3, padding=1),
            *(ResidualBlock(config.decoder_width) for _ in range(config.decoder_blocks)),
            nn.SiLU(),
            nn.Conv2d(config.decoder_width, pixels, 3, padding=1),
        )

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the posterior."""
        folded = F.pixel_unshuffle(images * 2 - 1, self.config.downscale)
        mean, log_variance = self.encoder(folded).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images, nominally in [0, 1], not clamped."""
        return (F.pixel_shuffle(self.decoder(latents), self.config.downscale) + 1) / 2


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the mean divergence of N(mean, exp(log_variance)) from N(0, 1), per number."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


class AutoencoderCodec:
    """Latents of a trained autoencoder, normalised per channel and packed into tokens."""

    can_decode = True

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.autoencoder, mean, std = load_autoencoder(folder)
        self.autoencoder.to(device).eval().requires_grad_(False)
        self.mean = mean.to(device).view(-1, 1, 1)
        self.std = std.to(device).view(-1, 1, 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return (B, V, token channels, h, w); each view by itself."""
        latents, _ = self.autoencoder.moments(images.flatten(0, 1))
        normalised = (latents.float() - self.mean) / self.std
        packed = F.pixel_unshuffle(normalised, self.autoencoder.config.latent_patch)
        return packed.unflatten(0, images.shape[:2])

    @torch.no_grad()
    def decode(self, latents: Tensor, images: Tensor, source: Tensor | None = None) -> Tensor:
        """Return images (B, V, 3, H, W); nothing but the latents is read."""
        unpacked = F.pixel_shuffle(latents.flatten(0, 1), self.autoencoder.config.latent_patch)
        decoded = self.autoencoder.decode(unpacked * self.std + self.mean)
        return decoded.unflatten(0, latents.shape[:2])


def save_autoencoder(
    folder: Path, config: AutoencoderConfig, state: dict[str, Tensor], mean: Tensor, std: Tensor
) -> None:
    """Write weights, sizes and latent statistics; the folder appears complete or not at all."""
    with new_folder(folder, overwrite=True) as partial:
        tensors = {**state, "latent.mean": mean, "latent.std": std}
        planned = [PlannedTensor.of(name, value) for name, value in tensors.items()]
        write_tensor_file(partial / WEIGHTS_FILE, planned)
        (partial / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=1) + "\n")


def load_autoencoder(folder: Path) -> tuple[Autoencoder, Tensor, Tensor]:
    """Network, latent mean and deviation written by `save_autoencoder`; raises ConfigError."""
    try:
        path = folder / CONFIG_FILE
        config = config_from_json(AutoencoderConfig, json.loads(path.read_text()), str(path))
        autoencoder = Autoencoder(config)
        state = load_file(folder / WEIGHTS_FILE)
        mean, std = state.pop("latent.mean"), state.pop("latent.std")
        autoencoder.load_state_dict(state)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder} holds no autoencoder ({error.filename}); train it first with\n"
            "`python benchmark/convergence/train.py autoencoder`"
        ) from error
    except (ValueError, KeyError, RuntimeError, BundleError) as error:
        raise ConfigError(f"{folder} is no usable autoencoder: {error}") from error
    return autoencoder, mean, std
