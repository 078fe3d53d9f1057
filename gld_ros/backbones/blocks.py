"""Transformer parts of the geometry backbones; the denoiser uses patch embedding and SwiGLU too.

Owns attention, feed-forward, layer scale, the pre-norm block and their initial values. Which
tokens attend to which, and at what positions, is decided by the caller. Attribute names are those
of the published checkpoints.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gld_ros.backbones.rotary import RotaryTable, rotate

GATED_MULTIPLE = 64  # of a gated layer's width on a GPU: whole tiles of its matrix units


class PatchEmbed(nn.Module):
    """Linear embedding of square patches: maps (..., C, H, W) to tokens (..., N, width)."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, maps: Tensor) -> Tensor:
        """Embed patches in row-major order, in the precision of the weights."""
        # A matrix product over patches: faster than the convolution on CPU, above all backwards.
        *lead, channels, height, width = maps.shape
        side = self.patch
        grid = maps.reshape(*lead, channels, height // side, side, width // side, side)
        patches = grid.movedim((-4, -2), (-5, -4)).flatten(-3).flatten(-3, -2)
        weight = self.proj.weight.flatten(1)
        return F.linear(patches.to(weight.dtype), weight, self.proj.bias)


class Attention(nn.Module):
    """Multi-head self-attention over one sequence per batch entry."""

    def __init__(self, dim: int, num_heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        head_dim = dim // num_heads
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(head_dim, eps=1e-5) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim, eps=1e-5) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotary: RotaryTable | None = None) -> Tensor:
        """Attend within x (G, L, C); rotary holds the positions of the L tokens."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)  # (G, L, heads, d)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        # Under autocast the norms and the rotation may have left q and k wider than v.
        attended = F.scaled_dot_product_attention(
            q.to(v.dtype).transpose(1, 2), k.to(v.dtype).transpose(1, 2), v.transpose(1, 2)
        )
        return self.proj(attended.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGlu(nn.Module):
    """Gated feed-forward layer; gate and value are packed into one product."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden_dim)
        self.w3 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


@torch.no_grad()
def pad_gated_widths(module: nn.Module, multiple: int) -> None:
    """Widen every SwiGlu inside, in place, to a multiple of hidden channels; what is added is zero.

    Outputs stay the same but for rounding: silu(0) * 0 = 0. A GPU takes slower kernels for sides
    that are not a multiple of eight (the head of GLD has 5461). For inference: the module no longer
    fits its checkpoint.
    """
    for layer in module.modules():
        if not isinstance(layer, SwiGlu):
            continue
        hidden = layer.w3.in_features
        missing = -hidden % multiple
        if not missing:
            continue
        gate_and_value = layer.w12.weight.unflatten(0, (2, hidden))
        biases = layer.w12.bias.unflatten(0, (2, hidden))
        wide = F.pad(gate_and_value, (0, 0, 0, missing)).flatten(0, 1)
        layer.w12.weight = nn.Parameter(wide, requires_grad=False)
        layer.w12.bias = nn.Parameter(F.pad(biases, (0, missing)).flatten(), requires_grad=False)
        layer.w3.weight = nn.Parameter(F.pad(layer.w3.weight, (0, missing)), requires_grad=False)
        layer.w12.out_features += 2 * missing
        layer.w3.in_features += missing


class LayerScale(nn.Module):
    """One learned factor per channel on a residual branch."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the last dimension of x."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block with layer scale on both branches."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        norm_eps: float,
        layer_scale_init: float,
        qk_norm: bool = False,
        ffn: Literal["mlp", "swiglu"] = "mlp",
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads, qk_norm=qk_norm)
        self.ls1 = LayerScale(dim, layer_scale_init)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        if ffn == "swiglu":  # as costly as the MLP, in whole multiples of 8
            self.mlp: nn.Module = SwiGlu(dim, (int(mlp_ratio * dim * 2 / 3) + 7) // 8 * 8)
        else:
            self.mlp = Mlp(dim, int(mlp_ratio * dim), dim)
        self.ls2 = LayerScale(dim, layer_scale_init)

    def forward(self, x: Tensor, rotary: RotaryTable | None = None) -> Tensor:
        """Transform x (G, L, C)."""
        x = x + self.ls1(self.attn(self.norm1(x), rotary))
        return x + self.ls2(self.mlp(self.norm2(x)))


def init_linear_layers(module: nn.Module) -> None:
    """Give every linear layer truncated-normal weights and zero bias, for training from scratch.

    The spread follows from the width of the input: at 768 channels it is the customary 0.02, which
    would leave the layers of a narrow model nearly without effect.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=(3 * layer.in_features) ** -0.5)
            nn.init.zeros_(layer.bias)
