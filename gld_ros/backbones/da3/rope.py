"""Rotary positions of the DA3 backbone: tables of cosines and sines, and the rotation.

Owns the position of every token in local and in global blocks. Tables depend on sizes alone and
are computed once per size and device.
"""

from __future__ import annotations

from functools import lru_cache
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


@lru_cache(maxsize=64)
def local_rotary(grid_hw: tuple[int, int], head_dim: int, device: torch.device) -> RotaryTable:
    """Table of one view: the class token at (0, 0), patch (row, column) at (row+1, column+1)."""
    # Tables made in inference mode could not be used in training later.
    with torch.inference_mode(False):
        rows, columns = torch.meshgrid(
            torch.arange(1, grid_hw[0] + 1, device=device),
            torch.arange(1, grid_hw[1] + 1, device=device),
            indexing="ij",
        )
        patches_yx = torch.stack([rows.flatten(), columns.flatten()], dim=-1)
        class_yx = torch.zeros(1, 2, dtype=patches_yx.dtype, device=device)
        return _table(torch.cat([class_yx, patches_yx]), head_dim)


@lru_cache(maxsize=64)
def global_rotary(
    num_views: int, num_patches: int, head_dim: int, device: torch.device
) -> RotaryTable:
    """Table of all views in view-major order: class tokens at (0, 0), every patch at (1, 1).

    Global attention thus tells class from patch tokens, and knows no place and no view.
    """
    with torch.inference_mode(False):
        one_view_yx = torch.ones(1 + num_patches, 2, dtype=torch.long, device=device)
        one_view_yx[0] = 0
        return _table(one_view_yx.repeat(num_views, 1), head_dim)


def _table(position_yx: Tensor, head_dim: int) -> RotaryTable:
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, device=position_yx.device, dtype=torch.float32) / half
    angle = position_yx[..., None].float() / ROTARY_BASE**exponent  # (L, 2, d/4)
    cos, sin = angle.cos(), angle.sin()
    return RotaryTable(
        cos=torch.stack([cos, cos], dim=-2).flatten(-3).unsqueeze(1),
        signed_sin=torch.stack([-sin, sin], dim=-2).flatten(-3).unsqueeze(1),
    )
