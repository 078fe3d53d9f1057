"""The process of `gld_node`: spin until stopped, end cleanly, exit code 70 for a respawn."""

import sys
import threading
from collections.abc import Callable

import rclpy
from rclpy._rclpy_pybind11 import InvalidHandle, RCLError
from rclpy.executors import Executor, ExternalShutdownException

from gld_ros.mapping.model import LoadedModel, ModelFactory, load_model
from gld_ros.mapping.parameters import SessionParameters
from gld_ros.ros.autostart import start_when_spun
from gld_ros.ros.bond import ManagerBond
from gld_ros.ros.distribution.image_bridge import trusted_encodings
from gld_ros.ros.executor import NodeExecutor
from gld_ros.ros.init_rclpy import init_rclpy
from gld_ros.ros.main_thread import MainThread, Stopped
from gld_ros.ros.node import GldNode

# With Python's 5 ms a thread that takes messages waits that long for each busy one to let it in.
SWITCH_INTERVAL_S = 0.0005
EXECUTOR_THREADS = 6  # a transition, two goals, timers, services


def main(arguments: list[str] | None = None, model_factory: ModelFactory = load_model) -> int:
    """Run the node; returns 0, or 70 when the device was lost and a respawn is needed.

    `model_factory` loads what imagines views.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with MainThread() as main_thread:
        try:
            # Starts a process, which is best done before there are threads.
            main_thread.interruptible(trusted_encodings)
        except Stopped:
            return 0
        init_rclpy("gld", arguments)
        return _run(main_thread, model_factory)


def _run(main_thread: MainThread, model_factory: ModelFactory) -> int:
    def load(parameters: SessionParameters) -> LoadedModel:
        return main_thread.call(lambda: model_factory(parameters))

    node = GldNode(load)
    executor = NodeExecutor(num_threads=EXECUTOR_THREADS)
    executor.add_node(node)
    bond = _bond_to_manager(node)
    if node.parameters.snapshot.node.autostart:
        start_when_spun(node)
    closed = threading.Event()
    spinning = threading.Thread(target=_spin, args=(executor, node, closed.is_set), name="executor")
    spinning.start()
    try:
        main_thread.serve(lambda: bool(node.exit_code) or not spinning.is_alive())
    finally:
        if bond is not None:
            bond.close()
        node.close()
        closed.set()
        executor.wake()
        spinning.join()
        executor.shutdown(timeout_sec=1.0)
        node.destroy_node()
        rclpy.try_shutdown()
    return node.exit_code


def _spin(executor: Executor, node: GldNode, closed: Callable[[], bool]) -> None:
    try:
        while rclpy.ok() and not closed():
            spin_once(executor, node)
    except ExternalShutdownException:
        pass


def spin_once(executor: Executor, node: GldNode, timeout_s: float = 1.0) -> None:
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
        return ManagerBond(node, lambda: node.active)
    except ImportError:  # no Nav2 here
        return None


if __name__ == "__main__":
    sys.exit(main())
