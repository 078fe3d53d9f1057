"""A depth camera's image as a measurement on the grid of the colour camera."""

import numpy as np
from numpy.typing import NDArray

from gld_ros.measuring.frames import FloatArray, MeasuredDepth, PosedImage, nothing_measured

_EDGE_TOLERANCE_PX = 1e-6
_FAR_PX = 1e9


def depth_camera(
    colour: PosedImage,
    depth_m: FloatArray,
    K_depth_px: FloatArray,
    T_colour_depth: FloatArray,
) -> MeasuredDepth:
    """A depth image (h, w) on the pixel grid of the colour camera.

    depth_m: z-depth in metres, 0, NaN or infinite where unknown; T_colour_depth (4, 4) maps points
    of the depth camera's optical frame to the colour camera's. Each point covers as much as its
    own pixel does; the nearest surface wins. Confidence is 1 where depth is known.
    Raises ValueError for a depth image that is not two-dimensional.
    """
    if depth_m.ndim != 2:
        raise ValueError(f"a depth image must be (h, w), got {depth_m.shape}")
    rows, columns = np.nonzero(np.isfinite(depth_m) & (depth_m > 0))
    z = depth_m[rows, columns].astype(np.float64)
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1).astype(np.float64)
    points = (pixels @ np.linalg.inv(K_depth_px).T) * z[:, None]
    points = points @ T_colour_depth[:3, :3].T + T_colour_depth[:3, 3]
    in_front = points[:, 2] > 0
    points = points[in_front]
    if len(points) == 0:
        return nothing_measured(colour.image_hw, "camera")
    height, width = colour.image_hw
    projected = points @ np.asarray(colour.K_px).T
    # A coarser depth image leaves gaps unless its pixels are drawn as wide as they are.
    u, v = (
        _covered(projected[:, i] / points[:, 2], colour.K_px[i, i] / K_depth_px[i, i])
        for i in (0, 1)
    )
    nearest = np.full((height, width), np.inf)
    for row, in_rows in v:
        for column, in_columns in u:
            drawn = in_rows & in_columns
            drawn &= (column >= 0) & (column < width) & (row >= 0) & (row < height)
            np.minimum.at(nearest, (row[drawn], column[drawn]), points[drawn, 2])
    known = np.isfinite(nearest)
    measured = np.where(known, nearest, np.nan).astype(np.float32)
    return MeasuredDepth(measured, known.astype(np.float32), "camera")


def _covered(at: FloatArray, width: float) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Which pixels of an axis the pixels at `at` (N,), `width` wide, cover: the nearest at least.

    Each entry has one pixel (N,) of each, and whether it is covered (N,). Neighbours that touch
    cover every pixel once: one that lies on their common edge is the right one's.
    """
    at = np.clip(at, -_FAR_PX, _FAR_PX)  # what int64 cannot hold must not wrap around
    low, high = (at + side * max(width, 1.0) / 2 - _EDGE_TOLERANCE_PX for side in (-1, 1))
    first = np.ceil(low)
    at_most = max(1, int(np.ceil(width - _EDGE_TOLERANCE_PX)))
    return [((first + i).astype(np.int64), first + i < high) for i in range(at_most)]
