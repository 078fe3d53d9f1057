"""What a run over a bag did and what it withheld, with reasons: counts, lines of text, JSON."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gld_ros.mapping.job_planner import PlannedJob
from gld_ros.mapping.jobs import JobResult, Outcome
from gld_ros.mapping.reasons import counted_reasons, times
from gld_ros.messages.fixed_frame import AUTO


@dataclass
class OfflineSummary:
    """Counts of a run over a bag; the counters count sentences."""

    fixed_frame: str = ""  # poses were taken in it
    images: int = 0
    keyframes: int = 0
    jobs: int = 0  # finished ones
    views: int = 0
    metric_jobs: int = 0
    depth_images: int = 0  # real images that got depth and no views, in metres or relative
    withheld_jobs: int = 0  # whose depth and clouds were withheld
    failed_jobs: int = 0
    surplus_targets: int = 0  # beyond `sampler.max_targets`
    thinned: int = 0  # images that came sooner than depth.rate allows
    dropped: dict[str, int] = field(default_factory=dict)  # images, by cause
    unplaced: dict[str, int] = field(default_factory=dict)  # images without a pose, by cause
    not_metric: Counter[str] = field(default_factory=Counter)
    measured_alone: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    rejected_targets: Counter[str] = field(default_factory=Counter)
    reasons_without_job: Counter[str] = field(default_factory=Counter)

    def note(self, planned: PlannedJob, result: JobResult) -> None:
        """Take in one job that has ended."""
        self.surplus_targets += max(0, planned.surplus)
        for rejected in planned.rejected:
            self.rejected_targets[rejected.partition(": ")[2]] += 1
        if result.outcome is not Outcome.DONE:
            self.failed_jobs += 1
            self.failures[result.error_msg or result.error_code.name] += 1
            return
        self.jobs += 1
        self.views += sum(len(products.predicted) for products in result.products)
        self.depth_images += planned.request.is_depth
        scale = result.products[-1].scale
        self.metric_jobs += scale.metric
        if not scale.metric:
            self.not_metric[scale.reason] += 1
            self.withheld_jobs += any(products.withheld for products in result.products)
        elif not scale.scale > 0:
            self.measured_alone[scale.reason] += 1


def summary_lines(summary: OfflineSummary) -> list[str]:
    """The summary as text: first what was made, then all that was left out, and why."""
    s = summary
    made = f"{s.jobs} jobs ({s.metric_jobs} with metric scale), {s.views} views"
    if s.depth_images:
        made = f"depth of {s.depth_images} ({s.metric_jobs} in metres, the others relative)"
    lines = [f"{s.images} images, {s.keyframes} keyframes, {made}"]
    if s.fixed_frame not in ("", AUTO):
        lines.append(f"  poses in frame {s.fixed_frame!r}")

    def add(what: str, reasons: Counter[str]) -> None:
        if reasons:
            lines.append(f"  {what}")
            lines.extend(f"    {reason}" for reason in counted_reasons(reasons))

    withheld = f"; depth and clouds of {s.withheld_jobs} withheld" if s.withheld_jobs else ""
    add(f"{s.metric_jobs} of {s.jobs} jobs metric{withheld}", s.not_metric)
    add(
        f"measured depth alone in {s.measured_alone.total()} of {s.jobs} jobs",
        s.measured_alone,
    )
    add(f"{s.failed_jobs} jobs failed", s.failures)
    add(
        f"{s.rejected_targets.total()} targets rejected by the guard, besides those without a job",
        s.rejected_targets,
    )
    if s.surplus_targets:
        lines.append(f"  {s.surplus_targets} targets left out beyond sampler.max_targets")
    if s.thinned:
        lines.append(f"  {s.thinned} images skipped: depth.rate")
    lines.extend(f"  dropped {count}: {cause}" for cause, count in sorted(s.dropped.items()))
    lines.extend(
        f"  {count} images without a pose: {cause}" for cause, count in sorted(s.unplaced.items())
    )
    add(f"{times(s.reasons_without_job.total())} no job", s.reasons_without_job)
    return lines


def summary_document(summary: OfflineSummary) -> dict[str, Any]:
    """The summary as JSON: the counts by name, and lists of counted reasons."""

    def reasons(texts: Counter[str]) -> list[dict[str, Any]]:
        return [{"count": r.count, "reason": r.text} for r in counted_reasons(texts)]

    s = summary
    return {
        "fixed_frame": "" if s.fixed_frame == AUTO else s.fixed_frame,
        "images": s.images,
        "keyframes": s.keyframes,
        "jobs": s.jobs,
        "metric_jobs": s.metric_jobs,
        "withheld_jobs": s.withheld_jobs,
        "failed_jobs": s.failed_jobs,
        "views": s.views,
        "depth_images": s.depth_images,
        "passed_over": s.thinned,
        "surplus_targets": s.surplus_targets,
        "dropped_images": dict(sorted(s.dropped.items())),
        "images_without_pose": dict(sorted(s.unplaced.items())),
        "not_metric": reasons(s.not_metric),
        "measured_alone": reasons(s.measured_alone),
        "failures": reasons(s.failures),
        "rejected_targets": reasons(s.rejected_targets),
        "without_job": reasons(s.reasons_without_job),
    }
