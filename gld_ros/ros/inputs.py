"""The node's sensor input: subscriptions to images, CameraInfo and depth, and counts of losses.

Where nothing says which depth belongs to a camera, the graph is asked for the topic that drivers
name so.
"""

import time
from threading import Lock
from typing import Any

from rclpy._rclpy_pybind11 import RCLError
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import MessageInfo

from gld_ros.bags.cameras import depth_companion
from gld_ros.bags.reader import COMPRESSED_IMAGE_TYPE, IMAGE_TYPE
from gld_ros.mapping.cameras import CameraState
from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.session import SynthesisSession
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.parameters.snapshot import NodeSettings
from gld_ros.ros.sequence_gaps import SequenceGaps
from gld_ros.ros.serving_thread import ServingThread

WARN_MISSING_AFTER_S = 2.0
WARN_MISSING_PERIOD_S = 5.0
FIND_DEPTH_PERIOD_S = 1.0
SENSOR_QOS = QoSProfile(
    depth=5, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE
)


def cameras_of(node: Node, settings: NodeSettings) -> dict[str, CameraState]:
    """Return the cameras that the parameters name, with their resolved image topics."""
    suffix = "/compressed" if settings.compressed else ""
    return {
        # Resolved and remapped first: remapping <camera>/image is enough for both transports.
        name: CameraState(
            name, node.resolve_topic_name(f"{name}/image") + suffix, settings.compressed
        )
        for name in settings.camera_names
    }


class SensorInputs:
    """Subscriptions of all cameras, from activate to deactivate."""

    def __init__(
        self, node: Node, session: SynthesisSession, faults: FaultLog, thread: ServingThread
    ) -> None:
        self._node, self._session, self._faults = node, session, faults
        self._thread = thread
        self._next_warning_s = time.monotonic() + WARN_MISSING_AFTER_S
        self._lock = Lock()  # depth is found by another thread than the one that closes
        self._closed = False
        self._subscriptions: list[Any] = []
        self._without_depth: list[CameraState] = []  # nothing says which depth is theirs
        self._next_search_s = 0.0
        for camera in session.cameras.values():
            kind = "CompressedImage" if camera.compressed else "Image"
            self._subscribe(camera, camera.topic, kind, session.image)
            info_topic = f"{camera.name}/camera_info"
            self._subscribe(camera, info_topic, "CameraInfo", session.camera_info)
            camera.depth_topic = ""
            if session.parameters.depth_source in ("auto", "camera"):
                own_name = f"{camera.name}/depth"
                self._subscribe_depth(camera, node.resolve_topic_name(own_name))
                if camera.depth_topic == node.resolve_topic_name(own_name, only_expand=True):
                    self._without_depth.append(camera)

    def close(self) -> None:
        """Destroy the subscriptions."""
        with self._lock:
            self._closed = True
            for subscription in self._subscriptions:
                self._node.destroy_subscription(subscription)
            self._subscriptions = []
        self._thread.wake()

    def find_depth(self) -> None:
        """Subscribe to depth that the graph has for a camera whose depth topic is not remapped.

        Which topic that is, its name says, by the rule for bags (`depth_companion`).
        """
        now_s = time.monotonic()
        if not self._without_depth or now_s < self._next_search_s:
            return
        self._next_search_s = now_s + FIND_DEPTH_PERIOD_S
        node = self._node
        there = [
            topic
            for topic, kinds in node.get_topic_names_and_types()
            if {IMAGE_TYPE, COMPRESSED_IMAGE_TYPE} & set(kinds) and node.count_publishers(topic)
        ]
        for camera in list(self._without_depth):
            if camera.depth_topic in there:  # it has the name that the node expects
                self._without_depth.remove(camera)
                continue
            found = depth_companion(camera.topic, there)
            if found is None:
                continue
            self._without_depth.remove(camera)
            try:
                with self._lock:
                    if not self._closed:
                        self._subscribe_depth(camera, found)
            except RCLError as error:  # security does not allow it
                node.get_logger().warning(f"camera {camera.name}: no depth from {found}: {error}")
                continue
            node.get_logger().info(
                f"camera {camera.name}: depth comes from {found}, which by its name is registered "
                f"to {camera.topic}; depth.source stereo does without"
            )

    def warn_missing(self) -> None:
        """Name the input that does not come, and how many publish it, every five seconds."""
        node = self._node
        now_s = time.monotonic()
        if now_s < self._next_warning_s:
            return
        self._next_warning_s = now_s + WARN_MISSING_PERIOD_S
        clock = node.get_clock()
        if clock.ros_time_is_active and clock.now().nanoseconds == 0:
            publishers = node.count_publishers("/clock")
            self._faults.throttled(
                "no clock",
                "warning",
                f"use_sim_time is set, but nothing arrived on /clock ({publishers} publishers)",
            )
            return
        for camera in self._session.cameras.values():
            if not camera.received:
                topic, lacks = camera.topic, "image"
            elif camera.info is None:
                topic, lacks = node.resolve_topic_name(f"{camera.name}/camera_info"), "CameraInfo"
            else:
                continue
            self._faults.throttled(
                f"{camera.name}: no {lacks}",
                "warning",
                f"camera {camera.name}: no {lacks} on {topic} yet "
                f"({node.count_publishers(topic)} publishers)",
            )

    def _subscribe_depth(self, camera: CameraState, topic: str) -> None:
        """Take depth from a resolved topic, of the type that its transport has."""
        kind = "CompressedImage" if topic.endswith("/compressedDepth") else "Image"
        self._subscribe(camera, topic, kind, self._session.depth_image)
        camera.depth_topic = topic

    def _subscribe(self, camera: CameraState, topic: str, kind: str, take: Any) -> None:
        gaps = SequenceGaps()
        is_image = topic == camera.topic

        def receive(message: Any, info: MessageInfo) -> None:
            if is_image:
                camera.lost += gaps.missed(info)
            if self._session.active:
                take(camera.name, message)

        def incompatible(event: Any) -> None:
            camera.qos_incompatible += event.total_count_change
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            self._faults.throttled(
                f"{camera.name}: qos",
                "warning",
                f"camera {camera.name}: a publisher on {topic} offers a QoS that this "
                f"subscription cannot take ({policy}); see qos_overrides",
            )

        def lost(event: Any) -> None:
            if is_image and not gaps.numbered:
                camera.lost += event.total_count_change

        self._subscriptions.append(
            self._node.create_subscription(
                rclpy_type(f"sensor_msgs/msg/{kind}"),
                topic,
                receive,
                SENSOR_QOS,
                callback_group=self._thread,
                event_callbacks=SubscriptionEventCallbacks(
                    incompatible_qos=incompatible,
                    message_lost=lost,
                    use_default_callbacks=False,
                ),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        )
