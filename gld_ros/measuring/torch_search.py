"""The surface with the lowest matching cost, level by level: torch, for a GPU.

The search that `search` makes with NumPy, and the same within rounding, to which tests hold it.
Costs are `torch_sweep`, smoothness is `torch_aggregation`, the choice of the best `torch_winner`.
Images come from the CPU and the surface returns to it; nothing in between does.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from gld_ros.measuring.confidence import FoundSurface
from gld_ros.measuring.frames import FloatArray
from gld_ros.measuring.levels import (
    EXCLUDED_PLANES,
    LEAST_OF_FARTHEST,
    LESS_SHARP,
    WINDOW_RADIUS,
    SearchLevel,
)
from gld_ros.measuring.torch_aggregation import semi_global
from gld_ros.measuring.torch_sweep import matching_cost, seen_by_any
from gld_ros.measuring.torch_winner import lowest_cost, margin_over_others


@dataclass(frozen=True, eq=False)
class _Surface:
    """What the levels so far found, on the grid of the last one."""

    inverse_depth: Tensor  # (h, w)
    margin: Tensor  # (h, w) of the coarsest level's winner
    curvature: Tensor  # (h, w) of the cost at the winner, per squared spacing


@torch.inference_mode()
def search_surface(
    levels: Sequence[SearchLevel],
    T_neighbour_reference: Sequence[FloatArray],
    farthest_inverse_depth: float,
    device: torch.device,
) -> FoundSurface:
    """The surface at one neighbour or more, on the grid of the last level.

    As `search.search_surface`, on a device. Raises ValueError if there is no such device, and
    torch.OutOfMemoryError.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device}, but torch sees no CUDA device; use None, for NumPy")
    with _own_stream(device):
        surface: _Surface | None = None
        for level in levels:
            if surface is None:
                around = torch.full((1, 1), farthest_inverse_depth, device=device)
            else:
                around = _enlarge(_median3(surface.inverse_depth), level.reference.hw)
            surface = _search_level(level, T_neighbour_reference, around, surface)
            surface.inverse_depth.clamp_(min=LEAST_OF_FARTHEST * farthest_inverse_depth)
        assert surface is not None  # there are levels
        finest = levels[-1]
        seen = seen_by_any(
            finest.reference, finest.neighbours, T_neighbour_reference, surface.inverse_depth
        )
        found = torch.stack(
            [surface.inverse_depth, surface.margin, surface.curvature, seen.float()]
        )
        inverse_depth, margin, curvature, was_seen = found.cpu().numpy()
    return FoundSurface(inverse_depth, margin, curvature, was_seen > 0)


def _search_level(
    level: SearchLevel,
    T_neighbour_reference: Sequence[FloatArray],
    around: Tensor,
    coarser: _Surface | None,
) -> _Surface:
    """The winner among inverse depths `around` (h, w) or (1, 1), plus the level's steps."""
    reference, count = level.reference, len(level.steps)
    steps = torch.from_numpy(level.steps).to(around.device)
    cost = matching_cost(
        reference, level.neighbours, T_neighbour_reference, around, steps, WINDOW_RADIUS
    )
    aggregated = semi_global(cost, torch.from_numpy(reference.grey).to(around.device))
    winner = lowest_cost(aggregated)
    position, curvature = winner.position, winner.curvature
    if coarser is None:
        margin = margin_over_others(aggregated, winner.index, EXCLUDED_PLANES)
    else:
        margin = _enlarge(coarser.margin, reference.hw)
        # As on the CPU: without a minimum near the coarser surface, that one is kept.
        before = LESS_SHARP * _enlarge(coarser.curvature, reference.hw)
        inside = (winner.index > 0) & (winner.index < count - 1)
        position = torch.where(inside, position, float(count // 2))
        curvature = torch.where(inside, curvature, before)
    before_it = position.floor().long().clamp_(0, count - 2)
    spacing = steps[1:] - steps[:-1]
    step = steps[before_it] + spacing[before_it] * (position - before_it)
    return _Surface(around + step, margin, curvature)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _own_stream(device: torch.device) -> AbstractContextManager[object]:
    """On a GPU one stream for all searches: they need not wait behind the steps of a model."""
    return torch.cuda.stream(_stream(device)) if device.type == "cuda" else nullcontext()


def _enlarge(values: Tensor, hw: tuple[int, int]) -> Tensor:
    """Values (h, w) on a finer grid, interpolated."""
    return F.interpolate(values[None, None], hw, mode="bilinear", align_corners=False)[0, 0]


def _median3(values: Tensor) -> Tensor:
    """The median of 3x3 windows of (h, w), by exchanges: torch's own takes a block per pixel."""
    padded = F.pad(values[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    height, width = values.shape
    low, middle, high = _sorted3(*(padded[k : k + height] for k in range(3)))
    columns = [slice(k, k + width) for k in range(3)]
    lowest = torch.stack([low[:, c] for c in columns]).amax(dim=0)
    highest = torch.stack([high[:, c] for c in columns]).amin(dim=0)
    _, centre, _ = _sorted3(*(middle[:, c] for c in columns))
    return _sorted3(lowest, centre, highest)[1]


def _sorted3(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three tensors sorted element by element."""
    a, b = torch.minimum(a, b), torch.maximum(a, b)
    b, c = torch.minimum(b, c), torch.maximum(b, c)
    return torch.minimum(a, b), torch.maximum(a, b), c
