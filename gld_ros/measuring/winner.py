"""The best hypothesis of each pixel: where it lies between the planes and how clear it is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]

FLAT = 1e-6  # curvature below which three costs have no minimum between them


@dataclass(frozen=True, eq=False)
class Winner:
    """The hypothesis with the lowest cost at each pixel."""

    index: NDArray[np.intp]  # (h, w)
    position: FloatImage  # (h, w) index with its fraction
    curvature: FloatImage  # (h, w) second difference of the cost; 0 at the first and last one


def lowest_cost(cost: FloatImage) -> Winner:
    """The winner of costs (D, h, w), D >= 3, with the vertex of a parabola through three costs."""
    index = _first_lowest(cost)
    inner = index.clip(1, len(cost) - 2)
    before, at, after = (_cost_at(cost, inner + k) for k in (-1, 0, 1))
    curvature = np.where(inner == index, before - 2 * at + after, np.float32(0.0))
    vertex = np.float32(0.5) * (before - after) / np.maximum(curvature, np.float32(FLAT))
    fraction = np.where(curvature > FLAT, vertex, np.float32(0.0)).clip(-0.5, 0.5)
    return Winner(index, index.astype(np.float32) + fraction, curvature)


def margin_over_others(cost: FloatImage, index: NDArray[np.intp], excluded: int) -> FloatImage:
    """How much lower (h, w) the cost at `index` is than all that lie over `excluded` planes off."""
    planes = np.arange(len(cost))[:, None, None]
    others = np.where(np.abs(planes - index) > excluded, cost, np.float32(np.inf))
    margin: FloatImage = np.minimum(others.min(axis=0) - _cost_at(cost, index), np.float32(1.0))
    return margin


def _cost_at(cost: FloatImage, index: NDArray[np.intp]) -> FloatImage:
    """Of costs (D, h, w) the ones at hypotheses (h, w)."""
    size = index.size
    found: FloatImage = cost.ravel()[index.ravel() * size + np.arange(size)].reshape(index.shape)
    return found


def _first_lowest(cost: FloatImage) -> NDArray[np.intp]:
    """cost.argmin(0) of (D, h, w), several times as fast."""
    lowest = cost[0].copy()
    index = np.zeros(cost.shape[1:], np.intp)
    for k in range(1, len(cost)):
        np.copyto(index, k, where=cost[k] < lowest)
        np.minimum(lowest, cost[k], out=lowest)
    return index
