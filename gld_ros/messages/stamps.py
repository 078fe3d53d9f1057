"""ROS time as integer nanoseconds and headers, from and to messages.

Jumps of time are left to `gld_ros.mapping.epochs`.
"""

from typing import Any

from gld_ros.messages.types import Types, rclpy_type

NS_PER_S = 1_000_000_000


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
