"""Two-dimensional rotary positions: tables of cosines and sines, and the rotation.

Which position a token has is decided by each backbone.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ROTARY_BASE = 100.0


class RotaryTable(NamedTuple):
    """Cosines and signed sines, each (L, 1, d): tokens, heads (broadcast), channels."""

    cos: Tensor
    signed_sin: Tensor


def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """Rotate queries or keys x (G, L, heads, d) to the positions of their tokens.

    The first half of the channels turns with y, the second with x; within a half, channel k pairs
    with channel k + d/4.
    """
    first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)
    partner = torch.stack([second, first], dim=-2).flatten(-3)
    return x * table.cos + partner * table.signed_sin


def rotary_table(position_yx: Tensor, head_dim: int) -> RotaryTable:
    """Table of tokens at integer positions (L, 2), in patches; head_dim is a multiple of 4."""
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, device=position_yx.device, dtype=torch.float32) / half
    angle = position_yx[..., None].float() / ROTARY_BASE**exponent  # (L, 2, d/4)
    cos, sin = angle.cos(), angle.sin()
    return RotaryTable(
        cos=torch.stack([cos, cos], dim=-2).flatten(-3).unsqueeze(1),
        signed_sin=torch.stack([-sin, sin], dim=-2).flatten(-3).unsqueeze(1),
    )


def grid_positions_yx(num_special: int, grid_hw: tuple[int, int], device: torch.device) -> Tensor:
    """Positions (L, 2) in one view: special tokens at (0, 0), the first patch at (1, 1)."""
    rows, columns = torch.meshgrid(
        torch.arange(1, grid_hw[0] + 1, device=device),
        torch.arange(1, grid_hw[1] + 1, device=device),
        indexing="ij",
    )
    patches_yx = torch.stack([rows.flatten(), columns.flatten()], dim=-1)
    return torch.cat([patches_yx.new_zeros(num_special, 2), patches_yx])
