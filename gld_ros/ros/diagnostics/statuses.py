"""The entries of `/diagnostics` in their order, from the facts of a node: plain logic."""

from gld_ros.ros.diagnostics.facts import ERROR, WARN, DiagnosticsMemory, NodeFacts, Status
from gld_ros.ros.diagnostics.inputs import (
    clock_status,
    input_status,
    keyframes_status,
    measuring_status,
    tf_status,
)
from gld_ros.ros.diagnostics.outputs import (
    depth_status,
    gpu_status,
    inference_status,
    model_status,
    quality_status,
    scale_status,
)


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
        tf_status(session, facts, memory),
        keyframes_status(session, facts, memory),
        measuring_status(session, memory),
        scale_status(session),
        inference_status(session, memory),
        quality_status(session) if session.mode == "views" else depth_status(session, memory),
        gpu_status(session),
        model_status(session),
        clock_status(session, facts),
    ]


def _callbacks_status(facts: NodeFacts, memory: DiagnosticsMemory) -> Status:
    """Return the entry on defects; it is there only once there was one."""
    total = sum(facts.callback_errors.values())
    new = memory.increase("callback errors", total)
    return Status(
        "gld: callbacks",
        ERROR if new else WARN,
        f"{total} callbacks failed; the log has their tracebacks",
        {kind: str(count) for kind, count in facts.callback_errors.items()},
    )
