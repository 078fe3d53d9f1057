"""A chain: steps that make one thing together, in a folder that remembers how far they came.

Owns what all chains share: finished steps are skipped, an interrupted one goes on, another recipe
is refused, time limits and signals end it cleanly, progress is told with the time that is left.
What the steps do is in steps.py, which there are in bundle_recipe.py and site_recipe.py.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gld_ros.recipes.estimate import StepTime, TimeLeft, duration, time_left
from gld_ros.training.checkpoint import differing_fields, write_atomically
from gld_ros.training.distributed import Ranks
from gld_ros.training.run_lock import run_folder_lock
from gld_ros.training.stop_request import StopRequest

log = logging.getLogger(__name__)

STATE_FILE = "chain.json"
FORMAT = 1
SECONDS_BETWEEN_REPORTS = 60.0
DIFFERENCES_SHOWN = 5


class ChainError(ValueError):
    """A run folder whose chain cannot go on; the text says why and what to do."""


@dataclass
class StepRecord:
    """What came of a step so far; the rate is None until a part of it was timed."""

    done: int = 0
    seconds: float = 0.0
    seconds_per_unit: float | None = None
    finished: bool = False


class StepWatch:
    """What a running step is given: how long it may go on, and where to say how far it is."""

    def __init__(
        self,
        record: StepRecord,
        deadline: float,
        stop: StopRequest,
        *,
        opens_the_call: bool,
        report: Callable[[], None],
    ) -> None:
        self.record, self.opens_the_call = record, opens_the_call
        self._deadline, self._stop, self._report = deadline, stop, report
        self._earlier_seconds, self._started = record.seconds, time.monotonic()
        self._first: tuple[int, float] | None = None

    @property
    def minutes_left(self) -> float:
        """Minutes until the time limit; not below 0."""
        return max(0.0, self._deadline - time.monotonic()) / 60

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked to stop now."""
        return self._stop.requested

    @property
    def must_stop(self) -> bool:
        """Whether to stop as soon as that loses nothing."""
        return self.stop_requested or time.monotonic() > self._deadline

    def done(self, units: int) -> None:
        """Take note that so many units of the step are done; the first call starts the clock."""
        now = time.monotonic()
        record = self.record
        record.done, record.seconds = units, self._earlier_seconds + now - self._started
        if self._first is None:
            self._first = units, now
        elif units > self._first[0]:
            record.seconds_per_unit = (now - self._first[1]) / (units - self._first[0])
        self._report()


@dataclass(frozen=True)
class Step:
    """One step of a chain.

    `run` does the work, or goes on with it, and returns whether it is finished; `product` is there
    from then on. `text` tells a person what is done; `units` counts it in `unit`.
    """

    name: str
    text: str
    units: int
    unit: str
    product: Path
    run: Callable[[StepWatch], bool]
    store_bytes: int = 0
    minutes_elsewhere: float | None = None
    like: str = ""


@dataclass(frozen=True)
class Chain:
    """Steps in order, and the recipe that decides what comes of them, as plain JSON values.

    `measured_on` names the machine behind the steps' `minutes_elsewhere`; `notes` are lines for
    the person who started it.
    """

    name: str
    recipe: dict[str, Any]
    steps: tuple[Step, ...]
    measured_on: str = ""
    notes: tuple[str, ...] = ()


def run_chain(
    chain: Chain, folder: Path, device: torch.device, max_minutes: float = math.inf
) -> bool:
    """Run or resume a chain in `folder`; returns whether all of it is done.

    Raises ChainError for a folder of another recipe or too small a disk, RunFolderInUse when
    another process works there, and whatever a step raises; what was finished stays finished.
    """
    deadline = time.monotonic() + 60 * max_minutes
    with run_folder_lock(folder, Ranks(0, 1), device), StopRequest() as stop:
        state = _State(folder, chain)
        _check_disk(chain, state, folder)
        for line in plan_lines(chain, folder):
            log.info("%s", line)
        opens_the_call = True
        for number, step in enumerate(chain.steps, 1):
            if state.is_finished(step):
                continue
            if stop.requested or time.monotonic() > deadline:
                break
            log.info("step %d of %d: %s: %s", number, len(chain.steps), step.name, step.text)
            record = state.records[step.name]
            reporter = _Reporter(state, number, step)
            watch = StepWatch(
                record, deadline, stop, opens_the_call=opens_the_call, report=reporter
            )
            record.finished = step.run(watch)
            watch.done(step.units if record.finished else record.done)
            state.write()
            opens_the_call = False
            if not record.finished:
                break
            log.info("%s: done after %s", step.name, duration(record.seconds))
        finished = all(state.is_finished(step) for step in chain.steps)
    if not finished:
        log.info("stopped, saved; left: %s. Run the same command to go on", state.time_left())
    return finished


def plan_lines(chain: Chain, folder: Path) -> list[str]:
    """What a chain does and has done: a line per step, then bytes of stores and time."""
    state = _State(folder, chain)
    wide = max(len(step.name) for step in chain.steps)
    lines = [f"{chain.name} in {folder}: {len(chain.steps)} steps", *chain.notes]
    for number, step in enumerate(chain.steps, 1):
        record = state.records[step.name]
        how_far = f"{record.done} of {step.units} {step.unit} done" if record.done else ""
        if state.is_finished(step):
            how_far = f"done in {duration(record.seconds)}"
        size = f"{step.store_bytes / 1e6:.1f} MB" if step.store_bytes else ""
        extra = "; ".join(part for part in (size, how_far) if part)
        lines.append(f"{number:3d}  {step.name:<{wide}}  {step.text}{f' ({extra})' * bool(extra)}")
    stores = sum(step.store_bytes for step in chain.steps)
    lines.append(f"stores: {stores / 1e9:.2f} GB in all; {_free_bytes(folder) / 1e9:.0f} GB free")
    elsewhere = sum(step.minutes_elsewhere or 0 for step in chain.steps)
    if elsewhere:
        lines.append(f"time on {chain.measured_on}: {duration(60 * elsewhere)} in all")
    lines.append(f"time left here: {state.time_left()}")
    return lines


def read_records(folder: Path) -> dict[str, StepRecord]:
    """What came of the steps of the chain in `folder`, by their names."""
    return {name: StepRecord(**record) for name, record in _read(folder)["steps"].items()}


class _State:
    """The records of a chain's steps, kept in `chain.json`."""

    def __init__(self, folder: Path, chain: Chain) -> None:
        self.folder, self.chain = folder, chain
        self.recipe = json.loads(json.dumps(chain.recipe))
        self.records = {step.name: StepRecord() for step in chain.steps}
        if not (folder / STATE_FILE).exists():
            return
        different = differing_fields(_read(folder)["recipe"], self.recipe)
        if different:
            more = len(different) - DIFFERENCES_SHOWN
            raise ChainError(
                f"{folder} was begun with another recipe; differing: "
                f"{', '.join(different[:DIFFERENCES_SHOWN])}{f' and {more} more' * (more > 0)}. "
                "Restore these values, or choose another --run folder."
            )
        self.records |= read_records(folder)

    def is_finished(self, step: Step) -> bool:
        return self.records[step.name].finished and step.product.exists()

    def write(self) -> None:
        records = {name: asdict(record) for name, record in self.records.items()}
        document = {"format": FORMAT, "recipe": self.recipe, "steps": records}
        text = json.dumps(document, indent=1) + "\n"
        write_atomically(self.folder / STATE_FILE, lambda partial: partial.write_text(text))

    def time_left(self) -> TimeLeft:
        return time_left(
            [
                StepTime(
                    step.name,
                    step.units,
                    self.records[step.name].done,
                    self.records[step.name].seconds_per_unit,
                    step.minutes_elsewhere,
                    step.like,
                    self.is_finished(step),
                )
                for step in self.chain.steps
            ]
        )


class _Reporter:
    """Keeps the state on disk and tells the progress, once a minute."""

    def __init__(self, state: _State, number: int, step: Step) -> None:
        self.state, self.number, self.step = state, number, step
        self.last = time.monotonic()
        state.write()

    def __call__(self) -> None:
        if time.monotonic() - self.last < SECONDS_BETWEEN_REPORTS:
            return
        self.last = time.monotonic()
        self.state.write()
        step, record = self.step, self.state.records[self.step.name]
        log.info(
            "step %d of %d: %s: %d of %d %s; left in all: %s",
            self.number,
            len(self.state.chain.steps),
            step.name,
            record.done,
            step.units,
            step.unit,
            self.state.time_left(),
        )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / STATE_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ChainError(f"{path} has format {document['format']}; this version reads {FORMAT}")
        return {"recipe": dict(document["recipe"]), "steps": dict(document["steps"])}
    except ChainError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ChainError(
            f"{path} is damaged: {error}. Choose another --run folder, or remove the file to run "
            "all steps anew."
        ) from error


def _check_disk(chain: Chain, state: _State, folder: Path) -> None:
    """Stores are written into memory-mapped files, for which a full disk is a crash."""
    missing = sum(
        math.ceil(step.store_bytes * (1 - state.records[step.name].done / max(1, step.units)))
        for step in chain.steps
        if not state.is_finished(step)
    )
    free = _free_bytes(folder)
    if missing > free:
        raise ChainError(
            f"the stores need {missing / 1e9:.2f} GB more, and {folder} has {free / 1e9:.2f} GB "
            "free; free some, choose another --run folder, or ask for fewer scenes"
        )


def _free_bytes(folder: Path) -> int:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
