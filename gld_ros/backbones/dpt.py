"""Convolutional parts shared by the dense prediction (DPT) heads of the geometry backbones.

Owns the pyramid made of four token levels, the fusion from its coarse end to its fine end and the
coordinate embedding. How many fusion chains there are and what they predict is each head's
business. Attribute names are those of the published checkpoints.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gld_ros.backbones.interface import NUM_LEVELS

COORDINATE_STRENGTH = 0.1


class ResidualConvUnit(nn.Module):
    """skip(x) + conv(relu(conv(relu(x)))), where skip(x) is x, or relu(x) if `rectified_skip`."""

    def __init__(self, features: int, *, rectified_skip: bool = False) -> None:
        super().__init__()
        self.rectified_skip = rectified_skip
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Refine a map (M, F, h, w)."""
        rectified = F.relu(x)
        skip = rectified if self.rectified_skip else x
        return skip + self.conv2(F.relu(self.conv1(rectified)))


class FusionBlock(nn.Module):
    """Merge a coarse map with a finer lateral one and bring the result to a target size."""

    def __init__(self, features: int, *, lateral: bool, rectified_skip: bool = False) -> None:
        super().__init__()
        if lateral:
            self.resConfUnit1 = ResidualConvUnit(features, rectified_skip=rectified_skip)
        self.resConfUnit2 = ResidualConvUnit(features, rectified_skip=rectified_skip)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, top: Tensor, lateral: Tensor | None, size_hw: tuple[int, int]) -> Tensor:
        """Fuse top and lateral (M, F, h, w), which have one size; returns (M, F, *size_hw)."""
        if lateral is not None:
            top = top + self.resConfUnit1(lateral)
        top = self.resConfUnit2(top)
        # A 1x1 convolution commutes with interpolation; before it, it costs a quarter.
        return resize(self.out_conv(top), size_hw)


class PyramidHead(nn.Module):
    """Base of the heads: token levels -> maps of 4, 2, 1 and 1/2 times the patch grid -> one map.

    A subclass adds `scratch` with layers `layer{1..4}_rn` and `refinenet{1..4}` (`FusionBlock`).
    """

    scratch: nn.Module

    def __init__(self, channels: int, out_channels: Sequence[int], patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
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

    def grid_of(self, levels: Sequence[Tensor], image_hw: tuple[int, int]) -> tuple[int, int]:
        """Patch grid of an image; ValueError unless there are four levels (B, V, N, C) of it."""
        if len(levels) != NUM_LEVELS:
            raise ValueError(f"the head reads {NUM_LEVELS} levels, got {len(levels)}")
        grid_hw = image_hw[0] // self.patch_size, image_hw[1] // self.patch_size
        num_patches = levels[0].shape[2]
        if num_patches != grid_hw[0] * grid_hw[1]:
            raise ValueError(
                f"{num_patches} patches per view do not make an image of {image_hw[0]}x"
                f"{image_hw[1]} pixels, which has {grid_hw[0]}x{grid_hw[1]} patches"
            )
        return grid_hw

    def pyramid(
        self, levels: Sequence[Tensor], grid_hw: tuple[int, int], aspect: float
    ) -> list[Tensor]:
        """Maps (M, F, h_i, w_i), fine to coarse, from levels (M, N, C); aspect is width/height."""
        maps = []
        for stage, tokens in enumerate(levels):
            x = self.norm(tokens).unflatten(1, grid_hw).permute(0, 3, 1, 2)
            x = add_coordinates(self.projects[stage](x), aspect)
            x = self.resize_layers[stage](x)
            maps.append(self.scratch.get_submodule(f"layer{stage + 1}_rn")(x))
        return maps

    def fuse(self, pyramid: Sequence[Tensor], fine_hw: tuple[int, int], suffix: str = "") -> Tensor:
        """Run one chain from the coarsest map up; the last fusion brings it to size fine_hw."""
        x = pyramid[-1]
        for stage in range(NUM_LEVELS, 0, -1):
            fusion = self.scratch.get_submodule(f"refinenet{stage}{suffix}")
            lateral = None if stage == NUM_LEVELS else pyramid[stage - 1]
            size_hw = fine_hw if stage == 1 else tuple(pyramid[stage - 2].shape[-2:])
            x = fusion(x, lateral, size_hw)
        return x


def init_convolutions(module: nn.Module) -> None:
    """Draw the weights of every convolution so that it keeps the variance of its input.

    The framework's default shrinks it to a third per layer. In a head as deep as these, a model
    that starts so sees coordinates alone and sends no gradient back to the backbone.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            taps = layer.kernel_size[0] * layer.kernel_size[1]
            if isinstance(layer, nn.ConvTranspose2d):
                taps //= layer.stride[0] * layer.stride[1]  # of them reach one output pixel
            nn.init.normal_(layer.weight, std=(layer.in_channels * taps) ** -0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def resize(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Bilinear interpolation that keeps the corner pixels in place."""
    if tuple(x.shape[-2:]) == tuple(size_hw):
        return x
    return F.interpolate(x, size_hw, mode="bilinear", align_corners=True)


def add_coordinates(x: Tensor, aspect: float) -> Tensor:
    """Add to maps (M, K, h, w) the coordinates of an image with this width/height ratio."""
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
