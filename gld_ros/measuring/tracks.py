"""Corners that posed images share: tracked by optical flow, checked by the cameras' geometry.

Few points at a low cost: enough for the depth range of a scene, for correcting the poses of
neighbours, and for checking whether images and poses agree. Flow is Lucas-Kanade in a pyramid
(OpenCV), started where the rotation between the cameras puts a corner.
"""

from collections.abc import Sequence
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
_WINDOW_PX, _PYRAMID_LEVELS = 11, 3
_STEPS, _LEAST_STEP_PX = 10, 0.05  # of the search for a corner
_MAX_RETURN_ERROR_PX = 0.5  # after tracking a corner there and back


@dataclass(frozen=True, eq=False)
class Tracks:
    """Corners seen in two images, as rays (N, 3) with z = 1 of each camera."""

    first_rays: FloatArray
    second_rays: FloatArray
    focal_px: float  # of the images that were searched


@dataclass(frozen=True, eq=False)
class SharedCorners:
    """P corners of one image, tracked into n others, as rays with z = 1 of each camera."""

    rays: FloatArray  # (P, 3)
    other_rays: FloatArray  # (n, P, 3); without meaning where not found
    found: NDArray[np.bool_]  # (n, P)
    focal_px: float  # of the images that were searched


def track_corners(first: PosedImage, second: PosedImage) -> Tracks:
    """Corners of the first image that are found again in the second, and from there back."""
    shared = shared_corners(first, [second])
    found = shared.found[0]
    return Tracks(shared.rays[found], shared.other_rays[0][found], shared.focal_px)


def shared_corners(
    first: PosedImage, others: Sequence[PosedImage], max_corners: int = MAX_CORNERS
) -> SharedCorners:
    """Corners of the first image that are found in others, and from there back again."""
    image, *other_images = (
        grey_image(frame, level_hw(frame.image_hw, TRACKED_HW, 1)) for frame in (first, *others)
    )
    grey = image.grey.astype(np.uint8)
    corners = cv2.goodFeaturesToTrack(grey, max_corners, _QUALITY, _APART_PX)
    start = np.zeros((0, 2), np.float32) if corners is None else corners.reshape(-1, 2)
    rays = _rays(start, image.K_px)
    other_rays = np.zeros((len(others), len(start), 3))
    found = np.zeros((len(others), len(start)), bool)
    for k, (frame, other) in enumerate(zip(others, other_images, strict=True)):
        turn = invert_rigid(frame.T_fixed_cam)[:3, :3] @ first.T_fixed_cam[:3, :3]
        turned = rays @ turn.T
        with np.errstate(divide="ignore", invalid="ignore"):
            guess = ((turned / turned[:, 2:]) @ other.K_px.T)[:, :2].astype(np.float32)
        height, width = other.hw
        inside = (turned[:, 2] > 0) & (guess >= 0).all(1) & (guess < [width, height]).all(1)
        if not inside.any():
            continue
        both = _of_one_size(grey, other.grey.astype(np.uint8))
        there, is_there = _follow(*both, start[inside], guess[inside])
        back, is_back = _follow(*both[::-1], there, start[inside])
        apart_px = np.linalg.norm(back - start[inside], axis=1)
        found[k, inside] = is_there & is_back & (apart_px <= _MAX_RETURN_ERROR_PX)
        other_rays[k, inside] = _rays(there, other.K_px)
    return SharedCorners(
        rays, other_rays, found, float(np.sqrt(image.K_px[0, 0] * image.K_px[1, 1]))
    )


def epipolar_errors_px(tracks: Tracks, T_first_second: FloatArray) -> FloatArray:
    """Distance (N,) of corners from what the cameras' poses allow, in pixels (Sampson's form).

    If the camera centres coincide, there is no constraint and the errors are NaN.
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

    Depth may be negative or meaningless where parallax is small.
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
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _STEPS, _LEAST_STEP_PX),
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return found, status.reshape(-1).astype(bool)


def _of_one_size(
    first: NDArray[np.uint8], second: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two images with their last rows and columns repeated up to a common size."""
    if first.shape == second.shape:
        return first, second
    height, width = np.maximum(first.shape, second.shape)
    a, b = (
        np.pad(image, ((0, height - len(image)), (0, width - image.shape[1])), mode="edge")
        for image in (first, second)
    )
    return a, b


def _rays(pixels: FloatArray, K_px: FloatArray) -> FloatArray:
    homogeneous = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    return homogeneous @ np.linalg.inv(K_px).T
