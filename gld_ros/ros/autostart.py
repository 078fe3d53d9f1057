"""Configure and activate the node from inside its own process.

A launch file asks for transitions through a service, and a request sent while a killed process is
being replaced goes to the dead one and is never answered. A node that starts itself comes back
after every kind of crash, whatever restarts the process.
"""

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import TransitionCallbackReturn

from gld_ros.ros.node import GldNode


def start_when_spun(node: GldNode) -> None:
    """Have an executor that spins `node` configure and activate it, among its other work.

    A failed transition is logged and not tried again: its cause is a parameter or a file, which
    time does not change.
    """

    def start() -> None:
        timer.cancel()
        _start(node)

    timer = node.create_timer(
        0.001,
        start,
        callback_group=node.transition_group,
        clock=Clock(clock_type=ClockType.STEADY_TIME),
    )


def _start(node: GldNode) -> None:
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
