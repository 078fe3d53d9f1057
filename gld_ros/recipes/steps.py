"""The steps that chains are made of: fill a store, train a stage, evaluate, write the bundle.

Each can be interrupted and run again; what a chain is and does with them is in chain.py.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gld_ros.recipes.chain import Step, StepWatch
from gld_ros.scenes.rendered import RenderedScenes
from gld_ros.scenes.store import DESCRIPTION_FILE, store_bytes, write_store
from gld_ros.scenes.store_sources import StoreSource
from gld_ros.training.bundle_parts import WorkingBundle
from gld_ros.training.config import RunConfig, parse
from gld_ros.training.data import open_held_out, open_scenes
from gld_ros.training.jobs import build_stage, write_statistics
from gld_ros.training.loop import train
from gld_ros.training.stages.statistics import StatisticsOptions
from gld_ros.weights.bundle import Bundle
from gld_ros.weights.bundle_config import CONFIG_FILE
from gld_ros.weights.rewrite import rewrite_bundle

CARD_FILE = "model_card.md"
IMAGE_GRID_ROWS = 6


class _Stopped(Exception):
    """A step was asked to stop in the middle."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What `gld-ros eval` is asked for: its --data, and how many views and seeds."""

    data: str
    references: int = 2
    targets: int = 2
    seeds: int = 1
    steps: int | None = None
    max_scenes: int | None = None

    def command(self, bundle: Path) -> str:
        """The command line that repeats it."""
        words = f"gld-ros eval --bundle {bundle} --data {self.data} --real-features"
        words += f" --references {self.references} --targets {self.targets} --seeds {self.seeds}"
        words += f" --steps {self.steps}" if self.steps else ""
        return words + (f" --max-scenes {self.max_scenes}" if self.max_scenes else "")


def rendering_device(scenes: RenderedScenes, device: torch.device) -> str:
    """Where scenes are rendered in a chain on `device`: rooms there, all others on the CPU."""
    return str(device) if scenes.kind == "rooms" else "cpu"


def store_step(
    folder: Path,
    source: StoreSource,
    scenes: int,
    views: int,
    image_hw: tuple[int, int],
    *,
    minutes_elsewhere: float | None = None,
) -> Step:
    """Fill a store, with a process per core where its source allows; stops after some scenes."""
    processes = (os.cpu_count() or 1) if source.side_by_side else 1

    def run(watch: StepWatch) -> bool:
        def after_chunk(complete: int) -> None:
            watch.done(complete)
            if watch.must_stop and complete < scenes:
                raise _Stopped

        watch.done(watch.record.done)
        try:
            write_store(
                folder,
                source.name,
                scenes,
                views,
                image_hw,
                source.draw,
                processes=processes,
                after_chunk=after_chunk,
            )
        except _Stopped:
            return False
        return True

    return Step(
        f"stores/{folder.name}",
        f"{scenes} scenes of {source.name}, {image_hw[1]}x{image_hw[0]}",
        scenes,
        "scenes",
        folder / DESCRIPTION_FILE,
        run,
        store_bytes=store_bytes(scenes, views, image_hw),
        minutes_elsewhere=minutes_elsewhere,
    )


def stage_step(
    name: str,
    config: RunConfig,
    folder: Path,
    device: torch.device,
    *,
    bundle: Path | str | None,
    plan_folder: Path | None,
    minutes_elsewhere: float | None = None,
) -> Step:
    """Train a stage, or measure feature statistics. Its bundle is in `folder / "export"`.

    Training stops after any step, saved; statistics are measured in one go.
    """

    def train_stage(watch: StepWatch) -> bool:
        source, held_out = open_scenes(config.data), open_held_out(config.data)
        stage = build_stage(config, bundle, plan_folder, source, held_out, device)
        outcome = train(
            stage,
            config,
            folder,
            device=device,
            max_minutes=watch.minutes_left,
            after_step=watch.done,
        )
        return outcome.finished

    def measure(watch: StepWatch) -> bool:
        watch.done(0)
        opened = WorkingBundle.open(bundle, plan_folder)
        source = open_scenes(config.data)
        write_statistics(config, units, opened, source, folder / "export", device)
        return True

    if config.stage == "statistics":
        units = parse(StatisticsOptions, config.options, f"options of {name}").scenes
        run, unit, text = measure, "scenes", f"mean and variance of the features of {units} scenes"
    else:
        sizes = " and ".join(f"{w}x{h}" for w, h in config.data.sizes_wh)
        run, unit, units = train_stage, "steps", config.steps
        text = f"{config.stage}, {units} steps of {config.batch_size} scenes, {sizes}"
    product = folder / "export" / CONFIG_FILE
    return Step(name, text, units, unit, product, run, minutes_elsewhere=minutes_elsewhere)


def evaluation_step(
    name: str,
    plan: EvaluationPlan,
    bundle: Path | str,
    folder: Path,
    device: torch.device,
    *,
    like: str = "",
    minutes_elsewhere: float | None = None,
) -> Step:
    """Evaluate a bundle, in one go; writes `folder / name.json` and an image beside it.

    Out of time it stops and begins again with the next call, which it then ends in any case.
    """
    from gld_ros.evaluation.held_out import ViewPlan
    from gld_ros.evaluation.held_out import open_held_out as open_evaluated

    report_file = folder / f"{name}.json"
    views = ViewPlan(plan.references, plan.targets, max_scenes=plan.max_scenes)

    def run(watch: StepWatch) -> bool:
        from PIL import Image

        from gld_ros.evaluation.image_grid import image_grid
        from gld_ros.evaluation.model_runs import EvaluatedModel
        from gld_ros.evaluation.report import write_json
        from gld_ros.evaluation.run import evaluate
        from gld_ros.evaluation.totals import EvaluationSettings

        opened = Bundle.open(bundle)
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        held_out = open_evaluated(plan.data, views, opened.config.resolutions_hw)
        held_out.samples = _watched(held_out.samples, watch)
        settings = EvaluationSettings(
            num_references=plan.references,
            num_targets=plan.targets,
            num_steps=plan.steps,
            seeds=plan.seeds,
            real_features=True,
            images=IMAGE_GRID_ROWS,
        )
        try:
            evaluation = evaluate(EvaluatedModel(opened, device, dtype), held_out, settings)
        except _Stopped:
            return False
        folder.mkdir(parents=True, exist_ok=True)
        if evaluation.examples:
            grid = image_grid(evaluation.examples, f"{opened.config.name} on {held_out.name}")
            Image.fromarray(grid).save(folder / f"{name}.png")
        write_json(report_file, evaluation.report)
        return True

    count = open_evaluated(plan.data, views, ((14, 14),)).count
    return Step(
        f"evaluation/{name}",
        f"{Path(bundle).name if isinstance(bundle, Path) else bundle} on {plan.data}",
        count,
        "scenes",
        report_file,
        run,
        like=f"evaluation/{like}" if like else "",
        minutes_elsewhere=minutes_elsewhere,
    )


def _watched(samples: Iterable[dict[str, Any]], watch: StepWatch) -> Iterator[dict[str, Any]]:
    watch.done(0)
    for number, sample in enumerate(samples):
        watch.done(number)
        if watch.stop_requested or (watch.must_stop and not watch.opens_the_call):
            raise _Stopped
        yield sample


def bundle_step(
    trained: Path, folder: Path, *, dtype: torch.dtype, name: str, origin: str, licence: str
) -> Step:
    """Write the bundle of the last stage to `folder`, under its own name and in `dtype`."""

    def run(watch: StepWatch) -> bool:
        rewrite_bundle(
            Bundle.open(trained),
            folder,
            dtype=dtype,
            name=name,
            origin=origin,
            licence=licence,
            overwrite=True,
        )
        return True

    precision = str(dtype).removeprefix("torch.")
    return Step("bundle", f"{name} in {precision}", 0, "", folder / CONFIG_FILE, run)


def card_step(bundle: Path, text: Callable[[], str]) -> Step:
    """Write the model card into the bundle's folder; `text` is asked for it at the end."""

    def run(watch: StepWatch) -> bool:
        (bundle / CARD_FILE).write_text(text(), encoding="utf-8")
        return True

    return Step("card", "the model card", 0, "", bundle / CARD_FILE, run)
