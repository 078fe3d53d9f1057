"""Diagnostics of what comes in: cameras, TF, keyframes, their measured depth, the clock."""

import math
from collections.abc import Mapping

from gld_ros.mapping.cameras import CameraState
from gld_ros.mapping.keyframes import usable_keyframes
from gld_ros.mapping.session import SynthesisSession
from gld_ros.measuring.agreement import Agreement
from gld_ros.messages.stamps import NS_PER_S, RECORDED_AGE_S, age_in_words
from gld_ros.ros.diagnostics.facts import (
    ERROR,
    OK,
    WARN,
    DiagnosticsMemory,
    NodeFacts,
    Status,
    counts_in_words,
)

NO_IMAGE_WARN_S, NO_IMAGE_ERROR_S = 2.0, 10.0
TF_ERROR_S = 5.0
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
    "depth_frame",
    "depth_aspect",
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
        message = f"no CameraInfo next to {camera.topic}"
    elif silent_s > NO_IMAGE_WARN_S:
        level, message = WARN, f"no image on {camera.topic} for {silent_s:.1f} s"
    elif camera.depth_rejection:
        level, message = WARN, f"depth images are dropped: {camera.depth_rejection}"
    elif new_drops:
        level, message = WARN, f"{new_drops} images dropped: {counts_in_words(camera.dropped)}"
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
            "depth_topic": camera.depth_topic,
            "info_state": info_state,
            "received": str(camera.received),
            "qos_incompatible": str(camera.qos_incompatible),
            "lost": str(camera.lost),
            **{f"dropped_{cause}": str(camera.dropped[cause]) for cause in DROP_CAUSES},
        },
    )


def tf_status(session: SynthesisSession, facts: NodeFacts, memory: DiagnosticsMemory) -> Status:
    """Return the entry on poses from TF."""
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
        level, message = WARN, f"{new_drops} images dropped: {counts_in_words(dropped)}"
    unplaced = {reason.value: count for reason, count in pending.unplaced.items()}
    if new_unplaced := memory.increase("tf unplaced", sum(unplaced.values())):
        level = WARN
        message = (
            f"{new_unplaced} images without a pose in {fixed_frame!r}: "
            f"{counts_in_words(unplaced)}; only a depth camera gives them metres"
        )
    rejected = facts.tf_rejected
    if memory.increase("tf rejected", sum(rejected.values())):
        level, message = ERROR, f"invalid transforms: {counts_in_words(rejected)}"
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


def keyframes_status(
    session: SynthesisSession, facts: NodeFacts, memory: DiagnosticsMemory
) -> Status:
    """Return the entry on keyframes."""
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
    device = session.measurements.device
    level, message = OK, f"{facts.measured} keyframes are measured"
    if session.measurements.source == "model":
        message = "depth.source is model: nothing is measured"
    for camera, agreement in facts.disagreements.items():
        level, message = WARN, f"camera {camera}: {agreement.describe()}"
    for camera, depth_camera in facts.depth_cameras.items():
        level, message = WARN, f"camera {camera}: {depth_camera.describe()}"
    if device.problem:
        level, message = WARN, device.problem
    if new := memory.increase("keyframes not measured", facts.skipped):
        level = WARN
        message = (
            f"{new} keyframes were not measured: they come faster than this machine measures them; "
            "raise keyframes.min_interval or keyframes.min_translation"
        )
    if new := memory.increase("keyframes that failed", facts.failed):
        level = WARN
        message = f"measuring {new} keyframes failed, which have no depth: {facts.failure}"
    return Status(
        "gld: measuring",
        level,
        message,
        {
            "measured": str(facts.measured),
            "behind": str(facts.behind),
            "not_measured": str(facts.skipped),
            "failed": str(facts.failed),
            "coverage": f"{facts.coverage:.3f}",
            "device": device.name,
            **_disagreements(facts.disagreements),
            **{f"{c}.depth_scale": f"{a.scale:.2f}" for c, a in facts.depth_cameras.items()},
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


def clock_status(session: SynthesisSession, facts: NodeFacts) -> Status:
    """Return the entry on the ROS clock."""
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
