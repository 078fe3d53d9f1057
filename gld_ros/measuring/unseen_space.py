"""Lines of sight that pass behind a measured surface, where no camera has looked.

A cabinet seen from the front hides the space behind it. The wall beyond that space may have been
measured past the cabinet's edge; whether it can be seen from the side depends on how deep the
cabinet is, which nobody knows. A planner must not be told that it can look through a cabinet.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.measuring.confidence import POSSIBLE
from gld_ros.measuring.surfaces import (
    MIN_Z_M,
    FloatArray,
    FloatImage,
    Surface,
    projection,
    resized_K,
)

_SAMPLES = 16  # along a line of sight
_LAST = 0.94  # share of the way up to which it is sampled: the rest may belong to what is seen
_RUN = 2  # neighbouring samples that must be unseen
_BEHIND = 1.08  # of a surface's depth, from which a point is hidden by it
_IN_FRONT = 0.97  # of a surface's depth, up to which its camera looks through a point
_STRIDE = 2  # pixels between those that are looked at first


def behind_unseen_space(
    surfaces: Sequence[Surface],
    witnesses: Sequence[Surface],
    depth_m: FloatImage,
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
) -> NDArray[np.bool_]:
    """Pixels (H, W) of a target camera whose depth lies beyond space that may be filled.

    Space may be filled if one of the surfaces hides it from its camera, and neither another one's
    camera nor a witness's looks through it. Space outside of all images is taken to be empty.
    depth_m is NaN where nothing is seen. Of what is narrower than two pixels, some may be missed.
    """
    coarse = np.zeros(depth_m.shape, bool)
    coarse[_STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE] = True
    unseen = _unseen(surfaces, witnesses, coarse, depth_m, K_px, T_fixed_cam)
    kernel = np.ones((2 * _STRIDE + 1, 2 * _STRIDE + 1), np.uint8)
    around = cv2.dilate(unseen.view(np.uint8), kernel) > 0
    return unseen | _unseen(surfaces, witnesses, around & ~coarse, depth_m, K_px, T_fixed_cam)


def _unseen(
    surfaces: Sequence[Surface],
    witnesses: Sequence[Surface],
    chosen: NDArray[np.bool_],
    depth_m: FloatImage,
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
) -> NDArray[np.bool_]:
    """Which of the chosen pixels (H, W) look at their depth through space that may be filled."""
    result = np.zeros(chosen.shape, bool)
    rows, columns = np.nonzero(chosen & np.isfinite(depth_m))
    pixels = np.stack([columns, rows, np.ones_like(rows)]).astype(np.float32)
    shares = np.linspace(_LAST / _SAMPLES, _LAST, _SAMPLES, dtype=np.float32)
    points = ((pixels * depth_m[rows, columns])[:, None] * shares[:, None]).reshape(3, -1)
    hidden = np.zeros(points.shape[1], bool)
    looked_through = np.zeros_like(hidden)
    for surface in surfaces:
        ratio = _depth_ratio(surface, points, K_px, T_fixed_cam)
        hidden |= ratio > _BEHIND
        looked_through |= ratio < _IN_FRONT
    open_points = np.flatnonzero(hidden & ~looked_through)
    for witness in witnesses:
        ratio = _depth_ratio(witness, points.take(open_points, axis=1), K_px, T_fixed_cam)
        open_points = open_points[~(ratio < _IN_FRONT)]
    may_be_filled = np.zeros((_SAMPLES, rows.size), bool)
    may_be_filled.reshape(-1)[open_points] = True
    starts = range(_RUN)
    runs = np.logical_and.reduce([may_be_filled[i : _SAMPLES - _RUN + 1 + i] for i in starts])
    result[rows, columns] = runs.any(0)
    return result


def _depth_ratio(
    surface: Surface, points: FloatImage, K_px: FloatArray, T_fixed_cam: FloatArray
) -> FloatImage:
    """Depth of points (N,) in a surface's camera over what it measured there; NaN if nothing.

    Points (3, N) are pixel times depth of the camera with K_px (3, 3) and T_fixed_cam (4, 4).
    """
    height, width = surface.depth_m.shape
    K_depth = resized_K(surface.K_px, surface.image.shape[:2], (height, width))
    linear, offset = projection(K_px, T_fixed_cam, K_depth, surface.T_fixed_cam)
    x, y, z = linear @ points + offset[:, None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        u, v = np.rint(x / z), np.rint(y / z)
        inside = (z > MIN_Z_M) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        at = np.where(inside, v * np.float32(width) + u, 0).astype(np.intp)
        inside &= surface.confidence.take(at) >= POSSIBLE
        return np.where(inside, z / surface.depth_m.take(at), np.float32(np.nan))
