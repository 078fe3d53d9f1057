"""An evaluation as text for a terminal and as a JSON file."""

import json
from pathlib import Path
from typing import Any

from gld_ros.evaluation.methods import GENERATED, NO_MOTION

NO_TRUTH = "no truth"
NOT_DEFINED = "-"

# Metric, head of its column, factor, digits.
Column = tuple[str, str, float, int]
_SCALINGS = (
    ("median", "scaled per view to the true median"),
    ("cameras", "scaled by camera distances, where the node accepts that scale"),
    ("unscaled", "unscaled (in the model's unit of length)"),
)


def write_json(path: Path, report: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Write a report, or several; the file is complete or not there at all."""
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def table(report: dict[str, Any]) -> str:
    """The whole report as text; figures without truth say so."""
    sections = [_head(report), _colour(report), _depth(report), _cameras(report)]
    sections += [_provenance(report), _imagination(report)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(report: dict[str, Any]) -> str:
    bundle, data, settings = report["bundle"], report["data"], report["settings"]
    lines = []
    if bundle["random_weights"]:
        lines.append(
            "*** RANDOM WEIGHTS: this bundle is untrained; its figures are meaningless ***"
        )
    lines += [
        f"bundle   {bundle['name']} ({bundle['sha256'][:12]}), {bundle['origin']}",
        f"data     {data['name']}: {data['scenes']} scenes, {data['targets']} withheld views, "
        f"{data['image_hw'][1]}x{data['image_hw'][0]} px",
        f"views    {settings['num_references']} references ({data['references']}), "
        f"{settings['num_targets']} targets; {settings['num_steps']} steps, guidance "
        f"{settings['guidance_scale']:g}, {settings['seeds']} seed(s), {report['seconds']:.0f} s",
    ]
    if data["hidden_share"] is None:
        lines.append("hidden   unknown: the data has no depth truth")
    else:
        lines.append(
            f"hidden   {data['hidden_share']:.1%} of the target pixels, from every reference"
        )
    for reason, count in sorted(data["skipped"].items()):
        lines.append(f"skipped  {count} x {reason}")
    if data["scenes_without_shuffled_control"]:
        lines.append(
            f"note     {data['scenes_without_shuffled_control']} scene(s) without the shuffled "
            "poses: that control needs the camera motion of a second scene"
        )
    lines += [f"note     {note}" for note in report["notes"]]
    return "\n".join(lines)


def _colour(report: dict[str, Any]) -> str:
    columns: tuple[Column, ...] = (
        ("psnr", "PSNR dB", 1, 2),
        ("psnr_visible", "visible", 1, 2),
        ("psnr_hidden", "hidden", 1, 2),
        ("ssim", "SSIM", 1, 3),
        ("perceptual", report["settings"]["perceptual"], 1, 3),
    )
    text = _method_table("Colour of withheld views", report, columns, needs_depth=("psnr_",))
    better = [
        f"{share:.0%} of the views beat '{other}'"
        for other, share in report["better_than"].items()
        if share is not None
    ]
    return text + ("\n" + "; ".join(better) if better else "")


def _depth(report: dict[str, Any]) -> str:
    if not report["data"]["has_depth_truth"]:
        return f"Depth of withheld views: {NO_TRUTH}"
    columns: tuple[Column, ...] = (
        ("ordinal", "order %", 100, 1),
        ("ordinal_visible", "visible", 100, 1),
        ("ordinal_hidden", "hidden", 100, 1),
        ("abs_rel_median", "AbsRel", 1, 3),
        ("rmse_median", "RMSE", 1, 3),
        ("delta1_median", "delta1", 1, 3),
        ("abs_rel_median_hidden", "AbsRel hidden", 1, 3),
    )
    texts = [
        _method_table(
            "Depth of withheld views, " + _SCALINGS[0][1], report, columns, needs_depth=()
        )
    ]
    for suffix, meaning in _SCALINGS[1:]:
        scaled = tuple(
            (f"{metric}_{suffix}", head, 1.0, 3)
            for metric, head in (("abs_rel", "AbsRel"), ("rmse", "RMSE"), ("delta1", "delta1"))
        )
        texts.append(_method_table(f"Depth, {meaning}", report, scaled, needs_depth=()))
    return "\n\n".join(text for text in texts if text)


def _method_table(
    title: str, report: dict[str, Any], columns: tuple[Column, ...], needs_depth: tuple[str, ...]
) -> str:
    """One row per method that has any of the columns."""
    rows = []
    truth = report["data"]["has_depth_truth"]
    for method, figures in report["views"].items():
        if not any(metric in figures for metric, *_ in columns):
            continue
        cells = [_named(method, report)]
        for metric, _, factor, digits in columns:
            mean = figures.get(metric, {}).get("mean")
            if mean is not None:
                cells.append(f"{factor * mean:.{digits}f}")
            else:
                missing = not truth and metric.startswith(needs_depth) if needs_depth else False
                cells.append(NO_TRUTH if missing else NOT_DEFINED)
        rows.append(cells)
    return _aligned(title, [head for _, head, *_ in columns], rows) if rows else ""


def _named(method: str, report: dict[str, Any]) -> str:
    if method.startswith(GENERATED) and "one step" not in method:
        return method.replace(GENERATED, f"{GENERATED}, {report['settings']['num_steps']} steps", 1)
    return method


def _cameras(report: dict[str, Any]) -> str:
    cameras, compared = report["cameras"], report["cameras_compared"]
    methods = ({} if cameras is None else {GENERATED: cameras}) | compared
    if not any(figures["scenes"] for name, figures in methods.items() if name != NO_MOTION):
        none = "Recovered cameras: none (the backbone recovers none, or none that is a camera)"
        return none if methods else ""
    columns = (
        ("RRA@15", "RRA@15 %", 100, 1),
        ("RTA@15", "RTA@15 %", 100, 1),
        ("mAA@30", "mAA@30 %", 100, 1),
        ("AUC@3", "AUC@3 %", 100, 1),
        ("AUC@30", "AUC@30 %", 100, 1),
        ("baseline_share", "baselines %", 100, 1),
        ("focal_relative_error", "focal error %", 100, 1),
        ("ATE", "ATE", 1, 3),
        ("RPE_translation", "RPE", 1, 3),
        ("RPE_rotation_deg", "RPE deg", 1, 3),
    )
    text = _aligned(
        "Recovered cameras (baselines against the true ones, in median depths; ATE and RPE by evo "
        "after Sim(3), data units)",
        [head for _, head, *_ in columns],
        [
            [
                _named(name, report),
                *(_number(figures.get(key), factor, digits) for key, _, factor, digits in columns),
            ]
            for name, figures in methods.items()
            if figures["scenes"]
        ],
    )
    if cameras is None:
        return text
    if cameras["scenes_without_alignment"]:
        text += (
            f"\n{cameras['scenes_without_alignment']} scenes without ATE and RPE: too few cameras "
            "for an alignment, or all on one line"
        )
    if cameras["scenes_without_recovered_cameras"]:
        text += f"\n{cameras['scenes_without_recovered_cameras']} scenes without recovered cameras"
    return text


def _provenance(report: dict[str, Any]) -> str:
    provenance = report["provenance"]
    if provenance is None:
        return ""
    rows = []
    for kind in ("corroborated", "hallucinated", "contradicted"):
        figures = provenance[kind]
        rows.append(
            [
                kind,
                _number(figures["share"], 100, 1),
                _number(figures["psnr"], 1, 2),
                _number(figures["abs_rel"], 1, 3)
                if report["data"]["has_depth_truth"]
                else NO_TRUTH,
            ]
        )
    text = _aligned(
        f"Errors by provenance (tolerance {provenance['rel_tolerance']:g}, scale by cameras)",
        ["share %", "PSNR dB", "AbsRel"],
        rows,
    )
    left_out = provenance["unclassified_scenes"]
    if not text:
        return f"Errors by provenance: none ({left_out} scenes have no accepted scale)"
    return f"{text}\n{left_out} scenes without an accepted scale left out" if left_out else text


def _imagination(report: dict[str, Any]) -> str:
    lines = []
    imagination, spread = report["imagination"], report["seed_spread"]
    if imagination is not None:
        lines.append(f"Imagination: hidden pixels alone ({imagination['hidden_share']:.1%})")
        for name, figures in imagination["beats"].items():
            metric, _, baseline = name.partition(": ")
            unit, factor = (
                ("dB", 1) if metric.startswith("psnr") else ("points of depth order", 100)
            )
            lines.append(
                f"  {factor * figures['difference']:+.2f} {unit} against '{baseline}', better in "
                f"{figures['share_of_views']:.0%} of the views"
            )
    if spread is not None:
        lines.append(f"Spread between {spread['seeds']} seeds (standard deviation)")
        for quantity in ("colour", "log_depth"):
            figures = spread[quantity]
            lines.append(
                f"  {quantity.replace('_', ' '):9s}"
                f"  visible {_number(figures['std_visible'], 1, 4)}"
                f"  hidden {_number(figures['std_hidden'], 1, 4)}"
                f"  variance ratio {_number(figures['variance_ratio'], 1, 2)}"
            )
    return "\n".join(lines)


def _number(value: float | None, factor: float, digits: int) -> str:
    return NOT_DEFINED if value is None else f"{factor * value:.{digits}f}"


def _aligned(title: str, heads: list[str], rows: list[list[str]]) -> str:
    """A table with a title, the first column left and the others right; "" if it has no figure."""
    if all(cell in (NOT_DEFINED, NO_TRUTH) for row in rows for cell in row[1:]):
        return ""
    first = max(len(row[0]) for row in rows)
    widths = [max(len(head), *(len(row[i + 1]) for row in rows)) for i, head in enumerate(heads)]
    lines = [
        title,
        " " * first + "".join(f"  {h:>{w}}" for h, w in zip(heads, widths, strict=True)),
    ]
    for row in rows:
        cells = "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:], widths, strict=True))
        lines.append(f"{row[0]:<{first}}{cells}")
    return "\n".join(lines)
