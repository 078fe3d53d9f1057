"""What passes between the one who hands out a batch and the workers that run it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class WorkerUnusable(RuntimeError):
    """The worker's process cannot continue, for instance because its device is lost."""


@dataclass(frozen=True)
class BatchTask:
    """One item to run; its paths are absolute, and the same on every machine that takes part."""

    source: str  # what it is made of: the path of a bag or scene, or an address of rendered scenes
    name: str
    output: Path  # bag or file to write
    thumbnail: Path  # JPEG to write


@dataclass(frozen=True)
class BatchOutcome:
    """What came of an item; `reason` is empty when it was run to its end."""

    task: BatchTask
    reason: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    attempts: int = 1
    worker: str = ""  # host and process


class BatchWork(Protocol):
    """What every worker does; it is pickled, so what is heavy is made in `load`."""

    def load(self) -> None:
        """Make ready what serves all items: the model. Called before the first `run`."""

    def run(self, task: BatchTask) -> dict[str, Any]:
        """Write the output and the thumbnail of one item and return its summary, plain JSON.

        Raises WorkerUnusable if this process can run no other item either; whatever else is raised
        concerns this item alone.
        """
