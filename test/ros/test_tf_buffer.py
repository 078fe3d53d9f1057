"""A node's TF arrives in its buffer."""

import pytest

from gld_ros.ros.tf_buffer import make_tf_buffer

T0 = 1_700_000_000 * 10**9


@pytest.mark.ros
def test_a_node_hears_moving_and_late_latched_transforms(ros_graph, rclpy_family):
    from rclpy.qos import DurabilityPolicy, QoSProfile

    family = rclpy_family
    message_type = family.type("tf2_msgs/msg/TFMessage")
    sender = ros_graph.node("sender")
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    static = sender.create_publisher(message_type, "/tf_static", latched)
    static.publish(family.tf_message(("base", "camera", 1, 0, 1)))  # before anyone listens
    moving = sender.create_publisher(message_type, "/tf", 10)

    invalid = []
    receiver = make_tf_buffer(
        ros_graph.node("receiver"),
        on_invalid=invalid.append,
    )
    ros_graph.wait_for(lambda: moving.get_subscription_count() == 1, "the subscription")
    moving.publish(family.tf_message(("odom", "base", 2, T0, 1), ("odom", "bad", 0, T0, 5)))
    ros_graph.wait_for(lambda: {"base", "camera"} <= set(receiver.buffer.frames()), "both messages")
    ros_graph.wait_for(lambda: len(invalid) == 1, "the invalid transform")
    assert receiver.buffer.lookup("odom", "camera", T0)[0, 3] == pytest.approx(3.0)
    assert sum(receiver.rejected.values()) == 1
    assert len(invalid) == 1
    receiver.close()
    ros_graph.wait_for(lambda: moving.get_subscription_count() == 0, "the end of the subscription")


@pytest.mark.ros
def test_names_that_a_publisher_invents_are_counted_together(ros_graph, rclpy_family):
    family = rclpy_family
    receiver = make_tf_buffer(ros_graph.node("receiver"))
    sender = ros_graph.node("sender").create_publisher(
        family.type("tf2_msgs/msg/TFMessage"), "/tf", 10
    )
    ros_graph.wait_for(lambda: sender.get_subscription_count() == 1, "the subscription")
    sender.publish(family.tf_message(*(("odom", f"bad_{i}", 0, T0, 5) for i in range(500))))
    ros_graph.wait_for(lambda: sum(receiver.rejected.values()) == 500, "all transforms")
    assert len(receiver.rejected) <= 51
    assert receiver.rejected["others"] == 450
    receiver.close()
