"""A depth camera's image as a measurement on the grid of the colour camera."""

import numpy as np

from gld_ros.measuring.frames import FloatArray, MeasuredDepth, PosedImage, nothing_measured


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
    u, v = projected[:, 0] / points[:, 2], projected[:, 1] / points[:, 2]
    # A coarser depth image leaves gaps unless its pixels are drawn as wide as they are.
    reach = max(0, int(np.ceil(colour.K_px[0, 0] / K_depth_px[0, 0] / 2 - 0.5)))
    nearest = np.full((height, width), np.inf)
    for offset_v in range(-reach, reach + 1):
        for offset_u in range(-reach, reach + 1):
            _draw_nearest(nearest, u + offset_u, v + offset_v, points[:, 2])
    known = np.isfinite(nearest)
    measured = np.where(known, nearest, np.nan).astype(np.float32)
    return MeasuredDepth(measured, known.astype(np.float32), "camera")


def _draw_nearest(nearest: FloatArray, u: FloatArray, v: FloatArray, z: FloatArray) -> None:
    """Lower `nearest` (H, W) to the depths z (N,) at pixels u, v (N,) that fall inside."""
    height, width = nearest.shape
    column, row = np.round(u), np.round(v)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    at = row[inside].astype(np.int64), column[inside].astype(np.int64)
    np.minimum.at(nearest, at, z[inside])
