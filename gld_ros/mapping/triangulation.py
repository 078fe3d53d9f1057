"""Metric depth of corners that posed pictures share, measured by light and TF alone.

Owns the matching of two pictures and the geometry between them. No model takes part, so what is
measured here can judge one; `scale` does.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.mapping.frames import CameraFrame, shrink_to_fit
from gld_ros.mapping.poses import invert_rigid

FloatArray = NDArray[np.floating[Any]]

# Larger pictures give more corners than are needed, at the square of the cost.
MATCHED_HW = (480, 640)
MAX_CORNERS = 1000
MIN_CONTRAST = 0.01  # of a corner; robots look at plain walls
MAX_DISTANCE = 250.0  # of descriptors, whose length is about 512
MAX_DISTANCE_RATIO = 0.8  # of the best to the second-best match (Lowe 2004, section 7.1)
MAX_EPIPOLAR_ERROR_PX = 1.0
# With corners found to about a third of a pixel, depth from less parallax says too little.
MIN_PARALLAX_PX = 5.0


@dataclass(frozen=True, eq=False)
class Corners:
    """Corners of one picture, as rays of its camera."""

    rays: FloatArray  # (N, 3) in the camera's optical frame, z = 1
    descriptors: NDArray[np.float32]  # (N, 128)
    focal_px: float  # of the picture that was searched
    T_fixed_cam: FloatArray


@dataclass(frozen=True, eq=False)
class SharedPoints:
    """Points that two cameras see, in the optical frame of each (N, 3), metres."""

    in_first_m: FloatArray
    in_second_m: FloatArray


@lru_cache(maxsize=8)  # consecutive jobs share most of their keyframes
def find_corners(frame: CameraFrame) -> Corners:
    """Corners of a rectified picture, by scale-invariant features (SIFT)."""
    image, K_px = shrink_to_fit(frame.image, frame.K_px, MATCHED_HW)
    sift = cv2.SIFT_create(nfeatures=MAX_CORNERS, contrastThreshold=MIN_CONTRAST)  # type: ignore[attr-defined]
    found, descriptors = sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
    if descriptors is None:
        found, descriptors = (), np.zeros((0, 128), np.float32)
    pixels = np.array([[*corner.pt, 1.0] for corner in found], np.float64).reshape(-1, 3)
    rays = pixels @ np.linalg.inv(K_px).T
    focal_px = float(np.sqrt(K_px[0, 0] * K_px[1, 1]))
    return Corners(rays, descriptors, focal_px, frame.T_fixed_cam)


def triangulate(first: Corners, second: Corners) -> SharedPoints:
    """Points whose corners match both ways, among the pairs that the known cameras allow.

    A pair is allowed within MAX_EPIPOLAR_ERROR_PX of the plane that the cameras span with it, in
    front of both, and with at least MIN_PARALLAX_PX of parallax. Of those each must be the other's
    best, clearly better than the second best. Choosing among allowed pairs only keeps repeated
    texture, tiles for instance, from spoiling its own matches.
    """
    T_first_second = invert_rigid(first.T_fixed_cam) @ second.T_fixed_cam
    t = T_first_second[:3, 3]
    a = first.rays[:, None]
    b = (second.rays @ T_first_second[:3, :3].T)[None]
    normal = np.cross(a, b)  # of the plane of both rays; its length is their parallax
    squared_parallax = np.einsum("nmi,nmi->nm", normal, normal)
    focal_px = min(first.focal_px, second.focal_px)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Depths along both rays where they come closest, and the angle by which they miss.
        depth_a = np.einsum("nmi,nmi->nm", np.cross(t, b), normal) / squared_parallax
        depth_b = np.einsum("nmi,nmi->nm", np.cross(t, a), normal) / squared_parallax
        miss = np.abs(normal @ t) / np.sqrt(squared_parallax)
        sine = np.sqrt(squared_parallax) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
        allowed = (
            (focal_px * sine >= MIN_PARALLAX_PX)
            & (depth_a > 0)
            & (depth_b > 0)
            & (focal_px * miss <= MAX_EPIPOLAR_ERROR_PX * np.minimum(depth_a, depth_b))
        )
    rows, columns = _mutual_matches(first.descriptors, second.descriptors, allowed)
    return SharedPoints(
        first.rays[rows] * depth_a[rows, columns, None],
        second.rays[columns] * depth_b[rows, columns, None],
    )


def _mutual_matches(
    first: NDArray[np.float32], second: NDArray[np.float32], allowed: NDArray[np.bool_]
) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    """Indices (M,) and (M,) of descriptors that choose each other without hesitation."""
    nothing = np.zeros(0, np.int64)
    if min(allowed.shape) < 2:  # no second best to compare with
        return nothing, nothing
    squared = np.square(first).sum(1)[:, None] + np.square(second).sum(1) - 2.0 * (first @ second.T)
    squared = np.where(allowed, squared.clip(min=0.0), np.inf)
    best = squared.argmin(1)
    mutual = squared.argmin(0)[best] == np.arange(len(first))
    two = np.partition(squared, 1, axis=1)[:, :2]
    clear = np.isfinite(two[:, 0]) & (two[:, 0] <= MAX_DISTANCE_RATIO**2 * two[:, 1])
    alike = two[:, 0] <= MAX_DISTANCE**2  # the only allowed pair need not be a match
    rows = np.flatnonzero(mutual & clear & alike)
    return rows, best[rows]
