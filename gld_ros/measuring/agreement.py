"""Whether images and poses belong together, and by how much their clocks differ.

Corners that images share must lie on epipolar lines of the poses. When they do not although there
are corners and parallax, extrinsics, time stamps or rectification are wrong; a shift of the time
stamps that explains the corners tells which.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from gld_ros.geometry.poses import invert_rigid
from gld_ros.measuring.frames import FloatArray, PosedImage
from gld_ros.measuring.tracks import Tracks, epipolar_errors_px, track_corners

MAX_OFFSET_S, OFFSET_STEP_S = 0.1, 0.005
MIN_BASELINE_M = 0.02  # of pairs that are judged
MIN_PAIRS, MIN_CORNERS = 3, 60  # over all pairs
DISAGREEMENT_PX = 1.5  # median error above which images and poses do not belong together
# An offset is told only when it explains the corners clearly better than none.
_CLEAR_GAIN = 0.8


@dataclass(frozen=True)
class Agreement:
    """How well the corners of images fit the poses of their cameras."""

    pairs: int  # of images that could be judged
    corners: int  # over all pairs
    error_px: float  # median epipolar error; NaN when nothing could be judged
    time_offset_s: float | None  # to add to image stamps; None: not determined
    error_at_offset_px: float | None

    @property
    def disagrees(self) -> bool:
        """Whether there is evidence that images and poses do not belong together."""
        return self.error_px > DISAGREEMENT_PX

    def describe(self) -> str:
        """One line for a person."""
        if np.isnan(self.error_px):
            return "images against TF: not enough texture or parallax to judge"
        line = (
            f"images against TF: median epipolar error {self.error_px:.2f} px "
            f"({self.corners} corners, {self.pairs} pairs)"
        )
        if self.disagrees:
            line += "; images and TF disagree: check extrinsics, time offset, rectification"
        if self.time_offset_s is not None:
            line += (
                f"; image stamps shifted by {self.time_offset_s * 1e3:+.0f} ms "
                f"would give {self.error_at_offset_px:.2f} px"
            )
        return line


def image_pose_agreement(frames: Sequence[PosedImage]) -> Agreement:
    """Judge consecutive frames of one camera; their poses also serve for interpolation in time.

    Frames may come in any order. Raises ValueError for frames of several cameras.
    """
    if len({frame.camera for frame in frames}) > 1:
        raise ValueError("agreement is judged for one camera at a time; frames are of several")
    frames = sorted(frames, key=lambda frame: frame.stamp_ns)
    pairs = [
        (first, second)
        for first, second in itertools.pairwise(frames)
        if first.stamp_ns < second.stamp_ns
        and np.linalg.norm(first.T_fixed_cam[:3, 3] - second.T_fixed_cam[:3, 3]) >= MIN_BASELINE_M
    ]
    judged = [(first, second, track_corners(first, second)) for first, second in pairs]
    corners = sum(len(tracks.first_rays) for _, _, tracks in judged)
    if len(judged) < MIN_PAIRS or corners < MIN_CORNERS:
        return Agreement(len(judged), corners, float("nan"), None, None)
    offsets_s = np.arange(-MAX_OFFSET_S, MAX_OFFSET_S + OFFSET_STEP_S / 2, OFFSET_STEP_S)
    trajectory = _Trajectory(frames)
    errors_px = np.array([_error_px(judged, trajectory, float(s)) for s in offsets_s])
    error_px = _error_px(judged, None, 0.0)
    best = int(np.nanargmin(errors_px))
    inner = 0 < best < len(offsets_s) - 1
    if inner and errors_px[best] <= _CLEAR_GAIN * error_px:
        offset_s = float(offsets_s[best])
        return Agreement(len(judged), corners, error_px, offset_s, float(errors_px[best]))
    return Agreement(len(judged), corners, error_px, None, None)


class _Trajectory:
    """Poses between frames, interpolated."""

    def __init__(self, frames: Sequence[PosedImage]) -> None:
        stamps, at = np.unique([frame.stamp_ns for frame in frames], return_index=True)
        self._start_ns = int(stamps[0])
        self._times_s = (stamps - self._start_ns) * 1e-9
        poses = np.stack([frames[k].T_fixed_cam for k in at])
        self._turns = Slerp(self._times_s, Rotation.from_matrix(poses[:, :3, :3]))
        self._places_m = poses[:, :3, 3]

    def pose(self, stamp_ns: int, offset_s: float) -> FloatArray | None:
        """T_fixed_cam (4, 4) at a stamp plus an offset; None outside the frames' time."""
        time_s = (stamp_ns - self._start_ns) * 1e-9 + offset_s
        if not self._times_s[0] <= time_s <= self._times_s[-1]:
            return None
        T = np.eye(4)
        T[:3, :3] = self._turns(time_s).as_matrix()
        T[:3, 3] = [np.interp(time_s, self._times_s, axis) for axis in self._places_m.T]
        return T


def _error_px(
    judged: Sequence[tuple[PosedImage, PosedImage, Tracks]],
    trajectory: _Trajectory | None,
    offset_s: float,
) -> float:
    """Median epipolar error over all pairs with poses at their stamps plus an offset."""
    errors = []
    for first, second, tracks in judged:
        T_first: FloatArray | None = first.T_fixed_cam
        T_second: FloatArray | None = second.T_fixed_cam
        if trajectory is not None:
            T_first = trajectory.pose(first.stamp_ns, offset_s)
            T_second = trajectory.pose(second.stamp_ns, offset_s)
        if T_first is not None and T_second is not None:
            errors.append(epipolar_errors_px(tracks, invert_rigid(T_first) @ T_second))
    return float(np.nanmedian(np.concatenate(errors))) if errors else float("nan")
