"""Corners that two posed images share: followed by optical flow, judged by the cameras' geometry.

Few points at a small cost: enough for the depth range of a scene and for the question whether
images and poses belong together. Flow is Lucas-Kanade in a pyramid (OpenCV), started where the
turn between the cameras puts a corner.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import invert_rigid
from gld_ros.measuring.frames import FloatArray, PosedImage
from gld_ros.measuring.levels import grey_image, level_hw

TRACKED_HW = (240, 320)
MAX_CORNERS = 300
_QUALITY, _APART_PX = 0.01, 7
_WINDOW_PX, _PYRAMID_LEVELS = 15, 3
_MAX_RETURN_ERROR_PX = 0.5  # after following a corner there and back


@dataclass(frozen=True, eq=False)
class Tracks:
    """Corners seen in two images, as rays (N, 3) with z = 1 of each camera."""

    first_rays: FloatArray
    second_rays: FloatArray
    focal_px: float  # of the images that were searched


def track_corners(first: PosedImage, second: PosedImage) -> Tracks:
    """Corners of the first image that are found again in the second, and from there back."""
    images = [
        grey_image(frame, level_hw(frame.image_hw, TRACKED_HW, 1), "cpu")
        for frame in (first, second)
    ]
    grey = [image.grey.numpy().astype(np.uint8) for image in images]
    corners = cv2.goodFeaturesToTrack(grey[0], MAX_CORNERS, _QUALITY, _APART_PX)
    focal_px = float(np.sqrt(images[0].K_px[0, 0] * images[0].K_px[1, 1]))
    if corners is None:
        return Tracks(np.zeros((0, 3)), np.zeros((0, 3)), focal_px)
    start = corners.reshape(-1, 2)
    turn = invert_rigid(second.T_fixed_cam)[:3, :3] @ first.T_fixed_cam[:3, :3]
    turned = _rays(start, images[0].K_px) @ turn.T
    with np.errstate(divide="ignore", invalid="ignore"):
        guess = ((turned / turned[:, 2:]) @ images[1].K_px.T)[:, :2].astype(np.float32)
    height, width = images[1].hw
    inside = (turned[:, 2] > 0) & (guess >= 0).all(1) & (guess < [width, height]).all(1)
    start, guess = start[inside], guess[inside]
    if len(start) == 0:
        return Tracks(np.zeros((0, 3)), np.zeros((0, 3)), focal_px)
    found, there = _follow(grey[0], grey[1], start, guess)
    back, returned = _follow(grey[1], grey[0], found, start)
    kept = there & returned & (np.linalg.norm(back - start, axis=1) <= _MAX_RETURN_ERROR_PX)
    return Tracks(_rays(start[kept], images[0].K_px), _rays(found[kept], images[1].K_px), focal_px)


def epipolar_errors_px(tracks: Tracks, T_first_second: FloatArray) -> FloatArray:
    """Distance (N,) of corners from what the cameras' poses allow, in pixels (Sampson's form).

    Without a distance between the cameras nothing is forbidden and the errors are NaN.
    """
    t = T_first_second[:3, 3]
    length = float(np.linalg.norm(t))
    if length < 1e-6:
        return np.full(len(tracks.first_rays), np.nan)
    x, y, z = t / length
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ T_first_second[:3, :3]
    in_first = tracks.second_rays @ essential.T  # epipolar lines in the first image
    in_second = tracks.first_rays @ essential
    residual = (tracks.first_rays * in_first).sum(1)
    slope = (in_first[:, :2] ** 2).sum(1) + (in_second[:, :2] ** 2).sum(1)
    return tracks.focal_px * np.abs(residual) / np.sqrt(slope.clip(min=1e-12))


def triangulated_depth_m(
    tracks: Tracks, T_first_second: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Z-depth (N,) in the first camera where both rays come closest, and parallax in pixels.

    Depth may be negative or without meaning where parallax is small.
    """
    a = tracks.first_rays
    b = tracks.second_rays @ T_first_second[:3, :3].T
    t = T_first_second[:3, 3]
    normal = np.cross(a, b)
    squared = (normal**2).sum(1)
    depth_m = (np.cross(t, b) * normal).sum(1) / squared.clip(min=1e-12)
    sine = np.sqrt(squared) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return depth_m, tracks.focal_px * sine


def _follow(
    grey_from: NDArray[np.uint8], grey_to: NDArray[np.uint8], start: FloatArray, guess: FloatArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Where corners (N, 2) of one image are in another, and which were found."""
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        grey_from,
        grey_to,
        start.astype(np.float32),
        guess.astype(np.float32).copy(),
        winSize=(_WINDOW_PX, _WINDOW_PX),
        maxLevel=_PYRAMID_LEVELS,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return found, status.reshape(-1).astype(bool)


def _rays(pixels: FloatArray, K_px: FloatArray) -> FloatArray:
    homogeneous = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    return homogeneous @ np.linalg.inv(K_px).T
