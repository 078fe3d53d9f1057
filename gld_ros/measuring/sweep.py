"""Matching cost of depth hypotheses: how similar neighbours look where a surface would be seen.

Zero-mean normalised cross-correlation (ZNCC) over small windows, which is independent of exposure.
Per pixel the better half of the neighbours is averaged, since a surface may be occluded in some.
Plane sweep: Collins, "A space-sweep approach to true multi-image matching", 1996.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.measuring.frames import FloatArray
from gld_ros.measuring.levels import GreyImage

FloatImage = NDArray[np.float32]

NEUTRAL_COST = 0.5  # of a hypothesis that no neighbour sees: neither for nor against
# Added to the variance of windows, in grey values squared: without it the noise of plain walls
# would correlate as strongly as texture.
TEXTURE_FLOOR = 1.0
# Cost of a neighbour that does not see: far above the sum of all others (fewer than 64), and a
# power of two, so that sums of it and of costs can be told apart again.
_HIDDEN = 128.0
NEAREST_Z = np.float32(1e-3)  # metres in front of a neighbour's camera; nearer is meaningless
# Outermost pixels are seen, whichever way a surface right on their centres is rounded.
RIM_PX = 1e-3
# Around neighbours' images their border is repeated for so many pixels, which is all that windows
# beside it see. OpenCV's own repeated border takes several times as long.
_PAD_PX = 32
# Values that are worked on at a time, and hypotheses that share a projection: what one step writes
# the next one finds in the cache.
_CHUNK, _GROUP = 24 * 1024, 8


@dataclass(frozen=True, eq=False)
class _Windows:
    """The reference's windows, (h, w) each."""

    around: FloatImage  # (h + 2 radius, w) grey less `mean_grey`, the first and last row repeated
    mean: FloatImage
    scale: FloatImage  # -0.5 / standard deviation: of a covariance, its part of the cost
    line: FloatImage  # (2 radius + 1,) weights of a window's rows, and of its columns
    radius: int


@dataclass(frozen=True, eq=False)
class _Projection:
    """Where the reference's pixels fall in a neighbour: linear in column, row and inverse depth."""

    border: tuple[float, float, float, float]  # of the neighbour, after padding
    by_column: FloatImage  # (3, w): x * z, y * z, and z; x and y in pixels of the padded neighbour
    by_row: FloatImage  # (3, h)
    by_inverse_depth: FloatImage  # (3,)
    leaves: tuple[bool, ...]  # whether any point is left, right, above, below, and behind


def matching_cost(
    reference: GreyImage,
    neighbours: Sequence[GreyImage],
    T_neighbour_reference: Sequence[FloatArray],
    around: FloatImage,
    steps: FloatImage,
    radius: int,
) -> FloatImage:
    """Cost (D, h, w) in [0, 1] of inverse depths `around` (h, w) or (1, 1), plus steps (D,).

    Cost is (1 - ZNCC) / 2 averaged over the better half of the neighbours in whose images the
    surface falls; NEUTRAL_COST where there is none. The order of neighbours does not matter.
    """
    mean = mean_grey(reference)
    windows = _windows(reference.grey - mean, radius)
    limits = float(around.min() + steps.min()), float(around.max() + steps.max())
    projections = _projections(reference, neighbours, T_neighbour_reference, limits)
    padded = [_padded(neighbour.grey - mean) for neighbour in neighbours]
    count, (height, width) = len(steps), reference.hw
    # Rows as the windows see them: the first and last are repeated.
    seen_rows = np.arange(-radius, height + radius).clip(0, height - 1)
    w = np.broadcast_to(around, reference.hw)[seen_rows] if len(around) > 1 else around
    cost = np.empty((count, height, width), np.float32)
    strip = min(height, max(1, _CHUNK // width))
    planes = max(1, _CHUNK // (height * width))
    group = min(count, max(planes, _GROUP))
    # Made once: fresh memory costs as much as what is written into it.
    points = np.empty((3, strip + 2 * radius, width), np.float32)
    room = np.empty((6, planes, *points.shape[1:]), np.float32)
    costs = np.empty((len(neighbours) + 1, group, strip, width), np.float32)
    for top, first in itertools.product(range(0, height, strip), range(0, count, group)):
        bottom = min(top + strip, height)
        reach = slice(top, bottom + 2 * radius)
        rows = seen_rows[reach]
        here, moves = costs[:, :, : bottom - top], steps[first : first + group]
        for projection, image, of_one in zip(projections, padded, here[:-1], strict=True):
            _project(projection, w[reach] if len(w) > 1 else w, rows, points[:, : len(rows)])
            for k in range(0, len(moves), planes):
                few = moves[k : k + planes]
                space = room[:, : len(few), : len(rows)]
                into = of_one[k : k + len(few)]
                _cost(windows, projection, image, points[:, : len(rows)], few, top, space, into)
        _better_half_mean(here[:, : len(moves)], cost[first : first + group, top:bottom])
    return cost


def mean_grey(reference: GreyImage) -> np.float32:
    """What is subtracted from all images: ZNCC does not change, but squares keep their precision.

    The squares of a bright wall are tens of thousands of times its variance, and float32 would keep
    two digits of that.
    """
    return np.float32(reference.grey.mean())


def seen_by_any(
    reference: GreyImage,
    neighbours: Sequence[GreyImage],
    T_neighbour_reference: Sequence[FloatArray],
    inverse_depth: FloatImage,
) -> NDArray[np.bool_]:
    """Whether surfaces at inverse depths (h, w) fall into a neighbour's image: (h, w)."""
    unseen = np.ones(reference.hw, bool)
    places = np.empty((3, *reference.hw), np.float32)
    limits = float(inverse_depth.min()), float(inverse_depth.max())
    for projection in _projections(reference, neighbours, T_neighbour_reference, limits):
        _project(projection, inverse_depth, np.arange(len(inverse_depth)), places)
        _divide_by_z(projection, places)
        unseen &= _outside(projection, places)
    return ~unseen


def _better_half_mean(costs: FloatImage, mean: FloatImage) -> None:
    """Write the mean of the lower half of costs at each place, hidden ones left out.

    Of n costs the lowest ceil(n / 2), or as many of those as see the place. The last of `costs` is
    room to work in; all of them are overwritten.
    """
    *kept, spare = costs
    keep = (len(kept) + 1) // 2
    # The highest go to the end, one by one: few costs, many places, so much faster than sorting.
    while len(kept) > keep:
        for k in range(len(kept) - 1):
            np.minimum(kept[k], kept[k + 1], out=spare)
            np.maximum(kept[k], kept[k + 1], out=kept[k + 1])
            kept[k], spare = spare, kept[k]
        spare = kept.pop()
    total = kept[0]
    for cost in kept[1:]:
        total += cost
    # Sums instead of comparisons: these take several times as long.
    hidden = np.rint(np.multiply(total, np.float32(1 / _HIDDEN), out=spare), out=spare)
    np.multiply(hidden, np.float32(-_HIDDEN), out=mean)
    mean += total
    seeing = np.subtract(np.float32(keep), hidden, out=spare)
    nobody = np.subtract(np.float32(1.0), seeing, out=total)
    np.maximum(nobody, np.float32(0.0), out=nobody)
    mean /= np.maximum(seeing, np.float32(1.0), out=seeing)
    nobody *= np.float32(NEUTRAL_COST)
    mean += nobody


def _windows(grey: FloatImage, radius: int) -> _Windows:
    around = np.pad(grey, ((radius, radius), (0, 0)), mode="edge")
    line = np.full(2 * radius + 1, 1.0 / (2 * radius + 1), np.float32)
    mean, variance = np.empty((2, *around.shape), np.float32)
    _window_mean(around, line, mean)
    _window_mean(around * around, line, variance, TEXTURE_FLOOR)
    inner = slice(radius, radius + len(grey))
    mean, variance = mean[inner], variance[inner]
    variance -= mean * mean
    return _Windows(around, mean, np.float32(-0.5) / np.sqrt(variance), line, radius)


def _window_mean(images: FloatImage, line: FloatImage, into: FloatImage, plus: float = 0.0) -> None:
    """Mean over (2 radius + 1)^2 windows of images (..., h, w) one below the other.

    The first and last columns are repeated outwards; that of `radius` rows has no meaning.
    """
    tall = (-1, images.shape[-1])
    # Faster than cv2.blur for windows as small as ours.
    cv2.sepFilter2D(
        images.reshape(tall),
        -1,
        line,
        line,
        into.reshape(tall),
        delta=plus,
        borderType=cv2.BORDER_REPLICATE,
    )


def _padded(grey: FloatImage) -> FloatImage:
    """An image with its border repeated for _PAD_PX on each side."""
    sides = (_PAD_PX,) * 4
    return np.asarray(cv2.copyMakeBorder(grey, *sides, cv2.BORDER_REPLICATE), np.float32)


def _projections(
    reference: GreyImage,
    neighbours: Sequence[GreyImage],
    T_neighbour_reference: Sequence[FloatArray],
    inverse_depth_limits: tuple[float, float],
) -> list[_Projection]:
    height, width = reference.hw
    to_padded = np.array([[1, 0, _PAD_PX], [0, 1, _PAD_PX], [0, 0, 1]], np.float64)
    to_ray = np.linalg.inv(reference.K_px)
    projections = []
    for neighbour, T in zip(neighbours, T_neighbour_reference, strict=True):
        # A point at inverse depth w projects to M [column, row, 1] + w m.
        K_px = to_padded @ neighbour.K_px
        M, m = K_px @ T[:3, :3] @ to_ray, K_px @ T[:3, 3]
        by_column = M[:, :1] * np.arange(width)
        by_row = M[:, 1:2] * np.arange(height) + M[:, 2:]
        # Linear, so the corners of the volume tell what may happen anywhere in it.
        x, y, z = (
            by_column[:, [0, -1], None, None]
            + by_row[:, None, [0, -1], None]
            + np.multiply.outer(m, inverse_depth_limits)[:, None, None]
        )
        left, top, right, bottom = border = _border(neighbour.hw)
        behind = bool((z <= NEAREST_Z).any())
        leaves = (x < left * z, x > right * z, y < top * z, y > bottom * z)
        projections.append(
            _Projection(
                border,
                by_column.astype(np.float32),
                by_row.astype(np.float32),
                m.astype(np.float32),
                (*(behind or bool(corners.any()) for corners in leaves), behind),
            )
        )
    return projections


def _border(image_hw: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an image after padding, the outermost pixels included."""
    height, width = image_hw
    before, behind = _PAD_PX - RIM_PX, _PAD_PX - 1 + RIM_PX
    return before, before, behind + width, behind + height


def _project(
    projection: _Projection, w: FloatImage, rows: NDArray[np.intp], points: FloatImage
) -> None:
    """Write x * z, y * z and z (3, r, w) of points in rows (r,) at inverse depths (r, w)."""
    np.add(projection.by_row[:, rows, None], projection.by_column[:, None], out=points)
    for point, by_w in zip(points, projection.by_inverse_depth, strict=True):
        point += by_w * w


def _divide_by_z(projection: _Projection, points: FloatImage) -> None:
    """Make x and y of x * z, y * z and z (3, ...)."""
    x, y, z = points
    if projection.leaves[-1]:
        np.maximum(z, NEAREST_Z, out=z)
    x /= z
    y /= z


def _outside(projection: _Projection, places: FloatImage) -> NDArray[np.bool_]:
    """Whether x, y and z (3, ...) fall outside the neighbour's image."""
    left, top, right, bottom = projection.border
    x, y, z = places
    passes_left, passes_right, passes_top, passes_bottom, behind = projection.leaves
    outside = x < left if passes_left else np.zeros(x.shape, bool)
    if passes_right:
        outside |= x > right
    if passes_top:
        outside |= y < top
    if passes_bottom:
        outside |= y > bottom
    if behind:
        outside |= z <= NEAREST_Z
    return outside


def _cost(
    windows: _Windows,
    projection: _Projection,
    padded: FloatImage,
    points: FloatImage,
    steps: FloatImage,
    top: int,
    room: FloatImage,
    cost: FloatImage,
) -> None:
    """Write the cost (d, r, w) of steps (d,) from points (3, r + 2 radius, w) for one neighbour.

    _HIDDEN where it does not see. `padded` is its image; `top` the first of the rows; `room`
    (6, d, r + 2 radius, w) is overwritten.
    """
    places, maps = room[:3], room[3:]
    for place, point, by_w in zip(places, points, projection.by_inverse_depth, strict=True):
        np.add(point, (by_w * steps)[:, None, None], out=place)
    _divide_by_z(projection, places)
    radius, count = windows.radius, cost.shape[1]
    inner, own = slice(radius, radius + count), slice(top, top + count)
    outside = _outside(projection, places[:, :, inner])
    x, y, sampled = (image.reshape(-1, image.shape[-1]) for image in (*places[:2], maps[0]))
    cv2.remap(padded, x, y, cv2.INTER_LINEAR, sampled, cv2.BORDER_CONSTANT)
    np.multiply(maps[0], maps[0], out=maps[1])
    np.multiply(maps[0], windows.around[top : top + count + 2 * radius], out=maps[2])
    for images, means, plus in zip(maps, places, (0.0, TEXTURE_FLOOR, 0.0), strict=True):
        _window_mean(images, windows.line, means, plus)
    mean, variance, covariance, spare, *_ = room[:, :, inner]
    covariance -= np.multiply(mean, windows.mean[own], out=spare)
    variance -= np.multiply(mean, mean, out=spare)
    covariance *= windows.scale[own]
    np.divide(covariance, np.sqrt(variance, out=variance), out=cost)
    cost += np.float32(NEUTRAL_COST)
    np.copyto(cost, np.float32(_HIDDEN), where=outside)
