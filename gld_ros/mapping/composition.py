"""Measured and modelled parts of one view: real images completed, target views composed.

Owns where each pixel takes its depth and colour from. Fitting, rendering and blending are in
`gld_ros.measuring`, the limits of what is published in `products`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.mapping.scale import ScaleState
from gld_ros.measuring.confidence import SURE
from gld_ros.measuring.joining import join_view
from gld_ros.measuring.rendering import RenderedView
from gld_ros.measuring.scale_field import AlignedDepth, aligned_depth
from gld_ros.measuring.surfaces import Surface, enlarged_depth, sure_depth
from gld_ros.view_request import View

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class CompletedView:
    """Depth of a view in metres; arrays are (H, W)."""

    depth_m: NDArray[np.float32]  # NaN where unknown, or where the expected error is too large
    confidence: NDArray[np.float32]  # [0, 1]
    measured: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ComposedView(CompletedView):
    """A target view, with colours."""

    color: NDArray[np.uint8]  # (H, W, 3) RGB


def measured_on_grid(surface: Surface | None, image_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Measured depth of a real image at the size of its view; NaN where it is not SURE."""
    if surface is None:
        return np.full(image_hw, np.nan, np.float32)
    return enlarged_depth(sure_depth(surface), image_hw)


def completed_view(
    view: View, surface: Surface | None, scale: ScaleState, max_error: float
) -> CompletedView:
    """A reference view: its measured depth, and elsewhere the model's, aligned to it."""
    image_hw = (view.depth.shape[0], view.depth.shape[1])
    measured_m = measured_on_grid(surface, image_hw)
    weight = np.zeros(image_hw, np.float32)
    if surface is not None:
        size = image_hw[::-1]
        weight = cv2.resize(surface.confidence, size, interpolation=cv2.INTER_NEAREST_EXACT)
    measured = np.isfinite(measured_m)
    aligned = _aligned(view, measured_m, np.where(measured, weight, 0.0), scale)
    confidence = np.where(measured, weight, np.nan_to_num(view.confidence, nan=0.0))
    depth_m = np.where(measured, measured_m, _within(aligned, max_error))
    return CompletedView(depth_m, confidence.astype(np.float32), measured)


def composed_view(
    view: View, rendered: RenderedView, scale: ScaleState, max_error: float
) -> ComposedView:
    """A target view: measured surfaces as rendered into it, and the model's view elsewhere."""
    sure_m = np.where(rendered.weight >= SURE, rendered.depth_m, np.float32(np.nan))
    aligned = _aligned(view, sure_m, rendered.weight, scale)
    kept = replace(aligned, depth_m=_within(aligned, max_error))
    joined = join_view(rendered, view.rgb, kept)
    confidence = np.where(joined.measured, rendered.weight, np.nan_to_num(view.confidence, nan=0.0))
    # Pixels below SURE keep the colour that cameras saw, but have no depth.
    unsure = joined.measured & (rendered.weight < SURE)
    depth_m = np.where(unsure, np.float32(np.nan), joined.depth_m)
    return ComposedView(depth_m, confidence.astype(np.float32), joined.measured, joined.color)


def _aligned(
    view: View, measured_m: FloatArray, weight: FloatArray, scale: ScaleState
) -> AlignedDepth:
    if not math.isfinite(scale.scale):
        nothing = np.full(view.depth.shape, np.nan, np.float32)
        return AlignedDepth(nothing, np.full_like(nothing, np.inf), np.zeros_like(nothing))
    spread = scale.relative_dispersion
    return aligned_depth(
        view.depth, measured_m, weight, scale.scale, spread if math.isfinite(spread) else 0.0
    )


def _within(aligned: AlignedDepth, max_error: float) -> NDArray[np.float32]:
    return np.where(aligned.relative_error <= max_error, aligned.depth_m, np.float32(np.nan))


def color_image(rgb: FloatArray) -> NDArray[np.uint8]:
    """Colours (H, W, 3) in [0, 1] as uint8; NaN is black."""
    scaled = np.nan_to_num(rgb, nan=0.0) * np.float32(255.0) + np.float32(0.5)
    return np.clip(scaled, 0.0, 255.0).astype(np.uint8)
