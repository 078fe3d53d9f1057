"""ROS time as integer nanoseconds, from and to messages; jumps are `gld_ros.mapping.epochs`'."""

from typing import Any

from gld_ros.messages.types import rclpy_type

NS_PER_S = 1_000_000_000


def stamp_to_ns(stamp: Any) -> int:
    """Return a builtin_interfaces/Time (or Duration) as nanoseconds."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def ns_to_stamp(stamp_ns: int, message_type: Any = None) -> Any:
    """Return nanoseconds as a builtin_interfaces/Time; the type defaults to rclpy's class."""
    message_type = message_type or rclpy_type("builtin_interfaces/msg/Time")
    return message_type(sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)
