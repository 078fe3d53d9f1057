"""The process of `gld_node`: spin until told to stop, end cleanly, exit code 70 for a respawn."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

import rclpy
from rclpy._rclpy_pybind11 import InvalidHandle, RCLError
from rclpy.executors import Executor, ExternalShutdownException, MultiThreadedExecutor

from gld_ros.mapping.model import ModelFactory, load_model
from gld_ros.ros.autostart import start
from gld_ros.ros.bond import ManagerBond
from gld_ros.ros.distribution.image_bridge import trusted_encodings
from gld_ros.ros.node import GldNode

# The executor's thread is nearly always busy. With Python's 5 ms every callback waits that long to
# be let in, and on idle cores a quarter of the images of a 10 Hz camera is lost.
SWITCH_INTERVAL_S = 0.0005
EXECUTOR_THREADS = 6  # sensors, TF, timers, services, and two goals that wait
# Ctrl-C in a terminal reaches the node twice: from the terminal and from the launch process. Only a
# signal that comes later than this after the first one means that stopping takes too long.
SAME_SIGNAL_S = 2.0


def main(arguments: list[str] | None = None, model_factory: ModelFactory = load_model) -> int:
    """Run the node; returns 0, or 70 when the device was lost and a respawn is needed.

    `model_factory` loads what imagines views.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    trusted_encodings()  # starts a process, which is best done before there are threads
    rclpy.init(args=arguments, signal_handler_options=rclpy.SignalHandlerOptions.NO)
    node = GldNode(model_factory)
    executor = MultiThreadedExecutor(num_threads=EXECUTOR_THREADS)
    executor.add_node(node)
    bond = _bond_to_manager(node)
    stopping_since_s: float | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping_since_s
        if stopping_since_s is None:
            stopping_since_s = time.monotonic()
        elif time.monotonic() - stopping_since_s > SAME_SIGNAL_S:
            os._exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        if node.parameters.snapshot.node.autostart:
            start(node)
        while rclpy.ok() and stopping_since_s is None and not node.exit_code:
            spin_once(executor, node)
    except ExternalShutdownException:
        pass
    finally:
        if bond is not None:
            bond.close()
        node.close()
        executor.shutdown(timeout_sec=1.0)
        node.destroy_node()
        rclpy.try_shutdown()
    return node.exit_code


def spin_once(executor: Executor, node: GldNode, timeout_s: float = 0.2) -> None:
    """Run what is due; an exception of a callback is reported and does not end the process."""
    try:
        executor.spin_once(timeout_sec=timeout_s)
    except (InvalidHandle, RCLError):
        pass  # deactivate and cleanup destroy what this thread may be waiting on
    except ExternalShutdownException:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a callback raises
        node.callback_failed(error)


def _bond_to_manager(node: GldNode) -> ManagerBond | None:
    try:
        return ManagerBond(node)
    except ImportError:  # no Nav2 here
        return None


if __name__ == "__main__":
    sys.exit(main())
