"""Owns what every test shares: reference numbers, ROS isolation, when ROS tests may be skipped.

Tests marked ``ros`` need rclpy and the built interfaces. Without them they are skipped, unless
``GLD_REQUIRE_ROS=1`` says that the bootstrap succeeded: then their absence fails the whole run.
"""

import contextlib
import importlib
import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# A busy machine must not fail a property: no time limit per example.
hypothesis.settings.register_profile("gld_ros", deadline=None)
hypothesis.settings.load_profile("gld_ros")

_ros_domain = contextlib.ExitStack()


def _why_no_ros() -> str | None:
    for module in ("rclpy", "gld_ros.msg", "gld_ros.srv", "gld_ros.action", "tf2_msgs.msg"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            return f"cannot import {module} ({error}); run 'make build', then '. ./env.sh'"
    return None


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("GLD_REQUIRE_ROS") == "1" and (reason := _why_no_ros()):
        raise pytest.UsageError(f"GLD_REQUIRE_ROS=1, but {reason}")
    if importlib.util.find_spec("domain_coordinator"):
        # A domain that no other test process holds; children inherit it.
        from domain_coordinator import domain_id

        os.environ["ROS_DOMAIN_ID"] = str(_ros_domain.enter_context(domain_id()))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


def pytest_unconfigure(config: pytest.Config) -> None:
    _ros_domain.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ros_items = [item for item in items if item.get_closest_marker("ros")]
    if ros_items and (reason := _why_no_ros()):
        for item in ros_items:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def golden_da3() -> Path:
    """Folder with the recorded reference numbers for Depth Anything 3."""
    shared = os.environ.get("GLD_SHARED", Path(__file__).resolve().parents[2] / "shared")
    folder = Path(shared) / "golden" / "da3"
    if not folder.is_dir():
        pytest.skip("reference numbers not found; set GLD_SHARED to the folder with golden/da3")
    return folder


class RosGraph:
    """Nodes of one test, spun in the background; waits for facts instead of sleeping."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import MultiThreadedExecutor

        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.executor = MultiThreadedExecutor(num_threads=4, context=self.context)
        self._nodes = []
        self._closing = threading.Event()
        self._spinner = threading.Thread(target=self._spin, daemon=True)
        self._spinner.start()

    def _spin(self) -> None:
        from rclpy._rclpy_pybind11 import InvalidHandle
        from rclpy.executors import ExternalShutdownException

        while not self._closing.is_set():
            # rclpy raises InvalidHandle where another thread destroys what it is waiting for.
            with contextlib.suppress(InvalidHandle, ExternalShutdownException):
                self.executor.spin_once(timeout_sec=0.1)

    def node(self, name: str, **options):
        """Return a new rclpy node that is already spinning."""
        from rclpy.node import Node

        return self.add(Node(name, context=self.context, **options))

    def add(self, node):
        """Spin a node that was made with this graph's context."""
        self._nodes.append(node)
        self.executor.add_node(node)
        return node

    def wait_for(self, fact: Callable[[], bool], what: str = "", timeout_s: float = 10.0) -> None:
        """Return as soon as ``fact()`` holds; fail the test after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while not fact():
            if time.monotonic() > deadline:
                pytest.fail(f"waited {timeout_s} s in vain for {what or fact}")
            time.sleep(0.005)

    def close(self) -> None:
        self._closing.set()
        self.executor.wake()
        self._spinner.join(timeout=5.0)
        self.executor.shutdown(timeout_sec=5.0)
        for node in self._nodes:
            node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def ros_graph() -> Iterator[RosGraph]:
    graph = RosGraph()
    yield graph
    graph.close()
