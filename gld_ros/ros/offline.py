"""A whole bag through the node's own logic, without a graph: nothing is left to timing.

TF is loaded ahead of the images, every job runs to its end before the next image is looked at, and
wall-clock times stay out of the output, so the same bag gives the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gld_ros.bags.cameras import bag_cameras
from gld_ros.bags.reader import BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.geometry.poses import FloatArray
from gld_ros.mapping.epochs import EpochMonitor, TimeJump
from gld_ros.mapping.fault_log import FaultLog, Level
from gld_ros.mapping.jobs import JobRequest, StageTimes, SynthesisRun
from gld_ros.mapping.keyframes import KeyframeGate, KeyframeStore
from gld_ros.mapping.pending import PendingImages, TfFailure
from gld_ros.mapping.postprocess import Postprocessor
from gld_ros.mapping.products import Product, Products, UnusableOutput
from gld_ros.mapping.synthesizer import ViewSynthesizer
from gld_ros.messages.transforms import TransformBuffer, TransformUnavailable, transform_message
from gld_ros.ros.intake import CameraState, Intake
from gld_ros.ros.job_maker import JobMaker, MadeJob, PolicyInput
from gld_ros.ros.parameters.snapshot import Snapshot
from gld_ros.ros.view_messages import (
    TOPICS,
    Frames,
    keyframes_message,
    product_messages,
    views_message,
)

log = logging.getLogger(__name__)

NODE_NAMESPACE = "/gld"
LEVELS: dict[Level, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}


@dataclass
class OfflineSummary:
    """What a run over a bag did."""

    images: int = 0
    keyframes: int = 0
    jobs: int = 0
    views: int = 0
    failed_jobs: int = 0
    metric_jobs: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    reasons_without_job: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class OfflineJob:
    """One finished job of a bag."""

    made: MadeJob
    run: SynthesisRun
    products: Products


def camera_states(reader: BagReader) -> dict[str, CameraState]:
    """Return the cameras of a bag by name. Raises BagError where there is none."""
    return {
        camera.name: CameraState(camera.name, camera.image_topic, camera.compressed)
        for camera in bag_cameras(reader)
    }


class OfflineRun:
    """The node's intake and jobs over one open bag."""

    def __init__(
        self,
        reader: BagReader,
        synthesizer: ViewSynthesizer,
        parameters: Snapshot,
        model_hw: tuple[int, int] | None,
    ) -> None:
        self._reader = reader
        self._synthesizer = synthesizer
        self._parameters = parameters
        self.summary = OfflineSummary()
        self.cameras = camera_states(reader)
        self._buffer, refused = reader.transforms()
        for error in refused:
            log.warning("transform refused: %s", error)
        self._gate = KeyframeGate()
        self.store = KeyframeStore(parameters["keyframes.capacity"])
        self._pending: PendingImages[Any] = PendingImages()
        self._epochs = EpochMonitor(
            parameters["time.backward_tolerance"], parameters["time.forward_gap"]
        )
        self._faults = FaultLog(lambda level, text: log.log(LEVELS[level], text))
        self._intake = Intake(
            self.cameras,
            self._gate,
            self.store,
            self._pending,
            self._epochs,
            self._faults,
            self._time_jumped,
        )
        self._wanted = frozenset(Product) - {Product.MERGED_POINTS}
        if parameters["cloud.publish_merged"]:
            self._wanted |= {Product.MERGED_POINTS}
        self._postprocessor = Postprocessor(lambda: self._wanted)
        self._jobs = JobMaker(
            self._gate,
            self.store,
            model_hw,
            lambda: self._postprocessor.median_depth_m,
            steady_s=lambda: 0.0,
        )
        self._next_job_ns = 0

    def jobs(self, on_message: Callable[[], None] = lambda: None) -> Iterator[OfflineJob]:
        """Run through the bag, yielding every finished job; `on_message` is called per message."""
        infos = {camera.info_topic: camera.name for camera in bag_cameras(self._reader)}
        images = {camera.topic: camera.name for camera in self.cameras.values()}
        for topic, name in infos.items():
            first = self._reader.first(topic)
            if first is not None:
                self._intake.camera_info(name, first, self._parameters)
        for message in self._reader.messages([*infos, *images]):
            on_message()
            if message.topic in infos:
                self._intake.camera_info(infos[message.topic], message.content, self._parameters)
                continue
            self.summary.images += 1
            self._intake.image(
                images[message.topic],
                message.content,
                self._parameters,
                message.stamp_ns,
                message.stamp_ns,
            )
            # All TF is known, so what cannot be placed now never will be.
            made = self._intake.retry(
                self._lookup, self._parameters, message.stamp_ns + 2**62, message.stamp_ns
            )
            self.summary.keyframes += len(made)
            if made and made[-1].stamp_ns >= self._next_job_ns:
                yield from self._automatic(made[-1].stamp_ns)
        self.summary.dropped = {
            cause: sum(camera.dropped[cause] for camera in self.cameras.values())
            for camera in self.cameras.values()
            for cause in camera.dropped
        } | {f"tf_{r.value}": n for r, n in self._pending.dropped.items() if n}

    def run_job(self, made: MadeJob) -> OfflineJob:
        """Run one job to its end; raises UnusableOutput or what the synthesizer raises."""
        request = made.request
        slots = tuple(range(len(request.targets)))
        steps = self._synthesizer.run(request.view_request(slots, len(request.keyframes)))
        while True:
            try:
                next(steps)
            except StopIteration as finished:
                run = SynthesisRun(finished.value, slots, request.keyframes)
                break
        products = self._postprocessor(request, run)
        self.summary.jobs += 1
        self.summary.views += len(products.predicted)
        self.summary.metric_jobs += products.scale.metric
        return OfflineJob(made, run, products)

    def _automatic(self, stamp_ns: int) -> Iterator[OfflineJob]:
        made = self._jobs.automatic(self._parameters, self._epochs.epoch, stamp_ns, PolicyInput())
        if not isinstance(made, MadeJob):
            reasons = self.summary.reasons_without_job
            reasons[made.reason] = reasons.get(made.reason, 0) + 1
            return
        self._next_job_ns = stamp_ns + round(1e9 / self._parameters["policy.rate"])
        try:
            yield self.run_job(made)
        except UnusableOutput as error:
            self.summary.failed_jobs += 1
            log.error("job %d: %s", made.request.job_id, error)

    def _lookup(self, frame_id: str, stamp_ns: int) -> FloatArray | TfFailure:
        try:
            return self._buffer.lookup(self._parameters["fixed_frame"], frame_id, stamp_ns)
        except TransformUnavailable as error:
            reasons = {
                "future": TfFailure.FUTURE,
                "past": TfFailure.PAST,
                "disconnected": TfFailure.DISCONNECTED,
            }
            return reasons.get(error.reason, TfFailure.UNKNOWN_FRAME)

    def _time_jumped(self, jump: TimeJump) -> None:
        log.warning("epoch %d begins: %s", jump.epoch, jump.reason)
        self._intake.flush()
        self._postprocessor.reset(jump.epoch)
        self._next_job_ns = 0

    @property
    def buffer(self) -> TransformBuffer:
        """All transforms of the bag."""
        return self._buffer


def write_jobs(
    jobs: Iterator[OfflineJob], path: Path, parameters: Snapshot, storage: Any = "mcap"
) -> Iterator[OfflineJob]:
    """Write each job to a new bag as the node would publish it, and pass it on.

    The bag appears under `path` once all jobs are through.
    """
    frames = Frames(parameters["fixed_frame"], parameters["view_frame_prefix"])
    topics = frozenset(TOPICS) - {"predicted/color/image/compressed"}
    with ExitStack() as stack:
        bag = stack.enter_context(BagWriter(path, storage))
        for topic in sorted(topics):
            bag.add_topic(f"{NODE_NAMESPACE}/{topic}", TOPICS[topic][0])
        bag.add_topic("/tf", "tf2_msgs/msg/TFMessage")
        types = bag.types.__getitem__
        for job in jobs:
            request = job.made.request
            stamp_ns = request.anchor.stamp_ns
            for topic, message in _job_messages(job, frames, types, topics):
                bag.write(f"{NODE_NAMESPACE}/{topic}", stamp_ns, message)
            if parameters["view_tf.publish"]:
                bag.write("/tf", stamp_ns, _view_transforms(job, frames, types))
            yield job


def _job_messages(
    job: OfflineJob, frames: Frames, types: Callable[[str], Any], topics: frozenset[str]
) -> Iterator[tuple[str, Any]]:
    request: JobRequest = job.made.request
    yield from product_messages(job.products, request, frames, types, topics)
    yield "keyframes", keyframes_message(request.keyframes, frames, types)
    yield (
        "views",
        views_message(
            request,
            [job.products],
            job.made.verdicts,
            job.run.views.seed,
            job.products.scale,
            StageTimes(),
            frames,
            types,
        ),
    )


def _view_transforms(job: OfflineJob, frames: Frames, types: Callable[[str], Any]) -> Any:
    stamp_ns = job.made.request.anchor.stamp_ns
    return types("tf2_msgs/msg/TFMessage")(
        transforms=[
            transform_message(
                view.target.T_fixed_cam, frames.fixed, frames.view(view.slot), stamp_ns, types
            )
            for view in job.products.predicted
        ]
    )


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
