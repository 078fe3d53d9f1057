"""Agreement between measured images: a surface that one image shows must be there in others.

Owns the check and the averaging of measurements of one surface. Moving objects agree with no other
image and others see through them, so they are dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import invert_rigid
from gld_ros.measuring.confidence import POSSIBLE, confirmed_confidence
from gld_ros.measuring.frames import FloatArray, MeasuredDepth, PosedImage

RELATIVE_TOLERANCE = 0.04  # of depth, within which two measurements are one surface


@dataclass(frozen=True, eq=False)
class MeasuredImage:
    """A posed image and what was measured in it, on the same pixel grid."""

    frame: PosedImage
    measured: MeasuredDepth


@dataclass(frozen=True, eq=False)
class Votes:
    """What other images say of N measured pixels of one, in row-major order of these pixels."""

    agreeing: NDArray[np.int64]  # images that measured the same surface
    looking_through: NDArray[np.int64]  # that measured something clearly farther there
    hiding: NDArray[np.int64]  # that measured something clearly nearer there
    mean_m: FloatArray  # depth over the image itself and those that agree


def consistent(reference: MeasuredImage, others: Sequence[MeasuredImage]) -> MeasuredDepth:
    """The reference's measurements that others confirm, averaged with theirs.

    Confidence becomes the probability given what all of them measured. A pixel is removed if as
    many see through it as agree with it (moving objects), or if it is no longer POSSIBLE. Nothing
    is added.
    """
    rows, columns = np.nonzero(np.isfinite(reference.measured.depth_m))
    votes = votes_of(reference, others)
    certainty = confirmed_confidence(
        reference.measured.confidence[rows, columns],
        votes.agreeing,
        votes.looking_through,
        votes.hiding,
    )
    contradicted = (votes.looking_through > 0) & (votes.looking_through >= votes.agreeing)
    kept = ~contradicted & (certainty >= POSSIBLE)
    at = rows[kept], columns[kept]
    depth_m = np.full(reference.measured.depth_m.shape, np.nan, np.float32)
    confidence = np.zeros(depth_m.shape, np.float32)
    depth_m[at], confidence[at] = votes.mean_m[kept], certainty[kept]
    return MeasuredDepth(depth_m, confidence, reference.measured.source)


def same_surface(depth_m: FloatArray, other_m: FloatArray) -> NDArray[np.bool_]:
    """Where two measurements of depth (H, W) are of one surface; nowhere where either is NaN."""
    with np.errstate(invalid="ignore"):
        same: NDArray[np.bool_] = np.abs(other_m - depth_m) <= RELATIVE_TOLERANCE * depth_m
    return same


def votes_of(reference: MeasuredImage, others: Sequence[MeasuredImage]) -> Votes:
    """What the others say of the reference's measured pixels."""
    depth_m = reference.measured.depth_m
    rows, columns = np.nonzero(np.isfinite(depth_m))
    own_m = depth_m[rows, columns].astype(np.float64)
    own_confidence = reference.measured.confidence[rows, columns].astype(np.float64)
    rays = _rays(reference.frame, rows, columns)
    weight = own_confidence.copy()
    total = own_confidence * own_m
    agreeing, looking_through, hiding = np.zeros((3, len(rows)), np.int64)
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
            same = np.abs(error) <= RELATIVE_TOLERANCE
        agreeing += same
        looking_through += error > 2 * RELATIVE_TOLERANCE
        hiding += error < -2 * RELATIVE_TOLERANCE
        # Where the ray runs along the other's image plane its depth says nothing about ours.
        usable = same & (np.abs(as_reference_m - own_m) <= RELATIVE_TOLERANCE * own_m)
        total[usable] += confidence[usable] * as_reference_m[usable]
        weight[usable] += confidence[usable]
    mean_m = total / weight.clip(min=1e-9)
    return Votes(agreeing, looking_through, hiding, mean_m)


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
