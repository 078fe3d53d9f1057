"""What the denoiser is built of: embeddings, PRoPE attention, modulated blocks, the last layer.

Tokens are (B, V, S + N, width): B scenes, V views, S special tokens and N patches per view. Module
names are those of the published weights. Patch embedding of images and SwiGLU are shared with the
backbones (`gld_ros.backbones.blocks`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gld_ros.backbones.blocks import SwiGlu
from gld_ros.diffusion.prope import PropeTables, prope_attention

NORM_EPS = 1e-6


class RmsNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), NORM_EPS).to(x.dtype)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens shifted and scaled by a condition that broadcasts against them; scale 0 keeps them."""
    return torch.addcmul(shift, x, 1 + scale)


class TokenEmbed(nn.Module):
    """Linear embedding of latent tokens, stored as the published weights are: a 1x1 convolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.proj.weight.flatten(1), self.proj.bias)


class MeasuredEmbed(nn.Module):
    """Linear embedding of rendered measurements: zero at first, and zero where nothing is measured.

    latent (B, V, C, h, w) and pixel map (B, V, M, H, W) of patches of `patch` pixels give tokens
    (B, V, N, width).
    """

    def __init__(self, channels: int, map_channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.of_latent = nn.Linear(channels, width, bias=False)
        self.of_map = nn.Linear(map_channels * patch * patch, width, bias=False)

    def forward(self, latent: Tensor, pixels: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(pixels, self.patch).flatten(3).mT
        tokens = latent.flatten(3).mT
        dtype = self.of_latent.weight.dtype
        return self.of_latent(tokens.to(dtype)) + self.of_map(patches.to(dtype))


class TimeEmbed(nn.Module):
    """Fixed random Fourier features of t followed by a two-layer perceptron: (T,) to (T, width)."""

    float32_parameters = ("W",)  # read by gld_ros.weights

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.W: Tensor
        self.register_buffer("W", torch.randn(features))
        self.mlp = nn.Sequential(nn.Linear(2 * features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        phase = 2 * math.pi * t.float()[:, None] * self.W.float()
        wave = torch.cat((phase.sin(), phase.cos()), dim=-1)
        return self.mlp(wave.to(next(self.mlp.parameters()).dtype))


class PropeAttention(nn.Module):
    """Self-attention over all tokens of all views of a scene, with PRoPE."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, tables: PropeTables) -> Tensor:
        # One product per part, each in a piece: PRoPE then needs no copies.
        weights = self.qkv.weight.unflatten(0, (3, -1))
        biases = self.qkv.bias.unflatten(0, (3, 1, -1))
        tokens = x.flatten(0, -2).expand(3, -1, -1)
        qkv = torch.baddbmm(biases, tokens, weights.mT)
        return self.proj(prope_attention(qkv.unflatten(1, x.shape[:-1]), tables, self.heads))


class ModulatedBlock(nn.Module):
    """Transformer block whose normalisations are shifted, scaled and gated by a condition."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = RmsNorm(width)
        self.norm2 = RmsNorm(width)
        self.attn = PropeAttention(width, heads)
        # Two thirds of the nominal width: gated, it then costs what a plain perceptron does.
        self.mlp = SwiGlu(width, int(2 / 3 * int(mlp_ratio * width)))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, modulation: Tensor, tables: PropeTables) -> Tensor:
        """Tokens to tokens; the modulation broadcasts against (B, V, S + N, 6 * width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        x = torch.addcmul(x, gate1, self.attn(modulate(self.norm1(x), shift1, scale1), tables))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


class FinalLayer(nn.Module):
    """Modulated normalisation and projection of head tokens to latent channels."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm_final = RmsNorm(width)
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Head tokens to (B, V, S + N, C); the modulation broadcasts against 2 * width."""
        shift, scale = modulation.chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))
