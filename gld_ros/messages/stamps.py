"""ROS time as integer nanoseconds and headers, from and to messages.

Jumps of time are left to `gld_ros.mapping.epochs`.
"""

from typing import Any

from gld_ros.messages.types import Types, rclpy_type

NS_PER_S = 1_000_000_000
RECORDED_AGE_S = 86_400.0  # no live message is that old


def stamp_to_ns(stamp: Any) -> int:
    """Return a builtin_interfaces/Time (or Duration) as nanoseconds."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def ns_to_stamp(stamp_ns: int, message_type: Any = None) -> Any:
    """Return nanoseconds as a builtin_interfaces/Time; the type defaults to rclpy's class."""
    message_type = message_type or rclpy_type("builtin_interfaces/msg/Time")
    return message_type(sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)


def make_header(stamp_ns: int, frame_id: str, types: Types) -> Any:
    """Return a std_msgs/Header."""
    stamp = ns_to_stamp(stamp_ns, types("builtin_interfaces/msg/Time"))
    return types("std_msgs/msg/Header")(stamp=stamp, frame_id=frame_id)


def age_in_words(age_s: float) -> str:
    """Return an age for people; one of days tells of recorded data without its clock."""
    if not age_s > RECORDED_AGE_S:
        return f"{age_s:.1f} s"
    return f"{age_s / 86_400:.0f} days (recorded data: set use_sim_time and play it with --clock)"
