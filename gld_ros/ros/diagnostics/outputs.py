"""Diagnostics of what is made: scale, jobs, views or depth, memory of the device, the model."""

from gld_ros.mapping.jobs import Outcome
from gld_ros.mapping.scale import ScaleSource
from gld_ros.mapping.session import SynthesisSession
from gld_ros.messages.stamps import age_in_words
from gld_ros.ros.diagnostics.device_memory import device_memory_bytes
from gld_ros.ros.diagnostics.facts import ERROR, OK, WARN, DiagnosticsMemory, Status

CONTRADICTED_WARN, CONTRADICTED_ERROR = 0.1, 0.3


def scale_status(session: SynthesisSession) -> Status:
    """Return the entry on metres per unit of depth."""
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


def inference_status(session: SynthesisSession, memory: DiagnosticsMemory) -> Status:
    """Return the entry on jobs."""
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


def quality_status(session: SynthesisSession) -> Status:
    """Return the entry on the newest predicted views."""
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
    """Return the entry of mode depth: how many images got depth, and how many were skipped."""
    stream, history = session.depth_stream, session.history
    skipped, thinned = stream.skipped.total(), stream.thinned.total()
    new_done = memory.increase("depth done", history.done)
    new_skipped = memory.increase("depth skipped", skipped)
    level, message = OK, f"depth of {new_done} images"
    if new_skipped:
        message += f", {new_skipped} skipped: newer ones came first"
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


def gpu_status(session: SynthesisSession) -> Status:
    """Return the entry on memory of the device."""
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


def model_status(session: SynthesisSession) -> Status:
    """Return the entry on the loaded model."""
    model = session.model
    self_test = model.description.get("self_test", "")
    level, message = OK, "loaded"
    if model.random_weights:
        level, message = WARN, "RANDOM weights: views are meaningless"
    elif self_test == "skipped":
        level, message = WARN, "self test skipped"
    return Status("gld: model", level, message, model.description)
