"""What was measured of one keyframe: as made, and as the keyframes around it confirm it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gld_ros.geometry.poses import distance_m, turn_rad
from gld_ros.mapping.frames import Keyframe
from gld_ros.mapping.measured_frame import camera_over_stereo, measured_surface
from gld_ros.measuring.consistency import MeasuredImage, consistent
from gld_ros.measuring.frames import MeasuredDepth
from gld_ros.measuring.surfaces import Surface, sure_depth

CONFIRMERS = 8  # measured keyframes that one is compared with
_MOST_TURNED_RAD = math.radians(60)  # to them


@dataclass(frozen=True, eq=False)
class KeyframeMeasurement:
    """One keyframe's measurement: as made, and with what others confirm of it."""

    keyframe: Keyframe
    raw: MeasuredImage
    camera_depth: MeasuredDepth | None
    surface: Surface
    confirmers: int

    @cached_property
    def coverage(self) -> float:
        """Share of the keyframe's pixels whose measured depth may be published."""
        return float(np.isfinite(sure_depth(self.surface)).mean())


def nearest_measured(
    measured: KeyframeMeasurement, others: Sequence[KeyframeMeasurement]
) -> list[KeyframeMeasurement]:
    """Others whose cameras look at the same, nearest first, at most CONFIRMERS."""
    T = measured.keyframe.T_fixed_cam
    near = [o for o in others if turn_rad(T, o.keyframe.T_fixed_cam) < _MOST_TURNED_RAD]
    near.sort(key=lambda o: (distance_m(T, o.keyframe.T_fixed_cam), o.keyframe.stamp_ns))
    return near[:CONFIRMERS]


def confirmed(
    measured: KeyframeMeasurement, others: Sequence[KeyframeMeasurement]
) -> KeyframeMeasurement:
    """A measurement with those of its stereo that others share; a depth camera's stay."""
    confirmers = nearest_measured(measured, others)
    stereo = consistent(measured.raw, [o.raw for o in confirmers])
    return KeyframeMeasurement(
        measured.keyframe,
        measured.raw,
        measured.camera_depth,
        measured_surface(measured.keyframe, camera_over_stereo(measured.camera_depth, stereo)),
        len(confirmers),
    )
