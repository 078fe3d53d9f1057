"""`/diagnostics` and `~/status`: what the node does, what it waits for, and how good its output is.

`statuses` is plain logic on `NodeFacts`; only `Diagnostics` touches topics.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile

from gld_ros.mapping.jobs import Outcome
from gld_ros.mapping.keyframes import usable_keyframes
from gld_ros.mapping.scale import ScaleSource
from gld_ros.messages.stamps import NS_PER_S, make_header
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.intake import CameraState
from gld_ros.ros.parameters.snapshot import Snapshot
from gld_ros.ros.view_messages import scale_message, times_message

OK, WARN, ERROR = 0, 1, 2
NO_IMAGE_WARN_S, NO_IMAGE_ERROR_S = 2.0, 10.0
TF_ERROR_S = 5.0
CONTRADICTED_WARN, CONTRADICTED_ERROR = 0.1, 0.3
RECENT_JUMP_S = 10.0
DROP_CAUSES = (
    "decode",
    "encoding",
    "size",
    "stamp",
    "stamp_zero",
    "frame_id",
    "info",
    "no_info",
    "depth",
)


@dataclass(frozen=True)
class NodeFacts:
    """A node at one moment; `parts` is None while it is unconfigured."""

    now_ns: int
    steady_ns: int
    active: bool
    sim_time: bool
    parameters: Snapshot
    parts: Any
    problem: str = ""  # why configure failed


@dataclass(frozen=True)
class Status:
    """One entry of the diagnostics array."""

    name: str
    level: int
    message: str
    values: Mapping[str, str]


def statuses(facts: NodeFacts, memory: DiagnosticsMemory) -> list[Status]:
    """Return all diagnostics entries; `memory` keeps counts of the previous period."""
    if facts.parts is None:
        if facts.problem:
            return [Status("gld: model", ERROR, facts.problem, {})]
        return [Status("gld: model", WARN, "unconfigured, waiting for configure", {})]
    cameras = facts.parts.intake.cameras.values()
    return [
        *(_input_status(camera, facts, memory) for camera in cameras),
        _tf_status(facts, memory),
        _keyframes_status(facts, memory),
        _scale_status(facts),
        _inference_status(facts, memory),
        _quality_status(facts),
        _gpu_status(facts),
        _model_status(facts),
        _clock_status(facts),
    ]


class DiagnosticsMemory:
    """Counters as they were one period ago, to see what is new."""

    def __init__(self) -> None:
        self._last: Counter[str] = Counter()
        self.active_since_ns: int | None = None
        self.tf_failing_since_ns: int | None = None

    def increase(self, name: str, count: int) -> int:
        """Return how much a counter grew since the last call for it."""
        grown = count - self._last[name]
        self._last[name] = count
        return grown

    def note_activity(self, facts: NodeFacts) -> float:
        """Return for how many seconds the node has been active."""
        if not facts.active:
            self.active_since_ns = None
            return 0.0
        if self.active_since_ns is None:
            self.active_since_ns = facts.steady_ns
        return (facts.steady_ns - self.active_since_ns) / NS_PER_S


def _input_status(camera: CameraState, facts: NodeFacts, memory: DiagnosticsMemory) -> Status:
    active_s = memory.note_activity(facts)
    silent_s = (
        (facts.steady_ns - camera.last_arrival_steady_ns) / NS_PER_S
        if camera.last_arrival_steady_ns
        else active_s
    )
    new = {
        cause: memory.increase(f"{camera.name} {cause}", count)
        for cause, count in (camera.dropped | camera.noticed).items()
    }
    new_drops = sum(new.get(cause, 0) for cause in camera.dropped)
    noticed = [cause for cause in camera.noticed if new.get(cause)]
    notes = camera.pinhole.notes if camera.pinhole is not None else ()
    scaled = [note for note in notes if "is scaled" in note]
    level, message = OK, "receiving"
    if not facts.active:
        message = "not active"
    elif camera.refused:
        level, message = ERROR, camera.refused
    elif new.get("encoding"):
        level, message = ERROR, f"encoding not supported: {camera.dropped['encoding']} dropped"
    elif new.get("frame_id"):
        level, message = ERROR, "images have an empty frame_id"
    elif new.get("stamp_zero"):
        level, message = ERROR, "image stamps are zero"
    elif silent_s > NO_IMAGE_ERROR_S:
        level, message = ERROR, f"no image on {camera.topic} for {silent_s:.0f} s"
    elif camera.received and camera.info is None:
        level = ERROR if active_s > NO_IMAGE_ERROR_S else WARN
        message = f"no CameraInfo beside {camera.topic}"
    elif silent_s > NO_IMAGE_WARN_S:
        level, message = WARN, f"no image on {camera.topic} for {silent_s:.1f} s"
    elif new_drops:
        level, message = WARN, f"{new_drops} images dropped: {_counts(camera.dropped)}"
    elif noticed or scaled:
        level, message = WARN, "; ".join([*noticed, *scaled])
    info_state = "refused" if camera.refused else "valid" if camera.info else "missing"
    size = f"{camera.image_hw[1]}x{camera.image_hw[0]}" if camera.image_hw else ""
    return Status(
        f"gld: input {camera.name}",
        level,
        message,
        {
            "rate_hz": f"{1 / camera.interval_s:.2f}" if camera.interval_s else "0",
            "last_age_s": f"{(facts.now_ns - camera.last_stamp_ns) / NS_PER_S:.3f}",
            "encoding": camera.encoding,
            "size": size,
            "transport": "compressed" if camera.compressed else "raw",
            "topic": camera.topic,
            "info_state": info_state,
            "received": str(camera.received),
            "qos_incompatible": str(camera.qos_incompatible),
            "lost": str(camera.lost),
            **{f"dropped_{cause}": str(camera.dropped[cause]) for cause in DROP_CAUSES},
        },
    )


def _tf_status(facts: NodeFacts, memory: DiagnosticsMemory) -> Status:
    pending = facts.parts.pending
    dropped = {reason.value: count for reason, count in pending.dropped.items()}
    new_drops = memory.increase("tf dropped", sum(dropped.values()))
    new_placed = memory.increase("tf placed", pending.placed)
    if new_drops and not new_placed:
        memory.tf_failing_since_ns = memory.tf_failing_since_ns or facts.steady_ns
    elif new_placed:
        memory.tf_failing_since_ns = None
    level, message = OK, "placing images"
    failing_ns = memory.tf_failing_since_ns
    if failing_ns is not None and facts.steady_ns - failing_ns > TF_ERROR_S * NS_PER_S:
        level, message = ERROR, f"no image could be placed in {facts.parameters['fixed_frame']!r}"
    elif new_drops:
        level, message = WARN, f"{new_drops} images dropped: {_counts(dropped)}"
    rejected = facts.parts.tf.rejected
    if memory.increase("tf rejected", sum(rejected.values())):
        level, message = ERROR, f"invalid transforms: {_counts(rejected)}"
    if memory.increase("tf not rigid", dropped["not_rigid"]):
        level = ERROR
    return Status(
        "gld: tf",
        level,
        message,
        {
            "fixed_frame": facts.parameters["fixed_frame"],
            "pending": str(len(pending)),
            "mean_wait_s": f"{pending.mean_wait_s:.3f}",
            "rejected": str(sum(rejected.values())),
            **{f"dropped_{reason}": str(count) for reason, count in dropped.items()},
        },
    )


def _keyframes_status(facts: NodeFacts, memory: DiagnosticsMemory) -> Status:
    parts = facts.parts
    keyframes = parts.store.snapshot()
    newest_s = (facts.now_ns - keyframes[-1].stamp_ns) / NS_PER_S if keyframes else math.inf
    level, message = OK, f"{len(keyframes)} keyframes"
    max_age_s = facts.parameters["keyframes.max_age"]
    usable = usable_keyframes(keyframes, parts.gate, facts.now_ns, max_age_s)
    if facts.active and keyframes and not usable:
        level, message = WARN, f"the newest keyframe is {newest_s:.1f} s old"
    if memory.increase("pose jumps", parts.gate.pose_jumps):
        level = WARN
        message += f"; {parts.gate.pose_jumps} jumps of the fixed frame"
    return Status(
        "gld: keyframes",
        level,
        message,
        {
            "count": str(len(keyframes)),
            "newest_age_s": f"{newest_s:.2f}",
            "pose_jumps": str(parts.gate.pose_jumps),
            **{f"rejected_{r.value}": str(n) for r, n in parts.gate.rejected.items()},
        },
    )


def _scale_status(facts: NodeFacts) -> Status:
    scale = facts.parts.postprocessor.scale_state(facts.now_ns)
    limit = facts.parameters["scale.max_dispersion"]
    level, message = OK, "metric" if scale.metric else scale.reason
    if not scale.metric:
        withheld = facts.parameters["scale.withhold_if_unresolved"] and facts.parts.jobs_done
        level = ERROR if withheld else WARN
    elif scale.source is ScaleSource.HELD:
        level, message = WARN, scale.reason
    elif scale.relative_dispersion > limit / 2:
        level, message = WARN, f"dispersion {scale.relative_dispersion:.3f} of {limit} allowed"
    return Status(
        "gld: scale",
        level,
        message,
        {
            "source": scale.source.name.lower(),
            "scale": f"{scale.scale:.4f}",
            "dispersion": f"{scale.relative_dispersion:.4f}",
            "pairs": str(scale.num_pairs),
            "max_baseline_m": f"{scale.max_baseline_m:.3f}",
        },
    )


def _inference_status(facts: NodeFacts, memory: DiagnosticsMemory) -> Status:
    parts = facts.parts
    max_age_s = facts.parameters["product.max_age"]
    last, done = parts.last_result, parts.last_done
    too_old = memory.increase("too old", parts.products_too_old)
    level, message = OK, "idle"
    if parts.worker.running is not None:
        message = "running"
    elif parts.waiting_for:
        message = f"waiting: {parts.waiting_for}"
    if last is not None and last.outcome is Outcome.FAILED:
        level, message = ERROR, f"{last.error_code.name}: {last.error_msg}"
    elif too_old:
        level, message = ERROR, f"{too_old} products dropped for age"
    elif done is not None and max_age_s and parts.last_age_s > max_age_s / 2:
        level, message = WARN, f"products are {parts.last_age_s:.1f} s old"
    ages = sorted(parts.ages_s)
    steps = done.sampling_steps if done is not None else 0
    return Status(
        "gld: inference",
        level,
        message,
        {
            "jobs_done": str(parts.jobs_done),
            "cancelled": str(parts.jobs_cancelled),
            "failed": str(parts.jobs_failed),
            "superseded": str(parts.jobs_superseded),
            "products_too_old": str(parts.products_too_old),
            "rate_hz": f"{1 / parts.worker.mean_job_s:.3f}" if parts.worker.mean_job_s else "0",
            "step_ms": f"{1000 * done.times.sample / steps:.1f}" if done and steps else "",
            "total_s": f"{done.times.total:.3f}" if done else "",
            "age_s": f"{parts.last_age_s:.3f}" if done else "",
            "p95_age_s": f"{ages[int(0.95 * (len(ages) - 1))]:.3f}" if ages else "",
        },
    )


def _quality_status(facts: NodeFacts) -> Status:
    done = facts.parts.last_done
    views = [v for run in done.runs if run.products for v in run.products.predicted] if done else []
    if not views:
        return Status("gld: quality", OK, "no views yet", {})
    mean = {
        name: sum(getattr(view.quality, name) for view in views) / len(views)
        for name in ("mean_confidence", "corroborated", "hallucinated", "contradicted")
    }
    level, message = OK, "views agree with what cameras saw"
    if mean["contradicted"] > CONTRADICTED_WARN:
        level = ERROR if mean["contradicted"] > CONTRADICTED_ERROR else WARN
        message = f"{mean['contradicted']:.0%} of predicted points are contradicted"
    return Status("gld: quality", level, message, {k: f"{v:.3f}" for k, v in mean.items()})


def _gpu_status(facts: NodeFacts) -> Status:
    parts = facts.parts
    used, peak = device_memory_bytes()
    limits = parts.worker.limits
    level, message = OK, "within budget"
    if parts.last_result is not None and parts.last_result.device_lost:
        level, message = ERROR, f"the device is lost: {parts.last_result.error_msg}"
    elif limits.level:
        level = ERROR if limits.automatic_paused else WARN
        message = f"degraded to level {limits.level}: {limits.description}"
    gib = 1 / 2**30
    return Status(
        "gld: gpu",
        level,
        message,
        {
            "used_gib": f"{used * gib:.2f}",
            "peak_gib": f"{peak * gib:.2f}",
            "budget_gib": f"{facts.parameters['gpu.memory_budget']:.2f}",
            "degrade_level": str(limits.level),
            "oom_count": str(parts.worker.out_of_memory_count),
        },
    )


def _model_status(facts: NodeFacts) -> Status:
    model = facts.parts.model
    self_test = model.description.get("self_test", "")
    level, message = OK, "loaded"
    if model.random_weights:
        level, message = WARN, "RANDOM weights: views mean nothing"
    elif self_test == "skipped":
        level, message = WARN, "self test skipped"
    return Status("gld: model", level, message, model.description)


def _clock_status(facts: NodeFacts) -> Status:
    epochs = facts.parts.epochs
    jump = epochs.last_jump
    since_s = facts.parts.seconds_since_jump(facts.steady_ns)
    level, message = OK, "continuous"
    if facts.sim_time and facts.now_ns == 0:
        level, message = ERROR, "use_sim_time is set, but nothing publishes /clock"
    elif since_s < RECENT_JUMP_S and jump is not None:
        level, message = WARN, jump.reason
    return Status(
        "gld: clock",
        level,
        message,
        {
            "sim_time": str(facts.sim_time).lower(),
            "epoch": str(epochs.epoch),
            "last_jump_s": f"{jump.delta_s:.3f}" if jump else "",
        },
    )


def device_memory_bytes() -> tuple[int, int]:
    """Return used and peak bytes of the CUDA device, or resident memory where there is none."""
    import sys

    # Another thread may be in the middle of importing torch, which has no `cuda` until then.
    cuda = sys.modules.get("torch.cuda")
    available = getattr(cuda, "is_available", None)
    if cuda is not None and available is not None and available():
        return cuda.memory_allocated(), cuda.max_memory_allocated()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open("/proc/self/statm") as file:  # noqa: PTH123 (a pseudo file, read once a second)
        used = int(file.read().split()[1]) * resource.getpagesize()
    return used, peak


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()) if count)


class Diagnostics:
    """Publishers of `/diagnostics` and `~/status`; they live as long as the node."""

    def __init__(self, node: Any) -> None:
        self._memory = DiagnosticsMemory()
        self._name = node.get_name()
        self._array = node.create_publisher(
            rclpy_type("diagnostic_msgs/msg/DiagnosticArray"), "/diagnostics", 10
        )
        self._status = node.create_publisher(
            rclpy_type("gld_ros/msg/GldStatus"),
            "~/status",
            QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
        )

    def publish(self, facts: NodeFacts) -> None:
        """Publish both."""
        entry = rclpy_type("diagnostic_msgs/msg/DiagnosticStatus")
        pair = rclpy_type("diagnostic_msgs/msg/KeyValue")
        device = facts.parts.model.description.get("device", "") if facts.parts else ""
        message = rclpy_type("diagnostic_msgs/msg/DiagnosticArray")(
            header=make_header(facts.now_ns, "", rclpy_type),
            status=[
                entry(
                    level=bytes([status.level]),
                    name=status.name,
                    message=status.message,
                    hardware_id=device,
                    values=[pair(key=k, value=v) for k, v in status.values.items()],
                )
                for status in statuses(facts, self._memory)
            ],
        )
        self._array.publish(message)
        self.publish_status(facts)

    def publish_status(self, facts: NodeFacts) -> None:
        """Publish `~/status` alone; after each job and with every diagnostics array."""
        kind = rclpy_type("gld_ros/msg/GldStatus")
        status = kind(header=make_header(facts.now_ns, "", rclpy_type))
        parts = facts.parts
        if parts is None:
            status.state, status.reason = kind.STATE_WAITING_INPUT, "unconfigured"
            self._status.publish(status)
            return
        status.state, status.reason = node_state(facts, kind)
        status.backend = parts.model.description.get("backend", "")
        status.profile = parts.model.description.get("bundle", "")
        status.jobs_done, status.jobs_cancelled = parts.jobs_done, parts.jobs_cancelled
        status.jobs_failed = parts.jobs_failed
        cameras = parts.intake.cameras.values()
        status.images_received = sum(camera.received for camera in cameras)
        status.images_dropped = sum(camera.total_dropped for camera in cameras) + sum(
            parts.pending.dropped.values()
        )
        status.keyframes = min(len(parts.store), 65535)
        status.product_age = float(parts.last_age_s)
        if parts.last_done is not None:
            status.times = times_message(parts.last_done.times, rclpy_type)
            status.times.publish = float(parts.last_publish_s)
        status.scale = scale_message(parts.postprocessor.scale_state(facts.now_ns), rclpy_type)
        status.gpu_bytes_used, status.gpu_bytes_peak = device_memory_bytes()
        self._status.publish(status)


def node_state(facts: NodeFacts, kind: Any) -> tuple[int, str]:
    """Return the state number of `GldStatus`, and in words what the node waits for."""
    parts = facts.parts
    if not facts.active:
        return kind.STATE_WAITING_INPUT, "not active"
    if parts.worker.running is not None:
        return kind.STATE_RUNNING, ""
    refused = [camera.refused for camera in parts.intake.cameras.values() if camera.refused]
    if refused and len(refused) == len(parts.intake.cameras):
        return kind.STATE_FAULT, refused[0]
    if facts.sim_time and facts.now_ns == 0:
        return kind.STATE_WAITING_INPUT, "use_sim_time is set, but nothing publishes /clock"
    for camera in parts.intake.cameras.values():
        if not camera.received:
            return kind.STATE_WAITING_INPUT, f"no image on {camera.topic} yet"
        if camera.info is None:
            return kind.STATE_WAITING_INPUT, f"no CameraInfo beside {camera.topic} yet"
    if not len(parts.store):
        why = (
            f"{len(parts.pending)} images wait for TF" if len(parts.pending) else "no keyframe yet"
        )
        return kind.STATE_WAITING_INPUT, why
    if parts.waiting_for:
        return kind.STATE_WAITING_INPUT, parts.waiting_for
    if parts.worker.limits.level:
        return kind.STATE_DEGRADED, parts.worker.limits.description
    return kind.STATE_IDLE, ""
