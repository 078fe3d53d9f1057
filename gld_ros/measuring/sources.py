"""Measured surfaces made ready to be rendered, and which of them show a target view.

Owns what does not depend on the camera that a surface is rendered into, so that it can be made once
and used for many views, and the choice of surfaces for one view. Rendering itself is `rendering`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import distance_m
from gld_ros.measuring.confidence import POSSIBLE
from gld_ros.measuring.surfaces import (
    MIN_Z_M,
    FloatArray,
    FloatImage,
    Surface,
    continued,
    direction_weight,
    inverse_depth,
    resized_K,
    without_edges,
    without_gaps,
)

MAX_SOURCES = 6  # images that one view is made of; each costs the same
MAX_VOTERS = 18  # other images that only vote on what these show, at a fraction of the cost
_CONTINUED_SHARE = 1e-3  # of continued depth in a mean with measured depth: next to none
_CELLS_HW = (12, 16)  # of the coarse grid on which images are chosen
_GLANCE_POINTS = 4000  # of a surface, roughly, by which it is chosen


@dataclass(frozen=True, eq=False)
class Part:
    """Points of a surface that count alike."""

    points_m: FloatImage  # (3, N) in the frame of the surface's camera
    share: float  # in a mean with others


@dataclass(frozen=True, eq=False)
class Source:
    """A surface ready to be rendered, into any number of cameras; made by `source_of`."""

    surface: Surface  # without gaps, maybe continued
    inverse: FloatImage  # (h, w) inverse depth of it in 1/m; 0: unknown
    parts: tuple[Part, ...]  # without pixels that straddle edges; what was measured comes first
    typical_m: float  # median depth of the first part; NaN if it has no points


def source_of(surface: Surface, *, beyond_measured: bool = False) -> Source:
    """What of a surface does not depend on the camera that it is rendered into.

    `beyond_measured` continues it over some of what was not measured, with a weight below POSSIBLE.
    """
    filled = without_gaps(surface)
    if beyond_measured:
        filled = continued(filled)
    depth_m = without_edges(filled.depth_m)
    known = np.isfinite(depth_m)
    shares = [(known, 1.0)]
    if beyond_measured:
        measured = filled.confidence >= POSSIBLE
        shares = [(known & measured, 1.0), (known & ~measured, _CONTINUED_SHARE)]
    parts = tuple(Part(_points(filled, depth_m, chosen), share) for chosen, share in shares)
    first_m = parts[0].points_m[2]
    return Source(
        filled,
        inverse_depth(filled.depth_m),
        tuple(part for part in parts if part.points_m.size),
        float(np.median(first_m)) if first_m.size else float("nan"),
    )


@dataclass(frozen=True, eq=False)
class Glance:
    """Some points of a surface, by which it is chosen for a view."""

    points_m: NDArray[np.float64]  # (3, N) in the fixed frame
    sight_m: FloatImage  # (3, N) from the surface's own camera to them, in the same axes


def glance_of(surface: Surface) -> Glance:
    """Points of a surface on a regular grid of its pixels."""
    step = max(1, round(np.sqrt(surface.depth_m.size / _GLANCE_POINTS)))
    chosen = np.zeros(surface.depth_m.shape, bool)
    chosen[step // 2 :: step, step // 2 :: step] = True
    chosen &= np.isfinite(surface.depth_m)
    sight_m = surface.T_fixed_cam[:3, :3] @ _points(surface, surface.depth_m, chosen)
    return Glance(sight_m + surface.T_fixed_cam[:3, 3:], sight_m.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Candidates:
    """Surfaces to choose from for any number of views; made by `candidates_of`."""

    surfaces: tuple[Surface, ...]
    glance: Glance  # of all of them
    owner: NDArray[np.intp]  # (N,) whose point each is


def candidates_of(
    surfaces: Sequence[Surface], glance: Callable[[Surface], Glance] = glance_of
) -> Candidates:
    """Surfaces to choose from; `glance` may keep what it makes."""
    glances = [glance(surface) for surface in surfaces]
    nothing = Glance(np.zeros((3, 0)), np.zeros((3, 0), np.float32))
    joined = Glance(
        np.concatenate([g.points_m for g in (nothing, *glances)], axis=1),
        np.concatenate([g.sight_m for g in (nothing, *glances)], axis=1),
    )
    counts = np.array([g.points_m.shape[1] for g in glances], np.intp)
    return Candidates(tuple(surfaces), joined, np.repeat(np.arange(len(glances)), counts))


def choose_surfaces(
    candidates: Candidates,
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    image_hw: tuple[int, int],
    max_sources: int = MAX_SOURCES,
) -> tuple[list[Surface], list[Surface]]:
    """Sources, which show most of the target from the nearest directions, and voters.

    Greedy: on a coarse grid over the target, the surface that improves the best view of most cells
    is the next source; surfaces that improve nothing are none. Voters are those of the rest that
    see most cells, from farthest away: neighbours share their errors.
    """
    quality = _quality_on_cells(candidates, K_px, T_fixed_cam, image_hw)
    cells_seen = np.count_nonzero(quality, axis=(1, 2))
    surfaces = candidates.surfaces
    remaining = [i for i, cells in enumerate(cells_seen) if cells]
    sources: list[int] = []
    # Three good views are enough for a cell: their mean is better than the best of them.
    best = np.zeros((3, *_CELLS_HW), np.float32)
    while remaining and len(sources) < max_sources:
        gains = [float(np.maximum(quality[i] - best[0], 0.0).sum()) for i in remaining]
        index = int(np.argmax(gains))
        if gains[index] <= 1e-6:
            break
        i = remaining.pop(index)
        sources.append(i)
        best = np.sort(np.concatenate([best, quality[i][None]]), axis=0)[1:]
    apart_m = [distance_m(s.T_fixed_cam, T_fixed_cam) for s in surfaces]
    voters = sorted(remaining, key=lambda i: (-cells_seen[i], -apart_m[i]))[:MAX_VOTERS]
    return [surfaces[i] for i in sources], [surfaces[i] for i in voters]


def _points(surface: Surface, depth_m: FloatImage, chosen: NDArray[np.bool_]) -> FloatImage:
    """Points (3, N) of the chosen pixels (h, w), in the frame of the surface's camera, in rows."""
    K_depth = resized_K(surface.K_px, surface.image.shape[:2], depth_m.shape)
    ray = np.linalg.inv(K_depth).astype(np.float32)
    columns = np.arange(depth_m.shape[1], dtype=np.float32)
    rows = np.arange(depth_m.shape[0], dtype=np.float32)[:, None]
    at = np.flatnonzero(chosen)
    points = np.empty((3, at.size), np.float32)
    for i in range(3):
        points[i] = (ray[i, 0] * columns + (ray[i, 1] * rows + ray[i, 2])).ravel()[at]
    points *= depth_m.ravel()[at]
    return points


def _quality_on_cells(
    candidates: Candidates, K_px: FloatArray, T_fixed_cam: FloatArray, image_hw: tuple[int, int]
) -> FloatImage:
    """How well each surface shows each coarse cell of the target, (surfaces, h, w) in [0, 1]."""
    glance = candidates.glance
    sight_m = (glance.points_m - T_fixed_cam[:3, 3:]).astype(np.float32)
    x, y, z = (K_px @ T_fixed_cam[:3, :3].T).astype(np.float32) @ sight_m
    rows, columns = _CELLS_HW
    with np.errstate(divide="ignore", invalid="ignore"):
        row = np.floor((y / z + np.float32(0.5)) * np.float32(rows / image_hw[0]))
        column = np.floor((x / z + np.float32(0.5)) * np.float32(columns / image_hw[1]))
        inside = (z > MIN_Z_M) & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    at = np.flatnonzero(inside)
    quality = direction_weight(sight_m.take(at, axis=1), glance.sight_m.take(at, axis=1))
    cell = (row[at] * np.float32(columns) + column[at]).astype(np.intp)
    cells = np.zeros((len(candidates.surfaces), rows * columns), np.float32)
    np.maximum.at(cells.reshape(-1), candidates.owner[at] * cells.shape[1] + cell, quality)
    return cells.reshape(-1, rows, columns)
