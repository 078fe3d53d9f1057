"""The scale between a network's depth and given cameras: units of the cameras per network unit.

First choice is depth measured between the photos themselves (`gld_ros.measuring`), which asks
the network nothing. Where too little can be measured, the network's own camera path is compared
with the given one, and taken if both go the same way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gld_ros.backbones.da3.pose_alignment import scale_between_trajectories
from gld_ros.geometry.crop_resize import resized_intrinsics
from gld_ros.geometry.poses import distance_m
from gld_ros.geometry.rigid import invert_rigid
from gld_ros.measuring.confidence import SURE
from gld_ros.measuring.depth_range import depth_range
from gld_ros.measuring.frames import PosedImage
from gld_ros.measuring.measure import MeasuringParameters, measure_depth
from gld_ros.measuring.neighbours import choose_neighbours
from gld_ros.measuring.scale_field import common_scale
from gld_ros.photos.network import NetworkViews

MAX_MEASURED_VIEWS = 3  # spread over all; one scale needs no more
# Nearest cameras to triangulate corners with, by rank: the nearest may show no parallax.
RANGE_PARTNERS = (0, 2, 5, 9)
MAX_SIDE_PX = 640  # photos are measured at no more than half of it
SAME_WAY = 0.9  # cosine between the two camera paths
_NEAREST, _FARTHEST = 0.1, 5.0  # searched, in typical depths of the scene


@dataclass(frozen=True)
class KnownScale:
    """Units of the given cameras per unit of the network; NaN where nothing tells. And why."""

    scale: float
    reason: str


def scale_of_known_cameras(
    photos: Sequence[NDArray[np.uint8]],
    K_px: NDArray[np.float64],
    T_world_cam: NDArray[np.float64],
    views: NetworkViews,
    device: torch.device | None = None,
) -> KnownScale:
    """The scale of `views` in the unit of T_world_cam (V, 4, 4).

    K_px (V, 3, 3) is in pixels of the photos (H_i, W_i, 3); `device` is that of `measure_depth`.
    """
    if len(photos) < 2:
        return KnownScale(math.nan, "one image has no parallax, so its scale is unknown")
    frames = [
        _posed(*view, stamp)
        for stamp, view in enumerate(zip(photos, K_px, T_world_cam, strict=True))
    ]
    chosen = np.unique(np.linspace(0, len(frames) - 1, MAX_MEASURED_VIEWS).round().astype(int))
    measured = [
        _on_network_grid(_measured(frames, i, device), frames[i].K_px, views, i) for i in chosen
    ]
    common = common_scale([views.depth[i] for i in chosen], measured)
    if math.isfinite(common.scale):
        return KnownScale(
            common.scale,
            f"scale measured between the images in {common.num_pixels} pixels, which scatter by "
            f"{common.dispersion:.0%} around it",
        )
    return _scale_of_path(T_world_cam, views, common.fault)


def _posed(
    rgb: NDArray[np.uint8],
    K_px: NDArray[np.floating],
    T_world_cam: NDArray[np.floating],
    stamp: int,
) -> PosedImage:
    height, width = rgb.shape[:2]
    shrink = min(1.0, MAX_SIDE_PX / max(height, width))
    hw = max(1, round(height * shrink)), max(1, round(width * shrink))
    if hw != (height, width):
        rgb = np.asarray(cv2.resize(rgb, hw[::-1], interpolation=cv2.INTER_AREA))
        K_px = resized_intrinsics(K_px, hw[1] / width, hw[0] / height)
    return PosedImage(rgb, K_px, T_world_cam, stamp, "photo")


def _measured(
    frames: Sequence[PosedImage], index: int, device: torch.device | None
) -> NDArray[np.float32]:
    """Depth of one frame where it is sure, NaN elsewhere."""
    reference = frames[index]
    unknown = np.full(reference.image_hw, np.nan, np.float32)
    others = [frame for frame in frames if frame is not reference]
    others.sort(key=lambda frame: distance_m(frame.T_fixed_cam, reference.T_fixed_cam))
    partners = [others[rank] for rank in RANGE_PARTNERS if rank < len(others)]
    found = depth_range(reference, partners)
    if found is None:
        return unknown
    neighbours = choose_neighbours(reference, frames, found.typical_m)
    if not neighbours:
        return unknown
    limits = (_NEAREST * found.typical_m, _FARTHEST * found.typical_m)
    parameters = MeasuringParameters(depth_range_m=limits)
    result = measure_depth(reference, neighbours, parameters, device)
    return np.where(result.confidence >= SURE, result.depth_m, np.float32(np.nan))


def _on_network_grid(
    depth: NDArray[np.float32], K_px: NDArray[np.floating], views: NetworkViews, index: int
) -> NDArray[np.float32]:
    """Depth on the pixels of the network's image of the same camera; no depth is in between."""
    height, width = views.depth.shape[1:]
    to_source = K_px @ np.linalg.inv(views.K_px[index])
    u = to_source[0, 0] * np.arange(width) + to_source[0, 2]
    v = to_source[1, 1] * np.arange(height) + to_source[1, 2]
    columns, rows = np.meshgrid(u.astype(np.float32), v.astype(np.float32))
    return np.asarray(
        cv2.remap(depth, columns, rows, cv2.INTER_NEAREST, borderValue=float("nan")), np.float32
    )


def _scale_of_path(T_world_cam: NDArray[np.float64], views: NetworkViews, fault: str) -> KnownScale:
    T_given = torch.from_numpy(np.linalg.inv(T_world_cam[0]) @ T_world_cam)
    T_model = torch.from_numpy(views.T_model_cam)
    given, predicted = T_given[1:, :3, 3].flatten(), T_model[1:, :3, 3].flatten()
    cosine = float(torch.nn.functional.cosine_similarity(given, predicted, dim=0))
    units = scale_between_trajectories(invert_rigid(T_given), invert_rigid(T_model))
    if units is None or not cosine >= SAME_WAY:
        return KnownScale(
            math.nan,
            f"no scale: {fault}, and the network's camera path does not follow the given "
            f"one (cosine {cosine:.2f}; {SAME_WAY} is needed)",
        )
    return KnownScale(1 / units, f"scale of the network's camera path ({fault})")
