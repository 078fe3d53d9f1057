"""A node of a command, spun by a thread of its own while the command works."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rclpy.node import Node


@contextmanager
def spinning_node(name: str, *, catch_signals: bool = False) -> "Iterator[Node]":
    """Yield a node whose callbacks run on a thread; afterwards ROS is shut down.

    With `catch_signals` Ctrl-C and SIGTERM end the context of rclpy, else they are the caller's.
    """
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from gld_ros.ros.init_rclpy import init_rclpy

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            return  # the signal handler of rclpy ended the context

    init_rclpy(name, signals=SignalHandlerOptions.ALL if catch_signals else SignalHandlerOptions.NO)
    node = rclpy.create_node(name)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinner = threading.Thread(target=spin, daemon=True)
    spinner.start()
    try:
        yield node
    finally:
        executor.shutdown(timeout_sec=2.0)
        spinner.join(timeout=2.0)
        node.destroy_node()
        rclpy.try_shutdown()
