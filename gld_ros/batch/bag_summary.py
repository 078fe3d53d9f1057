"""Batches of bags: what `gld-ros bags` tells of each.

Summaries are those of `mapping.offline_summary.summary_document`.
"""

from collections.abc import Sequence

from gld_ros.batch.kind import BatchKind, Column, Summary

_REASONS = {
    "not_metric": "not metric",
    "measured_alone": "measured depth alone",
    "failures": "job failed",
    "rejected_targets": "target left out",
    "without_job": "no job",
}
_COLUMNS = (
    Column("images", int, "images read"),
    Column("keyframes", int, "keyframes taken"),
    Column("jobs", int, "jobs run"),
    Column("metric_jobs", int, "jobs with metric scale"),
    Column("withheld_jobs", int, "jobs whose depth and clouds were withheld"),
    Column("failed_jobs", int, "jobs that failed"),
    Column("views", int, "target views written"),
    Column("depth_images", int, "images that got depth and no views (mode depth)"),
)


def bag_batch(*, require_metric: bool = False) -> BatchKind:
    """Bags; with `require_metric` one without a metric job has a problem."""

    def flaws(summary: Summary) -> str:
        if not summary.get("views") and not summary.get("depth_images"):
            return _with_reason("no view could be made", summary, "failures", "without_job")
        if require_metric and not summary.get("metric_jobs"):
            return _with_reason(f"0 of {summary.get('jobs')} jobs metric", summary, "not_metric")
        return ""

    return BatchKind("bag", "bags", "", _COLUMNS, _line, flaws, _notes, _totals)


def _line(summary: Summary) -> str:
    made = f"{summary['views']} views"
    if summary.get("depth_images"):
        made = f"depth of {summary['depth_images']} images"
    return f"{summary['jobs']} jobs ({summary['metric_jobs']} metric), {made}"


def _notes(summary: Summary) -> list[str]:
    """What was withheld or left out, counted, with reasons."""
    lines = [
        f"{entry['count']}x {words}: {entry['reason']}"
        for name, words in _REASONS.items()
        for entry in summary.get(name, ())
    ]
    dropped = summary.get("dropped_images", {})
    return lines + [f"{count} images dropped: {cause}" for cause, count in dropped.items()]


def _totals(summaries: Sequence[Summary]) -> str:
    total = {c.name: sum(s.get(c.name) or 0 for s in summaries) for c in _COLUMNS}
    return (
        f"{total['images']} images, {total['jobs']} jobs ({total['metric_jobs']} metric), "
        f"{total['views']} views, depth alone of {total['depth_images']} images. In the images: "
        "one row per kind of image, time from left to right."
    )


def _with_reason(what: str, summary: Summary, *names: str) -> str:
    entries = [entry for name in names for entry in summary.get(name, ())]
    return f"{what}: {entries[0]['reason']}" if entries else what
