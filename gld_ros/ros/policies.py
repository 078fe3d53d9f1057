"""The latest message of each topic that an automatic policy uses."""

from typing import Any

from rclpy.node import Node

from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.job_planner import PolicyInput
from gld_ros.mapping.policy_topics import POLICY_TOPICS, policy_input
from gld_ros.mapping.session import SynthesisSession
from gld_ros.messages.frame_tree import TransformUnavailable
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.outputs import latched


class PolicyInputs:
    """The latest message of each topic that a policy follows, from configure to cleanup."""

    def __init__(
        self, node: Node, session: SynthesisSession, faults: FaultLog, callback_group: Any
    ) -> None:
        self._node, self._session, self._faults = node, session, faults
        self._latest: dict[str, Any] = {}
        self._subscriptions = [
            node.create_subscription(
                rclpy_type(topic.type),
                topic.name,
                lambda message, name=topic.name: self._latest.__setitem__(name, message),
                latched() if policy == "frontier" else 1,
                callback_group=callback_group,
            )
            for policy, topic in POLICY_TOPICS.items()
        ]

    def close(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def read(self) -> PolicyInput:
        """Return what the present policy needs; with the reason where it cannot be placed."""
        parameters = self._session.parameters
        topic = POLICY_TOPICS.get(parameters.policy.type)
        message = self._latest.get(topic.name) if topic else None
        if message is None:
            return PolicyInput()
        try:
            return policy_input(message, parameters, self._session.lookup_fixed)
        except (TransformUnavailable, ValueError) as error:  # of TF, or of the message itself
            policy = parameters.policy.type
            self._faults.throttled("policy input", "warning", f"policy {policy}: {error}")
            return PolicyInput(missing=str(error))
