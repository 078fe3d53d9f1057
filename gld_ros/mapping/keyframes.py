"""Which images are worth keeping, and the ring that keeps them.

Owns the gate (motion, rate, spin, blur, pose jumps), the notion of standing still, and the
thread-safe store. Which keyframes a job uses is decided in `selection`.
"""

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from threading import Lock
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import distance_m, turn_rad
from gld_ros.mapping.frames import Keyframe
from gld_ros.messages.stamps import NS_PER_S

FloatArray = NDArray[np.floating[Any]]

# A pose that moved faster than this between two images was corrected; the robot did not drive.
MAX_SPEED_M_S = 20.0
MAX_TURN_RATE_RAD_S = 20.0
# TF jitter over a few milliseconds looks fast; a jump is also this large.
MIN_JUMP_M = 0.05
MIN_JUMP_RAD = 0.05
JUMPS_REMEMBERED = 64  # cameras lag behind each other by far less
# Below both, TF noise and a standing robot cannot be told apart.
STILL_SPEED_M_S = 0.01
STILL_TURN_RATE_RAD_S = 0.01
# A pose older than this does not show whether the robot is still standing.
STILL_KNOWN_FOR_NS = 5 * NS_PER_S


class Rejection(Enum):
    """Why an image did not become a keyframe; the value is the word used in diagnostics."""

    RATE = "rate"  # too soon after the last keyframe
    MOTION = "motion"  # hardly moved since the last keyframe
    SPIN = "spin"  # turning too fast: motion blur, rolling shutter
    BLUR = "blur"
    ORDER = "order"  # not newer than the previous image of this camera


@dataclass(frozen=True)
class GateParameters:
    """Limits of the gate, as the parameters `keyframes.*`."""

    min_translation_m: float = 0.15
    min_rotation_rad: float = 0.17
    max_interval_s: float = 5.0
    min_interval_s: float = 0.2
    min_sharpness: float = 0.0  # Laplacian variance at quarter size; 0: not checked
    max_angular_velocity_rad_s: float = 1.0


@dataclass(frozen=True)
class GateVerdict:
    """Whether a placed image may become a keyframe, and of which segment."""

    accepted: bool
    rejection: Rejection | None
    segment: int
    jump: str = ""  # a sentence when this image revealed a pose jump


@dataclass
class _CameraTrack:
    """Poses of one camera that the gate remembers."""

    last_stamp_ns: int
    last_T_fixed_cam: FloatArray
    still_since_ns: int
    keyframe_stamp_ns: int | None = None
    keyframe_T_fixed_cam: FloatArray | None = None


@dataclass
class _PoseJump:
    """A jump of the fixed frame, known to lie in (after_ns, until_ns]."""

    after_ns: int
    until_ns: int


class KeyframeGate:
    """Decides image by image, per camera; thread-safe.

    Use per image: `too_soon` before decoding, `judge` once TF placed it, `too_blurred` after
    decoding, then `accept`. Every placed image must be judged, since poses between keyframes
    distinguish motion from standing still and driving from jumping.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._tracks: dict[str, _CameraTrack] = {}
        self._jumps: list[_PoseJump] = []  # the latest ones of this epoch
        self._forgotten_jumps = 0  # of this epoch
        self._pose_jumps = 0
        self._rejected: Counter[Rejection] = Counter()

    def too_soon(self, camera: str, stamp_ns: int, parameters: GateParameters) -> bool:
        """Whether the hard rate limit drops this image, before anything costly is done with it."""
        with self._lock:
            track = self._tracks.get(camera)
            if track is None or track.keyframe_stamp_ns is None:
                return False
            limited = 0 <= stamp_ns - track.keyframe_stamp_ns < parameters.min_interval_s * NS_PER_S
            if limited:
                self._rejected[Rejection.RATE] += 1
            return limited

    def judge(
        self, camera: str, stamp_ns: int, T_fixed_cam: FloatArray, parameters: GateParameters
    ) -> GateVerdict:
        """Judge a placed image by its motion since earlier ones, and record its pose."""
        with self._lock:
            track = self._tracks.get(camera)
            if track is None:
                self._tracks[camera] = _CameraTrack(stamp_ns, T_fixed_cam, stamp_ns)
                return GateVerdict(True, None, self._segment(stamp_ns))
            if stamp_ns <= track.last_stamp_ns:
                return self._reject(Rejection.ORDER, stamp_ns)
            seconds = (stamp_ns - track.last_stamp_ns) / NS_PER_S
            moved_m = distance_m(track.last_T_fixed_cam, T_fixed_cam)
            turned_rad = turn_rad(track.last_T_fixed_cam, T_fixed_cam)
            jump = self._note_jump(camera, track.last_stamp_ns, stamp_ns, moved_m, turned_rad)
            moving = (
                moved_m > STILL_SPEED_M_S * seconds or turned_rad > STILL_TURN_RATE_RAD_S * seconds
            )
            track.last_stamp_ns, track.last_T_fixed_cam = stamp_ns, T_fixed_cam
            if moving:
                track.still_since_ns = stamp_ns
            if jump:
                # Poses accepted before the jump give no distances after it.
                track.keyframe_stamp_ns = track.keyframe_T_fixed_cam = None
            elif turned_rad > parameters.max_angular_velocity_rad_s * seconds:
                return self._reject(Rejection.SPIN, stamp_ns)
            if not self._worth_keeping(track, stamp_ns, T_fixed_cam, moving, parameters):
                return self._reject(Rejection.MOTION, stamp_ns)
            return GateVerdict(True, None, self._segment(stamp_ns), jump)

    def too_blurred(self, image: NDArray[np.uint8], parameters: GateParameters) -> bool:
        """Whether a decoded image is blurred beyond `min_sharpness`."""
        if parameters.min_sharpness <= 0 or sharpness(image) >= parameters.min_sharpness:
            return False
        with self._lock:
            self._rejected[Rejection.BLUR] += 1
        return True

    def accept(self, camera: str, stamp_ns: int, T_fixed_cam: FloatArray) -> None:
        """Record that a judged image became a keyframe."""
        with self._lock:
            track = self._tracks[camera]
            track.keyframe_stamp_ns, track.keyframe_T_fixed_cam = stamp_ns, T_fixed_cam

    def still_since_ns(self, camera: str, now_ns: int) -> int | None:
        """Since when a camera has been standing still; None while it moves or sends nothing."""
        with self._lock:
            track = self._tracks.get(camera)
            if track is None or now_ns - track.last_stamp_ns > STILL_KNOWN_FOR_NS:
                return None
            if track.still_since_ns == track.last_stamp_ns:
                return None
            return track.still_since_ns

    def segment_at(self, stamp_ns: int) -> int:
        """Segment of an image that was judged; its poses fit those of images of the same one."""
        with self._lock:
            return self._segment(stamp_ns)

    def flush(self, camera: str | None = None) -> None:
        """Forget the poses of one camera, or everything (a new epoch) if None."""
        with self._lock:
            if camera is None:
                self._tracks.clear()
                self._jumps.clear()
                self._forgotten_jumps = 0
            else:
                self._tracks.pop(camera, None)

    @property
    def rejected(self) -> dict[Rejection, int]:
        """How many images were rejected so far, per reason (zeros included)."""
        with self._lock:
            return {reason: self._rejected[reason] for reason in Rejection}

    @property
    def pose_jumps(self) -> int:
        """How many jumps of the fixed frame were seen so far."""
        with self._lock:
            return self._pose_jumps

    def _reject(self, reason: Rejection, stamp_ns: int) -> GateVerdict:
        self._rejected[reason] += 1
        return GateVerdict(False, reason, self._segment(stamp_ns))

    def _segment(self, stamp_ns: int) -> int:
        return self._forgotten_jumps + sum(jump.until_ns <= stamp_ns for jump in self._jumps)

    def _note_jump(
        self, camera: str, before_ns: int, stamp_ns: int, moved_m: float, turned_rad: float
    ) -> str:
        """Record a jump between two stamps; returns a sentence if this camera shows one.

        The fixed frame jumps once, but each camera notices it at its own next image. Intervals that
        overlap are one jump, and each camera narrows down when it happened.
        """
        seconds = (stamp_ns - before_ns) / NS_PER_S
        jumped = (moved_m > MIN_JUMP_M and moved_m > MAX_SPEED_M_S * seconds) or (
            turned_rad > MIN_JUMP_RAD and turned_rad > MAX_TURN_RATE_RAD_S * seconds
        )
        known = [j for j in self._jumps if before_ns < j.until_ns and stamp_ns > j.after_ns]
        if not jumped:
            for jump in known:
                if before_ns <= jump.after_ns and stamp_ns < jump.until_ns:
                    jump.after_ns = stamp_ns
                elif before_ns > jump.after_ns and stamp_ns >= jump.until_ns:
                    jump.until_ns = before_ns
            return ""
        if known:
            known[0].after_ns = max(known[0].after_ns, before_ns)
            known[0].until_ns = min(known[0].until_ns, stamp_ns)
        else:
            self._pose_jumps += 1
            self._jumps.append(_PoseJump(before_ns, stamp_ns))
            if len(self._jumps) > JUMPS_REMEMBERED:
                del self._jumps[0]
                self._forgotten_jumps += 1
        return (
            f"pose of camera {camera} moved {moved_m:.3g} m and {turned_rad:.3g} rad within "
            f"{seconds:.3g} s; limits are {MAX_SPEED_M_S} m/s and {MAX_TURN_RATE_RAD_S} rad/s"
        )

    def _worth_keeping(
        self,
        track: _CameraTrack,
        stamp_ns: int,
        T_fixed_cam: FloatArray,
        moving: bool,
        parameters: GateParameters,
    ) -> bool:
        if track.keyframe_stamp_ns is None or track.keyframe_T_fixed_cam is None:
            return True
        return (
            distance_m(track.keyframe_T_fixed_cam, T_fixed_cam) >= parameters.min_translation_m
            or turn_rad(track.keyframe_T_fixed_cam, T_fixed_cam) >= parameters.min_rotation_rad
            or (
                moving
                and stamp_ns - track.keyframe_stamp_ns >= parameters.max_interval_s * NS_PER_S
            )
        )


def sharpness(image: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of an image (H, W, 3) at quarter size; higher is sharper."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    small = cv2.resize(
        grey, (max(1, width // 4), max(1, height // 4)), interpolation=cv2.INTER_AREA
    )
    return float(cv2.Laplacian(small, cv2.CV_64F).var())


class KeyframeStore:
    """The newest keyframes of all cameras, at most `capacity`; thread-safe."""

    def __init__(self, capacity: int = 64) -> None:
        self._lock = Lock()
        self._keyframes: list[Keyframe] = []
        self._capacity = _checked_capacity(capacity)

    def add(self, keyframe: Keyframe) -> None:
        """Keep a keyframe; beyond the capacity the oldest is dropped."""
        with self._lock:
            self._keyframes.append(keyframe)
            self._keyframes.sort(key=lambda k: (k.stamp_ns, k.camera))
            self._evict()

    def resize(self, capacity: int) -> None:
        """Change the capacity; surplus oldest keyframes are dropped."""
        with self._lock:
            self._capacity = _checked_capacity(capacity)
            self._evict()

    def flush(self, camera: str | None = None) -> int:
        """Forget the keyframes of one camera, or of all; returns how many there were."""
        with self._lock:
            before = len(self._keyframes)
            self._keyframes = [k for k in self._keyframes if camera and k.camera != camera]
            return before - len(self._keyframes)

    def snapshot(self) -> tuple[Keyframe, ...]:
        """All keyframes, oldest first, ties by camera name."""
        with self._lock:
            return tuple(self._keyframes)

    def __len__(self) -> int:
        with self._lock:
            return len(self._keyframes)

    def _evict(self) -> None:
        surplus = len(self._keyframes) - self._capacity
        if surplus > 0:
            del self._keyframes[:surplus]


def _checked_capacity(capacity: int) -> int:
    if capacity < 1:
        raise ValueError(f"keyframe capacity is {capacity}; at least 1 is needed")
    return capacity


def usable_keyframes(
    keyframes: tuple[Keyframe, ...], gate: KeyframeGate, now_ns: int, max_age_s: float
) -> tuple[Keyframe, ...]:
    """Those young enough for an automatic job, oldest first.

    While a camera stands still its keyframes do not age, since it still sees the same scene.
    """
    usable = []
    for keyframe in keyframes:
        still_since_ns = gate.still_since_ns(keyframe.camera, now_ns)
        seen_until_ns = now_ns if still_since_ns is None else still_since_ns
        if seen_until_ns - keyframe.stamp_ns <= max_age_s * NS_PER_S:
            usable.append(keyframe)
    return tuple(usable)
