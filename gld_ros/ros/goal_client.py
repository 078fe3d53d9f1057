"""Requests views from a running gld_node: goals from poses or offsets, feedback, result, cloud."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.messages.stamps import stamp_to_ns
from gld_ros.messages.types import rclpy_type

POLL_S = 0.02
CLOUD_WAIT_S = 2.0  # the cloud of a job is published just before its result


class RequestFailed(RuntimeError):
    """The goal could not be sent, or was not answered in time."""


@dataclass(frozen=True)
class Answer:
    """What came back: the action's result, and the predicted cloud of the job if there was one."""

    result: Any
    cloud: Any


def offset_pose(forward_m: float, left_m: float, yaw_deg: float) -> NDArray[np.float64]:
    """Return T_cam_target (4, 4), both with optical axes: a step and a turn in the camera's plane.

    Positive yaw turns to the left.
    """
    cosine, sine = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    T = np.eye(4)
    # Left is -x and up is -y of an optical frame.
    T[:3, :3] = [[cosine, 0.0, -sine], [0.0, 1.0, 0.0], [sine, 0.0, cosine]]
    T[:3, 3] = (-left_m, 0.0, forward_m)
    return T


class GoalClient:
    """Sends goals to the node at `target` from an rclpy node that the caller spins."""

    def __init__(self, node: Any, target: str = "/gld") -> None:
        from rclpy.action import ActionClient

        from gld_ros.action import SynthesizeViews

        self._node, self._target = node, target
        self._goal_type = SynthesizeViews.Goal
        self._clouds: dict[int, Any] = {}
        self._lock = threading.Lock()
        # First, since the node hears of readers in this order: when it can answer a goal, it knows
        # that there is a subscriber for the cloud.
        self._subscription = node.create_subscription(
            rclpy_type("sensor_msgs/msg/PointCloud2"),
            f"{target}/predicted/points",
            self._keep_cloud,
            10,
        )
        self._client = ActionClient(node, SynthesizeViews, f"{target}/synthesize_views")

    def close(self) -> None:
        """Stop listening."""
        self._node.destroy_subscription(self._subscription)
        self._client.destroy()

    def goal(self, poses: Sequence[Any], frame_id: str, *, optical: bool) -> Any:
        """Return a goal that publishes and returns its views; fields may be changed before asking.

        `poses` are geometry_msgs/Pose in `frame_id`, at the latest time that TF knows.
        """
        goal = self._goal_type()
        goal.targets.header.frame_id = frame_id
        goal.targets.poses = list(poses)
        goal.pose_convention = goal.CONVENTION_OPTICAL if optical else goal.CONVENTION_BODY
        goal.publish = goal.return_images = True
        return goal

    def camera_frame(self, camera: str, timeout_s: float) -> str:
        """Return the frame_id of a camera's CameraInfo; raises RequestFailed when none comes."""
        from rclpy.qos import QoSProfile, ReliabilityPolicy

        topic = f"{camera if camera.startswith('/') else self._namespace() + camera}/camera_info"
        frames: list[str] = []
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        subscription = self._node.create_subscription(
            rclpy_type("sensor_msgs/msg/CameraInfo"),
            topic,
            lambda message: frames.append(message.header.frame_id),
            qos,
        )
        try:
            self._wait(lambda: bool(frames), timeout_s, f"no CameraInfo on {topic}")
        finally:
            self._node.destroy_subscription(subscription)
        if not frames[0]:
            raise RequestFailed(f"CameraInfo on {topic} has no frame_id; give --frame and --pose")
        return frames[0]

    def ask(self, goal: Any, on_feedback: Callable[[Any], None], timeout_s: float) -> Answer:
        """Send a goal and wait for its result; it is cancelled on Ctrl-C or when time is up.

        Raises RequestFailed when there is no server, the goal is rejected, or time is up.
        """
        if not self._client.wait_for_server(timeout_sec=min(timeout_s, 10.0)):
            raise RequestFailed(
                f"no action {self._target}/synthesize_views; is the node configured? "
                "run `gld-ros check`"
            )
        sent = self._client.send_goal_async(goal, feedback_callback=on_feedback)
        self._wait(sent.done, timeout_s, "the goal was not acknowledged")
        handle = sent.result()
        if not handle.accepted:
            raise RequestFailed("the goal was rejected; the node is shutting down or at its limit")
        future = handle.get_result_async()
        try:
            self._wait(future.done, timeout_s, "no result")
        except (KeyboardInterrupt, RequestFailed):
            handle.cancel_goal_async()
            time.sleep(0.2)  # so that the request leaves before this process does
            raise
        result = future.result().result
        stamps = {stamp_to_ns(view.header.stamp) for view in result.views.views}
        deadline_s = time.monotonic() + (CLOUD_WAIT_S if stamps and result.error_code == 0 else 0.0)
        while not (cloud := self._cloud_of(stamps)) and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        return Answer(result, cloud)

    def _cloud_of(self, stamps: set[int]) -> Any:
        with self._lock:
            return next((self._clouds[s] for s in stamps if s in self._clouds), None)

    def _keep_cloud(self, message: Any) -> None:
        with self._lock:
            self._clouds[stamp_to_ns(message.header.stamp)] = message
            while len(self._clouds) > 8:
                del self._clouds[next(iter(self._clouds))]

    def _namespace(self) -> str:
        return f"{self._target.rpartition('/')[0]}/"

    def _wait(self, fact: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not fact():
            if time.monotonic() > deadline_s:
                raise RequestFailed(f"{what} within {timeout_s:.0f} s")
            time.sleep(POLL_S)
