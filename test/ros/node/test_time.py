"""Simulated time: its beginning, its absence, loops, and what a jump does to a goal."""

import pytest

pytestmark = pytest.mark.ros

S = 10**9
T0 = 1_000 * S


def test_beginning_of_simulated_time_is_no_jump(make_rig, plain_oracle):
    rig = make_rig(plain_oracle, {"use_sim_time": True})
    rig.activate()
    assert rig.now_ns() == 0
    rig.set_clock(T0)
    rig.drive()
    assert rig.node.session.epoch == 0
    assert len(rig.node.session.store) == 3


def test_missing_clock_is_named(make_rig, plain_oracle):
    from gld_ros.msg import GldStatus

    rig = make_rig(plain_oracle, {"use_sim_time": True})
    rig.watch()
    rig.listen("/gld/status", "gld_ros/msg/GldStatus")
    rig.activate()
    rig.wait_level("gld: clock", 2, says="/clock")
    status = rig.received["/gld/status"]
    rig.graph.wait_for(lambda: any("/clock" in s.reason for s in status), "the reason")
    assert status[-1].state == GldStatus.STATE_WAITING_INPUT
    rig.wait_said_once("no clock")
    rig.set_clock(T0)
    rig.wait_level("gld: clock", 0)
    rig.drive()


def test_looping_bag_starts_a_new_epoch_and_ends_the_goal(make_rig, plain_oracle):
    plain_oracle.step_delay_s = 0.1
    rig = make_rig(plain_oracle, {"use_sim_time": True, "product.max_age": 0.0})
    rig.watch()
    rig.activate()
    rig.set_clock(T0)
    rig.drive()
    _, future = rig.goal([rig.T_fixed_cam(0.3)], num_steps=100)
    rig.graph.wait_for(lambda: rig.node.session.worker.running is not None, "the job runs")
    rig.set_clock(T0)  # the bag begins again
    rig.graph.wait_for(future.done, "the goal's answer")
    assert future.result().status == 6
    assert future.result().result.error_code == future.result().result.TIME_JUMP
    assert rig.node.session.epoch == 1
    # The goal is answered first, then everything is forgotten.
    rig.graph.wait_for(lambda: len(rig.node.session.store) == 0, "an empty store")
    rig.wait_level("gld: clock", 1)
    rig.drive()
    status, result = rig.finished_goal([rig.T_fixed_cam(0.3)], num_steps=1)
    assert (status, result.error_code) == (4, 0)
    assert result.views.epoch == 1
    assert rig.node.session.epoch == 1


def test_steps_within_tolerance_are_no_jumps(make_rig, plain_oracle):
    rig = make_rig(plain_oracle, {"use_sim_time": True})
    rig.activate()
    for stamp_ns in (T0, T0 + S, T0 + S - S // 20, T0 + 9 * S):
        rig.set_clock(stamp_ns)
    rig.set_clock(T0 + 60 * S)  # a seek
    rig.graph.wait_for(lambda: rig.node.session.epoch >= 1, "an epoch")
    assert rig.node.session.epoch == 1  # that of the seek
