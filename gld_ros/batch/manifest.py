"""The file that remembers a batch: which bags, with which options, and what came of each.

`manifest.json` is replaced as a whole after every bag, so that a killed run leaves a true one. One
process at a time may hold it.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from gld_ros.batch.work import BagOutcome

MANIFEST_FILE = "manifest.json"
FORMAT = 1
_LOCK_FILE = "manifest.lock"
# What SQLite keeps next to a bag that is being read.
_SIDE_FILES = (".db3-wal", ".db3-shm", ".db3-journal")

Status = Literal["waiting", "done", "failed"]
InputFile = tuple[str, int, int]  # name, bytes, time of change in ns


@dataclass
class BagRecord:
    """One bag of a batch; `input` is what its files were when it was run."""

    name: str
    input: list[InputFile] = field(default_factory=list)
    status: Status = "waiting"
    reason: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    attempts: int = 0
    worker: str = ""

    def take(self, outcome: BagOutcome) -> None:
        """Take over what came of a run."""
        self.status = "failed" if outcome.reason else "done"
        self.reason, self.summary = outcome.reason, outcome.summary
        self.seconds, self.attempts = round(outcome.seconds, 3), outcome.attempts
        self.worker = outcome.worker


@dataclass
class Manifest:
    """A batch: the options that all its bags were run with, and the bags by absolute path."""

    options: dict[str, Any]
    bags: dict[str, BagRecord] = field(default_factory=dict)


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
        bags = {bag: BagRecord(**record) for bag, record in document["bags"].items()}
        for record in bags.values():
            record.input = [(str(name), int(size), int(ns)) for name, size, ns in record.input]
        return Manifest(dict(document["options"]), bags)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a manifest of a batch: {error}") from error


def write_manifest(out: Path, manifest: Manifest) -> None:
    """Replace the manifest of a folder."""
    document = {
        "format": FORMAT,
        "options": manifest.options,
        "bags": {bag: asdict(record) for bag, record in manifest.bags.items()},
    }
    partial = out / f".{MANIFEST_FILE}.partial"
    partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
    partial.replace(out / MANIFEST_FILE)


def input_files(bag: Path) -> list[InputFile]:
    """What tells whether a bag is still the same; empty if it does not exist."""
    if not bag.exists():
        return []
    files = sorted(path for path in bag.iterdir()) if bag.is_dir() else [bag]
    found = []
    for path in files:
        if path.is_file() and not path.name.endswith(_SIDE_FILES):
            stat = path.stat()
            found.append((path.name, stat.st_size, stat.st_mtime_ns))
    return found
