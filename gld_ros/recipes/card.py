"""The model card of a trained bundle: Markdown from what was set and what was measured, no more."""

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gld_ros.evaluation import methods
from gld_ros.recipes.chain import StepRecord
from gld_ros.recipes.estimate import duration
from gld_ros.training.config import RunConfig
from gld_ros.weights.bundle import Bundle

Report = Mapping[str, Any]

# Metric, head of its column, factor, digits, whether more is better.
_COLUMNS = (
    ("psnr", "PSNR dB", 1.0, 1, True),
    ("ordinal", "depth order %", 100.0, 1, True),
    ("abs_rel_median", "AbsRel, median-scaled", 1.0, 3, False),
)
_BASELINES = (methods.COPY, methods.MEAN_COLOUR, methods.WARP, methods.MEAN_DEPTH)


@dataclass(frozen=True)
class DataSource:
    """Scenes of one store, as the card lists them; an empty licence was not stated."""

    name: str
    scenes: str
    count: int
    split: str
    licence: str


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside its figures."""

    bundle: Bundle
    command: str
    summary: str
    data: Sequence[DataSource]
    stages: Mapping[str, RunConfig]
    records: Mapping[str, StepRecord]
    device: torch.device


def card(facts: CardFacts, figures: Sequence[str]) -> str:
    """The whole card; `figures` are sections of `figures_section` or `comparison_section`."""
    config = facts.bundle.config
    sections = [
        f"# Model card: `{config.name}`\n\n{facts.summary}\n\n{_facts_table(facts)}",
        f"## Data\n\n{_data_table(facts.data)}",
        f"## How it was trained\n\nWritten by `{facts.command}`.\n\n{_stage_table(facts)}",
        "## Figures\n\n" + "\n\n".join(figures),
    ]
    return "\n\n".join(sections) + "\n"


def figures_section(title: str, command: str, report: Report) -> str:
    """A table of one evaluation: a row per method, and whether the model beats its baselines."""
    rows = [
        [method, *(_cell(report, method, column) for column in _COLUMNS)]
        for method in _judged(report)
    ]
    heads = ["withheld views", *(head for _, head, *_ in _COLUMNS)]
    head = f"### {title}\n\n`{command}`{_extent(report)}"
    return f"{head}\n\n{_table(heads, rows)}\n\n{_verdict(report)}"


def comparison_section(title: str, command: str, before: Report, after: Report) -> str:
    """One evaluation of the bundle before and after: same views, same seeds."""
    rows = []
    for method in _judged(after):
        cells = [method]
        for column in _COLUMNS:
            cells += [_cell(before, method, column), _cell(after, method, column)]
        rows.append(cells)
    heads = ["withheld views"]
    for _, head, *_ in _COLUMNS:
        heads += [f"{head}, before", "after"]
    return (
        f"### {title}\n\n`{command}`, the same with the bundle that it started from{_extent(after)}"
        f"\n\n{_table(heads, rows)}\n\n{_change(before, after)} {_verdict(after)}"
    )


def typed_command(job: str, words: Sequence[str], overrides: Sequence[str]) -> str:
    """The command line that makes the bundle again, but for its --run folder."""
    settings = [word for override in overrides for word in ("--set", override)]
    return f"gld-ros train {job} {shlex.join([*words, *settings])}"


def hardware(device: torch.device) -> str:
    """Processor or GPU, threads and the version of torch."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.machine()
    return f"{name}, {torch.get_num_threads()} thread(s) in training, torch {torch.__version__}"


def _facts_table(facts: CardFacts) -> str:
    config, counts = facts.bundle.config, facts.bundle.parameter_count()
    parameters = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in counts.items())
    precision = next(iter(config.files.values())).dtype
    sizes = " and ".join(f"{width}x{height}" for height, width in config.resolutions_hw)
    minutes = duration(sum(record.seconds for record in facts.records.values()))
    rows = [
        ["size", f"{sum(facts.bundle.size_bytes().values()) / 1e6:.1f} MB in {precision}"],
        ["parameters", parameters],
        ["images", f"{sizes}; {config.num_views} views; `pose_scale: {config.pose_scale}`"],
        ["origin", config.origin],
        ["licence", config.licence + (", non-commercial" if config.non_commercial else "")],
        ["hardware", hardware(facts.device)],
        ["time", f"{minutes} in all, evaluation included"],
    ]
    return _table(["", ""], rows)


def _data_table(data: Sequence[DataSource]) -> str:
    rows = [[s.name, s.scenes, str(s.count), s.split, s.licence or "**not stated**"] for s in data]
    return _table(["store", "scenes of", "scenes", "used for", "licence"], rows)


def _stage_table(facts: CardFacts) -> str:
    rows = []
    for name, config in facts.stages.items():
        sizes = " and ".join(f"{width}x{height}" for width, height in config.data.sizes_wh)
        steps = f"{config.steps} x {config.batch_size}"
        if config.stage == "statistics":
            steps = "–"
        seconds = facts.records[name].seconds
        rows.append([name, config.stage, sizes, steps, duration(seconds)])
    return _table(["step", "stage", "images", "steps x scenes", "time"], rows)


def _judged(report: Report) -> list[str]:
    return [m for m, figures in report["views"].items() if any(c[0] in figures for c in _COLUMNS)]


def _mean(report: Report, method: str, metric: str) -> float | None:
    value: float | None = report["views"].get(method, {}).get(metric, {}).get("mean")
    return value


def _cell(report: Report, method: str, column: tuple[str, str, float, int, bool]) -> str:
    metric, _, factor, digits, _ = column
    value = _mean(report, method, metric)
    return "" if value is None else f"{factor * value:.{digits}f}"


def _extent(report: Report) -> str:
    data, settings = report["data"], report["settings"]
    hidden = data["hidden_share"]
    unseen = "" if hidden is None else f", {hidden:.1%} of the pixels seen by no reference"
    return (
        f": {data['targets']} withheld views of {data['scenes']} scenes, "
        f"{settings['num_references']} references, {settings['num_steps']} steps, "
        f"{settings['seeds']} seed(s){unseen}."
    )


def _verdict(report: Report) -> str:
    """Which baselines the sampled views beat in PSNR, and which beat them."""
    ours = _mean(report, methods.GENERATED, "psnr")
    if ours is None:
        return "The bundle imagines no views; these are figures of its decoders."
    others = [methods.SHUFFLED, *_BASELINES]
    gains = {o: ours - v for o in others if (v := _mean(report, o, "psnr")) is not None}
    better = [f"'{o}' by {gain:.1f} dB" for o, gain in gains.items() if gain > 0]
    worse = [f"'{o}' is {-gain:.1f} dB better" for o, gain in gains.items() if gain <= 0]
    said = [f"Generated views beat {', '.join(better)}."] if better else []
    return " ".join([*said, *([f"{'; '.join(worse)}."] if worse else [])])


def _change(before: Report, after: Report) -> str:
    changes = []
    for metric, head, factor, digits, more_is_better in _COLUMNS:
        old, new = (_mean(r, methods.GENERATED, metric) for r in (before, after))
        if old is None or new is None:
            continue
        change = round(factor * (new - old), digits)
        word = "better" if (change > 0) == more_is_better else "worse"
        changes.append(f"{head} {change:+.{digits}f} ({word})" if change else f"{head} unchanged")
    return f"Generated views, after against before: {'; '.join(changes)}." if changes else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
