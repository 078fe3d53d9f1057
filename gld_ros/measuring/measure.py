"""Depth of one posed image from others: plane sweep, coarse to fine in inverse depth.

Owns the order of the steps and what counts as measured. Costs are `sweep`, smoothness is
`aggregation`, the choice of neighbours is `neighbours`, the correction of their poses
`pose_refinement`, agreement between measured images is `consistency`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.crop_resize import (
    resample_confidence,
    resample_depth,
    resized_intrinsics,
)
from gld_ros.geometry.poses import invert_rigid
from gld_ros.measuring.aggregation import semi_global
from gld_ros.measuring.confidence import POSSIBLE, FoundSurface, surface_confidence
from gld_ros.measuring.frames import FloatArray, MeasuredDepth, PosedImage, nothing_measured
from gld_ros.measuring.levels import GreyImage, grey_image, level_hw
from gld_ros.measuring.pose_refinement import refined_poses
from gld_ros.measuring.sweep import matching_cost, seen_by_any
from gld_ros.measuring.winner import lowest_cost, margin_over_others

FloatImage = NDArray[np.float32]


@dataclass(frozen=True)
class MeasuringParameters:
    """Options of measuring depth with posed images."""

    depth_range_m: tuple[float, float] = (0.4, 12.0)  # nearest and farthest surface looked for
    max_image_hw: tuple[int, int] = (240, 320)  # larger images are measured at this size
    planes: int = 64  # of the coarsest level, evenly spaced in inverse depth

    def __post_init__(self) -> None:
        near_m, far_m = self.depth_range_m
        if not 0.0 < near_m < far_m:
            raise ValueError(f"depth_range_m must be 0 < near < far, got {self.depth_range_m}")
        if self.planes < 8:
            raise ValueError(f"planes must be at least 8, got {self.planes}")


@dataclass(frozen=True)
class _Level:
    """How one size of the pyramid is searched."""

    divisor: int  # of the finest size
    window_radius: int
    offsets: int  # hypotheses on either side of the surface found so far; 0: all planes
    spacing: float  # between hypotheses, in spacings of the coarsest level's planes


_LEVELS = (_Level(4, 2, 0, 1.0), _Level(2, 2, 4, 0.5), _Level(1, 2, 2, 0.25))
# The margin of a winner is taken over hypotheses that are not its direct surroundings.
_EXCLUDED_PLANES = 3
# What a finer level without a minimum of its own leaves of the coarser one's curvature: costs over
# half the spacing bend a quarter as much.
_LESS_SHARP = 0.25
# Islands of fewer pixels, whose depth differs from their surroundings' by more than a step of
# logarithmic depth, are dropped.
_SPECKLE_PIXELS, _SPECKLE_STEP, _NO_STEP = 60, 0.05, -32768


@dataclass(frozen=True, eq=False)
class _Surface:
    """What the levels so far found, on the grid of the last one."""

    inverse_depth: FloatImage  # (h, w)
    margin: FloatImage  # (h, w) of the coarsest level's winner
    curvature: FloatImage  # (h, w) of the cost at the winner, per squared spacing


def measure_depth(
    reference: PosedImage, neighbours: Sequence[PosedImage], parameters: MeasuringParameters
) -> MeasuredDepth:
    """Depth of the reference on its own pixel grid, measured with the neighbours.

    Depth (H, W) is NaN where texture or parallax is missing, where neighbours do not agree with
    the reference, and everywhere without neighbours. Poses of neighbours are corrected by what
    the images show. The order of neighbours does not matter.
    """
    if not neighbours:
        return nothing_measured(reference.image_hw, "stereo")
    refined = refined_poses(reference, neighbours)
    surface = find_surface(reference, refined.neighbours, parameters)
    confidence = surface_confidence(surface)
    kept = (confidence >= POSSIBLE) & ~_speckles(surface.inverse_depth)
    depth_m = np.where(kept, 1.0 / surface.inverse_depth, np.nan).astype(np.float32)
    confidence = np.where(kept, confidence, 0.0).astype(np.float32)
    depth_m, confidence = _on_grid_of(reference, depth_m, confidence)
    return MeasuredDepth(depth_m, confidence, "stereo", refined.given_error_px)


def find_surface(
    reference: PosedImage, neighbours: Sequence[PosedImage], parameters: MeasuringParameters
) -> FoundSurface:
    """The surface with the lowest cost, level by level, at one neighbour or more.

    Poses are taken as they are.
    """
    near_m, far_m = parameters.depth_range_m
    nearest_w, farthest_w = 1.0 / near_m, 1.0 / far_m
    plane_spacing = (nearest_w - farthest_w) / (parameters.planes - 1)
    T_neighbour_reference = [
        invert_rigid(neighbour.T_fixed_cam) @ reference.T_fixed_cam for neighbour in neighbours
    ]
    surface: _Surface | None = None
    images: list[GreyImage] = []
    for level in _LEVELS:
        images = [
            grey_image(frame, level_hw(frame.image_hw, parameters.max_image_hw, level.divisor))
            for frame in (reference, *neighbours)
        ]
        spacing = plane_spacing * level.spacing
        if surface is None:
            around = np.full((1, 1), farthest_w, np.float32)
            steps = spacing * np.arange(parameters.planes)
        else:
            # Hypotheses parallel to the surface so far: windows are slanted like the surface.
            around = _enlarge(cv2.medianBlur(surface.inverse_depth, 3), images[0].hw)
            steps = spacing * np.arange(-level.offsets, level.offsets + 1)
        surface = _search_level(
            images,
            T_neighbour_reference,
            around,
            steps.astype(np.float32),
            level.window_radius,
            surface,
        )
        np.maximum(surface.inverse_depth, 0.25 * farthest_w, out=surface.inverse_depth)
    assert surface is not None  # there are levels
    seen = seen_by_any(images[0], images[1:], T_neighbour_reference, surface.inverse_depth)
    return FoundSurface(surface.inverse_depth, surface.margin, surface.curvature, seen)


def _search_level(
    images: Sequence[GreyImage],
    T_neighbour_reference: Sequence[FloatArray],
    around: FloatImage,
    steps: FloatImage,
    window_radius: int,
    coarser: _Surface | None,
) -> _Surface:
    """The winner among inverse depths `around` (h, w) or (1, 1), plus even steps (D,)."""
    reference = images[0]
    cost = matching_cost(reference, images[1:], T_neighbour_reference, around, steps, window_radius)
    aggregated = semi_global(cost, reference.grey)
    winner = lowest_cost(aggregated)
    position, curvature = winner.position, winner.curvature
    if coarser is None:
        margin = margin_over_others(aggregated, winner.index, _EXCLUDED_PLANES)
    else:
        margin = _enlarge(coarser.margin, reference.hw)
        # Where this level has no minimum near the surface found so far, blur or noise has
        # removed what it could add: that surface is kept, with its curvature.
        before = np.float32(_LESS_SHARP) * _enlarge(coarser.curvature, reference.hw)
        inside = (winner.index > 0) & (winner.index < len(steps) - 1)
        position = np.where(inside, position, np.float32(len(steps) // 2))
        curvature = np.where(inside, curvature, before)
    return _Surface(around + steps[0] + (steps[1] - steps[0]) * position, margin, curvature)


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


def _enlarge(values: FloatImage, hw: tuple[int, int]) -> FloatImage:
    """Values (h, w) on a finer grid, interpolated."""
    return np.asarray(cv2.resize(values, hw[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
