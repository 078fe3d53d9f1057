"""Depth of posed images as surfaces: cleaning, resizing, and geometry between cameras.

Shared by rendering, which puts surfaces into another camera, and by blending, which looks their
colours up.
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.measuring.confidence import SURE

FloatArray = NDArray[np.floating[Any]]
FloatImage = NDArray[np.float32]

EDGE_RATIO = 1.05  # of neighbouring depths: beyond, two surfaces meet and pixels may be mixed
SAME_SURFACE = 0.04  # relative depth within which two views agree
ANGLE_RAD = 0.12  # between lines of sight, at which an image counts a third
MIN_Z_M = 1e-3
CONTINUED = 0.2  # confidence of depth that was not measured, but continues what was
_REACH_OF_WIDTH = 0.04  # how far it continues, as a share of the image's width
_LEAST_MEASURED = 0.5  # share of an image; what continues less than that is mostly wrong
_SMOOTHING = 8  # times that continued depth is averaged with its surroundings
_KERNEL = np.ones((3, 3), np.float32)


@dataclass(frozen=True, eq=False)
class Surface:
    """What one posed image has measured."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    K_px: FloatArray  # (3, 3) in pixels of `image`
    T_fixed_cam: FloatArray  # (4, 4)
    depth_m: FloatImage  # (h, w) z-depth over the same field of view; NaN: not measured
    confidence: FloatImage  # (h, w) in [0, 1]


@dataclass(frozen=True, eq=False)
class MeasuredScene:
    """All measured surfaces for one run of the synthesizer."""

    references: tuple[Surface | None, ...] = ()  # by keyframe of the run; None: nothing measured
    surfaces: tuple[Surface, ...] = ()  # of all keyframes that may see the targets

    @property
    def is_empty(self) -> bool:
        """Whether no pixel is measured."""
        surfaces = [*self.surfaces, *(s for s in self.references if s is not None)]
        return not any(np.isfinite(surface.depth_m).any() for surface in surfaces)


def sure_depth(surface: Surface) -> FloatImage:
    """Depth (h, w) of a surface where it may be published; NaN elsewhere."""
    return np.where(surface.confidence >= SURE, surface.depth_m, np.float32(np.nan))


def without_gaps(surface: Surface) -> Surface:
    """A surface whose depth has no gaps of a pixel or two between points of one surface."""
    inverse = closed_gaps(inverse_depth(surface.depth_m))
    filled = (inverse > 0) & ~np.isfinite(surface.depth_m)
    confidence = surface.confidence
    around = cv2.blur(np.where(filled, 0.0, np.nan_to_num(confidence)), (3, 3))
    with np.errstate(divide="ignore"):
        depth_m = np.where(inverse > 0, 1.0 / inverse, np.nan).astype(np.float32)
    confidence = np.where(filled, around, confidence).astype(np.float32)
    return replace(surface, depth_m=depth_m, confidence=confidence)


def continued(surface: Surface) -> Surface:
    """A surface whose depth goes on a little where nothing was measured, with little confidence.

    Stereo measures nothing inside plain things and beside edges. If such a thing stands in front,
    what other images measured behind it must not be seen through it. Surfaces of which little is
    measured are returned as they are.
    """
    inverse = inverse_depth(surface.depth_m)
    measured = inverse > 0
    if measured.mean() < _LEAST_MEASURED:
        return surface
    known = measured.astype(np.float32)
    box = (5, 5)  # a step of growing reaches two pixels
    for _ in range(max(1, round(_REACH_OF_WIDTH * known.shape[1] / 2))):
        share, total = cv2.blur(known, box), cv2.blur(inverse, box)  # 0 where unknown
        reached = (known == 0) & (share > 1e-3)
        np.divide(total, share, out=inverse, where=reached)
        known[reached] = 1.0
    guessed = (known > 0) & ~measured
    for _ in range(_SMOOTHING):
        np.divide(cv2.blur(inverse, box), cv2.blur(known, box), out=inverse, where=guessed)
    with np.errstate(divide="ignore"):
        depth_m = np.where(guessed, 1.0 / inverse, surface.depth_m).astype(np.float32)
    confidence = np.where(guessed, np.float32(CONTINUED), surface.confidence)
    return replace(surface, depth_m=depth_m, confidence=confidence)


def without_edges(depth_m: FloatImage) -> FloatImage:
    """Depth (h, w) with pixels that straddle a depth edge set to NaN.

    A pixel straddles if a direct neighbour lies beyond EDGE_RATIO and the step is not part of one
    slanted plane, on which inverse depth is linear.
    """
    inverse = inverse_depth(depth_m)
    straddles = np.zeros(depth_m.shape, bool)
    for axis in (0, 1):
        lines = np.moveaxis(inverse, axis, 0)
        mark = np.moveaxis(straddles, axis, 0)
        a, b = lines[:-1], lines[1:]
        known = (a > 0) & (b > 0)
        step = b - a
        edge = known & (np.abs(step) > (EDGE_RATIO - 1) * np.minimum(a, b))
        # On a plane the steps before and after are the same; at the border there is only one.
        if len(step) > 1:
            before = np.concatenate([step[1:2], step[:-1]])
            after = np.concatenate([step[1:], step[-2:-1]])
            limit = 0.3 * np.abs(step)
            edge &= (np.abs(step - before) >= limit) | (np.abs(step - after) >= limit)
        mark[:-1] |= edge
        mark[1:] |= edge
    return np.where(straddles, np.float32(np.nan), depth_m)


def closed_gaps(inverse: FloatImage) -> FloatImage:
    """Inverse depth (0: unknown) with gaps of a pixel or two, and what lies behind them, closed."""
    for _ in range(2):
        near = cv2.dilate(inverse, _KERNEL)  # nearest of the 3x3 neighbours
        # Twice, so that all neighbours of the nearest surface are counted, slanted ones as well.
        on_front = ((inverse > 0) & (inverse >= near * (1 - 2 * SAME_SURFACE))).astype(np.float32)
        support = cv2.filter2D(on_front, -1, _KERNEL, borderType=cv2.BORDER_CONSTANT)
        mean = cv2.filter2D(on_front * inverse, -1, _KERNEL, borderType=cv2.BORDER_CONSTANT)
        mean /= np.maximum(support, 1.0)
        gap = (support >= 4) & (inverse < mean * (1 - 2 * SAME_SURFACE))
        inverse = np.where(gap, mean, inverse)
    return inverse


def inverse_depth(depth_m: FloatImage) -> FloatImage:
    """1 / depth, and 0 where depth is unknown."""
    with np.errstate(invalid="ignore", divide="ignore"):
        inverse = np.where(np.isfinite(depth_m) & (depth_m > 0), 1.0 / depth_m, 0.0)
    return inverse.astype(np.float32)


def enlarged_depth(depth_m: FloatImage, image_hw: tuple[int, int]) -> FloatImage:
    """Depth (h, w) at another size: linear in inverse depth on a surface, nearest across edges."""
    if depth_m.shape == image_hw:
        return depth_m
    inverse = inverse_depth(depth_m)
    size = image_hw[::-1]
    nearest = cv2.resize(inverse, size, interpolation=cv2.INTER_NEAREST_EXACT)
    linear = cv2.resize(inverse, size, interpolation=cv2.INTER_LINEAR)
    kernel = np.ones((3, 3), np.uint8)
    low = cv2.resize(cv2.erode(inverse, kernel), size, interpolation=cv2.INTER_NEAREST_EXACT)
    high = cv2.resize(cv2.dilate(inverse, kernel), size, interpolation=cv2.INTER_NEAREST_EXACT)
    smooth = (low > 0) & (high < low * (1 + 3 * (EDGE_RATIO - 1)))
    chosen = np.where(smooth, linear, nearest)
    with np.errstate(divide="ignore"):
        return np.where(chosen > 0, 1.0 / chosen, np.nan).astype(np.float32)


def direction_weight(to_target: FloatArray, to_source: FloatArray) -> FloatArray:
    """How well a source stands for the target at points: by angle and by resolution.

    Vectors (3, ...) from either camera to the points, in one frame.
    """
    target, source = (np.sqrt((v * v).sum(0)) for v in (to_target, to_source))
    cosine = (to_target * to_source).sum(0) / np.maximum(target * source, 1e-12)
    angle2 = 2.0 * (1.0 - np.clip(cosine, -1.0, 1.0))
    closer = np.minimum(target / np.maximum(source, 1e-12), 1.0)  # a far image shows less detail
    weight: FloatArray = np.exp(-np.sqrt(angle2) / ANGLE_RAD) * closer
    return weight


def projection(
    K_px_from: FloatArray, T_fixed_from: FloatArray, K_px_to: FloatArray, T_fixed_to: FloatArray
) -> tuple[FloatImage, FloatImage]:
    """(3, 3) and (3,) float32 that take pixel * depth of one camera to pixel * depth of another."""
    T = np.linalg.inv(T_fixed_to) @ T_fixed_from
    linear = K_px_to @ T[:3, :3] @ np.linalg.inv(K_px_from)
    return linear.astype(np.float32), (K_px_to @ T[:3, 3]).astype(np.float32)


def resized_K(
    K_px: FloatArray, old_hw: tuple[int, ...], new_hw: tuple[int, ...]
) -> NDArray[np.float64]:
    """Intrinsics (3, 3) after an image is resized; edges stay edges, pixel centres are integers."""
    K = np.array(K_px, np.float64)
    for row, axis in ((0, 1), (1, 0)):
        scale = new_hw[axis] / old_hw[axis]
        K[row] *= scale
        K[row, 2] += 0.5 * scale - 0.5
    return K
