"""Rectification of a distorted camera: what it can show as a pinhole camera, and the maps for it.

Works on intrinsics K (3, 3), distortion D and its model; which of a CameraInfo's values they are is
decided in `camera_info`.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]

# Rectified views are no wider than this (half angle, tangent): beyond, a pinhole image is mostly
# stretched border.
_MAX_TANGENT = np.tan(np.radians(60.0))
_ZOOMS = np.geomspace(64.0, 0.25, 800)  # rectified focal length over calibrated one, 0.7 % apart
_BORDER_POINTS = 17  # per side
_MAX_ZOOM = 4.0  # a calibration that leaves less than this of the image is wrong


def _distorted_pixels(
    K_px: FloatArray, D: FloatArray, model: str, normalised_xy: FloatArray
) -> FloatArray:
    """Pixels (N, 2) at which rays (x/z, y/z) (N, 2) appear in the raw image."""
    if model == "equidistant":
        points = np.concatenate([normalised_xy, np.ones((len(normalised_xy), 1))], 1)[:, None]
        pixels, _ = cv2.fisheye.projectPoints(points, np.zeros(3), np.zeros(3), K_px, D)
    else:
        points = np.concatenate([normalised_xy, np.ones((len(normalised_xy), 1))], 1)
        pixels, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K_px, D)
    return np.asarray(pixels).reshape(-1, 2)


def widest_full_view(
    K_px: FloatArray, D: FloatArray, model: str, image_hw: tuple[int, int]
) -> FloatArray | None:
    """Intrinsics of the widest rectified image of the same size that the raw one fully covers.

    None if distortion leaves no such image. Zooms out from a narrow view and stops before the
    border leaves the raw image or stops moving outwards: beyond that, a distortion polynomial folds
    back and shows wrong pixels.
    """
    height, width = image_hw
    border = _border_pixels(height, width)
    centre = K_px[:2, 2]
    rays = np.linalg.solve(K_px, np.concatenate([border, np.ones((len(border), 1))], 1).T)[:2].T
    best = None
    reached = np.zeros(len(border))
    for zoom in _ZOOMS:
        zoomed = rays / zoom
        if np.abs(zoomed).max() > _MAX_TANGENT:
            break
        pixels = _distorted_pixels(K_px, D, model, zoomed)
        inside = (pixels >= 0).all() and (pixels <= (width - 1, height - 1)).all()
        radius = np.linalg.norm(pixels - centre, axis=1)
        if not inside or (radius <= reached).any():
            break
        best, reached = zoom, radius
    if best is None or best > _MAX_ZOOM:
        return None
    K_new = K_px.copy()
    K_new[:2, :2] *= best
    return K_new


def _border_pixels(height: int, width: int) -> FloatArray:
    """Corners and points between them: distortion is smooth, so a few tell where a side ends."""
    x, y = np.linspace(0, width - 1, _BORDER_POINTS), np.linspace(0, height - 1, _BORDER_POINTS)
    sides = [
        *(np.stack([x, np.full_like(x, row)], axis=1) for row in (0, height - 1)),
        *(np.stack([np.full_like(y, column), y], axis=1) for column in (0, width - 1)),
    ]
    return np.concatenate(sides)


def rectification_maps(
    K_px: FloatArray, D: FloatArray, model: str, K_new: FloatArray, image_hw: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """Where the pixels (H, W) of the rectified image of K_new lie in the raw one: x, y, float32."""
    size = (image_hw[1], image_hw[0])
    make_maps = (
        cv2.fisheye.initUndistortRectifyMap
        if model == "equidistant"
        else cv2.initUndistortRectifyMap
    )
    map_x, map_y = make_maps(K_px, D, np.eye(3), K_new, size, cv2.CV_32FC1)
    return np.asarray(map_x), np.asarray(map_y)
