"""Whether images and poses agree, and by how much their clocks differ.

Corners that images share must lie on epipolar lines of the poses. If they do not although there are
corners and parallax, extrinsics, time stamps or rectification are wrong; if a shift of the time
stamps explains the corners, it is the time stamps.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import invert_rigid
from gld_ros.measuring.frames import FloatArray, PosedImage
from gld_ros.measuring.tracks import Tracks, epipolar_errors_px, track_corners

MAX_OFFSET_S, OFFSET_STEP_S = 0.1, 0.005
MIN_BASELINE_M = 0.02  # of pairs that are judged
MIN_PAIRS, MIN_CORNERS = 3, 60  # over all pairs
DISAGREEMENT_PX = 1.5  # median error above which images and poses disagree
# An offset is reported only if it explains the corners clearly better than none.
_CLEAR_GAIN = 0.8
# One this large, that explains most of an error that matters, is evidence by itself.
_WRONG_OFFSET_S, _WRONG_OFFSET_PX, _WRONG_OFFSET_GAIN = 0.02, 0.5, 0.6
DISAGREE = "images and TF disagree: check extrinsics, time offset, rectification"


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
        """Whether there is evidence that images and poses disagree."""
        return self.error_px > DISAGREEMENT_PX or self._offset_explains_most

    @property
    def _offset_explains_most(self) -> bool:
        if self.time_offset_s is None or self.error_at_offset_px is None:
            return False
        return (
            abs(self.time_offset_s) >= _WRONG_OFFSET_S
            and self.error_px >= _WRONG_OFFSET_PX
            and self.error_at_offset_px <= _WRONG_OFFSET_GAIN * self.error_px
        )

    def describe(self) -> str:
        """The verdict as one line of text."""
        if np.isnan(self.error_px):
            return "images against TF: not enough texture or parallax to judge"
        line = (
            f"images against TF: median epipolar error {self.error_px:.2f} px "
            f"({self.corners} corners, {self.pairs} pairs)"
        )
        if self.disagrees:
            line += f"; {DISAGREE}"
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
        raise ValueError(
            "agreement is checked for one camera at a time, but the frames are of several cameras"
        )
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
        from scipy.spatial.transform import Rotation, Slerp  # late: a start need not wait for it

        stamps, at = np.unique([frame.stamp_ns for frame in frames], return_index=True)
        self._start_ns = int(stamps[0])
        self._times_s = (stamps - self._start_ns) * 1e-9
        poses = np.stack([frames[k].T_fixed_cam for k in at])
        self._turns = Slerp(self._times_s, Rotation.from_matrix(poses[:, :3, :3]))
        self._places_m = poses[:, :3, 3]

    def poses(self, stamps_ns: NDArray[np.int64], offset_s: float) -> FloatArray:
        """T_fixed_cam (N, 4, 4) at stamps plus an offset; NaN outside the frames' time."""
        times_s = (stamps_ns - self._start_ns) * 1e-9 + offset_s
        inside_s = times_s.clip(self._times_s[0], self._times_s[-1])
        T = np.tile(np.eye(4), (len(times_s), 1, 1))
        T[:, :3, :3] = self._turns(inside_s).as_matrix()
        for axis in range(3):
            T[:, axis, 3] = np.interp(inside_s, self._times_s, self._places_m[:, axis])
        T[times_s != inside_s] = np.nan
        return T


def _error_px(
    judged: Sequence[tuple[PosedImage, PosedImage, Tracks]],
    trajectory: _Trajectory | None,
    offset_s: float,
) -> float:
    """Median epipolar error over all pairs with poses at their stamps plus an offset."""
    first_T = np.stack([first.T_fixed_cam for first, _, _ in judged])
    second_T = np.stack([second.T_fixed_cam for _, second, _ in judged])
    if trajectory is not None:
        first_ns = np.array([first.stamp_ns for first, _, _ in judged])
        second_ns = np.array([second.stamp_ns for _, second, _ in judged])
        first_T = trajectory.poses(first_ns, offset_s)
        second_T = trajectory.poses(second_ns, offset_s)
    errors = [
        epipolar_errors_px(tracks, invert_rigid(T_first) @ T_second)
        for (_, _, tracks), T_first, T_second in zip(judged, first_T, second_T, strict=True)
        if np.isfinite(T_first).all() and np.isfinite(T_second).all()
    ]
    return float(np.nanmedian(np.concatenate(errors))) if errors else float("nan")
