"""The summary of a batch as rows: what is wrong with each bag, and a CSV file."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gld_ros.batch.manifest import BagRecord

# Counts of a bag's summary (`mapping.offline_summary.summary_document`) that are columns.
COUNTS = (
    "images",
    "keyframes",
    "jobs",
    "metric_jobs",
    "withheld_jobs",
    "failed_jobs",
    "views",
)
_REASONS = {
    "not_metric": "not metric",
    "measured_alone": "measured depth alone",
    "failures": "job failed",
    "rejected_targets": "target left out",
    "without_job": "no job",
}


def problem_with(record: BagRecord, *, require_metric: bool = False) -> str:
    """Why a bag does not count as done well; empty if it does."""
    if record.status == "waiting":
        return "not run yet"
    if record.status == "failed":
        return record.reason
    summary = record.summary
    if not summary.get("views"):
        return _with_reason("no view could be made", summary, "failures", "without_job")
    if require_metric and not summary.get("metric_jobs"):
        return _with_reason(f"0 of {summary.get('jobs')} jobs metric", summary, "not_metric")
    return ""


def withheld(summary: Mapping[str, Any]) -> list[str]:
    """What was withheld or left out in a bag, counted, with reasons."""
    lines = [
        f"{entry['count']}x {words}: {entry['reason']}"
        for name, words in _REASONS.items()
        for entry in summary.get(name, ())
    ]
    dropped = summary.get("dropped_images", {})
    return lines + [f"{count} images dropped: {cause}" for cause, count in dropped.items()]


def write_csv(path: Path, bags: Mapping[str, BagRecord], *, require_metric: bool = False) -> None:
    """Write a row for every bag."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        before, after = ("name", "bag", "status", "problem"), ("withheld", "seconds")
        writer.writerow([*before, *COUNTS, *after, "attempts", "worker"])
        for bag, record in bags.items():
            writer.writerow(
                [record.name, bag, record.status]
                + [problem_with(record, require_metric=require_metric)]
                + [record.summary.get(name, "") for name in COUNTS]
                + ["; ".join(withheld(record.summary))]
                + [record.seconds, record.attempts, record.worker]
            )


def _with_reason(what: str, summary: Mapping[str, Any], *names: str) -> str:
    entries = [entry for name in names for entry in summary.get(name, ())]
    return f"{what}: {entries[0]['reason']}" if entries else what
