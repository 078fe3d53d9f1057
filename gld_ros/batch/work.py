"""What passes between the one who hands out bags and the workers that run them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class WorkerUnusable(RuntimeError):
    """The worker's process cannot continue, for instance because its device is lost."""


@dataclass(frozen=True)
class BagTask:
    """One bag to run; the paths are absolute, and the same on every machine that takes part."""

    bag: Path
    name: str
    output: Path  # bag to write
    thumbnail: Path  # JPEG to write


@dataclass(frozen=True)
class BagOutcome:
    """What came of a bag; `reason` is empty when it was run to its end."""

    task: BagTask
    reason: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    attempts: int = 1
    worker: str = ""  # host and process


class BagWork(Protocol):
    """What every worker does; it is pickled, so what is heavy is made in `load`."""

    def load(self) -> None:
        """Make ready what serves all bags: the model. Called before the first `run`."""

    def run(self, task: BagTask) -> dict[str, Any]:
        """Write the output and the thumbnail of one bag and return its summary.

        Raises WorkerUnusable if this process can run no other bag either; whatever else is raised
        concerns this bag alone.
        """
