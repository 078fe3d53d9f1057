"""Semi-global aggregation in torch: all directions in one scan of whole lines, for a GPU.

The sums that `aggregation` computes. The scan has as many steps as the longer side has pixels, of
five operations each, with no allocation and no question from the CPU in between.
"""

import torch
from torch import Tensor

from gld_ros.measuring.aggregation import EDGE_GREY, JUMP_PENALTY, SMALL_STEP_PENALTY


def semi_global(cost: Tensor, grey: Tensor) -> Tensor:
    """Cost (D, h, w) summed along paths from left, right, above and below, and averaged.

    grey (h, w): grey values 0..255 of the image whose edges make jumps cheaper.
    """
    count, height, width = cost.shape
    lines = _as_lines(cost)
    edges = _as_lines(grey[None]).diff(dim=0).abs_() / EDGE_GREY
    jump = (JUMP_PENALTY / (1 + edges)).clamp_(min=SMALL_STEP_PENALTY)
    # Path costs of hypotheses, with an impossible one at either end.
    paths = torch.full((len(lines), count + 2, lines.shape[2]), torch.inf, device=cost.device)
    paths[0, 1:-1] = lines[0]
    # What a hypothesis costs when its path comes from the one below, itself or the one above, and
    # from any other.
    beside = lines[1:] + SMALL_STEP_PENALTY
    near = torch.stack([beside, lines[1:], beside], dim=1)  # (L - 1, 3, D, M)
    far = lines[1:] + jump
    ways = lines.new_empty(4, count, lines.shape[2])
    near_ways, far_way, lowest = ways[:3], ways[3], torch.empty_like(lines[0, :1])
    # Every view is made once: at these sizes making them takes longer than the sums.
    from_near = paths.unfold(1, count, 1).transpose(2, 3)[:-1].unbind(0)  # (3, D, M) each
    inner = paths[:, 1:-1].unbind(0)
    steps = zip(inner, inner[1:], from_near, near.unbind(0), far.unbind(0), strict=False)
    for before, path, nearby, to_near, to_far in steps:
        torch.amin(before, dim=0, keepdim=True, out=lowest)
        torch.add(nearby, to_near, out=near_ways)
        torch.add(to_far, lowest, out=far_way)
        torch.amin(ways, dim=0, out=path)
        path -= lowest  # sums stay as small as single costs
    return _summed(paths[:, 1:-1], (height, width)).mul_(0.25)


def _as_lines(values: Tensor) -> Tensor:
    """Lines (L, D, M) of values (D, h, w) in the order in which four directions pass them.

    L is the longer side, and M all columns down and up, then all rows right and left.
    """
    _, height, width = values.shape
    down, right = values.permute(1, 0, 2), values.permute(2, 0, 1)
    lines = values.new_zeros(max(height, width), len(values), 2 * (height + width))
    lines[:height, :, :width], lines[:height, :, width : 2 * width] = down, down.flip(0)
    across = lines[:width, :, 2 * width :]
    across[:, :, :height], across[:, :, height:] = right, right.flip(0)
    return lines


def _summed(lines: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """Values (D, h, w) summed over the four directions of lines (L, D, M)."""
    height, width = image_hw
    down, up = lines[:height, :, :width], lines[:height, :, width : 2 * width].flip(0)
    across = lines[:width, :, 2 * width :]
    right, left = across[:, :, :height], across[:, :, height:].flip(0)
    return (down + up).permute(1, 0, 2) + (right + left).permute(1, 2, 0)
