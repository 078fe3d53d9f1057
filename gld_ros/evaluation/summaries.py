"""Batches of evaluations: the figures of a report that are columns, and what a reader should know.

Reports are those of `evaluation.totals.report_of` (held-out views) and of
`evaluation.recording_figures.recording_figures` (withheld frames of a recording).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from gld_ros.batch.kind import BatchKind, Column, Summary
from gld_ros.evaluation.methods import COPY, GENERATED

REPORTS_FOLDER = "reports"

_HELD_OUT = (
    Column("scenes", int, "samples evaluated"),
    Column("targets", int, "withheld views"),
    Column("skipped", int, "frames and samples that could not be used"),
    Column("hidden_share", float, "share of target pixels that no reference sees"),
    Column("psnr_db", float, "PSNR of generated views in dB"),
    Column("psnr_visible_db", float, "the same on pixels that a reference sees"),
    Column("psnr_hidden_db", float, "the same on pixels that none sees"),
    Column("ssim", float, "SSIM of generated views"),
    Column("perceptual", float, "perceptual distance of generated views"),
    Column("psnr_copy_db", float, "PSNR of copying the nearest reference in dB"),
    Column("better_than_copy", float, "share of views better than that copy"),
    Column("depth_order", float, "share of pixel pairs whose depth order is right"),
    Column("abs_rel", float, "relative depth error, scaled per view to the true median"),
    Column("abs_rel_cameras", float, "relative depth error, scaled by camera distances"),
    Column("rotation_accuracy", float, "share of camera pairs with a rotation within 15 degrees"),
    Column("direction_accuracy", float, "share of camera pairs with a direction within 15 degrees"),
)
_RECORDINGS = (
    Column("recordings", int, "recordings that it holds, one per camera"),
    Column("frames_shown", int, "frames shown to the session"),
    Column("keyframes", int, "keyframes taken"),
    Column("withheld", int, "frames withheld and asked for"),
    Column("rejected", int, "goals that were rejected"),
    Column("metric_goals", int, "goals with metric depth"),
    Column("measured_share", float, "share of the withheld pixels that are measured"),
    Column("hidden_share", float, "share of the withheld pixels that no shown frame sees"),
    Column("psnr_db", float, "PSNR of what would be published in dB"),
    Column("psnr_measured_db", float, "the same on measured pixels"),
    Column("psnr_not_measured_db", float, "the same on all others"),
    Column("psnr_inpainted_db", float, "PSNR of measured surfaces, inpainted by OpenCV, in dB"),
    Column("psnr_copy_db", float, "PSNR of copying the nearest shown frame in dB"),
    Column("target_coverage", float, "share of known true depth where depth is published"),
    Column("target_error", float, "median relative error of published depth"),
    Column("keyframe_coverage", float, "the same share, of measured depth of keyframes"),
    Column("keyframe_error", float, "median relative error of measured depth of keyframes"),
    Column("keyframe_over_20", float, "share of that depth that is more than 20 % wrong"),
)
_COUNTS_OF_RECORDINGS = ("frames_shown", "keyframes", "withheld", "metric_goals")


def held_out_batch() -> BatchKind:
    """Evaluations on withheld views of scenes, as `gld-ros eval` makes them."""
    return BatchKind(
        "scene",
        REPORTS_FOLDER,
        ".json",
        _HELD_OUT,
        _line("scenes", "samples"),
        lambda summary: "",
        lambda summary: list(summary.get("notes", ())),
        _means(_HELD_OUT, ("psnr_db", "psnr_copy_db", "abs_rel")),
    )


def recording_batch() -> BatchKind:
    """Evaluations on withheld frames of recordings, as `gld-ros eval-recording` makes them."""
    return BatchKind(
        "recording",
        REPORTS_FOLDER,
        ".json",
        _RECORDINGS,
        _line("withheld", "withheld frames"),
        _rejected,
        lambda summary: list(summary.get("notes", ())),
        _means(_RECORDINGS, ("psnr_db", "psnr_inpainted_db", "target_error", "keyframe_error")),
    )


def held_out_summary(report: dict[str, Any]) -> dict[str, Any]:
    """The columns of one report on held-out views, and its notes; no figure is None."""
    data, views, cameras = report["data"], report["views"], report["cameras"] or {}

    def mean(method: str, metric: str) -> float | None:
        value: float | None = views.get(method, {}).get(metric, {}).get("mean")
        return value

    return {
        "scenes": data["scenes"],
        "targets": data["targets"],
        "skipped": sum(data["skipped"].values()),
        "hidden_share": data["hidden_share"],
        "psnr_db": mean(GENERATED, "psnr"),
        "psnr_visible_db": mean(GENERATED, "psnr_visible"),
        "psnr_hidden_db": mean(GENERATED, "psnr_hidden"),
        "ssim": mean(GENERATED, "ssim"),
        "perceptual": mean(GENERATED, "perceptual"),
        "psnr_copy_db": mean(COPY, "psnr"),
        "better_than_copy": report["better_than"].get(COPY),
        "depth_order": mean(GENERATED, "ordinal"),
        "abs_rel": mean(GENERATED, "abs_rel_median"),
        "abs_rel_cameras": mean(GENERATED, "abs_rel_cameras"),
        "rotation_accuracy": cameras.get("RRA@15"),
        "direction_accuracy": cameras.get("RTA@15"),
        "notes": [f"{count}x skipped: {reason}" for reason, count in data["skipped"].items()]
        + report["notes"],
    }


def recording_summary(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The columns of the recordings of one item: counts added up, all else their mean."""
    rejected = Counter(reason for one in figures for reason in one["rejected"])

    def mean(get: Callable[[dict[str, Any]], float | None]) -> float | None:
        values = [value for one in figures if (value := get(one)) is not None]
        return fmean(values) if values else None

    def psnr(method: str, part: str) -> float | None:
        return mean(lambda one: one["psnr_db"][method][part])

    def error(what: str, name: str, part: str | None = None) -> float | None:
        def get(one: dict[str, Any]) -> float | None:
            errors = one[what] if part is None else one[what][part]
            return errors[name] if errors else None

        return mean(get)

    return {
        "recordings": len(figures),
        **{name: sum(one[name] for one in figures) for name in _COUNTS_OF_RECORDINGS},
        "rejected": rejected.total(),
        "measured_share": mean(lambda one: one["measured_share"]),
        "hidden_share": mean(lambda one: one["hidden_share"]),
        "psnr_db": psnr("composite", "all"),
        "psnr_measured_db": psnr("composite", "measured"),
        "psnr_not_measured_db": psnr("composite", "not measured"),
        "psnr_inpainted_db": psnr("measured, inpainted", "all"),
        "psnr_copy_db": psnr("copy nearest", "all"),
        "target_coverage": error("target_depth", "coverage", "all"),
        "target_error": error("target_depth", "median", "all"),
        "keyframe_coverage": error("keyframe_depth", "coverage"),
        "keyframe_error": error("keyframe_depth", "median"),
        "keyframe_over_20": error("keyframe_depth", "over_20_percent"),
        "notes": [f"{count}x goal rejected: {reason}" for reason, count in rejected.items()],
    }


def _rejected(summary: Summary) -> str:
    if not summary.get("rejected"):
        return ""
    return f"{summary['rejected']} of {summary['withheld']} goals rejected"


def _line(count: str, what: str) -> Callable[[Summary], str]:
    def line(summary: Summary) -> str:
        psnr_db = summary.get("psnr_db")
        shown = "no view" if psnr_db is None else f"PSNR {psnr_db:.2f} dB"
        return f"{summary[count]} {what}, {shown}"

    return line


def _means(columns: Sequence[Column], names: Sequence[str]) -> Callable[[Sequence[Summary]], str]:
    meanings = {column.name: column.meaning for column in columns}

    def totals(summaries: Sequence[Summary]) -> str:
        parts = []
        for name in names:
            values = [value for s in summaries if (value := s.get(name)) is not None]
            if values:
                parts.append(f"{meanings[name]}: {fmean(values):.4g} ({len(values)})")
        return "Means over those that have a figure. " + "; ".join(parts) + "."

    return totals
