"""Images to the latents that diffusion learns, and back.

`FeatureCodec` is GLD's: normalised features of the frozen geometry backbone. The convergence
benchmark brings another `LatentCodec`, a convolutional autoencoder.
"""

from typing import Protocol

import torch
from torch import Tensor

from gld_ros.decoders.rgb import RgbDecoder
from gld_ros.novel_view_stages import (
    decode_rgb,
    decoder_inputs,
    feature_encoder,
    level_tokens,
)
from gld_ros.training.bundle_parts import WorkingBundle


class LatentCodec(Protocol):
    """Maps images (B, V, 3, H, W) in [0, 1] to latents (B, V, C, ...) and back."""

    @property
    def can_decode(self) -> bool:
        """Whether `decode` works."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Encode the given views jointly."""
        ...

    def decode(self, latents: Tensor, images: Tensor, source: Tensor | None = None) -> Tensor:
        """Return images (B, V, 3, H, W); of `images` only the first reference is read."""
        ...


class FeatureCodec:
    """Features of one level of a frozen geometry backbone, normalised per channel.

    Latents are maps (B, V, C, h, w), or packed with special tokens where the backbone's are
    diffused. `decode` propagates the boundary level to the later ones and needs the RGB decoder.
    For a cascade (level 0 above boundary 1) it takes the boundary level from `source`; without
    one, levels below the boundary are zero, as in a bundle without a cascade.
    """

    def __init__(self, bundle: WorkingBundle, device: torch.device, level: int) -> None:
        self.backbone = bundle.frozen_backbone(device)
        self.level, self.boundary_level = level, bundle.plan.boundary_level
        self.statistics = {
            wanted: bundle.statistics(wanted) for wanted in {level, self.boundary_level}
        }
        self.rgb_decoder: RgbDecoder | None = None
        if bundle.present is not None and bundle.present.has("rgb_decoder"):
            self.rgb_decoder = bundle.frozen("rgb_decoder", device)  # type: ignore[assignment]

    @property
    def can_decode(self) -> bool:
        """Whether the bundle has an RGB decoder."""
        return self.rgb_decoder is not None

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return normalised features of views encoded together."""
        return feature_encoder(self.backbone, self.statistics[self.level], self.level)(images)

    @torch.no_grad()
    def decode(self, latents: Tensor, images: Tensor, source: Tensor | None = None) -> Tensor:
        """Return images, not clamped; raises ValueError without an RGB decoder."""
        if self.rgb_decoder is None:
            raise ValueError("this bundle has no RGB decoder yet")
        by_level = {self.level: latents}
        if source is not None:
            by_level[self.boundary_level] = source
        inputs = self.decoder_inputs(by_level, images)
        image_hw = (images.shape[-2], images.shape[-1])
        return decode_rgb(self.rgb_decoder, inputs, image_hw)

    @torch.no_grad()
    def decoder_inputs(self, latents: dict[int, Tensor], images: Tensor) -> list[Tensor]:
        """Return the decoders' four inputs (B, V, N, C) from normalised latents by level.

        The special tokens of later levels start from the first view encoded alone, unless the
        latents hold them.
        """
        boundary, patch = self.boundary_level, self.backbone.patch_size
        special = None
        if not self.backbone.diffused_special_tokens:
            special = self.backbone.encode_levels(images[:, :1], [boundary])[boundary].special
        grid_hw = (images.shape[-2] // patch, images.shape[-1] // patch)
        tokens = level_tokens(self.backbone, self.statistics, latents, special, boundary, grid_hw)
        return decoder_inputs(self.backbone, tokens)
