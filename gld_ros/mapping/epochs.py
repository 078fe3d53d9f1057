"""Stretches of continuous time: when a bag loops or a simulator resets, everything starts over.

Owns the decision what is a time jump, for clocks and for image stamps, and the epoch counter by
which late results of an earlier epoch are recognised. The caller discards its state on a jump.
All times are integer nanoseconds passed in; nothing here reads a clock.
"""

from dataclasses import dataclass
from enum import Enum

from gld_ros.messages.stamps import NS_PER_S

FUTURE_STAMP_NS = NS_PER_S  # a stamp this far ahead of now means unsynchronised clocks


class StampFault(Enum):
    """What is wrong with an image stamp; the value is the word used in diagnostics."""

    ZERO = "zero"
    BACKWARD = "backward"


@dataclass(frozen=True)
class TimeJump:
    """Time stopped being continuous; `epoch` is the number of the new stretch."""

    epoch: int
    delta_s: float  # how far time moved beyond what was expected; 0 if unknown
    reason: str


@dataclass(frozen=True)
class StampVerdict:
    """What to do with one image: use it, drop it for `fault`, and flush everything on `jump`."""

    usable: bool
    fault: StampFault | None = None
    jump: TimeJump | None = None


class EpochMonitor:
    """Counts epochs from clock readings, clock callbacks and image stamps.

    Not locked: call it from one thread, or under the caller's lock.
    """

    def __init__(self, backward_tolerance_s: float = 0.1, forward_gap_s: float = 10.0) -> None:
        self._tolerance_ns = round(backward_tolerance_s * NS_PER_S)
        self._gap_ns = round(forward_gap_s * NS_PER_S)
        self._epoch = 0
        self._last_clock: tuple[int, int] | None = None  # (ROS, steady) ns
        self._last_stamp_ns: dict[str, int] = {}
        # First and last stamp of the latest run of images that fell behind, by camera.
        self._late_ns: dict[str, tuple[int, int]] = {}
        self.last_jump: TimeJump | None = None

    @property
    def epoch(self) -> int:
        """Number of the current stretch of continuous time, from 0."""
        return self._epoch

    def clock_reading(self, ros_ns: int, steady_ns: int) -> TimeJump | None:
        """Compare a reading of both clocks with the previous one.

        A jump is going back by more than the tolerance, or ahead by more than the gap while little
        steady time passed: a camera or a paused bag may be silent for minutes without any jump.
        """
        previous, self._last_clock = self._last_clock, (ros_ns, steady_ns)
        if previous is None:
            return None
        ros_delta, steady_delta = ros_ns - previous[0], steady_ns - previous[1]
        if ros_delta < -self._tolerance_ns:
            return self._jump(ros_delta, f"the clock went back by {-ros_delta / NS_PER_S:.3f} s")
        if ros_delta - steady_delta > self._gap_ns:
            return self._jump(
                ros_delta - steady_delta,
                f"the clock went ahead by {ros_delta / NS_PER_S:.3f} s within "
                f"{steady_delta / NS_PER_S:.3f} s",
            )
        return None

    def clock_callback(self, delta_ns: int, source_changed: bool) -> TimeJump | None:
        """Judge a jump that the clock itself reports (rclpy's jump callback)."""
        if source_changed:
            return self._jump(delta_ns, "the clock changed between system and simulated time")
        if delta_ns < -self._tolerance_ns or delta_ns > self._gap_ns:
            return self._jump(delta_ns, f"the clock reports a jump of {delta_ns / NS_PER_S:.3f} s")
        return None

    def image_stamp(self, camera: str, stamp_ns: int) -> StampVerdict:
        """Judge the stamp of an image that just arrived.

        A stamp that is zero or not newer than the camera's last one makes the image unusable. A
        single late image is just late: it may be from a second publisher. If all cameras of this
        epoch fall back by more than the tolerance and stay back, with stamps that grow by at least
        the tolerance, time itself went back: the image that completes this is the first usable one
        of a new epoch.
        """
        if stamp_ns <= 0:
            return StampVerdict(False, StampFault.ZERO)
        last_ns = self._last_stamp_ns.get(camera)
        if last_ns is None or stamp_ns > last_ns:
            self._last_stamp_ns[camera] = stamp_ns
            self._late_ns.pop(camera, None)
            return StampVerdict(True)
        delta_ns = stamp_ns - last_ns
        if delta_ns >= -self._tolerance_ns:
            return StampVerdict(False, StampFault.BACKWARD)
        first_ns, newest_ns = self._late_ns.get(camera, (stamp_ns, stamp_ns))
        self._late_ns[camera] = (first_ns if stamp_ns > newest_ns else stamp_ns, stamp_ns)
        runs = [self._late_ns.get(heard, (0, 0)) for heard in self._last_stamp_ns]
        if any(newest - first < self._tolerance_ns for first, newest in runs):
            return StampVerdict(False, StampFault.BACKWARD)
        jump = self._jump(
            delta_ns,
            f"image stamps of all cameras went back, {camera} by {-delta_ns / NS_PER_S:.3f} s",
        )
        self._last_stamp_ns[camera] = stamp_ns
        return StampVerdict(True, jump=jump)

    def _jump(self, delta_ns: int, reason: str) -> TimeJump:
        self._epoch += 1
        self._last_stamp_ns.clear()
        self._late_ns.clear()
        self._last_clock = None
        self.last_jump = TimeJump(self._epoch, delta_ns / NS_PER_S, reason)
        return self.last_jump


def is_future_stamp(stamp_ns: int, now_ns: int) -> bool:
    """Whether a stamp is more than a second ahead: clocks are not synchronised, or sim time is off.

    Such an image is dropped, since all good images after it would seem to be late.
    """
    return stamp_ns - now_ns > FUTURE_STAMP_NS
