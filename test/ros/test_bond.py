"""The heartbeat for Nav2's lifecycle manager: what a manager's end of the bond hears."""

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros

bond_messages = pytest.importorskip(
    "bond.msg", reason="the package bond comes with Nav2, not with ROS 2 from PyPI"
)


@pytest.fixture
def bond(ros_graph):
    """The managed node, its heart, and what arrives at the other end."""
    from gld_ros.ros.bond import ManagerBond

    manager = ros_graph.node("lifecycle_manager")
    heard = []
    manager.create_subscription(bond_messages.Status, "bond", heard.append, 100)
    answers = manager.create_publisher(bond_messages.Status, "bond", 5)
    managed = SimpleNamespace(active=False)
    heart = ManagerBond(ros_graph.node("gld"), lambda: managed.active)
    ros_graph.wait_for(lambda: answers.get_subscription_count() == 2, "both ends")
    yield managed, heart, heard, answers
    heart.close()


def test_beats_while_active_and_says_farewell(bond, ros_graph):
    managed, _, heard, _ = bond
    assert not heard
    managed.active = True
    ros_graph.wait_for(lambda: len(heard) >= 5, "heartbeats")
    assert {(beat.id, beat.active) for beat in heard} == {("gld", True)}
    assert len({beat.instance_id for beat in heard}) == 1
    assert heard[0].heartbeat_timeout == 4.0
    managed.active = False
    ros_graph.wait_for(lambda: not heard[-1].active, "the farewell")
    count = len(heard)
    managed.active = True
    ros_graph.wait_for(lambda: len(heard) > count and heard[-1].active, "the next activation")


def test_a_dying_process_says_farewell(bond, ros_graph):
    managed, heart, heard, _ = bond
    managed.active = True
    ros_graph.wait_for(lambda: heard, "a heartbeat")
    heart.close()
    heart.close = lambda: None
    ros_graph.wait_for(lambda: not heard[-1].active, "the farewell")


def test_the_end_of_the_bond_is_acknowledged(bond, ros_graph):
    _, _, heard, answers = bond
    for name in ("another_node", "gld"):
        answers.publish(bond_messages.Status(id=name, instance_id="manager", active=False))
    ros_graph.wait_for(
        lambda: any(beat.instance_id != "manager" for beat in heard), "the acknowledgement"
    )
    ours = [beat for beat in heard if beat.instance_id != "manager"]
    assert [(beat.id, beat.active) for beat in ours] == [("gld", False)]
