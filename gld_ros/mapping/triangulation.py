"""Metric depth of corners that posed images share, from images and TF only.

Owns the matching of two images and the geometry between them. No model is involved, so the result
can be used to check one, as `scale` does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import distance_m, invert_rigid
from gld_ros.mapping.frames import CameraFrame, shrink_to_fit

FloatArray = NDArray[np.floating[Any]]
IndexArray = NDArray[np.integer[Any]]

# Larger images give more corners than are needed, at the square of the cost.
MATCHED_HW = (480, 640)
MAX_CORNERS = 1000
MIN_CONTRAST = 0.01  # of a corner; robots often look at plain walls
MAX_DISTANCE = 250.0  # of descriptors, whose length is about 512
MAX_DISTANCE_RATIO = 0.8  # of the best to the second-best match (Lowe 2004, section 7.1)
MAX_EPIPOLAR_ERROR_PX = 0.7
# With corners found to about a third of a pixel, depth from less parallax says too little.
MIN_PARALLAX_PX = 5.0
_FIRST_DEPTH_FRAMES, _FIRST_DEPTH_CORNERS = 4, 12


@dataclass(frozen=True, eq=False)
class Corners:
    """Corners of one image, as rays of its camera."""

    rays: FloatArray  # (N, 3) in the camera's optical frame, z = 1
    descriptors: NDArray[np.float32]  # (N, 128)
    focal_px: float  # of the image that was searched
    T_fixed_cam: FloatArray


@lru_cache(maxsize=8)  # consecutive jobs share most of their keyframes
def find_corners(frame: CameraFrame) -> Corners:
    """Corners of a rectified image, by scale-invariant features (SIFT)."""
    image, K_px = shrink_to_fit(frame.image, frame.K_px, MATCHED_HW)
    sift = cv2.SIFT.create(nfeatures=MAX_CORNERS, contrastThreshold=MIN_CONTRAST)
    found, descriptors = sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
    if descriptors is None:
        found, descriptors = (), np.zeros((0, 128), np.float32)
    pixels = np.array([[*corner.pt, 1.0] for corner in found], np.float64).reshape(-1, 3)
    rays = pixels @ np.linalg.inv(K_px).T
    focal_px = float(np.sqrt(K_px[0, 0] * K_px[1, 1]))
    return Corners(rays, descriptors, focal_px, frame.T_fixed_cam)


def triangulate(first: Corners, second: Corners) -> FloatArray:
    """Points (N, 3) that both cameras see, in the first's optical frame and the unit of the poses.

    Their corners match both ways, among the pairs that the known cameras allow.

    A pair is allowed within MAX_EPIPOLAR_ERROR_PX of the plane that the cameras span with it, in
    front of both, and with at least MIN_PARALLAX_PX of parallax. Of those each must be the other's
    best, clearly better than the second best. Choosing only among allowed pairs prevents repeated
    texture, such as tiles, from hindering its own matches.
    """
    squared = (
        np.square(first.descriptors).sum(1)[:, None]
        + np.square(second.descriptors).sum(1)
        - 2.0 * (first.descriptors @ second.descriptors.T)
    )
    # Pairs beyond this cannot match, nor be a second best that hinders a match.
    rows, columns = np.nonzero(squared <= (MAX_DISTANCE / MAX_DISTANCE_RATIO) ** 2)
    depth_first_m, allowed = _closest_points(first, second, rows, columns)
    distance = np.full(squared.shape, np.inf)
    distance[rows, columns] = np.sqrt(squared[rows, columns].clip(min=0.0))
    distance[rows[~allowed], columns[~allowed]] = np.inf
    best = _mutual_best(distance)[rows, columns]
    return first.rays[rows[best]] * depth_first_m[best, None]


def _closest_points(
    first: Corners, second: Corners, rows: IndexArray, columns: IndexArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Depth along the first of two rays (M,) where they come closest, and whether they meet."""
    T_first_second = invert_rigid(first.T_fixed_cam) @ second.T_fixed_cam
    t = T_first_second[:3, 3]
    a, b = first.rays[rows], second.rays[columns] @ T_first_second[:3, :3].T
    normal = np.cross(a, b)  # of the plane of both rays; its length is their parallax
    squared_parallax = np.einsum("mi,mi->m", normal, normal)
    focal_px = min(first.focal_px, second.focal_px)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth_a = np.einsum("mi,mi->m", np.cross(t, b), normal) / squared_parallax
        depth_b = np.einsum("mi,mi->m", np.cross(t, a), normal) / squared_parallax
        miss = np.abs(normal @ t) / np.sqrt(squared_parallax)
        sine = np.sqrt(squared_parallax) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        allowed = (
            (focal_px * sine >= MIN_PARALLAX_PX)
            & (depth_a > 0)
            & (depth_b > 0)
            & (focal_px * miss <= MAX_EPIPOLAR_ERROR_PX * np.minimum(depth_a, depth_b))
        )
    return depth_a, allowed


def _mutual_best(distance: FloatArray) -> NDArray[np.bool_]:
    """Which entries of (N, M) are the lowest of row and column, and clearly so in their row."""
    chosen = np.zeros(distance.shape, np.bool_)
    if min(distance.shape) < 2:  # no second best to compare with
        return chosen
    best = distance.argmin(1)
    lowest, second_lowest = np.partition(distance, 1, axis=1)[:, :2].T
    mutual = distance.argmin(0)[best] == np.arange(len(distance))
    clear = (lowest <= MAX_DISTANCE_RATIO * second_lowest) & (lowest <= MAX_DISTANCE)
    rows = np.flatnonzero(mutual & clear)
    chosen[rows, best[rows]] = True
    return chosen


def first_depth_m(frame: CameraFrame, others: Sequence[CameraFrame]) -> float:
    """Median depth of corners that a frame shares with those farthest from it; NaN without enough.

    It sets the range in which depth is searched; units of poses may be anything.
    """
    depths = []
    far_first = sorted(others, key=lambda o: -distance_m(o.T_fixed_cam, frame.T_fixed_cam))
    for other in far_first[:_FIRST_DEPTH_FRAMES]:
        depths.append(triangulate(find_corners(frame), find_corners(other))[:, 2])
    found = np.concatenate(depths) if depths else np.zeros(0)
    return float(np.median(found)) if found.size >= _FIRST_DEPTH_CORNERS else math.nan
