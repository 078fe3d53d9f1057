"""The dual DPT head: four levels of decoder inputs -> depth, ray map and their confidences.

Owns the convolutional decoder and its coordinate embedding. Turning rays into cameras is
`ray_cameras.py` (DA3's routine) or `gld_ros.geometry.rays` (GLD's). Parameter names are those of
the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gld_ros.backbones.da3.config import NUM_LEVELS
from gld_ros.backbones.interface import Geometry

# Views are independent here; decoding a few at a time bounds the memory of the large maps.
VIEWS_PER_SLICE = 8
COORDINATE_STRENGTH = 0.1
HIDDEN_FEATURES = 32
RAY_CHANNELS = 6


class ResidualConvUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Refine a map (M, F, h, w)."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class FusionBlock(nn.Module):
    """Merge a coarse map with a finer lateral one and bring the result to a target size."""

    def __init__(self, features: int, *, lateral: bool) -> None:
        super().__init__()
        if lateral:
            self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, top: Tensor, lateral: Tensor | None, size_hw: tuple[int, int]) -> Tensor:
        """Fuse top and lateral (M, F, h, w), which have one size; returns (M, F, *size_hw)."""
        if lateral is not None:
            top = top + self.resConfUnit1(lateral)
        top = self.resConfUnit2(top)
        # A 1x1 convolution commutes with interpolation; before it, it costs a quarter.
        return resize(self.out_conv(top), size_hw)


class Scratch(nn.Module):
    """The part of the head that was trained from scratch: fusion chains and output layers.

    Of the four ray outputs only the last, at the finest map, is ever used. The others are kept
    because published checkpoints carry them.
    """

    def __init__(self, features: int, in_channels: Sequence[int]) -> None:
        super().__init__()
        for stage, channels in enumerate(in_channels, start=1):
            lateral = stage < NUM_LEVELS
            self.add_module(
                f"layer{stage}_rn", nn.Conv2d(channels, features, 3, padding=1, bias=False)
            )
            self.add_module(f"refinenet{stage}", FusionBlock(features, lateral=lateral))
            self.add_module(f"refinenet{stage}_aux", FusionBlock(features, lateral=lateral))
        half = features // 2
        self.output_conv1 = nn.Conv2d(features, half, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(half, HIDDEN_FEATURES, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(HIDDEN_FEATURES, 2, 1),
        )
        self.output_conv1_aux = nn.ModuleList(_ray_neck(features) for _ in range(NUM_LEVELS))
        self.output_conv2_aux = nn.ModuleList(_ray_output(half) for _ in range(NUM_LEVELS))


class DualDptHead(nn.Module):
    """Dense prediction with a shared pyramid, one fusion chain for depth and one for rays."""

    runs_in_float32 = True  # read by gld_ros.weights

    def __init__(
        self,
        channels: int,
        features: int,
        out_channels: Sequence[int],
        *,
        patch_size: int = 14,
        output_scale: int = 1,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.output_scale = output_scale
        self.norm = nn.LayerNorm(channels, eps=1e-5)
        self.projects = nn.ModuleList(nn.Conv2d(channels, c, 1) for c in out_channels)
        c0, c1, _, c3 = out_channels
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(c0, c0, kernel_size=4, stride=4),
                nn.ConvTranspose2d(c1, c1, kernel_size=2, stride=2),
                nn.Identity(),
                nn.Conv2d(c3, c3, kernel_size=3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(features, out_channels)

    def forward(self, decoder_levels: Sequence[Tensor], image_hw: tuple[int, int]) -> Geometry:
        """Decode four (B, V, N, C) decoder inputs of images of size image_hw, in float32.

        With output_scale 1 rays are 8/14 of the image's size, with output_scale 2 they are 4/14.
        """
        if len(decoder_levels) != NUM_LEVELS:
            raise ValueError(f"the head reads {NUM_LEVELS} levels, got {len(decoder_levels)}")
        grid_hw = image_hw[0] // self.patch_size, image_hw[1] // self.patch_size
        num_scenes, num_views, num_patches, _ = decoder_levels[0].shape
        if num_patches != grid_hw[0] * grid_hw[1]:
            raise ValueError(
                f"{num_patches} patches per view do not make an image of {image_hw[0]}x"
                f"{image_hw[1]} pixels, which has {grid_hw[0]}x{grid_hw[1]} patches"
            )
        folded = [level.flatten(0, 1) for level in decoder_levels]
        total = num_scenes * num_views
        # Gradients keep every slice's maps alive, so slicing would save nothing there.
        step = total if torch.is_grad_enabled() else VIEWS_PER_SLICE
        with torch.autocast(folded[0].device.type, enabled=False):
            slices = [
                self._decode([level[i : i + step].float() for level in folded], grid_hw, image_hw)
                for i in range(0, total, step)
            ]
        depth_logits, ray_logits = (
            (maps[0] if len(maps) == 1 else torch.cat(maps)).unflatten(0, (num_scenes, num_views))
            for maps in zip(*slices, strict=True)
        )
        depth, confidence = depth_logits.exp().unbind(2)
        if self.output_scale > 1:
            both = torch.stack([depth, confidence], dim=2).flatten(0, 1)
            both = resize(both, image_hw).unflatten(0, (num_scenes, num_views))
            depth, confidence = both.unbind(2)
        ray_logits = ray_logits.permute(0, 1, 3, 4, 2)
        return Geometry(
            depth=depth,
            depth_confidence=confidence + 1,
            ray=ray_logits[..., :RAY_CHANNELS],
            ray_confidence=ray_logits[..., RAY_CHANNELS].exp() + 1,
        )

    def _decode(
        self, levels: Sequence[Tensor], grid_hw: tuple[int, int], image_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        aspect = image_hw[1] / image_hw[0]
        scratch = self.scratch
        pyramid = []
        for stage, tokens in enumerate(levels):
            x = self.norm(tokens).unflatten(1, grid_hw).permute(0, 3, 1, 2)
            x = add_coordinates(self.projects[stage](x), aspect)
            x = self.resize_layers[stage](x)
            pyramid.append(scratch.get_submodule(f"layer{stage + 1}_rn")(x))

        upsample = 2 // self.output_scale
        fine = upsample * pyramid[0].shape[2], upsample * pyramid[0].shape[3]
        x = scratch.output_conv1(self._fuse(pyramid, "", fine))
        output_hw = image_hw[0] // self.output_scale, image_hw[1] // self.output_scale
        x = add_coordinates(resize(x, output_hw), aspect)
        depth_logits = scratch.output_conv2(x)

        x = scratch.output_conv1_aux[-1](self._fuse(pyramid, "_aux", fine))
        ray_logits = scratch.output_conv2_aux[-1](add_coordinates(x, aspect))
        return depth_logits, ray_logits

    def _fuse(self, pyramid: Sequence[Tensor], suffix: str, fine_hw: tuple[int, int]) -> Tensor:
        """Run one chain from the coarsest map up; the last fusion brings it to size fine_hw."""
        x = pyramid[-1]
        for stage in range(NUM_LEVELS, 0, -1):
            fusion = self.scratch.get_submodule(f"refinenet{stage}{suffix}")
            lateral = None if stage == NUM_LEVELS else pyramid[stage - 1]
            size = fine_hw if stage == 1 else tuple(pyramid[stage - 2].shape[-2:])
            x = fusion(x, lateral, size)
        return x


class ChannelLayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels of a map (M, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def resize(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Bilinear interpolation that keeps the corner pixels in place."""
    if tuple(x.shape[-2:]) == tuple(size_hw):
        return x
    return F.interpolate(x, size_hw, mode="bilinear", align_corners=True)


def add_coordinates(x: Tensor, aspect: float) -> Tensor:
    """Add the embedding of an image with this width/height ratio to maps (M, K, h, w)."""
    return x + coordinate_embedding(x.shape[1], x.shape[2], x.shape[3], aspect, x.device)


@lru_cache(maxsize=32)
def coordinate_embedding(
    channels: int, rows: int, columns: int, aspect: float, device: torch.device
) -> Tensor:
    """Sinusoidal embedding (1, channels, rows, columns) of pixel centres, already weak.

    Coordinates span a rectangle of the image's aspect whose half diagonal is 1. Half of the
    channels encode x, half y, each as sines then cosines with frequencies falling from 1 to 1/100.
    """
    with torch.inference_mode(False):
        diagonal = (aspect**2 + 1) ** 0.5
        span_x, span_y = aspect / diagonal, 1 / diagonal
        quarter = channels // 4
        frequency = 100.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)

        def encode(span: float, count: int) -> Tensor:
            edge = span * (count - 1) / count
            angle = torch.linspace(-edge, edge, count, dtype=torch.float64) * frequency[:, None]
            return torch.cat([angle.sin(), angle.cos()])  # (channels / 2, count)

        along_x = encode(span_x, columns)[:, None, :].expand(-1, rows, -1)
        along_y = encode(span_y, rows)[:, :, None].expand(-1, -1, columns)
        embedding = torch.cat([along_x, along_y])[None] * COORDINATE_STRENGTH
        return embedding.to(device=device, dtype=torch.float32)


def _ray_neck(features: int) -> nn.Sequential:
    half = features // 2
    widths = [features, half, features, half, features, half]
    return nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)))


def _ray_output(features: int) -> nn.Sequential:
    # Position 2 and 5 are where the published checkpoints have the norm and the last layer: there,
    # the norm sits between two permutations.
    return nn.Sequential(
        nn.Conv2d(features, HIDDEN_FEATURES, 3, padding=1),
        nn.Identity(),
        ChannelLayerNorm(HIDDEN_FEATURES, eps=1e-5),
        nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(HIDDEN_FEATURES, RAY_CHANNELS + 1, 1),
    )
