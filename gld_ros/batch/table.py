"""The summary of a batch as rows: a CSV file, and the same with types as a Parquet file."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gld_ros.batch.kind import BatchKind, Column, problem_with
from gld_ros.batch.manifest import BatchRecord

# (name, meaning) of the texts before the figures of a kind, and of what stands behind them.
TEXTS = (
    ("name", "name of the output"),
    ("source", "absolute path of the input, or the address of rendered scenes"),
    ("status", "done, failed or waiting"),
    ("problem", "what is wrong, empty if nothing"),
)
NOTES = ("notes", "what was withheld or left out, with counts and reasons")
RUN = (
    Column("seconds", float, "seconds that the last attempt took"),
    Column("attempts", int, "how often it was begun"),
)
WORKER = ("worker", "host and process of the last attempt")


def write_csv(path: Path, kind: BatchKind, items: Mapping[str, BatchRecord]) -> None:
    """Write a row for every item; notes are joined by semicolons, no figure is an empty cell."""
    names = [name for name, _, _ in table_columns(kind)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in table_rows(kind, items):
            row[NOTES[0]] = "; ".join(row[NOTES[0]])
            writer.writerow(["" if row[name] is None else row[name] for name in names])


def write_parquet(path: Path, kind: BatchKind, items: Mapping[str, BatchRecord]) -> None:
    """Write the rows of the CSV file with types; each column's metadata says what it means.

    Raises ImportError without pyarrow.
    """
    import pyarrow
    import pyarrow.parquet

    types = {
        "string": pyarrow.string(),
        "int64": pyarrow.int64(),
        "double": pyarrow.float64(),
        "list<string>": pyarrow.list_(pyarrow.string()),
    }
    schema = pyarrow.schema(
        [
            pyarrow.field(name, types[type_name], metadata={"description": meaning})
            for name, type_name, meaning in table_columns(kind)
        ]
    )
    partial = path.with_name(f".{path.name}.partial")
    table = pyarrow.Table.from_pylist(list(table_rows(kind, items)), schema=schema)
    pyarrow.parquet.write_table(table, partial)
    partial.replace(path)


def table_columns(kind: BatchKind) -> list[tuple[str, str, str]]:
    """Name, Parquet type and meaning of every column, in order."""
    figures = {int: "int64", float: "double"}
    return [
        *((name, "string", meaning) for name, meaning in TEXTS),
        *((column.name, figures[column.type], column.meaning) for column in kind.columns),
        (NOTES[0], "list<string>", NOTES[1]),
        *((column.name, figures[column.type], column.meaning) for column in RUN),
        (WORKER[0], "string", WORKER[1]),
    ]


def table_rows(kind: BatchKind, items: Mapping[str, BatchRecord]) -> Iterator[dict[str, Any]]:
    """The rows, by the names of `table_columns`; None where there is no figure."""
    for source, record in items.items():
        row: dict[str, Any] = {
            "name": record.name,
            "source": source,
            "status": record.status,
            "problem": problem_with(kind, record),
        }
        for column in kind.columns:
            value = record.summary.get(column.name)
            row[column.name] = None if value is None else column.type(value)
        row["notes"] = kind.notes(record.summary)
        row |= {"seconds": record.seconds, "attempts": record.attempts, "worker": record.worker}
        yield row
