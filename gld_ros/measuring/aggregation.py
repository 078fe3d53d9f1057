"""Semi-global aggregation: smoothness between pixels along four directions.

Hirschmüller, "Stereo processing by semiglobal matching and mutual information", 2008, with a
penalty for jumps that is lower where the image has an edge.
"""

import torch
from torch import Tensor

# Costs are in [0, 1]; both penalties have the same unit.
SMALL_STEP_PENALTY = 0.06  # to the next hypothesis, from pixel to pixel
JUMP_PENALTY = 0.5  # to any other hypothesis, where the image has no edge
EDGE_GREY = 8.0  # grey values between pixels that halve the penalty of a jump


def semi_global(cost: Tensor, grey: Tensor) -> Tensor:
    """Cost (D, h, w) summed along paths from left, right, above and below, and averaged.

    grey (h, w): grey values 0..255 of the image whose edges make jumps cheaper.
    """
    vertical = _both_ways(cost.permute(1, 0, 2).contiguous(), grey)
    horizontal = _both_ways(cost.permute(2, 0, 1).contiguous(), grey.T.contiguous())
    return (vertical.permute(1, 0, 2) + horizontal.permute(1, 2, 0)).mul_(0.25)


def _both_ways(cost: Tensor, grey: Tensor) -> Tensor:
    """Path costs (L, D, M) along the first axis, forwards plus backwards, of (L, D, M)."""
    both = torch.stack([cost, cost.flip(0)], dim=1)  # one loop serves both directions
    values = torch.stack([grey, grey.flip(0)], dim=1)
    jump = torch.full_like(values, JUMP_PENALTY)
    jump[1:] = JUMP_PENALTY / (1.0 + (values[1:] - values[:-1]).abs() / EDGE_GREY)
    jump.clamp_(min=SMALL_STEP_PENALTY)
    # Every buffer and view is made once: at these sizes allocation takes most of the time.
    lines, jumps = both.unbind(0), jump.unsqueeze(2).unbind(0)
    path = lines[0]
    best, stepped = torch.empty_like(path), torch.empty_like(path)
    best_before, best_after = best[:, :-1], best[:, 1:]
    stepped_before, stepped_after = stepped[:, :-1], stepped[:, 1:]
    lowest, jumped = torch.empty_like(path[:, :1]), torch.empty_like(path[:, :1])
    for line, jump_here in zip(lines[1:], jumps[1:], strict=True):
        torch.amin(path, dim=1, keepdim=True, out=lowest)
        torch.add(lowest, jump_here, out=jumped)
        torch.minimum(path, jumped, out=best)
        torch.add(path, SMALL_STEP_PENALTY, out=stepped)
        torch.minimum(best_after, stepped_before, out=best_after)
        torch.minimum(best_before, stepped_after, out=best_before)
        # Subtracting the lowest value so far keeps sums as small as single costs.
        path = line.add_(best.sub_(lowest))
    return both[:, 0] + both[:, 1].flip(0)
