"""The timer of automatic jobs: when the next one is due. Which views it has is the session's."""

from collections.abc import Callable

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node

from gld_ros.mapping.job_planner import PolicyInput
from gld_ros.mapping.session import SynthesisSession

LONGEST_PERIOD_S = 0.5  # ROS time; between looks for a job while none is due


class AutomaticJobs:
    """Plans and submits jobs of the policy at its rate, from activate to deactivate.

    `read_policy` gives the latest message of the topic that the policy follows.
    """

    def __init__(
        self, node: Node, session: SynthesisSession, read_policy: Callable[[], PolicyInput]
    ) -> None:
        self._node, self._session, self._read_policy = node, session, read_policy
        self._last_ns = 0  # when one was submitted; 0 before the first
        self._timer = node.create_timer(
            _period_s(session.parameters.policy.rate_hz),
            self._submit_what_is_due,
            callback_group=MutuallyExclusiveCallbackGroup(),
        )

    def set_rate(self, rate_hz: float) -> None:
        """Look as often as this rate needs; the session's parameters hold it as well."""
        self._timer.timer_period_ns = int(_period_s(rate_hz) * 1e9)
        self._timer.reset()

    def close(self) -> None:
        """Stop looking."""
        self._node.destroy_timer(self._timer)

    def _submit_what_is_due(self) -> None:
        # The first is due as soon as there are keyframes: a period later a short bag is over.
        session, now_ns = self._session, int(self._node.get_clock().now().nanoseconds)
        since_s = (now_ns - self._last_ns) * 1e-9
        # The timer's own jitter must not cost a whole look.
        due_s = 1.0 / session.parameters.policy.rate_hz - LONGEST_PERIOD_S / 10
        if not session.active or (self._last_ns and 0 <= since_s < due_s):
            return
        planned = session.plan_automatic(self._read_policy)
        if planned is not None:
            self._last_ns = now_ns
            session.submit_automatic(planned)


def _period_s(rate_hz: float) -> float:
    return min(1.0 / rate_hz, LONGEST_PERIOD_S)
