"""The demonstration's own node: drives the lifecycle, sends goals, collects products."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool

from gld_ros.action import SynthesizeViews
from gld_ros.evaluation.withheld import PosedImage
from gld_ros.mapping.product_messages import TOPICS
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.stamps import NS_PER_S, make_header
from gld_ros.messages.transforms import pose_message
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.executor import NodeExecutor
from gld_ros.ros.init_rclpy import init_rclpy

DISCOVERY_S = 1.0


class DemoFailed(RuntimeError):
    """The demonstration cannot continue; the text says what did not happen."""


@dataclass
class Arrived:
    """Messages of the node, newest per topic, and how many there were."""

    counts: Counter[str] = field(default_factory=Counter)
    latest: dict[str, Any] = field(default_factory=dict)
    clouds: dict[str, list[Any]] = field(default_factory=dict)
    status: Any = None
    ages_s: list[float] = field(default_factory=list)


class DemoGraph:
    """An rclpy node in a thread of its own, with blocking calls for the script."""

    def __init__(self) -> None:
        init_rclpy("gld_demo", signals=SignalHandlerOptions.ALL)
        self._node = rclpy.create_node("gld_demo")
        self.arrived = Arrived()
        for topic, (type_name, _) in TOPICS.items():
            if topic.endswith("/compressed") or topic == "merged/points":
                continue
            self._node.create_subscription(
                rclpy_type(type_name), f"/gld/{topic}", self._keeper(topic), 10
            )
        self._node.create_subscription(
            rclpy_type("gld_ros/msg/GldStatus"), "/gld/status", self._keep_status, 10
        )
        self._lifecycle = self._node.create_client(ChangeState, "/gld/change_state")
        self._pause = self._node.create_client(SetBool, "/gld_player/pause")
        self._goals = ActionClient(self._node, SynthesizeViews, "/gld/synthesize_views")
        self._executor = NodeExecutor(num_threads=2)
        self._executor.add_node(self._node)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the graph."""
        self._closed.set()
        self._executor.wake()
        self._thread.join()
        self._executor.shutdown(timeout_sec=2.0)
        self._node.destroy_node()
        rclpy.try_shutdown()

    def _spin(self) -> None:
        while not self._closed.is_set():
            self._executor.spin_once(timeout_sec=0.2)

    def require_unique_node_name(self, discovery_s: float = DISCOVERY_S) -> None:
        """Raise DemoFailed when another gld_node is in this ROS domain: both would answer.

        `discovery_s` is how long the other node has to be discovered.
        """
        if self._lifecycle.wait_for_service(timeout_sec=discovery_s):
            domain = os.environ.get("ROS_DOMAIN_ID", "0")
            raise DemoFailed(
                f"a node /gld runs in ROS domain {domain} already and would answer in place of the "
                "demonstration's; stop it, or set ROS_DOMAIN_ID to another number (0-101)"
            )

    def configure_and_activate(self, timeout_s: float) -> None:
        """Bring the node up; raises DemoFailed when it does not come or refuses."""
        if not self._lifecycle.wait_for_service(timeout_sec=timeout_s):
            raise DemoFailed(f"gld_node did not appear within {timeout_s:.0f} s")
        for name, transition in (
            ("configure", Transition.TRANSITION_CONFIGURE),
            ("activate", Transition.TRANSITION_ACTIVATE),
        ):
            request = ChangeState.Request(transition=Transition(id=transition))
            answer = self._wait(self._lifecycle.call_async(request), name, timeout_s)
            if not answer.success:
                raise DemoFailed(f"gld_node refused to {name}; its log says why")

    def hold_bag(self, hold: bool) -> bool:
        """Pause or resume the player; False if the player is not there."""
        if not self._pause.service_is_ready():
            return False
        self._pause.call_async(SetBool.Request(data=hold))
        return True

    def imagine(
        self,
        frame: PosedImage,
        frame_id: str,
        max_wait_s: float,
        on_feedback: Callable[[Any], None],
    ) -> Any:
        """Send a goal at an image's camera and wait for its result message."""
        goal = SynthesizeViews.Goal()
        goal.pose_convention = SynthesizeViews.Goal.CONVENTION_OPTICAL
        goal.targets.header.frame_id = frame_id
        goal.targets.poses = [pose_message(frame.T_fixed_cam, rclpy_type)]
        hw = (frame.image.shape[0], frame.image.shape[1])
        header = make_header(0, "", rclpy_type)
        goal.camera_info = camera_info_message(frame.K_px, hw, header, rclpy_type)
        goal.anchor_time.sec, goal.anchor_time.nanosec = divmod(frame.stamp_ns, NS_PER_S)
        goal.max_wait.sec = round(max_wait_s)
        goal.use_seed, goal.seed = True, 1
        goal.publish = goal.return_images = True
        if not self._goals.wait_for_server(timeout_sec=10.0):
            raise DemoFailed("the action server did not appear")
        sent = self._goals.send_goal_async(goal, feedback_callback=on_feedback)
        handle = self._wait(sent, "goal accepted", 30.0)
        if not handle.accepted:
            raise DemoFailed("a goal was rejected")
        limit_s = max_wait_s + 600.0
        return self._wait(handle.get_result_async(), "goal result", limit_s).result

    def _wait(self, future: Any, what: str, timeout_s: float) -> Any:
        deadline_s = time.monotonic() + timeout_s
        while not future.done():
            if time.monotonic() > deadline_s:
                raise DemoFailed(f"no answer within {timeout_s:.0f} s: {what}")
            time.sleep(0.02)
        return future.result()

    def _keeper(self, topic: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            self.arrived.counts[topic] += 1
            self.arrived.latest[topic] = message
            if topic.endswith("points"):
                self.arrived.clouds.setdefault(topic, []).append(message)

        return keep

    def _keep_status(self, message: Any) -> None:
        self.arrived.status = message
        if message.product_age > 0:
            self.arrived.ages_s.append(float(message.product_age))
