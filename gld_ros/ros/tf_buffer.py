"""A node's TF: its subscriptions, and the distribution's tf2_ros where there is one.

`make_tf_buffer` gives a node either `Tf2Buffer` or our own TransformBuffer
(`gld_ros.messages.transforms`) behind the same interface.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from gld_ros.geometry.poses import pose_from_quaternion
from gld_ros.messages.stamps import ns_to_stamp
from gld_ros.messages.transforms import (
    DisconnectedFrames,
    FutureTransform,
    InvalidTransform,
    PastTransform,
    TfBuffer,
    TransformBuffer,
    UnknownFrame,
    checked_pose,
    insert_message,
)

# Localisation stamps its transforms ahead, so that they serve until the next (AMCL: 1 s).
MAX_AHEAD_S = 5.0


class Tf2Buffer:
    """The distribution's tf2_ros.Buffer behind the interface of TransformBuffer.

    Not given the node, on which tf2 would open a service that nothing closes; jumps of time reach
    it through `clear`.
    """

    def __init__(self, cache_time_s: float) -> None:
        import tf2_ros
        from rclpy.duration import Duration

        self._tf2 = tf2_ros
        self._buffer = tf2_ros.Buffer(cache_time=Duration(seconds=cache_time_s))

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
        """Add T_parent_child at a time. Raises InvalidTransform."""
        from geometry_msgs.msg import TransformStamped

        parent, child, pose = checked_pose(parent_frame, child_frame, translation_m, rotation_xyzw)
        message = TransformStamped(child_frame_id=child)
        message.header.frame_id = parent
        message.header.stamp = ns_to_stamp(stamp_ns)
        translation, rotation = message.transform.translation, message.transform.rotation
        translation.x, translation.y, translation.z = pose[:3].tolist()
        rotation.x, rotation.y, rotation.z, rotation.w = pose[3:].tolist()
        set_transform = self._buffer.set_transform_static if static else self._buffer.set_transform
        set_transform(message, "gld_ros")

    def lookup(
        self, target_frame: str, source_frame: str, stamp_ns: int | None = None
    ) -> np.ndarray:
        """Return T_target_source (4, 4) float64; same errors as TransformBuffer.lookup."""
        from rclpy.time import Time

        if stamp_ns == 0:  # which tf2 would take for "the latest"
            raise PastTransform(f"{target_frame} <- {source_frame} at time 0")
        when = Time(nanoseconds=stamp_ns or 0)
        try:
            found = self._buffer.lookup_transform(target_frame, source_frame, when).transform
        except self._tf2.ConnectivityException as error:
            raise DisconnectedFrames(str(error)) from error
        except self._tf2.ExtrapolationException as error:
            # tf2's words are no guide: it calls all that is not a single sample its future.
            newest = self._buffer.get_latest_common_time(target_frame, source_frame)
            past = when.nanoseconds < newest.nanoseconds or stamp_ns is None
            raise (PastTransform if past else FutureTransform)(str(error)) from error
        except (self._tf2.LookupException, self._tf2.InvalidArgumentException) as error:
            raise UnknownFrame(str(error)) from error
        p, q = found.translation, found.rotation
        return pose_from_quaternion((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))

    def clear(self) -> None:
        """Forget all moving edges; tf2 keeps static ones."""
        self._buffer.clear()


class TfSubscriber:
    """Feeds a buffer from /tf and /tf_static of a node, and tells when something new came.

    `rejected` counts the transforms that were rejected, by frame and reason.
    """

    def __init__(
        self,
        node: Any,
        buffer: TfBuffer,
        on_transforms: Callable[[], None] | None = None,
        on_invalid: Callable[[InvalidTransform], None] | None = None,
        callback_group: Any = None,
    ) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from tf2_msgs.msg import TFMessage

        self.buffer = buffer
        self.rejected: Counter[str] = Counter()
        self._on_transforms = on_transforms
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
            self.rejected[str(error).split(":")[0]] += 1
            if self._on_invalid is not None:
                self._on_invalid(error)
        if self._on_transforms is not None:
            self._on_transforms()

    def close(self) -> None:
        """Stop listening; the buffer stays as it is."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []


def make_tf_buffer(
    node: Any,
    cache_time_s: float = 30.0,
    on_transforms: Callable[[], None] | None = None,
    on_invalid: Callable[[InvalidTransform], None] | None = None,
    callback_group: Any = None,
) -> TfSubscriber:
    """Return a subscriber whose `buffer` is tf2_ros' where it can be imported, else our own.

    `on_transforms` is called after each message that brought transforms, `on_invalid` for each one
    rejected; both from the executor's thread.
    """
    buffer: TfBuffer
    try:
        buffer = Tf2Buffer(cache_time_s)
    except ImportError:
        buffer = TransformBuffer(cache_time_s)
    return TfSubscriber(node, buffer, on_transforms, on_invalid, callback_group)
