"""Configure and activate the node from inside its own process.

A launch file asks for transitions through a service, and a request sent while a killed process is
being replaced goes to the dead one and is never answered. A node that starts itself comes back
after every kind of death, whoever starts the process again.
"""

from __future__ import annotations

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn


def start_when_spinning(node: LifecycleNode) -> None:
    """Configure and activate `node` once, as soon as an executor spins it.

    Runs in the node's default callback group like the transition services, so the two never
    overlap. A failed transition is logged and not tried again: its cause is a parameter or a file,
    which time does not change.
    """

    def start() -> None:
        node.destroy_timer(timer)
        for name, transition in (
            ("configure", node.trigger_configure),
            ("activate", node.trigger_activate),
        ):
            if transition() != TransitionCallbackReturn.SUCCESS:
                node.get_logger().error(
                    f"autostart: {name} failed, see above; when the cause is removed: "
                    f"ros2 lifecycle set {node.get_fully_qualified_name()} {name}"
                )
                return

    # Not ROS time, which stands still until /clock comes.
    timer = node.create_timer(0.0, start, clock=Clock(clock_type=ClockType.STEADY_TIME))
