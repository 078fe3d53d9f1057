"""Which view stand-alone DA3 takes as its reference, and reordering views around it.

Novel view synthesis never selects: there view 0 is the reference.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

ReferenceStrategy = Literal["first", "middle", "saddle_balanced", "saddle_sim_range"]
MIN_VIEWS_TO_SELECT = 3


def select_reference_view(class_tokens: Tensor, strategy: ReferenceStrategy) -> Tensor:
    """Choose the reference of each scene from its class tokens (B, V, C); returns indices (B,).

    `saddle_balanced` takes the view whose similarity to the others, token norm and token variance
    are nearest the middle of their ranges; `saddle_sim_range` the one whose similarities to the
    others span the widest range.
    """
    num_scenes, num_views, _ = class_tokens.shape
    device = class_tokens.device
    if strategy in ("first", "middle"):
        index = 0 if strategy == "first" else num_views // 2
        return torch.full((num_scenes,), index, device=device)
    if strategy not in get_args(ReferenceStrategy):
        raise ValueError(
            f"unknown reference strategy {strategy!r}; one of {get_args(ReferenceStrategy)}"
        )
    class_tokens = class_tokens.float()
    directions = F.normalize(class_tokens, dim=-1)
    similarity = directions @ directions.mT
    if strategy == "saddle_sim_range":
        # An exact zero, not 1 - 1: two views that are each other's extreme tie, and rounding must
        # not decide between them.
        others = similarity.masked_fill(torch.eye(num_views, dtype=torch.bool, device=device), 0)
        return (others.amax(-1) - others.amin(-1)).argmax(-1)
    scores = torch.stack(
        [
            (similarity.sum(-1) - 1) / max(num_views - 1, 1),
            class_tokens.norm(dim=-1),
            directions.var(dim=-1),
        ],
        dim=-1,
    )  # (B, V, 3)
    low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    return ((scores - low) / (high - low + 1e-8) - 0.5).abs().sum(-1).argmin(-1)


def reference_first_order(reference: Tensor, num_views: int) -> Tensor:
    """Order (B, V) that puts view `reference` (B,) first and keeps the others in sequence."""
    views = torch.arange(num_views, device=reference.device).expand(len(reference), -1)
    is_reference = views == reference[:, None]
    return torch.argsort((~is_reference).long(), dim=1, stable=True)


def reorder_views(x: Tensor, order: Tensor) -> Tensor:
    """Gather views of x (B, V, ...) in the given order (B, V)."""
    scene = torch.arange(len(order), device=order.device)[:, None]
    return x[scene, order]
