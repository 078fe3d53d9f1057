"""Pictures to the latents that diffusion learns, and back: one interface, two codecs.

`FeatureCodec` is GLD's: normalised level-1 features of the frozen geometry backbone.
The VAE baseline's codec lives with its stage.
"""

from __future__ import annotations

from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from gld_ros.backbones.interface import GeometryBackbone, LevelTokens
from gld_ros.training.bundle_parts import WorkingBundle
from gld_ros.weights.statistics import LevelStatistics


class LatentCodec(Protocol):
    """Maps posed pictures (B, V, 3, H, W) in [0, 1] to latents (B, V, C, h, w) and back."""

    channels: int

    def encode(self, images: Tensor) -> Tensor:
        """Encode the given views jointly."""
        ...

    def decode(self, latents: Tensor, images: Tensor, references: int) -> Tensor:
        """Return pictures (B, V, 3, H, W); only the `references` first `images` are read."""
        ...


class FeatureCodec:
    """Features of one level of a frozen geometry backbone, normalised per channel.

    `decode` propagates level 1 to levels 2 and 3 and needs the RGB decoder; level 0 is zero, as in
    a bundle without a cascade.
    """

    def __init__(self, bundle: WorkingBundle, device: torch.device, level: int = 1) -> None:
        self.backbone: GeometryBackbone = bundle.frozen("backbone", device)  # type: ignore[assignment]
        self.level = level
        self.statistics = bundle.statistics(level)
        self.rgb_decoder: nn.Module | None = None
        if bundle.present is not None and bundle.present.has("rgb_decoder"):
            self.rgb_decoder = bundle.frozen("rgb_decoder", device)
        self.channels = self.backbone.channels

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return normalised features (B, V, C, h, w) of views encoded together."""
        patch = self.backbone.patch_size
        rows = images.shape[-2] // patch
        patches = self.backbone.encode_levels(images, [self.level])[self.level].patches
        normalised = self.statistics.normalise(patches, channel_dim=-1)
        return rearrange(normalised, "b v (h w) c -> b v c h w", h=rows)

    @torch.no_grad()
    def decode(self, latents: Tensor, images: Tensor, references: int) -> Tensor:
        """Return pictures; the class token comes from the first reference encoded alone."""
        if self.rgb_decoder is None:
            raise ValueError("this bundle has no RGB decoder yet")
        inputs = decoder_inputs_from_level1(self.backbone, self.statistics, latents, images[:, :1])
        grid_hw = (latents.shape[-2], latents.shape[-1])
        tokens = torch.cat(inputs, -1).flatten(0, 1)
        pictures: Tensor = self.rgb_decoder(tokens, grid_hw)
        return pictures.unflatten(0, latents.shape[:2])


def decoder_inputs_from_level1(
    backbone: GeometryBackbone,
    statistics: LevelStatistics,
    latents: Tensor,
    first_reference: Tensor,
) -> list[Tensor]:
    """Return the decoders' four inputs (B, V, N, C) from normalised level-1 latents.

    Level 0 is zero, as in a bundle without a cascade.

    `first_reference` (B, 1, 3, H, W) gives, encoded alone, the class token for every view.
    """
    grid_hw = (latents.shape[-2], latents.shape[-1])
    patches = statistics.denormalise(rearrange(latents, "b v c h w -> b v (h w) c"), channel_dim=-1)
    special = backbone.encode_levels(first_reference, [1])[1].special
    tokens = LevelTokens(patches, special.expand(-1, patches.shape[1], -1, -1))
    later = backbone.propagate(tokens, 1, grid_hw)
    inputs = [backbone.decoder_input(later[level]) for level in (1, 2, 3)]
    return [torch.zeros_like(inputs[0]), *inputs]
