"""`/diagnostics` and `~/status`: what the node does, what it waits for, and output quality."""

from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from gld_ros.mapping.product_messages import scale_message, times_message
from gld_ros.mapping.session import SynthesisSession
from gld_ros.messages.stamps import make_header
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.diagnostics.device_memory import device_memory_bytes
from gld_ros.ros.diagnostics.facts import DiagnosticsMemory, NodeFacts
from gld_ros.ros.diagnostics.statuses import statuses
from gld_ros.ros.outputs import NO_EVENTS


class Diagnostics:
    """Publishers of `/diagnostics` and `~/status`, and their timer; they live as long as the node.

    `facts` returns what there is to report at present.
    """

    def __init__(self, node: Node, facts: Callable[[], NodeFacts], period_s: float) -> None:
        self._node, self._facts = node, facts
        self._memory = DiagnosticsMemory()
        self._array = node.create_publisher(
            rclpy_type("diagnostic_msgs/msg/DiagnosticArray"),
            "/diagnostics",
            10,
            event_callbacks=NO_EVENTS,
        )
        self._status = node.create_publisher(
            rclpy_type("gld_ros/msg/GldStatus"),
            "~/status",
            QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
            event_callbacks=NO_EVENTS,
        )
        self._timer = node.create_timer(
            period_s,
            self._publish,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=Clock(clock_type=ClockType.STEADY_TIME),  # ROS time may stand still
        )

    def set_period(self, seconds: float) -> None:
        """Publish so often from now on."""
        self._timer.timer_period_ns = int(seconds * 1e9)
        self._timer.reset()

    def close(self) -> None:
        """Stop the timer."""
        self._node.destroy_timer(self._timer)

    def _publish(self) -> None:
        facts = self._facts()
        entry = rclpy_type("diagnostic_msgs/msg/DiagnosticStatus")
        pair = rclpy_type("diagnostic_msgs/msg/KeyValue")
        device = facts.session.model.description.get("device", "") if facts.session else ""
        message = rclpy_type("diagnostic_msgs/msg/DiagnosticArray")(
            header=make_header(facts.now_ns, "", rclpy_type),
            status=[
                entry(
                    level=bytes([status.level]),
                    name=status.name,
                    message=status.message,
                    hardware_id=device,
                    values=[pair(key=k, value=v) for k, v in status.values.items()],
                )
                for status in statuses(facts, self._memory)
            ],
        )
        self._array.publish(message)
        self._publish_status(facts)

    def publish_status(self) -> None:
        """Publish `~/status` alone; it also comes with every diagnostics array."""
        self._publish_status(self._facts())

    def _publish_status(self, facts: NodeFacts) -> None:
        kind = rclpy_type("gld_ros/msg/GldStatus")
        status = kind(header=make_header(facts.now_ns, "", rclpy_type))
        session = facts.session
        if session is None:
            status.state, status.reason = kind.STATE_WAITING_INPUT, "unconfigured"
            self._status.publish(status)
            return
        history = session.history
        status.state, status.reason = node_state(session, facts, kind)
        status.backend = session.model.description.get("backend", "")
        status.profile = session.model.description.get("bundle", "")
        status.jobs_done, status.jobs_cancelled = history.done, history.cancelled
        status.jobs_failed = history.failed
        cameras = session.cameras.values()
        status.images_received = sum(camera.received for camera in cameras)
        status.images_dropped = (
            sum(camera.total_dropped for camera in cameras)
            + sum(session.pending.dropped.values())
            + session.depth_stream.skipped.total()
        )
        measuring = session.measurements.facts()
        status.keyframes = min(len(session.store), 65535)
        status.keyframes_measured = min(measuring.measured, 65535)
        status.keyframes_behind = min(measuring.behind, 65535)
        status.product_age = float(history.last_age_s)
        if history.last_done is not None:
            status.times = times_message(history.last_done.times, rclpy_type)
        status.scale = scale_message(session.scale_state(), rclpy_type)
        status.gpu_bytes_used, status.gpu_bytes_peak = device_memory_bytes()
        self._status.publish(status)


def node_state(session: SynthesisSession, facts: NodeFacts, kind: Any) -> tuple[int, str]:
    """Return the state number of `GldStatus`, and in words what the node waits for."""
    cameras = session.cameras.values()
    if not facts.active:
        return kind.STATE_WAITING_INPUT, "not active"
    if session.worker.running is not None:
        return kind.STATE_RUNNING, ""
    rejections = [camera.rejection for camera in cameras if camera.rejection]
    if rejections and len(rejections) == len(cameras):
        return kind.STATE_FAULT, rejections[0]
    if facts.sim_time and facts.now_ns == 0:
        return kind.STATE_WAITING_INPUT, "use_sim_time is set, but nothing publishes /clock"
    for camera in cameras:
        if not camera.received:
            return kind.STATE_WAITING_INPUT, f"no image on {camera.topic} yet"
        if camera.info is None:
            return kind.STATE_WAITING_INPUT, f"no CameraInfo next to {camera.topic} yet"
    if session.mode == "views" and not len(session.store):
        waiting = len(session.pending)
        why = f"{waiting} images wait for TF" if waiting else "no keyframe yet"
        return kind.STATE_WAITING_INPUT, why
    if session.waiting_for:
        return kind.STATE_WAITING_INPUT, session.waiting_for
    if session.worker.limits.level:
        return kind.STATE_DEGRADED, session.worker.limits.description
    return kind.STATE_IDLE, ""
