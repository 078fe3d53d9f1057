"""Positions of the tokens of the DA3 backbone, as tables for `gld_ros.backbones.rotary.rotate`.

Owns the position of every token in local and in global blocks. Tables depend on sizes alone and
are computed once per size and device.
"""

from functools import lru_cache

import torch

from gld_ros.backbones.rotary import RotaryTable, grid_positions_yx, rotary_table


@lru_cache(maxsize=64)
def local_rotary(grid_hw: tuple[int, int], head_dim: int, device: torch.device) -> RotaryTable:
    """Table of one view: the class token at (0, 0), patch (row, column) at (row+1, column+1)."""
    # Tables made in inference mode could not be used in training later.
    with torch.inference_mode(False):
        return rotary_table(grid_positions_yx(1, grid_hw, device), head_dim)


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
        return rotary_table(one_view_yx.repeat(num_views, 1), head_dim)
