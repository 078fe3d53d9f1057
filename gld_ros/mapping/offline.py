"""A whole bag through a session, without a graph and independent of timing.

TF is loaded before the images, every job runs to its end before the next image is processed, and
the output has no wall-clock times, so the same bag gives the same bytes. Jobs do not depend on
elapsed time either: every keyframe, or every n-th, starts one (`policy.rate` is for the node).
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from gld_ros.bags.cameras import bag_cameras
from gld_ros.bags.reader import CAMERA_INFO_TYPE, BagMessage, BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.mapping.cameras import MAX_DEPTH_OFFSET_NS, CameraState
from gld_ros.mapping.fault_log import FaultLog, Level
from gld_ros.mapping.job_planner import PlannedJob, PolicyInput
from gld_ros.mapping.jobs import JobResult, Outcome, StageTimes
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.offline_policy import bag_policy_topic
from gld_ros.mapping.offline_summary import OfflineSummary
from gld_ros.mapping.parameters import FrameParameters, Mode, SessionParameters
from gld_ros.mapping.policy_topics import policy_input
from gld_ros.mapping.product_messages import (
    TOPICS,
    anchor_transforms,
    job_messages,
    offered_topics,
    products_for,
    view_transforms,
    views_message,
)
from gld_ros.mapping.products import Product
from gld_ros.mapping.session import SynthesisSession
from gld_ros.mapping.synthesizer import DeviceFault
from gld_ros.messages.fixed_frame import AUTO
from gld_ros.messages.frame_tree import TransformUnavailable

log = logging.getLogger(__name__)

NODE_NAMESPACE = "/gld"
LEVELS: dict[Level, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
# Images of a bag can be compressed afterwards.
LEFT_OUT = frozenset({"predicted/color/image/compressed"})


def written_topics(mode: Mode) -> frozenset[str]:
    """Return the topics of a written bag."""
    return offered_topics(mode, merged=True) - LEFT_OUT


def written_products(mode: Mode = "views", *, merged: bool = False) -> frozenset[Product]:
    """What the topics of a written bag need; `merged` sets whether to make the merged cloud."""
    return products_for(offered_topics(mode, merged=merged) - LEFT_OUT)


class OfflineRun:
    """A session that is driven by an open bag; its jobs make the products that are `wanted`.

    Every `every`-th keyframe starts a job. A policy that follows a topic takes `policy_topic`
    of the bag, or the one there is of its type; raises ValueError where there is none.
    """

    def __init__(
        self,
        reader: BagReader,
        model: LoadedModel,
        parameters: SessionParameters,
        *,
        wanted: frozenset[Product] | None = None,
        every: int = 1,
        policy_topic: str | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; it must be at least 1")
        self._reader = reader
        self._cameras = bag_cameras(reader)
        self._topics = {c.image_topic: c.name for c in self._cameras} | {
            c.info_topic: c.name for c in self._cameras
        }
        self._policy_topic = bag_policy_topic(reader, parameters.policy.type, policy_topic)
        self._policy_message: Any = None  # the latest on it
        self._now_ns = 0  # when the latest message was recorded
        self._every = every
        self._keyframes_until_job = 0
        self.summary = OfflineSummary()
        transforms, rejected = reader.transforms()
        for error in rejected:
            log.warning("transform rejected: %s", error)
        products = written_products(model.mode) if wanted is None else wanted
        self.session = SynthesisSession(
            model,
            {
                c.name: CameraState(c.name, c.image_topic, c.compressed, c.depth_topic or "")
                for c in self._cameras
            },
            # All TF is known, so what cannot be placed now never will be.
            replace(parameters, tf=replace(parameters.tf, timeout_s=0.0)),
            transforms,
            FaultLog(lambda level, text: log.log(LEVELS[level], text)),
            now_ns=lambda: self._now_ns,
            wanted=lambda: products,
        )

    @property
    def num_messages(self) -> int:
        """How often `on_message` of `jobs` will be called."""
        return sum(self._reader.topics[topic].num_messages for topic in self._topics)

    def jobs(self, on_message: Callable[[], Any] = lambda: None) -> Iterator[JobResult]:
        """Run through the bag, yielding every finished job.

        `on_message` is called per image and CameraInfo.
        """
        topics = self._topics
        followed = [self._policy_topic] if self._policy_topic else []
        # A driver that is recorded from its start sends images before the first CameraInfo.
        for camera in self._cameras:
            for message in self._reader.messages([camera.info_topic]):
                self._take_in(camera.name, message)
                break
        depths = self._depth_topics()
        messages = self._reader.messages([*topics, *depths, *followed])
        for message in _depth_first(messages, frozenset(depths)):
            if message.topic in depths:
                self.session.depth_image(depths[message.topic], message.content)
                continue
            if message.topic == self._policy_topic:
                self._policy_message = message.content
                continue
            on_message()
            self._take_in(topics[message.topic], message)
            yield from self._after()
        self.session.end_of_input()
        self.summary.fixed_frame = self.session.parameters.frames.fixed
        dropped = Counter({f"tf_{r.value}": n for r, n in self.session.pending.dropped.items()})
        for state in self.session.cameras.values():
            dropped += state.dropped
        self.summary.dropped = dict(+dropped)
        self.summary.unplaced = {r.value: n for r, n in self.session.pending.unplaced.items() if n}
        self.summary.thinned = self.session.depth_stream.thinned.total()

    def _depth_topics(self) -> dict[str, str]:
        """The cameras by the topics of depth in their own optical frame."""
        if self.session.parameters.depth_source not in ("auto", "camera"):
            return {}
        return {c.depth_topic: c.name for c in self._cameras if c.depth_topic is not None}

    def _take_in(self, camera: str, message: BagMessage) -> None:
        self._now_ns = message.stamp_ns
        if message.type == CAMERA_INFO_TYPE:
            self.session.camera_info(camera, message.content)
        else:
            self.summary.images += 1
            self.session.image(camera, message.content)

    def _after(self) -> Iterator[JobResult]:
        """Place what waits, and run the jobs that are due: of new keyframes, or of every image."""
        session = self.session
        keyframes = session.place_images()
        self.summary.keyframes += len(keyframes)
        if session.mode == "depth":
            while (due := session.plan_depth()) is not None:
                result = self.run(due)
                if result.outcome is Outcome.DONE:
                    yield result
            return
        self._keyframes_until_job -= len(keyframes)
        if not keyframes or self._keyframes_until_job > 0:
            return
        self._now_ns = keyframes[-1].stamp_ns
        planned = session.plan_automatic(self._policy_input)
        if planned is None:
            if session.waiting_for:
                self.summary.reasons_without_job[session.waiting_for] += 1
            return
        self._keyframes_until_job = self._every
        result = self.run(planned)
        if result.outcome is Outcome.DONE:
            yield result

    def _policy_input(self) -> PolicyInput:
        """What a policy that follows a topic knows so far; "now" is the stamp of the keyframe."""
        if self._policy_message is None:
            return PolicyInput(
                missing=f"no message on {self._policy_topic} yet" if self._policy_topic else ""
            )
        try:
            return policy_input(
                self._policy_message,
                self.session.parameters,
                lambda frame, stamp_ns: self.session.lookup_fixed(frame, stamp_ns or self._now_ns),
            )
        except (TransformUnavailable, ValueError) as error:  # of TF, or of the message itself
            return PolicyInput(missing=str(error))

    def run(self, planned: PlannedJob) -> JobResult:
        """Run one job to its end. Raises DeviceFault if the device is lost."""
        result = self.session.run(planned)
        if result.device_lost:
            raise DeviceFault(result.error_msg)
        self.summary.note(planned, result)
        return result


def _depth_first(
    messages: Iterator[BagMessage], depth_topics: frozenset[str]
) -> Iterator[BagMessage]:
    """The messages in order, but depth images ahead of the images that they may belong to."""
    held: deque[BagMessage] = deque()
    for message in messages:
        if message.topic in depth_topics:
            yield message
        else:
            held.append(message)
        wait_ns = MAX_DEPTH_OFFSET_NS if depth_topics else -1
        while held and message.stamp_ns - held[0].stamp_ns > wait_ns:
            yield held.popleft()
    yield from held


def write_jobs(
    jobs: Iterator[JobResult],
    path: Path,
    frames: FrameParameters,
    *,
    mode: Mode = "views",
) -> Iterator[JobResult]:
    """Write each job to a new bag as the node would publish it, and pass it on.

    Unlike on a robot, /tf also has the camera of each anchor, relative to the fixed frame, so that
    every product can be placed with this bag alone. The bag appears under `path` once all jobs are
    through. Raises ValueError for views without the name of the fixed frame (`bag_fixed_frame`).
    """
    if mode == "views" and frames.fixed == AUTO:
        raise ValueError(f"the fixed frame is {AUTO!r}; a bag of views needs the frame's own name")
    topics = written_topics(mode)
    with ExitStack() as stack:
        bag = stack.enter_context(BagWriter(path))
        for topic in sorted(topics):
            bag.add_topic(f"{NODE_NAMESPACE}/{topic}", TOPICS[topic][0])
        bag.add_topic("/tf", "tf2_msgs/msg/TFMessage")
        types = bag.types.__getitem__
        for job in jobs:
            stamp_ns = job.request.anchor.stamp_ns
            for topic, message in job_messages(job, frames, types, topics):
                bag.write(f"{NODE_NAMESPACE}/{topic}", stamp_ns, message)
            transforms = anchor_transforms(job.request, frames, types)
            if not job.request.is_depth:
                views = views_message(job, StageTimes(), frames, types)
                bag.write(f"{NODE_NAMESPACE}/views", stamp_ns, views)
                if frames.publish_views:
                    transforms += view_transforms(job, frames, types)
            if transforms:
                bag.write("/tf", stamp_ns, types("tf2_msgs/msg/TFMessage")(transforms=transforms))
            yield job


def bags_differ(first: Path, second: Path) -> Mapping[str, str]:
    """Return, per topic, the first difference of two bags; empty when all messages are equal."""
    differences: dict[str, str] = {}
    with BagReader(first) as one, BagReader(second) as two:
        for topic in sorted(one.topics.keys() | two.topics.keys()):
            if topic not in one.topics or topic not in two.topics:
                differences[topic] = f"only in {first if topic in one.topics else second}"
                continue
            left, right = list(one.raw_messages([topic])), list(two.raw_messages([topic]))
            if len(left) != len(right):
                differences[topic] = f"{len(left)} and {len(right)} messages"
            for index, (a, b) in enumerate(zip(left, right, strict=False)):
                if (a.stamp_ns, a.cdr) != (b.stamp_ns, b.cdr):
                    differences.setdefault(topic, f"message {index} at {a.stamp_ns} ns")
                    break
    return differences
