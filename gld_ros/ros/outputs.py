"""The node's publishers: created at configure, active only for topics with subscribers."""

import time
from dataclasses import replace
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from gld_ros.mapping.jobs import JobResult
from gld_ros.mapping.parameters import FrameParameters
from gld_ros.mapping.product_messages import (
    TOPICS,
    job_messages,
    products_for,
    view_transforms,
    views_message,
)
from gld_ros.mapping.products import Product
from gld_ros.messages.stamps import stamp_to_ns
from gld_ros.messages.types import rclpy_type

# The executor looks at every event at every turn, and subscribers report by themselves that they
# ask for more than is offered.
NO_EVENTS = PublisherEventCallbacks(use_default_callbacks=False)
PRODUCT_QOS = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)


class Outputs:
    """Publishers of the products of one node, on those of `TOPICS` that it offers."""

    def __init__(self, node: LifecycleNode, topics: frozenset[str]) -> None:
        self._node = node
        self._publishers: dict[str, Any] = {
            topic: node.create_lifecycle_publisher(
                rclpy_type(type_name),
                f"~/{topic}",
                PRODUCT_QOS,
                event_callbacks=NO_EVENTS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for topic, (type_name, _) in TOPICS.items()
            if topic in topics
        }
        self._tf = node.create_lifecycle_publisher(
            rclpy_type("tf2_msgs/msg/TFMessage"),
            "/tf",
            QoSProfile(depth=100),
            event_callbacks=NO_EVENTS,
        )
        self._last_tf: dict[str, int] = {}

    def close(self) -> None:
        """Destroy all publishers."""
        for publisher in (*self._publishers.values(), self._tf):
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}

    def subscribed_topics(self) -> frozenset[str]:
        """Return the topics that have a subscriber now."""
        return frozenset(
            topic
            for topic, publisher in self._publishers.items()
            if publisher.get_subscription_count() > 0
        )

    def wanted(self) -> frozenset[Product]:
        """Return the products to make for the present subscribers."""
        return products_for(self.subscribed_topics())

    def publish_job(self, result: JobResult, frames: FrameParameters) -> float:
        """Publish everything of a finished job that has a subscriber; returns the seconds.

        `~/views` comes last and reports how long all before it took.
        """
        started_s = time.monotonic()
        topics = self.subscribed_topics()
        for topic, message in job_messages(result, frames, rclpy_type, topics):
            self._publishers[topic].publish(message)
        if frames.publish_views:
            self._broadcast(view_transforms(result, frames, rclpy_type))
        seconds = time.monotonic() - started_s
        if "views" in topics:
            times = replace(result.times, publish=seconds)
            self._publishers["views"].publish(views_message(result, times, frames, rclpy_type))
        return seconds

    def _broadcast(self, transforms: list[Any]) -> None:
        """Broadcast the poses of target views, each frame at most once per stamp."""
        new = []
        for transform in transforms:
            child, stamp_ns = transform.child_frame_id, stamp_to_ns(transform.header.stamp)
            if self._last_tf.get(child) != stamp_ns:
                self._last_tf[child] = stamp_ns
                new.append(transform)
        if new:
            self._tf.publish(rclpy_type("tf2_msgs/msg/TFMessage")(transforms=new))


def latched() -> QoSProfile:
    """Return the QoS of a topic whose last message late subscribers receive."""
    return QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
