"""Sensor messages are taken without an executor, and what is missed is counted."""

import itertools
import threading
import time

import pytest

from gld_ros.ros.follow_up_thread import FollowUpThread
from gld_ros.ros.sequence_gaps import SequenceGaps
from gld_ros.ros.serving_thread import EVENTS_PERIOD_S, ServingThread

pytestmark = pytest.mark.ros


@pytest.fixture
def topic(ros_graph):
    """A publisher, and a node that nobody spins."""
    import rclpy
    from std_msgs.msg import Int32

    class Topic:
        node = rclpy.create_node("unspun", context=ros_graph.context)
        publisher = ros_graph.node("sender").create_publisher(Int32, "numbers", 100)

        def __init__(self):
            self.errors: list[Exception] = []
            self.thread = ServingThread(ros_graph.context, "numbers", self.errors.append)
            self.thread.start()

        def subscribe(self, callback):
            subscription = self.node.create_subscription(
                Int32, "numbers", callback, 5, callback_group=self.thread
            )
            ros_graph.wait_for(
                lambda: self.publisher.get_subscription_count() == 1, "the subscription"
            )
            return subscription

        def send(self, *numbers):
            for number in numbers:
                self.publisher.publish(Int32(data=number))

    topic = Topic()
    yield topic
    topic.thread.close()
    topic.node.destroy_node()


def test_messages_come_without_an_executor_until_the_subscription_is_destroyed(topic, ros_graph):
    heard = []
    subscription = topic.subscribe(lambda message, to=heard: to.append(message.data))
    topic.send(1)
    ros_graph.wait_for(lambda: heard == [1], "the message")
    topic.node.destroy_subscription(subscription)
    topic.thread.wake()
    ros_graph.wait_for(lambda: topic.publisher.get_subscription_count() == 0, "its end")
    topic.subscribe(lambda message: heard.append(-message.data))
    topic.send(2)
    ros_graph.wait_for(lambda: heard == [1, -2], "a message of the new subscription")
    assert topic.errors == []


def test_a_callback_that_raises_is_reported_and_the_next_message_comes(topic, ros_graph):
    heard = []

    def receive(message):
        heard.append(message.data)
        if message.data == 1:
            raise ValueError("one")

    topic.subscribe(receive)
    topic.send(1, 2)
    ros_graph.wait_for(lambda: heard == [1, 2], "both messages")
    assert [str(error) for error in topic.errors] == ["one"]


def test_an_event_that_is_not_complete_yet_does_not_end_the_thread(topic, ros_graph):
    from rclpy.event_handler import EventHandler

    heard = []
    topic.thread.add_entity(EventHandler.__new__(EventHandler))  # as rclpy does, for a moment
    topic.subscribe(lambda message: heard.append(message.data))
    time.sleep(EVENTS_PERIOD_S)

    def sent_and_heard():
        topic.send(1)
        return len(heard) > 10

    ros_graph.wait_for(sent_and_heard, "messages after events were looked at")
    assert topic.errors == []


def test_what_a_full_queue_loses_is_counted(topic, ros_graph):
    from rclpy.duration import Duration

    heard, missed, gaps, go_on = [], [], SequenceGaps(), threading.Event()

    def receive(message, info):
        missed.append(gaps.missed(info))
        heard.append(message.data)
        go_on.wait(60.0)

    topic.subscribe(receive)
    topic.send(0)
    ros_graph.wait_for(lambda: heard == [0], "the first message")
    topic.send(*range(1, 41))
    assert topic.publisher.wait_for_all_acked(Duration(seconds=60))  # the queue has run over
    go_on.set()
    ros_graph.wait_for(lambda: 40 in heard, "the last message")
    assert gaps.numbered
    assert len(heard) < 41
    assert len(heard) + sum(missed) == 41


def message_info(number, publisher=b"a"):
    return {"publication_sequence_number": number, "publisher_gid": {"data": publisher}}


def test_gaps_are_those_of_one_publisher():
    gaps = SequenceGaps()
    seen = [(1, b"a"), (2, b"a"), (900, b"b"), (5, b"a"), (901, b"b")]
    assert [gaps.missed(message_info(*one)) for one in seen] == [0, 0, 0, 2, 0]
    assert gaps.missed(message_info(3, b"a")) == 0  # an earlier one, late
    assert [gaps.missed(message_info(n, bytes([n]))) for n in range(100)] == [0] * 100


def test_a_middleware_without_numbers_has_no_gaps():
    gaps = SequenceGaps()
    assert gaps.missed({"publication_sequence_number": None, "publisher_gid": None}) == 0
    assert not gaps.numbered


def test_work_follows_pokes_at_its_own_pace_and_comes_without_them():
    errors, worked_s = [], []

    def work():
        worked_s.append(time.monotonic())
        raise ValueError("again")

    thread = FollowUpThread("test", work, errors.append, at_most_every_s=0.1, at_least_every_s=0.3)
    end_s = time.monotonic() + 60.0
    while len(worked_s) < 2 and time.monotonic() < end_s:  # nobody pokes
        time.sleep(0.01)
    while len(worked_s) < 6 and time.monotonic() < end_s:
        thread.poke()
        time.sleep(0.001)
    thread.close()
    assert len(worked_s) >= 6
    assert min(later - earlier for earlier, later in itertools.pairwise(worked_s)) >= 0.099
    assert {str(error) for error in errors} == {"again"}
