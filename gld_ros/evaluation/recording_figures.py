"""Figures of a session over a recording: images by method, published depth, as a table and JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.evaluation.recordings import RecordingRun, WithheldFrame
from gld_ros.evaluation.withheld import psnr_db
from gld_ros.evaluation.withheld_grid import (
    cell,
    depth_or_note,
    write_cells,
)
from gld_ros.mapping.frames import FloatArray
from gld_ros.mapping.provenance import Provenance
from gld_ros.mapping.provenance_colours import provenance_colours
from gld_ros.measuring.consistency import RELATIVE_TOLERANCE

METHODS = ("composite", "measured, inpainted", "model alone", "copy nearest", "mean colour")
# Bounds of confidence between which published depth is compared with the truth.
_CONFIDENCE_BOUNDS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
_PARTS = ("all", "measured", "not measured", "seen, not measured", "hidden")


def recording_figures(run: RecordingRun) -> dict[str, Any]:
    """Every figure of a run, ready for JSON; None where there is nothing to compare."""
    return {
        "recording": run.name,
        "frames_shown": run.num_shown,
        "keyframes": run.num_keyframes,
        "withheld": len(run.withheld),
        "rejected": [frame.rejection for frame in run.withheld if frame.rejection],
        "metric_goals": sum(frame.depth_m is not None for frame in run.withheld),
        "hidden_share": _mean([f.hidden.mean() for f in run.withheld]),
        "measured_share": _mean([_measured(f).mean() for f in run.withheld]),
        "psnr_db": {m: _psnr_by_part(run.withheld, m) for m in METHODS},
        "target_depth": {
            part: _depth_errors(
                [
                    (np.where(_part(f, part), f.depth_m, np.nan), f.true_depth_m)
                    for f in run.withheld
                    if f.depth_m is not None and f.true_depth_m is not None
                ]
            )
            for part in _PARTS
        },
        "keyframe_depth": _depth_errors([(k.depth_m, k.true_depth_m) for k in run.measured]),
        "observed_depth": _depth_errors([(o.depth_m, o.true_depth_m) for o in run.observed]),
        "calibration": {
            "keyframes": _calibration(
                [(k.confidence, k.depth_m, k.true_depth_m) for k in run.measured]
            ),
            "target": _calibration(
                [
                    (f.confidence, f.depth_m, f.true_depth_m)
                    for f in run.withheld
                    if f.confidence is not None
                    and f.depth_m is not None
                    and f.true_depth_m is not None
                ]
            ),
        },
    }


def figures_table(figures: dict[str, Any]) -> str:
    """The figures for reading in a terminal."""
    lines = [
        f"{figures['recording']}: {figures['frames_shown']} frames given, "
        f"{figures['keyframes']} keyframes, {figures['withheld']} withheld, "
        f"{figures['metric_goals']} with metric depth, {figures['measured_share'] or 0:.1%} of "
        f"their pixels measured, {figures['hidden_share'] or 0:.1%} hidden",
        f"{'PSNR, dB':22s}" + "".join(f"{part:>20s}" for part in _PARTS),
    ]
    for method, parts in figures["psnr_db"].items():
        cells = "".join(f"{_number(parts[part], '.2f'):>20s}" for part in _PARTS)
        lines.append(f"{method:22s}{cells}")
    lines.append(f"{'depth as published':28s}{'coverage':>10s}{'median':>10s}{'mean':>10s}  >20 %")
    rows = {f"target, {part}": figures["target_depth"][part] for part in _PARTS}
    keyframes = {
        "keyframes, measured": figures["keyframe_depth"],
        "observed": figures["observed_depth"],
    }
    for name, errors in {**keyframes, **rows}.items():
        if errors is None:
            lines.append(f"{name:28s}  nothing to compare")
            continue
        lines.append(
            f"{name:28s}{errors['coverage']:10.1%}{errors['median']:10.2%}{errors['mean']:10.2%}"
            f"{errors['over_20_percent']:7.1%}"
        )
    for name, curve in figures["calibration"].items():
        lines += _calibration_lines(name, curve)
    lines += [f"rejected: {reason}" for reason in figures["rejected"]]
    return "\n".join(lines)


def write_recording_grid(runs: Sequence[RecordingRun], path: Path) -> None:
    """Write one row per withheld frame: truth, all methods, depth and provenance."""
    rows = []
    for frame in (frame for run in runs for frame in run.withheld):
        cells = [cell(frame.true_image, "withheld truth")]
        cells += [
            cell(image, f"{method} {psnr_db(image, frame.true_image):.1f} dB")
            for method in METHODS[:-1]
            if (image := frame.images.get(method)) is not None
        ]
        cells.append(cell(depth_or_note(frame.depth_m), "depth as published"))
        cells.append(cell(provenance_colours(frame.provenance), "provenance"))
        rows.append(cells)
    write_cells(rows, path, ", ".join(run.name for run in runs))


def _psnr_by_part(frames: Sequence[WithheldFrame], method: str) -> dict[str, float | None]:
    """Mean over the withheld frames that have an image by the method."""
    values: dict[str, list[float]] = {part: [] for part in _PARTS}
    for frame in frames:
        if method not in frame.images:
            continue
        for part in _PARTS:
            where = _part(frame, part)
            if where.any():
                values[part].append(psnr_db(frame.images[method], frame.true_image, where))
    return {part: _mean(values[part]) for part in _PARTS}


def _measured(frame: WithheldFrame) -> NDArray[np.bool_]:
    return np.asarray(frame.provenance == Provenance.MEASURED)


def _part(frame: WithheldFrame, part: str) -> NDArray[np.bool_]:
    """Pixels (H, W) of a part of a withheld view."""
    measured = _measured(frame)
    parts = {
        "all": np.ones_like(measured),
        "measured": measured,
        "not measured": ~measured,
        "seen, not measured": frame.seen & ~measured,
        "hidden": frame.hidden,
    }
    return parts[part]


def _depth_errors(pairs: Sequence[tuple[FloatArray, FloatArray]]) -> dict[str, float] | None:
    """Errors over the pixels of all pairs; coverage is of the pixels whose true depth is known."""
    published = np.concatenate([np.ravel(p) for p, _ in pairs]) if pairs else np.zeros(0)
    true = np.concatenate([np.ravel(t) for _, t in pairs]) if pairs else np.zeros(0)
    known = np.isfinite(true) & (true > 0)
    both = known & np.isfinite(published)
    if not both.any():
        return None
    error = np.abs(published[both] - true[both]) / true[both]
    return {
        "coverage": float(both.sum() / known.sum()),
        "median": float(np.median(error)),
        "mean": float(error.mean()),
        "over_20_percent": float((error > 0.2).mean()),
    }


def _calibration(
    triples: Sequence[tuple[FloatArray, FloatArray, FloatArray]],
) -> list[dict[str, float]]:
    """Errors of depth by its confidence: (confidence, published, true) of pixels (H, W) each.

    One row per interval of confidence in which anything was published and the truth is known;
    shares are of all these pixels. "correct" is within RELATIVE_TOLERANCE.
    """
    if not triples:
        return []
    confidence, published, true = (
        np.concatenate([np.ravel(t[k]) for t in triples]) for k in range(3)
    )
    both = np.isfinite(true) & (true > 0) & np.isfinite(published) & np.isfinite(confidence)
    error = np.abs(published[both] / true[both] - 1)
    interval = np.digitize(confidence[both], _CONFIDENCE_BOUNDS[1:-1])
    rows = []
    for k in np.unique(interval):
        here = error[interval == k]
        rows.append(
            {
                "from": _CONFIDENCE_BOUNDS[k],
                "to": _CONFIDENCE_BOUNDS[k + 1],
                "share": float(len(here) / both.sum()),
                "correct": float((here <= RELATIVE_TOLERANCE).mean()),
                "median": float(np.median(here)),
                "over_20_percent": float((here > 0.2).mean()),
            }
        )
    return rows


def _calibration_lines(name: str, rows: Sequence[dict[str, float]]) -> list[str]:
    head = f"{'confidence, ' + name:28s}{'share':>10s}{'median':>10s}{'correct':>10s}  >20 %"
    lines = [head] if rows else []
    for row in rows:
        interval = f"{row['from']:g} to {row['to']:g}"
        lines.append(
            f"{interval:28s}{row['share']:10.1%}{row['median']:10.2%}{row['correct']:10.1%}"
            f"{row['over_20_percent']:7.1%}"
        )
    return lines


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)
