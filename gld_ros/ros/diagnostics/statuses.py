"""The entries of `/diagnostics`, from the facts of a node: plain logic, no topics."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from gld_ros.mapping.cameras import CameraState
from gld_ros.mapping.jobs import Outcome
from gld_ros.mapping.keyframes import usable_keyframes
from gld_ros.mapping.scale import ScaleSource
from gld_ros.mapping.session import SynthesisSession
from gld_ros.measuring.agreement import Agreement
from gld_ros.messages.stamps import NS_PER_S, RECORDED_AGE_S, age_in_words

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
    "stamp_future",
    "frame_id",
    "info",
    "no_info",
    "depth",
)


@dataclass(frozen=True)
class NodeFacts:
    """A node at one moment; `session` is None while it is unconfigured."""

    now_ns: int
    steady_ns: int
    active: bool
    sim_time: bool
    session: SynthesisSession | None
    tf_rejected: Mapping[str, int]  # transforms, by frame and reason
    problem: str = ""  # why configure failed
    callback_errors: Mapping[str, int] = field(default_factory=dict)  # by type of exception


@dataclass(frozen=True)
class Status:
    """One entry of the diagnostics array."""

    name: str
    level: int
    message: str
    values: Mapping[str, str]


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


def statuses(facts: NodeFacts, memory: DiagnosticsMemory) -> list[Status]:
    """Return all diagnostics entries; `memory` keeps counts of the previous period."""
    session = facts.session
    own = [_callbacks_status(facts, memory)] if facts.callback_errors else []
    if session is None:
        if facts.problem:
            return [*own, Status("gld: model", ERROR, facts.problem, {})]
        return [*own, Status("gld: model", WARN, "unconfigured, waiting for configure", {})]
    return [
        *own,
        *(input_status(camera, facts, memory) for camera in session.cameras.values()),
        _tf_status(session, facts, memory),
        _keyframes_status(session, facts, memory),
        measuring_status(session, memory),
        _scale_status(session),
        _inference_status(session, memory),
        _quality_status(session) if session.mode == "views" else depth_status(session, memory),
        _gpu_status(session),
        _model_status(session),
        _clock_status(session, facts),
    ]


def _callbacks_status(facts: NodeFacts, memory: DiagnosticsMemory) -> Status:
    """Return the entry that tells of defects; it is there only once there was one."""
    total = sum(facts.callback_errors.values())
    new = memory.increase("callback errors", total)
    return Status(
        "gld: callbacks",
        ERROR if new else WARN,
        f"{total} callbacks failed; the log has their tracebacks",
        {kind: str(count) for kind, count in facts.callback_errors.items()},
    )


def input_status(camera: CameraState, facts: NodeFacts, memory: DiagnosticsMemory) -> Status:
    """Return the entry of one camera."""
    active_s = memory.note_activity(facts)
    silent_s = (
        (facts.steady_ns - camera.last_arrival_steady_ns) / NS_PER_S
        if camera.last_arrival_steady_ns
        else active_s
    )
    age_s = (facts.now_ns - camera.last_stamp_ns) / NS_PER_S if camera.last_stamp_ns else 0.0
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
    elif camera.rejection:
        level, message = ERROR, camera.rejection
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
    elif age_s > RECORDED_AGE_S:
        level, message = WARN, f"age of the newest image: {age_in_words(age_s)}"
    elif noticed or scaled:
        level, message = WARN, "; ".join([*noticed, *scaled])
    info_state = "rejected" if camera.rejection else "valid" if camera.info else "missing"
    size = f"{camera.image_hw[1]}x{camera.image_hw[0]}" if camera.image_hw else ""
    return Status(
        f"gld: input {camera.name}",
        level,
        message,
        {
            "rate_hz": f"{1 / camera.interval_s:.2f}" if camera.interval_s else "0",
            "last_age_s": f"{age_s:.3f}" if camera.last_stamp_ns else "",
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


def _tf_status(session: SynthesisSession, facts: NodeFacts, memory: DiagnosticsMemory) -> Status:
    pending, fixed_frame = session.pending, session.parameters.frames.fixed
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
        level = ERROR
        message = session.missing_fixed_frame() or f"no image could be placed in {fixed_frame!r}"
    elif new_drops:
        level, message = WARN, f"{new_drops} images dropped: {_counts(dropped)}"
    unplaced = {reason.value: count for reason, count in pending.unplaced.items()}
    if new_unplaced := memory.increase("tf unplaced", sum(unplaced.values())):
        level = WARN
        message = (
            f"{new_unplaced} images without a pose in {fixed_frame!r}: {_counts(unplaced)}; only a "
            "depth camera can tell their metres"
        )
    rejected = facts.tf_rejected
    if memory.increase("tf rejected", sum(rejected.values())):
        level, message = ERROR, f"invalid transforms: {_counts(rejected)}"
    if memory.increase("tf not rigid", dropped["not_rigid"]):
        level = ERROR
    return Status(
        "gld: tf",
        level,
        message,
        {
            "fixed_frame": fixed_frame,
            "pending": str(len(pending)),
            "mean_wait_s": f"{pending.mean_wait_s:.3f}",
            "rejected": str(sum(rejected.values())),
            **{f"dropped_{reason}": str(count) for reason, count in dropped.items()},
            **{f"unplaced_{reason}": str(count) for reason, count in unplaced.items() if count},
        },
    )


def _keyframes_status(
    session: SynthesisSession, facts: NodeFacts, memory: DiagnosticsMemory
) -> Status:
    gate, keyframes = session.gate, session.store.snapshot()
    newest_s = (facts.now_ns - keyframes[-1].stamp_ns) / NS_PER_S if keyframes else math.inf
    level, message = OK, f"{len(keyframes)} keyframes"
    max_age_s = session.parameters.keyframes.max_age_s
    usable = usable_keyframes(keyframes, gate, facts.now_ns, max_age_s)
    if facts.active and keyframes and not usable:
        level, message = WARN, f"age of the newest keyframe: {age_in_words(newest_s)}"
    if memory.increase("pose jumps", gate.pose_jumps):
        level = WARN
        message += f"; {gate.pose_jumps} jumps of the fixed frame"
    return Status(
        "gld: keyframes",
        level,
        message,
        {
            "count": str(len(keyframes)),
            "newest_age_s": f"{newest_s:.2f}",
            "pose_jumps": str(gate.pose_jumps),
            **{f"rejected_{r.value}": str(n) for r, n in gate.rejected.items()},
        },
    )


def measuring_status(session: SynthesisSession, memory: DiagnosticsMemory) -> Status:
    """Return the entry on measured keyframes, and on images that do not fit TF."""
    facts, counts = session.measurements.facts(), session.measurements.counts
    level, message = OK, f"{facts.measured} keyframes are measured"
    if session.measurements.source == "model":
        message = "depth.source is model: nothing is measured"
    for camera, agreement in facts.disagreements.items():
        level, message = WARN, f"camera {camera}: {agreement.describe()}"
    if new := memory.increase("keyframes not measured", facts.skipped):
        level = WARN
        message = (
            f"{new} keyframes were not measured: they come faster than this machine measures them; "
            "raise keyframes.min_interval or keyframes.min_translation"
        )
    return Status(
        "gld: measuring",
        level,
        message,
        {
            "measured": str(facts.measured),
            "behind": str(facts.behind),
            "not_measured": str(facts.skipped),
            "coverage": f"{facts.coverage:.3f}",
            **_disagreements(facts.disagreements),
            **{f"by_{source}": str(count) for source, count in sorted(counts.items())},
        },
    )


def _disagreements(found: Mapping[str, Agreement]) -> dict[str, str]:
    values = {}
    for camera, agreement in found.items():
        values[f"{camera}.epipolar_error_px"] = f"{agreement.error_px:.2f}"
        if agreement.time_offset_s is not None:
            values[f"{camera}.time_offset_ms"] = f"{agreement.time_offset_s * 1e3:+.0f}"
    return values


def _scale_status(session: SynthesisSession) -> Status:
    scale = session.scale_state()
    limit = session.parameters.scale.max_dispersion
    level, message = OK, "metric" if scale.metric else scale.reason
    if not scale.metric:
        withheld = session.parameters.products.withhold_if_unresolved and session.history.done
        # A camera alone has no metres, and mode depth has relative depth to give instead.
        level = ERROR if withheld and session.mode == "views" else WARN
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


def _inference_status(session: SynthesisSession, memory: DiagnosticsMemory) -> Status:
    history, worker = session.history, session.worker
    max_age_s = session.parameters.time.max_product_age_s
    last, done = history.last, history.last_done
    too_old = memory.increase("too old", history.too_old)
    level, message = OK, "idle"
    if worker.running is not None:
        message = "running"
    elif session.waiting_for:
        message = f"waiting: {session.waiting_for}"
    if last is not None and last.outcome is Outcome.FAILED:
        level, message = ERROR, f"{last.error_code.name}: {last.error_msg}"
    elif too_old:
        level, message = ERROR, f"{too_old} products dropped for age"
    elif done is not None and max_age_s and history.last_age_s > max_age_s / 2:
        level, message = WARN, f"age of products: {age_in_words(history.last_age_s)}"
    ages = sorted(history.ages_s)
    steps = done.sampling_steps if done is not None else 0
    return Status(
        "gld: inference",
        level,
        message,
        {
            "jobs_done": str(history.done),
            "cancelled": str(history.cancelled),
            "failed": str(history.failed),
            "superseded": str(history.superseded),
            "products_too_old": str(history.too_old),
            "rate_hz": f"{1 / worker.mean_job_s:.3f}" if worker.mean_job_s else "0",
            "step_ms": f"{1000 * done.times.sample / steps:.1f}" if done and steps else "",
            "total_s": f"{done.times.total:.3f}" if done else "",
            "age_s": f"{history.last_age_s:.3f}" if done else "",
            "p95_age_s": f"{ages[int(0.95 * (len(ages) - 1))]:.3f}" if ages else "",
        },
    )


def _quality_status(session: SynthesisSession) -> Status:
    done = session.history.last_done
    views = [view for products in done.products for view in products.predicted] if done else []
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


def depth_status(session: SynthesisSession, memory: DiagnosticsMemory) -> Status:
    """Return the entry of mode depth: how many images got depth, and how many were passed over."""
    stream, history = session.depth_stream, session.history
    skipped, thinned = stream.skipped.total(), stream.thinned.total()
    new_done = memory.increase("depth done", history.done)
    new_skipped = memory.increase("depth skipped", skipped)
    level, message = OK, f"depth of {new_done} images"
    if new_skipped:
        message += f", {new_skipped} passed over: newer ones came first"
    products = history.last_done.products if history.last_done is not None else ()
    if products and not products[-1].scale.metric:
        level = WARN
        message += f"; without metres: {products[-1].scale.reason}"
    return Status(
        "gld: depth",
        level,
        message,
        {
            "images": str(history.done),
            "skipped": str(skipped),
            "thinned": str(thinned),
            "waiting": str(len(stream)),
            "metric": str(bool(products and products[-1].scale.metric)).lower(),
        },
    )


def _gpu_status(session: SynthesisSession) -> Status:
    used, peak = device_memory_bytes()
    limits, last = session.worker.limits, session.history.last
    level, message = OK, "within budget"
    if last is not None and last.device_lost:
        level, message = ERROR, f"the device is lost: {last.error_msg}"
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
            "budget_gib": f"{session.parameters.model.memory_budget_gib:.2f}",
            "degrade_level": str(limits.level),
            "oom_count": str(session.worker.out_of_memory_count),
        },
    )


def _model_status(session: SynthesisSession) -> Status:
    model = session.model
    self_test = model.description.get("self_test", "")
    level, message = OK, "loaded"
    if model.random_weights:
        level, message = WARN, "RANDOM weights: views mean nothing"
    elif self_test == "skipped":
        level, message = WARN, "self test skipped"
    return Status("gld: model", level, message, model.description)


def _clock_status(session: SynthesisSession, facts: NodeFacts) -> Status:
    jump = session.last_jump
    level, message = OK, "continuous"
    if facts.sim_time and facts.now_ns == 0:
        level, message = ERROR, "use_sim_time is set, but nothing publishes /clock"
    elif jump is not None and session.seconds_since_jump() < RECENT_JUMP_S:
        level, message = WARN, jump.reason
    return Status(
        "gld: clock",
        level,
        message,
        {
            "sim_time": str(facts.sim_time).lower(),
            "epoch": str(session.epoch),
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
