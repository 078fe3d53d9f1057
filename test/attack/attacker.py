"""A participant of the graph with clients of everything that `/gld` offers."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetState
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from rclpy._rclpy_pybind11 import InvalidHandle
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage

from gld_ros.action import SynthesizeViews
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.images import image_message
from gld_ros.messages.stamps import make_header
from gld_ros.messages.transforms import pose_message, transform_message
from gld_ros.messages.types import rclpy_type
from gld_ros.srv import SaveScene

HW = (84, 112)
K_PX = np.array([[80.0, 0.0, 55.5], [0.0, 80.0, 41.5], [0.0, 0.0, 1.0]])
ANSWER_S = 30.0  # within which everything is answered, on a loaded machine too
# A client's own queue of ten loses answers when it is slow to take them.
CLIENT_QOS = QoSProfile(depth=1000)
SERVICES = {
    "reset": Trigger,
    "pause": SetBool,
    "save_scene": SaveScene,
    "change_state": ChangeState,
    "get_state": GetState,
    "get_available_states": GetAvailableStates,
    "set_parameters": SetParameters,
    "get_parameters": GetParameters,
    "list_parameters": ListParameters,
    "describe_parameters": DescribeParameters,
}
TO_ACTIVE = {  # by the state that the node is in
    State.PRIMARY_STATE_UNCONFIGURED: (
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
    ),
    State.PRIMARY_STATE_INACTIVE: (Transition.TRANSITION_ACTIVATE,),
    State.PRIMARY_STATE_ACTIVE: (),
}


class Unanswered(AssertionError):
    """A request that got no answer in time."""


@dataclass
class SentGoal:
    """A goal on its way: `result` is None until it is answered, and if it is rejected."""

    what: str
    limit_s: float
    stage: str = "sent"
    result: Any = None
    done: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> Any:
        """Return the result; raises Unanswered."""
        if not self.done.wait(self.limit_s):
            raise Unanswered(f"{self.what}: {self.stage}, no answer within {self.limit_s:.0f} s")
        return self.result


class Attacker:
    """The participant; a thread of its own spins it."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self.node = rclpy.create_node("attacker", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self.diagnostics_s: list[float] = []  # when they came, steady
        self.levels: dict[str, int] = {}  # the newest, by name
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 10)
        self._clients = {
            name: self.node.create_client(kind, f"/gld/{name}") for name, kind in SERVICES.items()
        }
        self._actions = ActionClient(
            self.node,
            SynthesizeViews,
            "/gld/synthesize_views",
            goal_service_qos_profile=CLIENT_QOS,
            result_service_qos_profile=CLIENT_QOS,
            cancel_service_qos_profile=CLIENT_QOS,
        )
        publish = self.node.create_publisher
        self.images = publish(Image, "camera/image", 10)
        self.depths = publish(Image, "camera/depth", 10)
        self.infos = publish(CameraInfo, "camera/camera_info", 10)
        self.tf = publish(TFMessage, "/tf", 100)
        self.static_tf: Any = None
        self.leave_static_tf()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _diagnosed(self, message: DiagnosticArray) -> None:
        self.diagnostics_s.append(time.monotonic())
        self.levels |= {status.name: ord(status.level) for status in message.status}

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            while self.context.ok():
                # Another thread may destroy what this one is about to wait for.
                with contextlib.suppress(InvalidHandle):
                    self._executor.spin_once(timeout_sec=1.0)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        rclpy.shutdown(context=self.context)
        self._thread.join()

    def leave_static_tf(self) -> None:
        """Withdraw what was latched: whoever comes later does not get it any more."""
        if self.static_tf is not None:
            self.node.destroy_publisher(self.static_tf)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.static_tf = self.node.create_publisher(TFMessage, "/tf_static", latched)

    # -- requests ---------------------------------------------------------------------------------

    def call(self, name: str, request: Any, wait_s: float = ANSWER_S) -> Any:
        """Return a service's answer; raises Unanswered."""
        client = self._clients[name]
        if not client.wait_for_service(wait_s):
            raise Unanswered(f"{name}: nobody offers it")
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not done.wait(wait_s):
            raise Unanswered(f"{name}: {str(request)[:300]}")
        return future.result()

    def send_goal(self, goal: Any, what: str = "a goal", cancel: bool = False) -> SentGoal:
        """Send a goal; cancel it when it is accepted, if so asked."""
        if not self._actions.wait_for_server(ANSWER_S):
            raise Unanswered(f"{what}: nobody offers the action")
        sent = SentGoal(what, ANSWER_S + min(60.0, max(0.0, goal.max_wait.sec)))

        def accepted(future: Any) -> None:
            handle = future.result()
            sent.stage = "accepted" if handle.accepted else "rejected"
            if not handle.accepted:
                sent.done.set()
                return
            handle.get_result_async().add_done_callback(finished)
            if cancel:
                handle.cancel_goal_async()

        def finished(future: Any) -> None:
            sent.result = future.result().result
            sent.done.set()

        self._actions.send_goal_async(goal).add_done_callback(accepted)
        return sent

    def change_state(self, transition: int, wait_s: float = ANSWER_S) -> bool:
        """Ask for a transition; returns whether it was done."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call("change_state", request, wait_s).success)

    def bring_up(self) -> None:
        """Bring the node to active, from whichever state."""
        deadline_s = time.monotonic() + ANSWER_S
        while True:
            state = self.call("get_state", GetState.Request()).current_state
            if state.id in TO_ACTIVE:
                break
            assert time.monotonic() < deadline_s, f"the node stays {state.label}"
            time.sleep(0.1)
        for transition in TO_ACTIVE[state.id]:
            assert self.change_state(transition), f"transition {transition} from {state.label}"

    # -- a good robot -----------------------------------------------------------------------------

    def drive(
        self,
        start_m: float,
        frames: int = 8,
        step_m: float = 0.1,
        frame_id: str = "camera_optical",
    ) -> float:
        """Send good images, CameraInfo and TF along x; returns where the drive ends.

        Images of another `frame_id` than the default have no pose.
        """
        noise = np.random.default_rng(0).integers(0, 256, (*HW, 3), dtype=np.uint8)
        for _ in range(frames):
            start_m += step_m
            stamp_ns = self.node.get_clock().now().nanoseconds
            sent = transform_message(pose(start_m), "odom", "camera_optical", stamp_ns, rclpy_type)
            self.tf.publish(TFMessage(transforms=[sent]))
            header = make_header(stamp_ns, frame_id, rclpy_type)
            self.infos.publish(camera_info_message(K_PX, HW, header, rclpy_type))
            self.images.publish(image_message(noise, "rgb8", header))
            time.sleep(0.1)
        return start_m

    def good_goal(self, x_m: float) -> Any:
        """A goal that a node with keyframes around x answers with a view."""
        goal = SynthesizeViews.Goal()
        goal.pose_convention = goal.CONVENTION_OPTICAL
        goal.targets.header.frame_id = "odom"
        goal.targets.poses = [pose_message(pose(x_m), rclpy_type)]
        goal.max_wait.sec = 10
        return goal


def attack_until_killed() -> None:
    """Drive and send goals, half of them cancelled, without end; says when it has begun."""
    attacker, x_m = Attacker(), 0.0
    while True:
        x_m = attacker.drive(x_m, frames=2)
        goals = [attacker.send_goal(attacker.good_goal(x_m), cancel=bool(i % 2)) for i in range(4)]
        print(len(goals), flush=True)


def pose(x_m: float) -> np.ndarray:
    """T_odom_camera (4, 4) at a place of the drive, looking along y."""
    T = np.eye(4)
    T[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    T[:3, 3] = (x_m, 0.0, 1.2)
    return T


if __name__ == "__main__":
    attack_until_killed()
