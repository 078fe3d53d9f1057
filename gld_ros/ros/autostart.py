"""Configure and activate the node from inside its own process.

A launch file asks for transitions through a service, and a request sent while a killed process is
being replaced goes to the dead one and is never answered. A node that starts itself comes back
after every kind of death, whoever starts the process again.
"""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn


def start(node: LifecycleNode) -> None:
    """Configure and activate `node`, before an executor spins it.

    Loading the model beside a spinning executor takes several times as long: both want the
    interpreter. A failed transition is logged and not tried again: its cause is a parameter or a
    file, which time does not change.
    """
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
