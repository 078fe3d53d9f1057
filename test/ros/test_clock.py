"""Jumps of ROS time begin a new epoch; small steps do not."""

import pytest

from gld_ros.ros.clock import EpochClock, ns_to_stamp, stamp_to_ns

S = 10**9
T0 = 1_700_000_000 * S


def test_stamps_keep_every_nanosecond(family):
    time_type = family.type("builtin_interfaces/msg/Time")
    for stamp_ns in (0, 1, S - 1, S, T0 + 123_456_789):
        assert stamp_to_ns(ns_to_stamp(stamp_ns, time_type)) == stamp_ns


@pytest.mark.ros
def test_epochs_follow_the_clock(ros_graph):
    from rclpy.parameter import Parameter
    from rosgraph_msgs.msg import Clock

    node = ros_graph.node("robot", parameter_overrides=[Parameter("use_sim_time", value=True)])
    publisher = ros_graph.node("simulator").create_publisher(Clock, "/clock", 10)
    jumps = []
    clock = EpochClock(node, backward_tolerance_s=0.1, forward_gap_s=10.0, on_jump=jumps.append)
    ros_graph.wait_for(lambda: publisher.get_subscription_count() == 1, "the node's clock")
    assert clock.now_ns() == 0

    def move_to(stamp_ns):
        publisher.publish(Clock(clock=ns_to_stamp(stamp_ns)))
        ros_graph.wait_for(lambda: clock.now_ns() == stamp_ns, f"time {stamp_ns}")

    move_to(T0)
    epoch, before = clock.epoch, len(jumps)
    for stamp_ns in (T0 + S, T0 + S - S // 20, T0 + 9 * S):  # steps within tolerance
        move_to(stamp_ns)
    assert clock.epoch == epoch
    move_to(T0)  # a bag that loops
    assert clock.epoch == epoch + 1
    move_to(T0 + 60 * S)  # a seek
    assert clock.epoch == epoch + 2
    assert [jump.delta_s for jump in jumps[before:]] == [-9.0, 60.0]
    assert clock.last_jump.epoch == epoch + 2
    clock.close()
    move_to(T0)
    assert clock.epoch == epoch + 2


@pytest.mark.ros
@pytest.mark.parametrize("limits", [(-0.1, 10.0), (0.1, 0.0)])
def test_impossible_limits_are_refused(ros_graph, limits):
    with pytest.raises(ValueError, match="forward_gap_s"):
        EpochClock(ros_graph.node("robot"), *limits, on_jump=print)
