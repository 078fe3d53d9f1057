"""Initialise rclpy, even where no log file can be written."""

import sys

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions


def init_rclpy(
    name: str,
    arguments: list[str] | None = None,
    signals: SignalHandlerOptions = SignalHandlerOptions.NO,
) -> None:
    """Initialise ROS; where no log file can be written, `name` says so and logs to the console."""
    arguments = sys.argv if arguments is None else arguments
    try:
        rclpy.init(args=arguments, signal_handler_options=signals)
    except RCLError as error:
        if "logging" not in str(error):
            raise
        rclpy.try_shutdown()
        console_only = [*arguments, "--ros-args", "--disable-external-lib-logs"]
        rclpy.init(args=console_only, signal_handler_options=signals)
        get_logger(name).warning(
            f"{error}; logs go to the console only. Set ROS_LOG_DIR to a folder that can be written"
        )
