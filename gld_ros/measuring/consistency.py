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
    weight = reference.measured.confidence[rows, columns].astype(np.float64)
    total = weight * own_m
    rays = _rays(reference.frame, rows, columns)
    agreeing, looking_through, hiding = np.zeros((3, len(rows)), np.int64)
    for other in others:
        T_other_reference = invert_rigid(other.frame.T_fixed_cam) @ reference.frame.T_fixed_cam
        K_px = other.frame.K_px
        # x * z, y * z and z in the other's pixels: of one metre of the reference's depth, of all.
        direction = K_px @ T_other_reference[:3, :3] @ rays
        offset = K_px @ T_other_reference[:3, 3]
        points = direction * own_m
        points += offset[:, None]
        there_m, confidence = _look_up(other.measured, points)
        with np.errstate(invalid="ignore", divide="ignore"):
            # The reference's depth at which its ray meets the other's measurement.
            as_reference_m = (there_m - offset[2]) / direction[2]
            error = (there_m - points[2]) / points[2]
            same = np.abs(error) <= RELATIVE_TOLERANCE
            # Where the ray runs along the other's image plane its depth says nothing about ours.
            usable = same & (np.abs(as_reference_m - own_m) <= RELATIVE_TOLERANCE * own_m)
        agreeing += same
        looking_through += error > 2 * RELATIVE_TOLERANCE
        hiding += error < -2 * RELATIVE_TOLERANCE
        confidence *= usable
        weight += confidence
        total += confidence * np.where(usable, as_reference_m, 0.0)
    mean_m = total / weight.clip(min=1e-9)
    return Votes(agreeing, looking_through, hiding, mean_m)


def _rays(frame: PosedImage, rows: NDArray[np.integer], columns: NDArray[np.integer]) -> FloatArray:
    """Directions (3, N) with z = 1 of pixels, in the optical frame."""
    pixels = np.stack([columns, rows, np.ones_like(rows)]).astype(np.float64)
    rays: FloatArray = np.linalg.inv(frame.K_px) @ pixels
    return rays


def _look_up(measured: MeasuredDepth, points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Depth and confidence (N,) measured at x * z, y * z and z (3, N); NaN and 0 outside."""
    height, width = measured.depth_m.shape
    x, y, z = points
    with np.errstate(invalid="ignore", divide="ignore"):
        u, v = np.rint(x / z), np.rint(y / z)
        inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        # One index past the image is what lies outside.
        at = np.where(inside, v * width + u, height * width).astype(np.int64)
    depth_m = np.append(measured.depth_m, np.float64(np.nan)).take(at)
    confidence = np.append(measured.confidence, np.float64(0.0)).take(at)
    return depth_m, confidence
