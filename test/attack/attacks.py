"""What random participants do: whatever the types of topics, services and actions allow."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import GetAvailableStates, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage

from gld_ros.action import SynthesizeViews
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.stamps import make_header, ns_to_stamp
from gld_ros.messages.transforms import transform_message
from gld_ros.messages.types import rclpy_type
from gld_ros.srv import SaveScene

from .attacker import HW, K_PX, Attacker, SentGoal, pose

FRAMES = ("odom", "odom", "camera_optical", "base", "", "/odom", "nowhere", "é", "x" * 300)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.3, 1e-300, 1e300, math.inf, -math.inf, math.nan)
OFFSETS_S = (0.0, 0.0, 0.0, -0.2, -5.0, -3600.0, 0.2, 6.0, 3600.0, 3e7)
ENCODINGS = ("rgb8", "bgr8", "mono8", "16UC1", "32FC1", "bayer_rggb8", "yuv422", "", "fantasy")
SIDES = (0, 1, 13, 14, 84, 112, 200, 40_000, 2**32 - 1)
COUNTS = (0, 1, 1, 2, 3, 17, 200)
TRANSITIONS = (
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
    0,
    99,
    255,
)
# What this harness itself stands on.
UNTOUCHED = {"diagnostics.period", "use_sim_time", "shutdown_timeout"}


class Attacks:
    """Seeded cases against one node; `cases` counts them by kind."""

    def __init__(self, attacker: Attacker, seed: int, scratch: str) -> None:
        self.rng = random.Random(seed)
        self.cases: Counter[str] = Counter()
        self.open_goals: list[SentGoal] = []
        self._attacker, self._scratch = attacker, scratch
        self._names: list[str] = []
        self._messages: dict[Callable[[], None], int] = {  # with how often each comes
            self._image: 5,
            self._depth: 1,
            self._camera_info: 3,
            self._transforms: 5,
        }
        self._requests: dict[Callable[[], None], int] = {
            self._goal: 5,
            self._service: 2,
            self._ask: 1,
            self._set_parameter: 3,
            self._transition: 1,
        }

    def run(self, cases: int) -> None:
        """Do so many things; raises Unanswered for a service that does not answer."""
        self._do(self._messages | self._requests, cases)

    def publish(self, cases: int) -> None:
        """Do so many things that ask for no answer."""
        self._do(self._messages, cases)

    def _do(self, kinds: dict[Callable[[], None], int], cases: int) -> None:
        for kind in self.rng.choices(list(kinds), list(kinds.values()), k=cases):
            self.cases[kind.__name__.strip("_")] += 1
            kind()

    def await_goals(self) -> None:
        """Wait for the answers that are owed; raises Unanswered."""
        for goal in self.open_goals:
            goal.wait()
        self.open_goals = []

    # -- messages ---------------------------------------------------------------------------------

    def _number(self) -> float:
        return self.rng.choice(NUMBERS)

    def _stamp_ns(self) -> int:
        if self.rng.random() < 0.05:
            return 0
        now_ns = self._attacker.node.get_clock().now().nanoseconds
        return max(0, int(now_ns) + round(self.rng.choice(OFFSETS_S) * 1e9))

    def _header(self) -> Any:
        return make_header(self._stamp_ns(), self.rng.choice(FRAMES), rclpy_type)

    def _any_image(self, encodings: tuple[str, ...]) -> Image:
        height, width = self.rng.choice(SIDES), self.rng.choice(SIDES)
        message = Image(header=self._header(), encoding=self.rng.choice(encodings))
        message.height, message.width = height, width
        message.step = self.rng.choice((width, 3 * width, 0, 2**32 - 1)) % 2**32
        message.is_bigendian = self.rng.choice((0, 1, 255))
        size = min(height * message.step, 100_000) - self.rng.choice((0, 0, 1))
        message.data = self.rng.randbytes(max(0, size))
        return message

    def _image(self) -> None:
        self._attacker.images.publish(self._any_image(ENCODINGS))

    def _depth(self) -> None:
        self._attacker.depths.publish(self._any_image(("16UC1", "32FC1", "mono8", "")))

    def _camera_info(self) -> None:
        K = K_PX.copy()
        if self.rng.random() < 0.5:
            K[self.rng.randrange(3), self.rng.randrange(3)] = self._number()
        message: CameraInfo = camera_info_message(K, HW, self._header(), rclpy_type)
        if self.rng.random() < 0.3:
            message.width, message.height = self.rng.choice(SIDES), self.rng.choice(SIDES)
        message.distortion_model = self.rng.choice(("", "plumb_bob", "equidistant", "fantasy"))
        message.d = [self._number() for _ in range(self.rng.choice(COUNTS))]
        message.binning_x = self.rng.choice((0, 1, 2, 2**32 - 1))
        message.roi.width = self.rng.choice((0, 10, 2**32 - 1))
        self._attacker.infos.publish(message)

    def _transforms(self) -> None:
        sent = []
        for _ in range(self.rng.choice(COUNTS)):
            parent, child = self.rng.choice(FRAMES), self.rng.choice(FRAMES)
            T = pose(self.rng.uniform(-1.0, 1.0))
            message = transform_message(T, parent, child, self._stamp_ns(), rclpy_type)
            if self.rng.random() < 0.3:
                message.transform.rotation.w = self._number()
            if self.rng.random() < 0.3:
                message.transform.translation.x = self._number()
            sent.append(message)
        publisher = self._attacker.tf if self.rng.random() < 0.9 else self._attacker.static_tf
        publisher.publish(TFMessage(transforms=sent))

    # -- requests ---------------------------------------------------------------------------------

    def _goal(self) -> None:
        rng, goal = self.rng, SynthesizeViews.Goal()
        goal.targets.header.frame_id = rng.choice(FRAMES)
        if rng.random() < 0.3:
            goal.targets.header.stamp = ns_to_stamp(self._stamp_ns())
        for _ in range(rng.choice(COUNTS)):
            target = Pose()
            target.position.x = rng.choice((*NUMBERS, rng.uniform(-1.0, 1.0)))
            target.orientation.w = rng.choice((1.0, 1.0, 1.0, self._number()))
            goal.targets.poses.append(target)
        goal.pose_convention = rng.choice((0, 1, 1, 2, 255))
        if rng.random() < 0.3:
            goal.camera_info.width, goal.camera_info.height = rng.choice(SIDES), rng.choice(SIDES)
            goal.camera_info.k = [self._number() for _ in range(9)]
        goal.cameras = rng.choice(([], [], ["camera"], ["nobody"], [""], ["x" * 1000] * 100))
        if rng.random() < 0.2:
            goal.anchor_time = ns_to_stamp(self._stamp_ns())
        goal.max_wait.sec = rng.choice((0, 0, 1, 3, -1, 2**31 - 1))
        goal.max_wait.nanosec = rng.choice((0, 10**9 - 1, 2**32 - 1))
        goal.seed, goal.use_seed = rng.choice((0, 2**32 - 1)), rng.random() < 0.5
        goal.num_steps = rng.choice((0, 1, 4, 65535))
        goal.guidance_scale = np.clip(self._number(), -3e38, 3e38)
        goal.publish, goal.return_images = rng.random() < 0.5, rng.random() < 0.5
        for _ in range(rng.choice((1, 1, 1, 12))):
            what = f"goal {str(goal)[:300]}"
            self.open_goals.append(self._attacker.send_goal(goal, what, cancel=rng.random() < 0.4))

    def _service(self) -> None:
        kind = self.rng.choice(("reset", "pause", "save_scene"))
        if kind == "reset":
            request: Any = Trigger.Request()
        elif kind == "pause":
            request = SetBool.Request(data=self.rng.random() < 0.5)
        else:
            names = (f"{self._scratch}/{self.rng.randrange(99)}", f"{self._scratch}/{'x' * 300}")
            paths = (*names, "", "/", "/proc/1/x", "relative", "/dev/null/x", "a\0b"[:1], "~")
            request = SaveScene.Request(path=self.rng.choice(paths))
            request.include_images = self.rng.random() < 0.5
        self._attacker.call(kind, request)

    def _ask(self) -> None:
        kind, request = self.rng.choice(
            (
                ("get_state", GetState.Request()),
                ("get_available_states", GetAvailableStates.Request()),
                ("list_parameters", ListParameters.Request(depth=2**63)),
                ("get_parameters", GetParameters.Request(names=["nothing"] * 100)),
                ("describe_parameters", DescribeParameters.Request(names=["", "x" * 1000])),
            )
        )
        self._attacker.call(kind, request)

    def _set_parameter(self) -> None:
        if not self._names:
            listed = self._attacker.call("list_parameters", ListParameters.Request())
            self._names = sorted(set(listed.result.names) - UNTOUCHED)
        name = self.rng.choice((*self._names, "nothing"))
        value = ParameterValue(type=self.rng.randrange(ParameterType.PARAMETER_STRING_ARRAY + 1))
        value.bool_value = self.rng.random() < 0.5
        value.integer_value = self.rng.choice((0, 1, -1, 5, 2**63 - 1, -(2**63)))
        value.double_value = self._number()
        value.string_value = self.rng.choice(("", "auto", "none", "odom", "x" * 1000))
        value.string_array_value = self.rng.choice(([], ["camera"], ["a", "a"], [""]))
        value.byte_array_value = [b"\xff"]
        request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
        self._attacker.call("set_parameters", request)

    def _transition(self) -> None:
        self._attacker.change_state(self.rng.choice(TRANSITIONS))
