"""The surface with the lowest matching cost, level by level: NumPy and OpenCV on the CPU.

Owns what a level takes over from the coarser one. Costs are `sweep`, smoothness is `aggregation`,
the choice of the best hypothesis is `winner`; `torch_search` does the same on a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.measuring.aggregation import semi_global
from gld_ros.measuring.confidence import FoundSurface
from gld_ros.measuring.frames import FloatArray
from gld_ros.measuring.levels import (
    EXCLUDED_PLANES,
    LEAST_OF_FARTHEST,
    LESS_SHARP,
    WINDOW_RADIUS,
    SearchLevel,
)
from gld_ros.measuring.sweep import matching_cost, seen_by_any
from gld_ros.measuring.winner import lowest_cost, margin_over_others

FloatImage = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Surface:
    """What the levels so far found, on the grid of the last one."""

    inverse_depth: FloatImage  # (h, w)
    margin: FloatImage  # (h, w) of the coarsest level's winner
    curvature: FloatImage  # (h, w) of the cost at the winner, per squared spacing


def search_surface(
    levels: Sequence[SearchLevel],
    T_neighbour_reference: Sequence[FloatArray],
    farthest_inverse_depth: float,
) -> FoundSurface:
    """The surface at one neighbour or more, on the grid of the last level.

    T_neighbour_reference: (4, 4) of each neighbour. The order of neighbours does not matter.
    """
    surface: _Surface | None = None
    for level in levels:
        if surface is None:
            around = np.full((1, 1), farthest_inverse_depth, np.float32)
        else:
            around = _enlarge(cv2.medianBlur(surface.inverse_depth, 3), level.reference.hw)
        surface = _search_level(level, T_neighbour_reference, around, surface)
        least = LEAST_OF_FARTHEST * farthest_inverse_depth
        np.maximum(surface.inverse_depth, least, out=surface.inverse_depth)
    assert surface is not None  # there are levels
    finest = levels[-1]
    seen = seen_by_any(
        finest.reference, finest.neighbours, T_neighbour_reference, surface.inverse_depth
    )
    return FoundSurface(surface.inverse_depth, surface.margin, surface.curvature, seen)


def _search_level(
    level: SearchLevel,
    T_neighbour_reference: Sequence[FloatArray],
    around: FloatImage,
    coarser: _Surface | None,
) -> _Surface:
    """The winner among inverse depths `around` (h, w) or (1, 1), plus the level's steps."""
    reference, steps = level.reference, level.steps
    cost = matching_cost(
        reference, level.neighbours, T_neighbour_reference, around, steps, WINDOW_RADIUS
    )
    aggregated = semi_global(cost, reference.grey)
    winner = lowest_cost(aggregated)
    position, curvature = winner.position, winner.curvature
    if coarser is None:
        margin = margin_over_others(aggregated, winner.index, EXCLUDED_PLANES)
        step = np.interp(position, np.arange(len(steps)), steps).astype(np.float32)
    else:
        margin = _enlarge(coarser.margin, reference.hw)
        # Where this level has no minimum near the surface found so far, blur or noise has
        # removed what it could add: that surface is kept, with its curvature.
        before = np.float32(LESS_SHARP) * _enlarge(coarser.curvature, reference.hw)
        inside = (winner.index > 0) & (winner.index < len(steps) - 1)
        position = np.where(inside, position, np.float32(len(steps) // 2))
        curvature = np.where(inside, curvature, before)
        step = steps[0] + (steps[1] - steps[0]) * position
    return _Surface(around + step, margin, curvature)


def _enlarge(values: FloatImage, hw: tuple[int, int]) -> FloatImage:
    """Values (h, w) on a finer grid, interpolated."""
    return np.asarray(cv2.resize(values, hw[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
