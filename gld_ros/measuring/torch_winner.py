"""The best hypothesis of each pixel in torch; the choice that `winner` makes with NumPy."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gld_ros.measuring.winner import FLAT


@dataclass(frozen=True, eq=False)
class Winner:
    """The hypothesis with the lowest cost at each pixel."""

    index: Tensor  # (h, w) int64
    position: Tensor  # (h, w) index with its fraction
    curvature: Tensor  # (h, w) second difference of the cost; 0 at the first and last one


def lowest_cost(cost: Tensor) -> Winner:
    """The winner of costs (D, h, w), D >= 3, with the vertex of a parabola through three costs."""
    index = cost.argmin(dim=0)
    inner = index.clamp(1, len(cost) - 2)
    before, at, after = cost.gather(0, torch.stack([inner - 1, inner, inner + 1]))
    curvature = torch.where(inner == index, before - 2 * at + after, 0.0)
    vertex = 0.5 * (before - after) / curvature.clamp(min=FLAT)
    fraction = torch.where(curvature > FLAT, vertex, 0.0).clamp_(-0.5, 0.5)
    return Winner(index, index + fraction, curvature)


def margin_over_others(cost: Tensor, index: Tensor, excluded: int) -> Tensor:
    """How much lower (h, w) the cost at `index` is than all that lie over `excluded` planes off."""
    planes = torch.arange(len(cost), device=cost.device)[:, None, None]
    others = torch.where((planes - index).abs_() > excluded, cost, torch.inf)
    return (others.amin(dim=0) - cost.gather(0, index[None])[0]).clamp_(max=1.0)
