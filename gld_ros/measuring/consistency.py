"""Agreement between measured images: a surface that one image shows must be there in others.

Owns the check and the joining of measurements of one surface. What moves between images agrees
with none and is dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import invert_rigid
from gld_ros.measuring.frames import FloatArray, MeasuredDepth, PosedImage

RELATIVE_TOLERANCE = 0.04  # of depth, within which two measurements are one surface
ALONE = 0.2  # of the confidence stays with what too few others confirm


@dataclass(frozen=True, eq=False)
class MeasuredImage:
    """A posed image and what was measured in it, on the same pixel grid."""

    frame: PosedImage
    measured: MeasuredDepth


def consistent(
    reference: MeasuredImage,
    others: Sequence[MeasuredImage],
    min_agreeing: int = 2,
    tolerance: float = RELATIVE_TOLERANCE,
) -> MeasuredDepth:
    """The reference's measurements that other measured images confirm, averaged with theirs.

    A pixel stays when another measured the same surface within `tolerance` of its depth, and more
    of them do than look through it at something farther. Its depth becomes the mean over itself and
    those that agree, weighted by confidence; with fewer than `min_agreeing` of them it keeps only
    ALONE of its confidence. Nothing is added.
    """
    depth_m = reference.measured.depth_m
    rows, columns = np.nonzero(np.isfinite(depth_m))
    own_m = depth_m[rows, columns].astype(np.float64)
    own_confidence = reference.measured.confidence[rows, columns].astype(np.float64)
    rays = _rays(reference.frame, rows, columns)
    weight = own_confidence.copy()
    total = own_confidence * own_m
    agreeing = np.zeros(len(rows), np.int64)
    contradicting = np.zeros(len(rows), np.int64)
    for other in others:
        T_other_reference = invert_rigid(other.frame.T_fixed_cam) @ reference.frame.T_fixed_cam
        direction = rays @ T_other_reference[:3, :3].T  # of one metre of the reference's depth
        offset = T_other_reference[:3, 3]
        points = direction * own_m[:, None] + offset
        there_m, confidence = _look_up(other, points)
        with np.errstate(invalid="ignore", divide="ignore"):
            # The reference's depth at which its ray meets the other's measurement.
            as_reference_m = (there_m - offset[2]) / direction[:, 2]
            error = (there_m - points[:, 2]) / points[:, 2]
            same = np.abs(error) <= tolerance
        agreeing += same
        contradicting += error > 2 * tolerance
        # Where the ray runs along the other's image plane its depth says nothing about ours.
        usable = same & (np.abs(as_reference_m - own_m) <= tolerance * own_m)
        total[usable] += confidence[usable] * as_reference_m[usable]
        weight[usable] += confidence[usable]
    kept = (agreeing >= 1) & (agreeing > contradicting)
    own_confidence[agreeing < min_agreeing] *= ALONE
    joined = np.full(depth_m.shape, np.nan, np.float32)
    certainty = np.zeros(depth_m.shape, np.float32)
    joined[rows[kept], columns[kept]] = (total / weight.clip(min=1e-9))[kept]
    certainty[rows[kept], columns[kept]] = own_confidence[kept]
    return MeasuredDepth(joined, certainty, reference.measured.source)


def _rays(frame: PosedImage, rows: NDArray[np.integer], columns: NDArray[np.integer]) -> FloatArray:
    """Directions (N, 3) with z = 1 of pixels, in the optical frame."""
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1).astype(np.float64)
    return pixels @ np.linalg.inv(frame.K_px).T


def _look_up(image: MeasuredImage, points_m: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Depth and confidence (N,) measured where points (N, 3) fall in an image; NaN outside."""
    height, width = image.measured.depth_m.shape
    with np.errstate(invalid="ignore", divide="ignore"):
        pixels = points_m @ np.asarray(image.frame.K_px).T
        u = np.round(pixels[:, 0] / pixels[:, 2])
        v = np.round(pixels[:, 1] / pixels[:, 2])
        inside = (points_m[:, 2] > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    depth_m = np.full(len(points_m), np.nan)
    confidence = np.zeros(len(points_m))
    at = v[inside].astype(np.int64), u[inside].astype(np.int64)
    depth_m[inside] = image.measured.depth_m[at]
    confidence[inside] = image.measured.confidence[at]
    return depth_m, confidence
