"""A node with an oracle for a model, and a camera that drives through a room."""

import time
from collections import defaultdict

import numpy as np
import pytest

from gld_ros.mapping.fault_log import THROTTLE_S


class Rig:
    """One gld_node, and a second node that plays camera driver, TF and consumer.

    `model_factory` replaces the oracle by what it loads, such as
    `gld_ros.mapping.model.load_model`.
    """

    HW = (84, 112)
    SCENE = 2_000_000_001

    def __init__(
        self,
        ros_graph,
        synthesizer,
        parameters,
        camera_names=("camera",),
        model_factory=None,
        node_options=None,
    ):
        from rclpy.parameter import Parameter

        from gld_ros.mapping.model import LoadedModel
        from gld_ros.mapping.model_fault import fault_of
        from gld_ros.ros.node import GldNode

        self.graph, self._closed = ros_graph, False
        self.released = 0

        def factory(parameters):
            return LoadedModel(
                synthesizer,
                {"backend": "oracle", "self_test": "passed"},
                self.HW,
                fault_of,
                release=self._release,
            )

        values = {
            "camera_names": list(camera_names),
            "keyframes.min_interval": 0.0,
            "keyframes.max_angular_velocity": 100.0,
            "keyframes.min_translation": 0.05,
            "depth.min_confidence": 0.0,
            "diagnostics.period": 0.2,
            "policy.rate": 10.0,
            **parameters,
        }
        self.node = GldNode(
            model_factory or factory,
            context=ros_graph.context,
            parameter_overrides=[Parameter(k, value=v) for k, v in values.items()],
            **(node_options or {}),
        )
        ros_graph.add(self.node)
        self.peer = ros_graph.node("peer")
        self.received = defaultdict(list)
        self._publishers = {}
        self.sim_time = values.get("use_sim_time", False)
        self.K_px = np.array([[80.0, 0.0, 55.5], [0.0, 80.0, 41.5], [0.0, 0.0, 1.0]])
        self.stamps = []

    def _release(self):
        self.released += 1

    def listen(self, topic, type_name, qos=10):
        from gld_ros.messages.types import rclpy_type

        self.peer.create_subscription(
            rclpy_type(type_name), topic, self.received[topic].append, qos
        )

    def publisher(self, topic, type_name, qos=10):
        from gld_ros.messages.types import rclpy_type

        if topic not in self._publishers:
            self._publishers[topic] = self.peer.create_publisher(rclpy_type(type_name), topic, qos)
        return self._publishers[topic]

    def activate(self):
        from rclpy.lifecycle import TransitionCallbackReturn as Result

        if self.node.session is None:
            assert self.node.trigger_configure() == Result.SUCCESS
        assert self.node.trigger_activate() == Result.SUCCESS
        for camera in self.node.session.cameras.values():
            kind = "CompressedImage" if camera.compressed else "Image"
            image = self.publisher(camera.topic, f"sensor_msgs/msg/{kind}")
            info = self.publisher(f"{camera.name}/camera_info", "sensor_msgs/msg/CameraInfo")
            self.graph.wait_for(lambda p=image: p.get_subscription_count() > 0, "image matched")
            self.graph.wait_for(lambda p=info: p.get_subscription_count() > 0, "info matched")
        self.node.faults.lines.clear()
        tf = self.publisher("/tf", "tf2_msgs/msg/TFMessage", 100)
        self.graph.wait_for(lambda: tf.get_subscription_count() > 0, "TF matched")
        for own in self.node.publishers:
            if own.topic in self.received:
                self.graph.wait_for(lambda p=own: p.get_subscription_count() > 0, own.topic)
        self._began_s = time.monotonic()

    # A drive along x, looking into the room.
    def T_fixed_cam(self, x_m):
        T = np.eye(4)
        T[:3, :3] = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
        T[:3, 3] = (x_m, 0.0, 1.2)
        return T

    def now_ns(self):
        return self.node.now_ns

    def send_tf(self, T, stamp_ns, parent="odom", child="camera_optical"):
        from gld_ros.messages.transforms import transform_message
        from gld_ros.messages.types import rclpy_type

        message = transform_message(T, parent, child, stamp_ns, rclpy_type)
        self.publisher("/tf", "tf2_msgs/msg/TFMessage", 100).publish(
            rclpy_type("tf2_msgs/msg/TFMessage")(transforms=[message])
        )

    def send_info(self, camera="camera", stamp_ns=None, K_px=None, hw=None, **changes):
        from gld_ros.messages.camera_info import camera_info_message
        from gld_ros.messages.stamps import make_header
        from gld_ros.messages.types import rclpy_type

        header = make_header(stamp_ns or self.now_ns(), "camera_optical", rclpy_type)
        message = camera_info_message(
            self.K_px if K_px is None else K_px, hw or self.HW, header, rclpy_type
        )
        for name, value in changes.items():
            setattr(message, name, value)
        self.publisher(f"{camera}/camera_info", "sensor_msgs/msg/CameraInfo").publish(message)

    def image(self, rgb, stamp_ns, frame_id="camera_optical", compressed=False):
        from gld_ros.messages.images import compressed_message, image_message
        from gld_ros.messages.stamps import make_header
        from gld_ros.messages.types import rclpy_type

        header = make_header(stamp_ns, frame_id, rclpy_type)
        return compressed_message(rgb, header) if compressed else image_message(rgb, "rgb8", header)

    def send_image(self, message, camera="camera"):
        topic = self.node.session.cameras[camera].topic
        kind = "CompressedImage" if topic.endswith("/compressed") else "Image"
        self.publisher(topic, f"sensor_msgs/msg/{kind}").publish(message)

    def send_frame(
        self, x_m, camera="camera", tf=True, rgb=None, edit=None, info=None, stamp_ns=None
    ):
        """Publish TF, CameraInfo and image of one pose, and wait until the image has arrived.

        `edit` spoils the image message before it leaves; `info` changes fields of the CameraInfo,
        or is False for none.
        """
        if self.sim_time:
            self.set_clock(self.now_ns() + 50_000_000)
        stamp_ns = stamp_ns or self.now_ns()
        self.stamps.append(stamp_ns)
        if tf:
            self.send_tf(self.T_fixed_cam(x_m), stamp_ns)
        state = self.node.session.cameras[camera]
        if info is not False:
            before = state.infos_received
            self.send_info(camera, stamp_ns, **(info or {}))
            self.graph.wait_for(lambda: state.infos_received > before, "CameraInfo arrived")
        before = state.received
        if rgb is None:
            rgb = np.full((*self.HW, 3), 100, np.uint8)
        message = self.image(rgb, stamp_ns, compressed=state.compressed)
        if edit is not None:
            edit(message)
        self.send_image(message, camera)
        self.graph.wait_for(lambda: state.received > before, "image arrived")
        return stamp_ns

    def set_clock(self, stamp_ns):
        from gld_ros.messages.stamps import ns_to_stamp
        from gld_ros.messages.types import rclpy_type

        publisher = self.publisher("/clock", "rosgraph_msgs/msg/Clock")
        self.graph.wait_for(lambda: publisher.get_subscription_count() > 0, "clock matched")
        publisher.publish(rclpy_type("rosgraph_msgs/msg/Clock")(clock=ns_to_stamp(stamp_ns)))
        self.graph.wait_for(lambda: self.now_ns() == stamp_ns, f"time {stamp_ns}")

    def watch(self):
        """Collect diagnostics, to wait for levels."""
        self.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")

    def wait_level(self, name, level, timeout_s=60.0, says="", values=None):
        """Return the next status of this name at this level (0 OK, 1 WARN, 2 ERROR).

        One that was on its way before what the test did may come first: `says` must be part of the
        message and `values` among the values, where they are given.
        A camera must send on to be OK: frames further along the drive are sent meanwhile.
        """
        arrays, end_s = self.received["/diagnostics"], time.monotonic() + timeout_s
        found = []

        def wanted(status):
            told = {value.key: value.value for value in status.values}
            return (
                status.name == name
                and status.level == bytes([level])
                and says in status.message
                and all(told.get(key) == value for key, value in (values or {}).items())
            )

        def seen():
            for array in list(arrays):
                found.extend(status for status in array.status if wanted(status))
            return bool(found)

        sends, x_m = level == 0 and name.startswith("gld: input"), 2.0
        while sends and not seen() and time.monotonic() < end_s:
            x_m += 0.1
            self.send_frame(x_m, camera=name.split()[-1])
            time.sleep(0.2)
        self.graph.wait_for(seen, f"{name} at level {level}", timeout_s)
        arrays.clear()
        return found[-1]

    def drive(self, positions_m=(0.0, 0.2, 0.4), **options):
        store = self.node.session.store
        for x_m in positions_m:
            stamp_ns = self.send_frame(x_m, **options)
            self.graph.wait_for(
                lambda s=stamp_ns: any(k.stamp_ns == s for k in store.snapshot()), "a keyframe"
            )

    def goal(self, T_targets, **fields):
        """Return (goal handle future's handle, result) of an optical goal in the fixed frame."""
        client, goal = self.make_goal(T_targets, **fields)
        heard = self.received["feedback"].append
        # A reply that is sent before the server's side has matched the client is lost by the
        # middleware, and nobody can see that side from here: the first goal may need another try.
        for _ in range(3):
            future = client.send_goal_async(goal, feedback_callback=heard)
            end_s = time.monotonic() + 20.0
            while not future.done() and time.monotonic() < end_s:
                time.sleep(0.005)
            if future.done():
                break
        self.graph.wait_for(future.done, "goal answered")
        handle = future.result()
        result = handle.get_result_async()
        return handle, result

    def finished_goal(self, T_targets, timeout_s=90.0, **fields):
        _, result = self.goal(T_targets, **fields)
        self.graph.wait_for(result.done, "goal finished", timeout_s)
        return result.result().status, result.result().result

    def make_goal(self, T_targets, frame_id="odom", **fields):
        from rclpy.action import ActionClient

        from gld_ros.action import SynthesizeViews
        from gld_ros.messages.transforms import pose_message
        from gld_ros.messages.types import rclpy_type

        if not hasattr(self, "_client"):
            self._client = ActionClient(self.peer, SynthesizeViews, "/gld/synthesize_views")
            assert self._client.wait_for_server(timeout_sec=60.0)
        goal = SynthesizeViews.Goal()
        goal.pose_convention = SynthesizeViews.Goal.CONVENTION_OPTICAL
        goal.targets.header.frame_id = frame_id
        goal.targets.poses = [pose_message(np.asarray(T), rclpy_type) for T in T_targets]
        for name, value in fields.items():
            setattr(goal, name, value)
        return self._client, goal

    def counter(self, name):
        return self.node.faults.lines[name]

    def wait_said_once(self, name):
        """Wait for the line of a cause; it may come again only after the throttle's time."""
        self.graph.wait_for(lambda: self.counter(name) >= 1, f"a line about {name}")
        assert self.counter(name) <= 1 + (time.monotonic() - self._began_s) // THROTTLE_S

    def close(self):
        if not self._closed:
            self._closed = True
            self.node.close()
            time.sleep(0.05)


class FaultyOracle:
    """An oracle whose next runs fail as told: exceptions to raise, or pixels to spoil.

    `step_delay_s` makes it slow and may be changed between steps; `delays` tells that it waits.
    """

    def __init__(self, render):
        from gld_ros.mapping.synthesizer import OracleSynthesizer

        self._oracle = OracleSynthesizer(render)
        self.step_delay_s = 0.0
        self.delays = False
        self.errors = []  # raised one per run, in the first sampling step
        self.spoil = None  # changes a finished result

    def run(self, request):
        error = self.errors.pop(0) if self.errors else None
        steps = self._oracle.run(request)
        while True:
            try:
                progress = next(steps)
            except StopIteration as finished:
                return self.spoil(finished.value) if self.spoil else finished.value
            if error is not None and progress.stage == "sampling":
                raise error
            yield progress
            self.delays = self.step_delay_s > 0
            time.sleep(self.step_delay_s)
            self.delays = False


@pytest.fixture
def plain_oracle():
    """An oracle that sees a wall 3 m ahead, everywhere grey."""

    def render(T_world_cam, K_px, hw):
        return np.full((*hw, 3), 128, np.uint8), np.full(hw, 3.0, np.float32)

    return FaultyOracle(render)


@pytest.fixture
def make_rig(ros_graph):
    rigs = []

    def make(synthesizer, parameters=None, **options):
        rigs.append(Rig(ros_graph, synthesizer, parameters or {}, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()
