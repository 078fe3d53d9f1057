"""The plane sweep written for readability, which the fast one is tested and timed against.

One size, all planes, one neighbour, one pixel after the other; NumPy and OpenCV only. It does not
decide what counts as measured.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import invert_rigid
from gld_ros.measuring.aggregation import EDGE_GREY, JUMP_PENALTY, SMALL_STEP_PENALTY
from gld_ros.measuring.frames import FloatArray, PosedImage
from gld_ros.measuring.sweep import NEUTRAL_COST, TEXTURE_FLOOR


def reference_depth(
    reference: PosedImage,
    neighbours: Sequence[PosedImage],
    depth_range_m: tuple[float, float],
    planes: int,
    window_radius: int,
) -> FloatArray:
    """Depth (H, W) in metres with the lowest aggregated cost at every pixel."""
    near_m, far_m = depth_range_m
    inverse_depths = np.linspace(1.0 / far_m, 1.0 / near_m, planes)
    cost = reference_cost(reference, neighbours, inverse_depths, window_radius)
    aggregated = reference_semi_global(cost, _grey(reference))
    best = aggregated.argmin(axis=0)
    position = best.astype(np.float64)
    for row, column in np.ndindex(best.shape):
        k = best[row, column]
        if 0 < k < planes - 1:
            before, at, after = aggregated[k - 1 : k + 2, row, column]
            curvature = before - 2 * at + after
            if curvature > 0:  # the vertex of the parabola through three costs
                position[row, column] += 0.5 * (before - after) / curvature
    spacing = inverse_depths[1] - inverse_depths[0]
    return 1.0 / (inverse_depths[0] + spacing * position)


def reference_cost(
    reference: PosedImage,
    neighbours: Sequence[PosedImage],
    inverse_depths: FloatArray,
    window_radius: int,
) -> FloatArray:
    """Cost (D, H, W) of planes at inverse depths (D,), as `sweep.matching_cost` defines it."""
    grey = _grey(reference)
    height, width = grey.shape
    v, u = np.mgrid[0:height, 0:width].astype(np.float64)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(reference.K_px).T
    cost = np.empty((len(inverse_depths), height, width))
    for plane, inverse_depth in enumerate(inverse_depths):
        per_neighbour = []
        for neighbour in neighbours:
            T = invert_rigid(neighbour.T_fixed_cam) @ reference.T_fixed_cam
            points = (rays / inverse_depth) @ T[:3, :3].T + T[:3, 3]
            projected = points @ np.asarray(neighbour.K_px).T
            with np.errstate(divide="ignore", invalid="ignore"):
                x, y = projected[..., 0] / points[..., 2], projected[..., 1] / points[..., 2]
            n_height, n_width = neighbour.image_hw
            seen = (points[..., 2] > 0) & (x >= 0) & (x <= n_width - 1)
            seen &= (y >= 0) & (y <= n_height - 1)
            sampled = cv2.remap(
                _grey(neighbour),
                x.astype(np.float32),
                y.astype(np.float32),
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            correlation = _zncc(grey, sampled, window_radius)
            per_neighbour.append(np.where(seen, (1.0 - correlation).clip(0, 2) / 2, np.nan))
        cost[plane] = _better_half_mean(np.stack(per_neighbour))
    return cost


def reference_semi_global(cost: FloatArray, grey: FloatArray) -> FloatArray:
    """Mean path cost (D, H, W) over four directions, as `aggregation.semi_global` defines it."""
    _, height, width = cost.shape
    total = np.zeros_like(cost)
    for step_row, step_column in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        path = np.zeros_like(cost)
        rows = range(height) if step_row >= 0 else range(height - 1, -1, -1)
        columns = range(width) if step_column >= 0 else range(width - 1, -1, -1)
        for row in rows:
            for column in columns:
                here = cost[:, row, column]
                before = row - step_row, column - step_column
                if not (0 <= before[0] < height and 0 <= before[1] < width):
                    path[:, row, column] = here
                    continue
                previous = path[:, before[0], before[1]]
                edge = abs(float(grey[row, column]) - float(grey[before]))
                jump = max(JUMP_PENALTY / (1 + edge / EDGE_GREY), SMALL_STEP_PENALTY)
                best = np.minimum(previous, previous.min() + jump)
                best[1:] = np.minimum(best[1:], previous[:-1] + SMALL_STEP_PENALTY)
                best[:-1] = np.minimum(best[:-1], previous[1:] + SMALL_STEP_PENALTY)
                path[:, row, column] = here + best - previous.min()
        total += path
    return total / 4


def _zncc(first: FloatArray, second: FloatArray, radius: int) -> FloatArray:
    """Zero-mean normalised cross-correlation of windows (H, W), with TEXTURE_FLOOR."""

    def mean(values: FloatArray) -> FloatArray:
        window = (2 * radius + 1, 2 * radius + 1)
        return cv2.blur(values.astype(np.float64), window, borderType=cv2.BORDER_REPLICATE)

    covariance = mean(first * second) - mean(first) * mean(second)
    variances = [(mean(a * a) - mean(a) ** 2).clip(min=0) + TEXTURE_FLOOR for a in (first, second)]
    return covariance / np.sqrt(variances[0] * variances[1])


def _better_half_mean(costs: FloatArray) -> FloatArray:
    """Mean (H, W) of the lower half of costs (N, H, W); NaN is a neighbour that does not see."""
    ordered = np.sort(costs, axis=0)[: (len(costs) + 1) // 2]  # NaN comes last
    seen = np.isfinite(ordered)
    total = np.where(seen, ordered, 0.0).sum(axis=0)
    return np.where(seen.any(axis=0), total / seen.sum(axis=0).clip(min=1), NEUTRAL_COST)


def _grey(frame: PosedImage) -> NDArray[np.float32]:
    return cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
