"""The heartbeat by which Nav2's lifecycle manager monitors its nodes (bond/msg/Status).

Both ends of a bond publish on one topic, `bond`, under one id, the name of the node. The manager
calls the bond formed when it hears the node, and broken when heartbeats stop or the node says that
it ends. The message package comes with Nav2; where it is missing, there is no manager to tell.
"""

import uuid
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

HEARTBEAT_PERIOD_S = 0.1
HEARTBEAT_TIMEOUT_S = 4.0  # both as Nav2's own nodes have them


class ManagerBond:
    """Publishes heartbeats of `node` while it is `active`, and one farewell when that ends.

    Raises ImportError where the message package `bond` is not installed.
    """

    def __init__(self, node: Node, active: Callable[[], bool]) -> None:
        from bond.msg import Status

        self._node, self._active = node, active
        self._status_type = Status
        self._instance_id = str(uuid.uuid4())
        self._beating = False
        group = MutuallyExclusiveCallbackGroup()
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._publisher = node.create_publisher(
            Status, "bond", QoSProfile(depth=5), callback_group=group
        )
        self._subscription = node.create_subscription(
            Status, "bond", self._heard, QoSProfile(depth=100), callback_group=group
        )
        self._timer = node.create_timer(
            HEARTBEAT_PERIOD_S, self._beat, callback_group=group, clock=self._clock
        )

    def _beat(self) -> None:
        active = self._active()
        if active or self._beating:
            self._publish(active)
        self._beating = active

    def _heard(self, status: Any) -> None:
        """Acknowledge that the manager ends the bond, as it waits for that."""
        other = status.id == self._node.get_name() and status.instance_id != self._instance_id
        if other and not status.active:
            self._publish(False)

    def _publish(self, active: bool) -> None:
        status = self._status_type()
        status.header.stamp = self._clock.now().to_msg()
        status.id = self._node.get_name()
        status.instance_id = self._instance_id
        status.active = active
        status.heartbeat_timeout = HEARTBEAT_TIMEOUT_S
        status.heartbeat_period = HEARTBEAT_PERIOD_S
        self._publisher.publish(status)

    def close(self) -> None:
        """Say farewell and stop."""
        if self._beating:
            self._publish(False)
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_publisher(self._publisher)
