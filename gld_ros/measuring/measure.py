"""Depth of one posed image from others: plane sweep, coarse to fine in inverse depth.

Owns the order of the steps, what counts as measured, and where the surface is searched: with NumPy
on the CPU (`search`) or with torch on a GPU (`torch_search`). The choice of neighbours is
`neighbours`, the correction of their poses `pose_refinement`, agreement between measured images
`consistency`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.crop_resize import (
    resample_confidence,
    resample_depth,
    resized_intrinsics,
)
from gld_ros.geometry.poses import invert_rigid
from gld_ros.measuring.confidence import POSSIBLE, FoundSurface, surface_confidence
from gld_ros.measuring.frames import MeasuredDepth, PosedImage, nothing_measured
from gld_ros.measuring.levels import search_levels
from gld_ros.measuring.pose_refinement import refined_poses
from gld_ros.measuring.search import search_surface

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MeasuringParameters:
    """Options of measuring depth with posed images."""

    depth_range_m: tuple[float, float] = (0.4, 12.0)  # nearest and farthest surface looked for
    max_image_hw: tuple[int, int] = (240, 320)  # larger images are measured at this size
    planes: int = 64  # over the range of inverse depth, at the spacing of the farther ones

    def __post_init__(self) -> None:
        near_m, far_m = self.depth_range_m
        if not 0.0 < near_m < far_m:
            raise ValueError(f"depth_range_m must be 0 < near < far, got {self.depth_range_m}")
        if self.planes < 16:
            raise ValueError(f"planes must be at least 16, got {self.planes}")


# Islands of fewer pixels, whose depth differs from their surroundings' by more than a step of
# logarithmic depth, are dropped.
_SPECKLE_PIXELS, _SPECKLE_STEP, _NO_STEP = 60, 0.05, -32768


def search_device(device: torch.device) -> torch.device | None:
    """Where a pipeline on `device` has depth searched: there on a GPU, else None, with NumPy."""
    return device if device.type == "cuda" else None


def measure_depth(
    reference: PosedImage,
    neighbours: Sequence[PosedImage],
    parameters: MeasuringParameters,
    device: torch.device | None = None,
) -> MeasuredDepth:
    """Depth of the reference on its own pixel grid, measured with the neighbours.

    Depth (H, W) is NaN where texture or parallax is missing, where neighbours do not agree with
    the reference, and everywhere without neighbours. Poses of neighbours are corrected by what
    the images show. The order of neighbours does not matter. `device` is where torch searches the
    surface; None is NumPy on the CPU, which is faster there than torch. Raises ValueError for a GPU
    that is not there, and torch.OutOfMemoryError for one without memory left.
    """
    if not neighbours:
        return nothing_measured(reference.image_hw, "stereo")
    refined = refined_poses(reference, neighbours)
    surface = find_surface(reference, refined.neighbours, parameters, device)
    confidence = surface_confidence(surface)
    kept = (confidence >= POSSIBLE) & ~_speckles(surface.inverse_depth)
    depth_m = np.where(kept, 1.0 / surface.inverse_depth, np.nan).astype(np.float32)
    confidence = np.where(kept, confidence, 0.0).astype(np.float32)
    depth_m, confidence = _on_grid_of(reference, depth_m, confidence)
    return MeasuredDepth(depth_m, confidence, "stereo", refined.given_error_px)


def find_surface(
    reference: PosedImage,
    neighbours: Sequence[PosedImage],
    parameters: MeasuringParameters,
    device: torch.device | None = None,
) -> FoundSurface:
    """The surface with the lowest cost, level by level, at one neighbour or more.

    Poses are taken as they are; `device` is that of `measure_depth`.
    """
    levels = search_levels(
        reference,
        neighbours,
        parameters.depth_range_m,
        parameters.planes,
        parameters.max_image_hw,
    )
    T_neighbour_reference = [
        invert_rigid(neighbour.T_fixed_cam) @ reference.T_fixed_cam for neighbour in neighbours
    ]
    farthest_inverse_depth = 1.0 / parameters.depth_range_m[1]
    if device is None:
        return search_surface(levels, T_neighbour_reference, farthest_inverse_depth)
    from gld_ros.measuring import torch_search  # late: a CPU measures without torch

    return torch_search.search_surface(
        levels, T_neighbour_reference, farthest_inverse_depth, device
    )


def _on_grid_of(
    reference: PosedImage, depth_m: NDArray[np.float32], confidence: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Depth and confidence on the pixel grid of the reference's image."""
    hw = reference.image_hw
    if depth_m.shape != hw:
        scale_y, scale_x = depth_m.shape[0] / hw[0], depth_m.shape[1] / hw[1]
        K_small = resized_intrinsics(reference.K_px, scale_x, scale_y)
        depth_m = resample_depth(depth_m, K_small, reference.K_px, hw).astype(np.float32)
        confidence = resample_confidence(confidence, K_small, reference.K_px, hw).astype(np.float32)
        confidence[np.isnan(depth_m)] = 0.0
    return depth_m, confidence


def _speckles(inverse_depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels (h, w) of small isolated regions, whose surface does not continue around them."""
    steps = np.round(np.log(inverse_depth) / _SPECKLE_STEP).astype(np.int16)
    marked = steps.copy()
    cv2.filterSpeckles(marked, _NO_STEP, _SPECKLE_PIXELS, 1)
    return marked == _NO_STEP
