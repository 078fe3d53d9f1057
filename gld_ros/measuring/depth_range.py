"""The range of depths to search, from corners of the scene."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gld_ros.geometry.poses import invert_rigid
from gld_ros.measuring.frames import PosedImage
from gld_ros.measuring.tracks import epipolar_errors_px, track_corners, triangulated_depth_m

MAX_EPIPOLAR_ERROR_PX = 1.5
MIN_PARALLAX_PX = 2.0
MIN_CORNERS = 20
# Corners rarely mark the very nearest and farthest surface.
_NEARER, _FARTHER = 0.6, 2.0


@dataclass(frozen=True)
class DepthRange:
    """Depths of a scene in metres, from the optical centre of one camera."""

    near_m: float
    typical_m: float
    far_m: float


def depth_range(reference: PosedImage, others: Sequence[PosedImage]) -> DepthRange | None:
    """What triangulated corners of the reference span, widened; None with too few of them."""
    depths = []
    for other in others:
        T_reference_other = invert_rigid(reference.T_fixed_cam) @ other.T_fixed_cam
        tracks = track_corners(reference, other)
        depth_m, parallax_px = triangulated_depth_m(tracks, T_reference_other)
        error_px = epipolar_errors_px(tracks, T_reference_other)
        usable = (depth_m > 0) & (parallax_px >= MIN_PARALLAX_PX)
        depths.append(depth_m[usable & (error_px <= MAX_EPIPOLAR_ERROR_PX)])
    found = np.concatenate(depths) if depths else np.zeros(0)
    if len(found) < MIN_CORNERS:
        return None
    near_m, typical_m, far_m = (float(p) for p in np.percentile(found, (3, 50, 97)))
    return DepthRange(near_m * _NEARER, typical_m, far_m * _FARTHER)
