"""ROS time: integer nanoseconds, and the epoch that changes when time jumps.

A bag that loops, a seek or a simulator's reset moves ROS time; whatever was gathered before
belongs to another epoch. Leaves what has to be forgotten then to the node.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gld_ros.ros.messages import rclpy_type

NS_PER_S = 1_000_000_000


def stamp_to_ns(stamp: Any) -> int:
    """Return a builtin_interfaces/Time (or Duration) as nanoseconds."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def ns_to_stamp(stamp_ns: int, message_type: Any = None) -> Any:
    """Return nanoseconds as a builtin_interfaces/Time; the type defaults to rclpy's class."""
    message_type = message_type or rclpy_type("builtin_interfaces/msg/Time")
    return message_type(sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)


@dataclass(frozen=True)
class TimeJump:
    """One jump of ROS time: the new epoch, how far it went, and whether the clock was exchanged."""

    epoch: int
    delta_s: float
    clock_changed: bool


class EpochClock:
    """ROS time of a node and the number of its current epoch.

    A step backward by more than `backward_tolerance_s`, forward by more than `forward_gap_s`, or a
    switch between wall and simulated time begins a new epoch and calls `on_jump` from the thread
    that received the time. Smaller steps are ignored.
    """

    def __init__(
        self,
        node: Any,
        backward_tolerance_s: float,
        forward_gap_s: float,
        on_jump: Callable[[TimeJump], None],
    ) -> None:
        from rclpy.clock import JumpThreshold
        from rclpy.duration import Duration

        if backward_tolerance_s < 0 or forward_gap_s <= 0:
            raise ValueError(
                f"backward_tolerance_s {backward_tolerance_s} must be at least 0 and "
                f"forward_gap_s {forward_gap_s} above 0"
            )
        self._clock = node.get_clock()
        self._on_jump = on_jump
        self._lock = threading.Lock()
        self._epoch = 0
        self.last_jump: TimeJump | None = None
        self._handle = self._clock.create_jump_callback(
            JumpThreshold(
                min_forward=Duration(nanoseconds=round(forward_gap_s * NS_PER_S)),
                min_backward=Duration(nanoseconds=-max(1, round(backward_tolerance_s * NS_PER_S))),
                on_clock_change=True,
            ),
            post_callback=self._jumped,
        )

    @property
    def epoch(self) -> int:
        """Number of jumps so far."""
        return self._epoch

    def now_ns(self) -> int:
        """ROS time in nanoseconds; 0 while simulated time has not begun."""
        return int(self._clock.now().nanoseconds)

    def _jumped(self, jump: Any) -> None:
        from rclpy.clock import ClockChange

        changed = jump.clock_change in (
            ClockChange.ROS_TIME_ACTIVATED,
            ClockChange.ROS_TIME_DEACTIVATED,
        )
        with self._lock:
            self._epoch += 1
            seen = TimeJump(self._epoch, jump.delta.nanoseconds / NS_PER_S, changed)
            self.last_jump = seen
        self._on_jump(seen)

    def close(self) -> None:
        """Stop watching."""
        self._handle.unregister()
