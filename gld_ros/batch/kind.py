"""What describes a kind of batch: the word for its items, the columns of its table, what is wrong.

The kinds are `bag_summary` (bags of views) and `evaluation.summaries` (evaluations).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gld_ros.batch.manifest import BatchRecord

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A figure of every summary; None where an item has none."""

    name: str
    type: type[int] | type[float]
    meaning: str


@dataclass(frozen=True)
class BatchKind:
    """How items of one kind are named, written and judged.

    `flaws` gives what is wrong with the summary of an item that was run ("" if nothing is),
    `notes` what a reader should know of it, `totals` a sentence about all.
    """

    noun: str
    folder: str  # below OUT, for the outputs
    suffix: str  # of the outputs
    columns: Sequence[Column]
    line: Callable[[Summary], str]  # for the terminal
    flaws: Callable[[Summary], str]
    notes: Callable[[Summary], list[str]]
    totals: Callable[[Sequence[Summary]], str]


def problem_with(kind: BatchKind, record: BatchRecord) -> str:
    """Why an item does not count as done well; empty if it does."""
    if record.status == "waiting":
        return "not run yet"
    if record.status == "failed":
        return record.reason
    return kind.flaws(record.summary)
