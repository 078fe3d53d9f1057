"""Playing a bag on the ROS graph in real time, for machines without `ros2 bag`.

Messages go out as the bytes that were recorded, with the recorded durability and reliability.
Leaves reading the file to `gld_ros.bags.reader` and arguments to the command line.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gld_ros.bags.reader import BagError, BagReader, BagTopic
from gld_ros.messages.stamps import NS_PER_S, ns_to_stamp
from gld_ros.messages.types import rclpy_type

CLOCK_TOPIC = "/clock"
_TF_TOPICS = ("/tf", "/tf_static")
_SETTLE_S = 0.5  # no new subscriber for this long: discovery has come to rest
_LINGER_S = 0.2
_MAX_LATE_S = 0.1  # of messages while /clock is published; see `_play_once`


@dataclass(frozen=True)
class PlayOptions:
    """How a bag is played.

    `rate` scales time; `clock_hz` is how often /clock is published, 0 for never; `topics` restricts
    what is played; `remap` renames topics; `wait_s` is the longest wait for subscribers, to any
    topic or, if given, to each of `wait_for` (names after remapping).
    """

    rate: float = 1.0
    loop: bool = False
    clock_hz: float = 0.0
    start_paused: bool = False
    topics: tuple[str, ...] = ()
    remap: dict[str, str] = field(default_factory=dict)
    wait_s: float = 10.0
    wait_for: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.001 <= self.rate <= 1000:
            raise ValueError(f"rate is {self.rate}; allowed are 0.001 to 1000")
        if not 0 <= self.clock_hz <= 1000:
            raise ValueError(f"clock rate is {self.clock_hz} Hz; allowed are 0 (off) to 1000")
        if self.wait_s < 0:
            raise ValueError(f"the wait is {self.wait_s} s; it cannot be negative")


@dataclass
class PlayReport:
    """What was played: counts, bytes, and how late the last messages left (wall seconds)."""

    num_messages: int = 0
    num_bytes: int = 0
    lateness_s: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))
    held_s: float = 0.0  # wall time that bag time stood still, since this machine was too slow
    not_played: dict[str, str] = field(default_factory=dict)  # topic: why

    def lateness_percentile_ms(self, percent: float) -> float:
        """Lateness in milliseconds that this share of messages stayed below."""
        return 1e3 * float(np.percentile(self.lateness_s, percent)) if self.lateness_s else 0.0


class Player:
    """Plays one bag through a node; the node must be spun elsewhere only for pausing.

    `pause`, `resume` and `stop` may be called from other threads.
    """

    def __init__(self, node: Any, bag: BagReader, options: PlayOptions) -> None:
        self._node = node
        self._bag = bag
        self._options = options
        self._running = threading.Event()
        self._stopped = threading.Event()
        if not options.start_paused:
            self._running.set()
        self.report = PlayReport()
        self._publishers = self._create_publishers()
        self._clock_publisher = self._create_clock_publisher() if options.clock_hz else None

    def _create_publishers(self) -> dict[str, Any]:
        missing = sorted(set(self._options.topics) - set(self._bag.topics))
        if missing:
            raise BagError(
                f"bag {self._bag.path} has no topic {', '.join(missing)}; "
                f"it has: {', '.join(self._bag.topics)}"
            )
        unknown = sorted(set(self._options.remap) - set(self._bag.topics))
        if unknown:
            raise BagError(
                f"cannot remap {', '.join(unknown)}: the bag has {', '.join(self._bag.topics)}"
            )
        publishers = {}
        for topic in self._bag.topics.values():
            if self._options.topics and topic.name not in self._options.topics:
                continue
            if topic.name == CLOCK_TOPIC:
                self.report.not_played[topic.name] = "the player makes its own (--clock)"
                continue
            try:
                message_type = rclpy_type(topic.type)
            except (ImportError, AttributeError, ValueError):
                self.report.not_played[topic.name] = f"type {topic.type} is not installed"
                continue
            publishers[topic.name] = self._node.create_publisher(
                message_type, self._options.remap.get(topic.name, topic.name), _qos(topic)
            )
        if not publishers:
            raise BagError(
                f"nothing of bag {self._bag.path} can be played: {self.report.not_played}"
            )
        return publishers

    def _create_clock_publisher(self) -> Any:
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from rosgraph_msgs.msg import Clock

        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        return self._node.create_publisher(Clock, CLOCK_TOPIC, best_effort)

    def wait_for_subscribers(self) -> bool:
        """Return once subscribers are there and no more arrive; False after `wait_s` without any.

        Waits for each topic of `wait_for`, or without it for any topic that is not TF.
        """
        published = {publisher.topic_name: publisher for publisher in self._publishers.values()}
        wanted = [self._node.resolve_topic_name(name) for name in self._options.wait_for]
        unknown = sorted(set(wanted) - set(published))
        if unknown:
            raise BagError(
                f"cannot wait for {', '.join(unknown)}: played are {', '.join(published)}"
            )
        deadline = time.monotonic() + self._options.wait_s
        matched: dict[str, int] = {}
        since = time.monotonic()
        while not self._stopped.is_set():
            counts = {name: p.get_subscription_count() for name, p in published.items()}
            if counts != matched:
                matched, since = counts, time.monotonic()
            somebody = any(n for name, n in counts.items() if name not in _TF_TOPICS)
            ready = all(counts[name] for name in wanted) if wanted else somebody
            if ready and time.monotonic() - since >= _SETTLE_S:
                return True
            if time.monotonic() >= deadline:
                return ready
            time.sleep(0.01)
        return False

    def pause(self) -> None:
        """Hold bag time still, from the next message on."""
        self._running.clear()

    def resume(self) -> None:
        """Go on from where `pause` held."""
        self._running.set()

    @property
    def paused(self) -> bool:
        """Whether bag time stands still."""
        return not self._running.is_set()

    @property
    def stopped(self) -> bool:
        """Whether somebody asked for the end."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Make `play` return soon."""
        self._stopped.set()
        self._running.set()

    def play(self, progress: Callable[[float, int], None] | None = None) -> PlayReport:
        """Play to the end (for ever, if looping) and return the report.

        `progress(bag_seconds, num_messages)` is called about ten times a second.
        """
        while not self._stopped.is_set():
            self._play_once(progress)
            if not self._options.loop:
                break
        self._let_last_messages_arrive()
        return self.report

    def _let_last_messages_arrive(self) -> None:
        """Without this, removing the publishers takes back what is still on its way."""
        from rclpy.duration import Duration

        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=1.0))
        time.sleep(_LINGER_S)  # best-effort readers acknowledge nothing

    def _play_once(self, progress: Callable[[float, int], None] | None) -> None:
        start_ns = self._bag.start_ns
        clock = _PlayClock(start_ns, self._options.rate)
        tick_ns = self._clock_tick_ns()
        next_tick_ns = start_ns
        last_progress = 0.0
        for message in self._bag.raw_messages(list(self._publishers)):
            while self._clock_publisher and next_tick_ns <= message.stamp_ns:
                if not self._sleep_until(clock, next_tick_ns):
                    return
                self._publish_clock(next_tick_ns)
                next_tick_ns += tick_ns
            if not self._sleep_until(clock, message.stamp_ns):
                return
            late_s = clock.lateness_s(message.stamp_ns)
            self.report.lateness_s.append(late_s)
            if self._clock_publisher and late_s > _MAX_LATE_S:
                # Time is what /clock says: catching up would only send a burst that overflows the
                # queues of subscribers, which have to share this slow machine.
                clock.shift(round(late_s * NS_PER_S))
                self.report.held_s += late_s
            self._publishers[message.topic].publish(message.cdr)
            self.report.num_messages += 1
            self.report.num_bytes += len(message.cdr)
            now = time.monotonic()
            if progress is not None and now - last_progress > 0.1:
                last_progress = now
                progress((message.stamp_ns - start_ns) / NS_PER_S, self.report.num_messages)
        if self._clock_publisher:
            self._publish_clock(self._bag.end_ns)
        if progress is not None:
            progress((self._bag.end_ns - start_ns) / NS_PER_S, self.report.num_messages)

    def _clock_tick_ns(self) -> int:
        """Bag time between two clock messages: the wall interval, scaled by the rate."""
        if not self._options.clock_hz:
            return 0
        return max(1, round(NS_PER_S * self._options.rate / self._options.clock_hz))

    def _publish_clock(self, stamp_ns: int) -> None:
        from rosgraph_msgs.msg import Clock

        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=ns_to_stamp(stamp_ns)))

    def _sleep_until(self, clock: "_PlayClock", stamp_ns: int) -> bool:
        """Sleep until this bag time has come; False if stopped meanwhile."""
        while not self._stopped.is_set():
            if not self._running.is_set():
                held = time.monotonic_ns()
                self._running.wait()
                clock.shift(time.monotonic_ns() - held)
                continue
            remaining_s = -clock.lateness_s(stamp_ns)
            if remaining_s <= 0:
                return True
            time.sleep(min(remaining_s, 0.05))
        return False

    def close(self) -> None:
        """Remove the publishers; transient-local messages go with them."""
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        if self._clock_publisher is not None:
            self._node.destroy_publisher(self._clock_publisher)
        self._publishers = {}


class _PlayClock:
    """Wall time at which each bag time is due."""

    def __init__(self, start_ns: int, rate: float) -> None:
        self._bag_start_ns = start_ns
        self._wall_start_ns = time.monotonic_ns()
        self._rate = rate

    def lateness_s(self, stamp_ns: int) -> float:
        due_ns = self._wall_start_ns + (stamp_ns - self._bag_start_ns) / self._rate
        return (time.monotonic_ns() - due_ns) / NS_PER_S

    def shift(self, wall_ns: int) -> None:
        self._wall_start_ns += wall_ns


def _qos(topic: BagTopic) -> Any:
    """The recorded durability and reliability, and room for bursts; latched topics keep all."""
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    if topic.latched:
        depth = max(1, topic.num_messages)
        return QoSProfile(depth=depth, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    reliability = ReliabilityPolicy.RELIABLE if topic.reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(depth=100, reliability=reliability)
