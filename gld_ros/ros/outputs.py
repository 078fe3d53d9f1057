"""The node's publishers: created at configure, and work only for topics with subscribers."""

from __future__ import annotations

import time
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from gld_ros.mapping.guard import GuardVerdict
from gld_ros.mapping.jobs import JobResult, product_age_s
from gld_ros.mapping.products import Product, Products
from gld_ros.messages.transforms import transform_message
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.view_messages import (
    TOPICS,
    Frames,
    keyframes_message,
    product_messages,
    views_message,
)

PRODUCT_QOS = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)


class Outputs:
    """Publishers of all products of one node."""

    def __init__(self, node: LifecycleNode, *, merged: bool) -> None:
        self._node = node
        self._publishers: dict[str, Any] = {
            topic: node.create_lifecycle_publisher(
                rclpy_type(type_name),
                f"~/{topic}",
                PRODUCT_QOS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for topic, (type_name, _) in TOPICS.items()
            if topic != "merged/points" or merged
        }
        self._tf = node.create_lifecycle_publisher(
            rclpy_type("tf2_msgs/msg/TFMessage"), "/tf", QoSProfile(depth=100)
        )
        self._last_tf: dict[str, int] = {}

    def close(self) -> None:
        """Destroy all publishers."""
        for publisher in (*self._publishers.values(), self._tf):
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}

    def listened_to(self) -> frozenset[str]:
        """Return the topics that have a subscriber now."""
        return frozenset(
            topic
            for topic, publisher in self._publishers.items()
            if publisher.get_subscription_count() > 0
        )

    def wanted(self) -> frozenset[Product]:
        """Return the products to make for the present subscribers."""
        products = {TOPICS[topic][1] for topic in self.listened_to()}
        return frozenset(product for product in products if product is not None)

    def publish_job(
        self, result: JobResult, verdicts: tuple[GuardVerdict, ...], frames: Frames, view_tf: bool
    ) -> float:
        """Publish everything of a finished job that somebody listens to; returns the seconds."""
        started = time.monotonic()
        topics = self.listened_to()
        made = [run.products for run in result.runs if run.products is not None]
        for products in made:
            for topic, message in product_messages(
                products, result.request, frames, rclpy_type, topics
            ):
                if topic in topics:
                    self._publishers[topic].publish(message)
        if view_tf:
            self._broadcast(made, result, frames)
        if "keyframes" in topics:
            message = keyframes_message(result.request.keyframes, frames, rclpy_type)
            self._publishers["keyframes"].publish(message)
        if "views" in topics and made:
            self._publishers["views"].publish(job_views_message(result, verdicts, made, frames))
        return time.monotonic() - started

    def _broadcast(self, made: list[Products], result: JobResult, frames: Frames) -> None:
        """Broadcast the poses of imagined views, each frame at most once per stamp."""
        stamp_ns = result.request.anchor.stamp_ns
        transforms = []
        for products in made:
            for view in products.predicted:
                child = frames.view(view.slot)
                if self._last_tf.get(child) != stamp_ns:
                    self._last_tf[child] = stamp_ns
                    transforms.append(
                        transform_message(
                            view.target.T_fixed_cam, frames.fixed, child, stamp_ns, rclpy_type
                        )
                    )
        if transforms:
            self._tf.publish(rclpy_type("tf2_msgs/msg/TFMessage")(transforms=transforms))


def job_views_message(
    result: JobResult, verdicts: tuple[GuardVerdict, ...], made: list[Products], frames: Frames
) -> Any:
    """Return the record of all views of a job, for `~/views` and the action's result."""
    return views_message(
        result.request,
        made,
        verdicts,
        result.runs[0].views.seed,
        made[-1].scale,
        result.times,
        frames,
        rclpy_type,
    )


def latched(depth: int = 1) -> QoSProfile:
    """Return the QoS of a topic whose last message late subscribers receive."""
    return QoSProfile(depth=depth, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def is_too_old(result: JobResult, now_ns: int, max_age_s: float) -> bool:
    """Tell whether consumers' TF buffers could no longer place this result; 0 is never."""
    return max_age_s > 0 and product_age_s(result.request.anchor.stamp_ns, now_ns) > max_age_s
