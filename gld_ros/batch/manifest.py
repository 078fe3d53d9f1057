"""The file that remembers a batch: which items, with which options, and what came of each.

`manifest.json` is replaced as a whole after every item, so that a killed run leaves a true one. One
process at a time may hold it.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from gld_ros.batch.work import BatchOutcome

MANIFEST_FILE = "manifest.json"
FORMAT = 2
_LOCK_FILE = "manifest.lock"
# What SQLite keeps next to a bag that is being read.
_SIDE_FILES = (".db3-wal", ".db3-shm", ".db3-journal")

Status = Literal["waiting", "done", "failed"]
InputFile = tuple[str, int, int]  # name, bytes, time of change in ns


@dataclass
class BatchRecord:
    """One item of a batch; `input` is what its files were when it was run."""

    name: str
    input: list[InputFile] = field(default_factory=list)
    status: Status = "waiting"
    reason: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    attempts: int = 0
    worker: str = ""

    def take(self, outcome: BatchOutcome) -> None:
        """Take over what came of a run."""
        self.status = "failed" if outcome.reason else "done"
        self.reason, self.summary = outcome.reason, outcome.summary
        self.seconds, self.attempts = round(outcome.seconds, 3), outcome.attempts
        self.worker = outcome.worker


@dataclass
class Manifest:
    """A batch: the options that all its items were run with, and the items by source."""

    options: dict[str, Any]
    items: dict[str, BatchRecord] = field(default_factory=dict)


@contextmanager
def manifest_lock(out: Path) -> Iterator[None]:
    """Hold the manifest of a folder, which is made. Raises ValueError if another process does."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"another run writes {out} now; wait for it, stop it, or choose another --out"
            ) from error
        yield


def read_manifest(out: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none. Raises ValueError for a broken one."""
    path = out / MANIFEST_FILE
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']}, this version reads {FORMAT}")
        items = {source: BatchRecord(**record) for source, record in document["items"].items()}
        for record in items.values():
            record.input = [(str(name), int(size), int(ns)) for name, size, ns in record.input]
        return Manifest(dict(document["options"]), items)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a manifest of a batch: {error}") from error


def write_manifest(out: Path, manifest: Manifest) -> None:
    """Replace the manifest of a folder."""
    document = {
        "format": FORMAT,
        "options": manifest.options,
        "items": {source: asdict(record) for source, record in manifest.items.items()},
    }
    partial = out / f".{MANIFEST_FILE}.partial"
    partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
    partial.replace(out / MANIFEST_FILE)


def input_files(path: Path | None) -> list[InputFile]:
    """What tells whether an item is still the same; empty if it is no path, or does not exist.

    A folder inside a folder counts as one: the bytes of all its files and the newest change.
    """
    if path is None or not path.exists():
        return []
    found = []
    for entry in sorted(path.iterdir()) if path.is_dir() else [path]:
        if entry.name.endswith(_SIDE_FILES):
            continue
        stats = [p.stat() for p in ([entry] if entry.is_file() else entry.rglob("*"))]
        size, changed_ns = sum(s.st_size for s in stats), [s.st_mtime_ns for s in stats]
        found.append((entry.name, size, max(changed_ns, default=0)))
    return found
