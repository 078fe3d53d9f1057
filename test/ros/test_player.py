"""A played bag arrives whole, in time, in order, and moves the clock."""

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest

from gld_ros.bags.reader import BagError, BagReader
from gld_ros.cli.main import main
from gld_ros.ros.player import PlayOptions

pytestmark = pytest.mark.ros
START_NS = 1_700_000_000 * 10**9


class Listener:
    """Collects (name, stamp_ns, wall time) of everything a bag publishes."""

    def __init__(self, graph, image_topic="/camera/image", **node_options):
        from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import Image
        from tf2_msgs.msg import TFMessage

        self.images, self.transforms, self.clock = [], [], []
        self.node = graph.node("listener", **node_options)
        deep = QoSProfile(depth=100, reliability=qos_profile_sensor_data.reliability)
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(Image, image_topic, self._image, 100)
        self.node.create_subscription(TFMessage, "/tf_static", self.transforms.append, latched)
        self.node.create_subscription(Clock, "/clock", self._clock, deep)

    def _image(self, message):
        self.images.append((message.data[0], time.monotonic()))

    def _clock(self, message):
        self.clock.append(message.clock.sec * 10**9 + message.clock.nanosec)


def play(graph, path, options, **play_arguments):
    from gld_ros.ros.player import Player

    with BagReader(path) as bag:
        player = Player(graph.node("player"), bag, options)
        try:
            assert player.wait_for_subscribers()
            return player.play(**play_arguments)
        finally:
            player.close()


def test_every_message_arrives_in_order_and_in_time(ros_graph, small_bag):
    listener = Listener(ros_graph)
    begun = time.monotonic()
    report = play(ros_graph, small_bag, PlayOptions(rate=4.0))
    ros_graph.wait_for(lambda: len(listener.images) == 20, "all images")
    assert [value for value, _ in listener.images] == list(range(20))
    for index, (_, wall) in enumerate(listener.images):
        assert wall - begun >= 0.1 * index / 4  # a busy machine may be late, never early
    assert report.num_messages == 61
    assert len(report.lateness_s) == 61
    assert min(report.lateness_s) >= 0
    ros_graph.wait_for(lambda: listener.transforms, "the static transform")
    assert len(listener.transforms) == 1


def test_clock_reaches_the_end_and_drives_sim_time(ros_graph, small_bag):
    from rclpy.parameter import Parameter

    sim_time = Parameter("use_sim_time", value=True)
    listener = Listener(ros_graph, parameter_overrides=[sim_time])
    play(ros_graph, small_bag, PlayOptions(rate=4.0, clock_hz=100.0))
    end_ns = START_NS + 19 * 10**8
    ros_graph.wait_for(lambda: listener.clock and listener.clock[-1] == end_ns, "the end of time")
    assert listener.clock == sorted(listener.clock)
    assert listener.clock[0] == START_NS
    assert len(listener.clock) >= 40  # 100 a second for 0.475 s
    clock = listener.node.get_clock()
    ros_graph.wait_for(lambda: clock.now().nanoseconds == end_ns, "the node's own time")


def test_looping_begins_again(ros_graph, small_bag):
    from gld_ros.ros.player import Player

    listener = Listener(ros_graph)
    with BagReader(small_bag) as bag:
        player = Player(
            ros_graph.node("player"), bag, PlayOptions(rate=5.0, loop=True, clock_hz=50.0)
        )
        assert player.wait_for_subscribers()
        thread = threading.Thread(target=player.play)
        thread.start()
        ros_graph.wait_for(lambda: len(listener.images) > 50, "the third round", timeout_s=60.0)
        player.stop()
        thread.join(timeout=5.0)
        assert not thread.is_alive()
        player.close()
    values = [value for value, _ in listener.images]
    for series in (values, listener.clock):
        begun_again = sum(after < before for before, after in pairwise(series))
        assert begun_again >= 2


def test_pausing_holds_time_still(ros_graph, small_bag):
    from gld_ros.ros.player import Player

    listener = Listener(ros_graph)
    with BagReader(small_bag) as bag:
        player = Player(
            ros_graph.node("player"), bag, PlayOptions(rate=0.2, clock_hz=100.0, start_paused=True)
        )
        assert player.wait_for_subscribers()
        thread = threading.Thread(target=player.play)
        thread.start()
        time.sleep(0.2)
        assert not listener.images
        player.resume()
        ros_graph.wait_for(lambda: len(listener.images) >= 5, "the first images")
        player.pause()
        held = settled(lambda: (len(listener.images), listener.clock[-1]))
        assert held[0] < 20  # unpaused, all would come
        player.resume()
        thread.join(timeout=60.0)
        player.close()
    ros_graph.wait_for(lambda: len(listener.images) == 20, "the other images")
    assert [value for value, _ in listener.images] == list(range(20))


def settled(observe, quiet_s=0.7):
    """The observation once it has not changed for a while (what was on its way has come)."""
    before = observe()
    for _ in range(20):
        time.sleep(quiet_s)
        now = observe()
        if now == before:
            return now
        before = now
    pytest.fail(f"still changing: {before}")


def test_a_pause_does_not_count_as_lateness():
    from gld_ros.ros.player import _PlayClock

    clock = _PlayClock(START_NS, rate=2.0)
    due_long_ago = clock.lateness_s(START_NS - 20 * 10**9)
    clock.shift(5 * 10**9)
    assert due_long_ago == pytest.approx(10.0, abs=5.0)
    assert clock.lateness_s(START_NS - 20 * 10**9) < due_long_ago
    assert clock.lateness_s(START_NS + 20 * 10**9) == pytest.approx(-15.0, abs=5.0)


def test_a_slow_machine_holds_bag_time_instead_of_catching_up(ros_graph, small_bag):
    Listener(ros_graph)
    stalls = iter([0.6])  # seconds; as if this machine had been busy elsewhere
    begun = time.monotonic()
    report = play(
        ros_graph,
        small_bag,
        PlayOptions(rate=10.0, clock_hz=50.0),
        progress=lambda bag_s, num_messages: time.sleep(next(stalls, 0.0)),
    )
    with BagReader(small_bag) as bag:
        duration_s = (bag.end_ns - bag.start_ns) / 1e9
    assert time.monotonic() - begun >= duration_s / 10.0 + 0.5
    assert report.held_s >= 0.5


def test_topics_can_be_chosen_and_renamed(ros_graph, small_bag):
    listener = Listener(ros_graph, image_topic="/front/image")
    options = PlayOptions(
        rate=20.0,
        topics=("/camera/image",),
        remap={"/camera/image": "/front/image"},
        wait_for=("/front/image",),
    )
    report = play(ros_graph, small_bag, options)
    ros_graph.wait_for(lambda: len(listener.images) == 20, "the renamed images")
    assert report.num_messages == 20
    assert not listener.transforms


def test_static_transforms_reach_those_who_come_late(ros_graph, small_bag):
    from gld_ros.ros.player import Player

    with BagReader(small_bag) as bag:
        player = Player(ros_graph.node("player"), bag, PlayOptions(rate=20.0))
        player.play()
        late = Listener(ros_graph)
        ros_graph.wait_for(lambda: len(late.transforms) == 1, "the latched transform")
        player.close()


def test_types_that_are_not_installed_are_left_out_and_named(
    ros_graph, tmp_path, small_bag, monkeypatch
):
    from gld_ros.ros import player as player_module

    installed = player_module.rclpy_type

    def without_images(name):
        if name == "sensor_msgs/msg/Image":
            raise ImportError(name)
        return installed(name)

    monkeypatch.setattr(player_module, "rclpy_type", without_images)
    with BagReader(small_bag) as bag:
        player = player_module.Player(ros_graph.node("player"), bag, PlayOptions(rate=50.0))
        report = player.play()
        player.close()
    assert report.not_played == {"/camera/image": "type sensor_msgs/msg/Image is not installed"}
    assert report.num_messages == 41


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0.0},
        {"rate": -1.0},
        {"rate": float("nan")},
        {"clock_hz": -5.0},
        {"clock_hz": 1e6},
        {"wait_s": -1.0},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=r"allowed|negative"):
        PlayOptions(**options)


@pytest.mark.parametrize(
    "options",
    [{"topics": ("/lidar",)}, {"remap": {"/lidar": "/x"}}, {"wait_for": ("/lidar",)}],
)
def test_topics_that_the_bag_has_not_are_named(ros_graph, small_bag, options):
    with pytest.raises(BagError, match=r"/lidar.*/camera/image"):
        play(ros_graph, small_bag, PlayOptions(**options))


def run_command(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "gld_ros.cli.main", "play", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_command_plays_from_another_process(ros_graph, small_bag):
    listener = Listener(ros_graph)
    process = run_command(small_bag, "--rate", "4", "--clock", "--wait-for", "/camera/image")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "played 61 messages" in out
    assert err == ""  # progress bars are for terminals
    ros_graph.wait_for(lambda: len(listener.images) == 20, "all images")
    ros_graph.wait_for(lambda: listener.clock, "the clock")


def test_command_fails_if_the_awaited_listener_never_comes(small_bag):
    process = run_command(small_bag, "--wait", "0.3", "--wait-for", "/camera/image")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no subscriber for /camera/image" in err


def test_command_reports_bad_bags_and_rules_in_one_line(tmp_path, small_bag, capsys):
    for arguments in ([tmp_path / "nowhere"], [small_bag, "--remap", "/camera/image"]):
        assert main(["play", *map(str, arguments)]) == 1
        err = capsys.readouterr().err
        assert err.startswith("gld-ros play: error: ")
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_stops_cleanly_on_a_signal(ros_graph, small_bag, number):
    listener = Listener(ros_graph)
    # A shell's background jobs ignore SIGINT, and so would their children.
    process = run_command(
        small_bag, "--loop", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    ros_graph.wait_for(lambda: len(listener.images) > 2, "the first images")
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in err


def test_command_stops_cleanly_while_it_waits_for_listeners(ros_graph, small_bag):
    watcher = ros_graph.node("watcher")
    process = run_command(small_bag, "--wait", "300", "--wait-for", "/camera/image")
    ros_graph.wait_for(lambda: watcher.count_publishers("/camera/image"), "the player")
    time.sleep(1.0)  # until it waits
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "no subscriber" not in err


def test_service_pauses_and_resumes(ros_graph, small_bag):
    from std_srvs.srv import SetBool

    listener = Listener(ros_graph)
    process = run_command(small_bag, "--start-paused", "--rate", "8")
    client = ros_graph.node("operator").create_client(SetBool, "/gld_player/pause")
    assert client.wait_for_service(timeout_sec=60.0)
    ros_graph.wait_for(lambda: listener.node.count_publishers("/camera/image") == 1, "the player")
    assert not listener.images
    answer = client.call_async(SetBool.Request(data=False))
    ros_graph.wait_for(answer.done, "the answer")
    assert answer.result().message == "playing"
    process.communicate(timeout=60)
    assert process.returncode == 0
    ros_graph.wait_for(lambda: len(listener.images) == 20, "all images")
