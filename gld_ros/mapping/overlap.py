"""How much of one camera's image other cameras can see, at one assumed depth.

Owns the frustum overlap that `selection` maximises and `guard` limits; it knows no surfaces;
occlusion is handled by `provenance`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import transform_points

FloatArray = NDArray[np.floating[Any]]

GRID_HW = (18, 24)  # samples over an image: an overlap is known to about half a percent
MIN_DEPTH_M = 1e-6


def depth_plane_points(
    T_fixed_cam: FloatArray, K_px: FloatArray, image_hw: tuple[int, int], depth_m: float
) -> FloatArray:
    """Points (N, 3) of the fixed frame: a grid of pixels of one camera, all at one z-depth."""
    height, width = image_hw
    rows, columns = GRID_HW
    v = (np.arange(rows) + 0.5) * height / rows - 0.5
    u = (np.arange(columns) + 0.5) * width / columns - 0.5
    pixels = np.stack([*np.meshgrid(u, v), np.ones(GRID_HW)], axis=-1).reshape(-1, 3)
    return transform_points(T_fixed_cam, np.linalg.solve(K_px, pixels.T).T * depth_m)


def visible(
    points_fixed: FloatArray, T_fixed_cam: FloatArray, K_px: FloatArray, image_hw: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which points (N, 3) lie in front of a camera and inside its image: (N,)."""
    return visible_to_each(points_fixed, T_fixed_cam[None], K_px[None], [image_hw])[0]


def visible_to_each(
    points_fixed: FloatArray,
    T_fixed_cam: FloatArray,
    K_px: FloatArray,
    image_hw: Sequence[tuple[int, int]],
) -> NDArray[np.bool_]:
    """`visible` for C cameras (C, 4, 4), (C, 3, 3): (C, N)."""
    R_cam_fixed = np.swapaxes(T_fixed_cam[:, :3, :3], 1, 2)
    M = K_px @ R_cam_fixed
    x, y, z = np.moveaxis(M @ points_fixed.T - M @ T_fixed_cam[:, :3, 3:], 1, 0)
    height, width = np.array(image_hw, np.float64).T[:, :, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = x / z, y / z
        # The image reaches half a pixel beyond its outer pixel centres.
        inside = (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)
    seen: NDArray[np.bool_] = (z > MIN_DEPTH_M) & inside
    return seen


def covered_fraction(visible_by_camera: Sequence[NDArray[np.bool_]]) -> float:
    """Fraction of points that at least one camera sees; 0 without cameras."""
    if not visible_by_camera:
        return 0.0
    return float(np.logical_or.reduce(visible_by_camera).mean())
