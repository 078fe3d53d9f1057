"""A node's TF: /tf and /tf_static into a TransformBuffer (`gld_ros.messages.transforms`).

Not tf2_ros.Buffer, also where a distribution has it: it interpolates over gaps of any length, and
tells a time to come from one that is gone by its error's words alone. `test/ros/distribution` holds
the two to the same poses.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from gld_ros.messages.transforms import InvalidTransform, TransformBuffer, insert_message

# Localisation stamps its transforms ahead, so that they serve until the next (AMCL: 1 s).
MAX_AHEAD_S = 5.0


class TfSubscriber:
    """Feeds a buffer from /tf and /tf_static of a node, and tells when something new came.

    `rejected` counts the transforms that were rejected, by frame and reason.
    """

    def __init__(
        self,
        node: Any,
        buffer: TransformBuffer,
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
    """Return a subscriber that keeps the transforms of the last `cache_time_s` in its `buffer`.

    `on_transforms` is called after each message that brought transforms, `on_invalid` for each one
    rejected; both from the executor's thread.
    """
    buffer = TransformBuffer(cache_time_s)
    return TfSubscriber(node, buffer, on_transforms, on_invalid, callback_group)
