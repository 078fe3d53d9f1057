"""A node's TF: its subscriptions, and the distribution's tf2 where there is one.

`make_tf_buffer` gives a node either `Tf2Buffer` or our own TransformBuffer
(`gld_ros.messages.transforms`). What is known at which time is the FrameTree's to decide in both.
"""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from gld_ros.messages.frame_tree import (
    Ancestor,
    FrameTree,
    Insertion,
    InvalidTransform,
    Sample,
    TransformUnavailable,
    checked_sample,
)
from gld_ros.messages.stamps import ns_to_stamp
from gld_ros.messages.transforms import TfBuffer, TransformBuffer, insert_message
from gld_ros.ros.distribution.quaternions import pose_matrix

# Localisation stamps its transforms ahead, so that they serve until the next (AMCL: 1 s).
MAX_AHEAD_S = 5.0
REJECTED_NAMES = 50  # that are counted apart; a publisher may invent names for ever
# In tf2 time 0 is "the latest"; a nanosecond later there is no such time.
TF2_LATER_NS = 1


class Tf2Buffer:
    """The distribution's tf2_ros.Buffer behind the interface of TransformBuffer.

    tf2 interpolates and multiplies what the FrameTree says is known. It holds the tree's samples,
    and is filled again where the tree forgets some: tf2 cannot. Not given the node, on which tf2
    would open a service that nothing closes.
    """

    def __init__(self, cache_time_s: float) -> None:
        import tf2_ros
        from rclpy.duration import Duration

        self._tf2 = tf2_ros
        # Longer than the tree's, whose rules count.
        self._tf2_cache_time = Duration(seconds=2.0 * cache_time_s + 1.0)
        self._tree = FrameTree(cache_time_s)
        self._lock = threading.Lock()  # the tree and tf2 change together
        self._fill()

    def insert(
        self,
        parent_frame: str,
        child_frame: str,
        translation_m: Any,
        rotation_xyzw: Any,
        stamp_ns: int,
        *,
        static: bool = False,
    ) -> None:
        """Add T_parent_child at a time, in any order. Raises InvalidTransform."""
        sample = checked_sample(
            parent_frame, child_frame, translation_m, rotation_xyzw, stamp_ns, static=static
        )
        with self._lock:
            insertion = self._tree.insert(sample)
            if insertion is Insertion.REWRITTEN:
                self._fill()
            elif insertion is Insertion.KEPT:
                self._set(sample)

    def _fill(self) -> None:
        self._buffer = self._tf2.Buffer(cache_time=self._tf2_cache_time)
        for sample in self._tree.samples():
            self._set(sample)

    def _set(self, sample: Sample) -> None:
        from geometry_msgs.msg import TransformStamped

        message = TransformStamped(child_frame_id=sample.child)
        message.header.frame_id = sample.parent
        translation, rotation = message.transform.translation, message.transform.rotation
        translation.x, translation.y, translation.z = sample.pose[:3].tolist()
        rotation.x, rotation.y, rotation.z, rotation.w = sample.pose[3:].tolist()
        if sample.static:
            self._buffer.set_transform_static(message, "gld_ros")
        else:
            message.header.stamp = ns_to_stamp(sample.stamp_ns + TF2_LATER_NS)
            self._buffer.set_transform(message, "gld_ros")

    def lookup(
        self, target_frame: str, source_frame: str, stamp_ns: int | None = None
    ) -> np.ndarray:
        """Return T_target_source (4, 4) float64; raises what TransformBuffer.lookup does."""
        from rclpy.time import Time

        with self._lock:
            route = self._tree.route(target_frame, source_frame, stamp_ns)
            if not route.from_target and not route.from_source:
                return np.eye(4)
            # Where all edges are static any time will do, and tf2 has none before 0.
            when = Time(nanoseconds=max(0, route.stamp_ns) + TF2_LATER_NS)
            try:
                found = self._buffer.lookup_transform(
                    target_frame.lstrip("/"), source_frame.lstrip("/"), when
                ).transform
            except self._tf2.TransformException as error:
                raise TransformUnavailable(f"tf2 has no such transform: {error}") from error
        p, q = found.translation, found.rotation
        return pose_matrix((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))

    def frames(self) -> list[str]:
        """Every frame that a transform has named, by name."""
        return self._tree.frames()

    def chain_above(self, frame_id: str) -> list[Ancestor]:
        """The frame and all above it up to its root, by the newest samples. Raises UnknownFrame."""
        return self._tree.chain_above(frame_id)

    def clear(self) -> None:
        """Discard all non-static edges; static ones are kept, since they are not sent again."""
        with self._lock:
            self._tree.clear()
            self._fill()


class TfSubscriber:
    """Feeds a buffer from /tf and /tf_static of a node.

    `rejected` counts the transforms that were rejected, by frame and reason; names beyond
    the first REJECTED_NAMES are "others".
    """

    def __init__(
        self,
        node: Any,
        buffer: TfBuffer,
        on_invalid: Callable[[InvalidTransform], None] | None = None,
        callback_group: Any = None,
    ) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from tf2_msgs.msg import TFMessage

        self.buffer = buffer
        self.rejected: Counter[str] = Counter()
        self._on_invalid = on_invalid
        self._node = node
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscriptions = [
            node.create_subscription(
                TFMessage,
                topic,
                lambda message, static=static: self._receive(message, static),
                qos,
                callback_group=callback_group,
            )
            for topic, static, qos in (
                ("/tf", False, QoSProfile(depth=100)),
                ("/tf_static", True, latched),
            )
        ]

    def _receive(self, message: Any, static: bool) -> None:
        now_ns = self._node.get_clock().now().nanoseconds
        # Simulated time that has not begun tells nothing.
        newest_ns = now_ns + round(MAX_AHEAD_S * 1e9) if now_ns else None
        for error in insert_message(self.buffer, message, static=static, newest_ns=newest_ns):
            what = str(error).split(":")[0]
            if what not in self.rejected and len(self.rejected) >= REJECTED_NAMES:
                what = "others"
            self.rejected[what] += 1
            if self._on_invalid is not None:
                self._on_invalid(error)

    def close(self) -> None:
        """Stop listening; the buffer stays as it is."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []


def make_tf_buffer(
    node: Any,
    cache_time_s: float = 30.0,
    on_invalid: Callable[[InvalidTransform], None] | None = None,
    callback_group: Any = None,
) -> TfSubscriber:
    """Return a subscriber whose `buffer` is tf2_ros' where it can be imported, else our own.

    `on_invalid` is called for each transform that is rejected, from the executor's thread.
    """
    buffer: TfBuffer
    try:
        buffer = Tf2Buffer(cache_time_s)
    except ImportError:
        buffer = TransformBuffer(cache_time_s)
    return TfSubscriber(node, buffer, on_invalid, callback_group)
