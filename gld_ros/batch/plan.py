"""What a call has to do: which items are done, which changed, and whether the options still fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gld_ros.batch.inputs import output_names, source_path
from gld_ros.batch.kind import BatchKind
from gld_ros.batch.manifest import BatchRecord, Manifest, input_files, read_manifest
from gld_ros.batch.work import BatchTask

THUMBNAILS_FOLDER = "thumbnails"


@dataclass(frozen=True)
class BatchPlan:
    """The tasks of this call, and the manifest with a record of every item."""

    manifest: Manifest
    tasks: tuple[BatchTask, ...]
    num_done: int  # of the items given: done already
    changed: tuple[str, ...]  # names of those that are run again because they changed


def plan_batch(
    out: Path,
    kind: BatchKind,
    sources: Sequence[str],
    options: dict[str, Any],
    *,
    again: bool = False,
) -> BatchPlan:
    """Compare the items, by their sources, with the manifest of `out`.

    Done items whose files are the same are left alone; failed, interrupted and changed ones are
    run, all of them with `again`. Raises ValueError when the options are not those of the manifest,
    unless `again`, and for outputs that no manifest knows.
    """
    manifest = read_manifest(out) or Manifest(options)
    if manifest.options != options and not again:
        raise ValueError(_other_options(out, manifest.options, options))
    if manifest.options != options:
        for record in manifest.items.values():
            record.status = "waiting"
    manifest.options = options
    taken = {source: record.name for source, record in manifest.items.items()}
    tasks, changed = [], []
    for source, name in output_names(sources, taken).items():
        known = manifest.items.get(source)
        task = BatchTask(
            source,
            name,
            out / kind.folder / f"{name}{kind.suffix}",
            out / THUMBNAILS_FOLDER / f"{name}.jpg",
        )
        if known is None and task.output.exists():
            raise ValueError(
                f"{task.output} is in the way: {out} has no record of it; remove it or choose "
                "another --out"
            )
        record = known or manifest.items.setdefault(source, BatchRecord(name))
        files = input_files(source_path(source))
        if record.status == "done" and task.output.exists() and not again:
            if record.input == files:
                continue
            changed.append(name)
        record.status, record.input = "waiting", files
        tasks.append(task)
    return BatchPlan(manifest, tuple(tasks), len(sources) - len(tasks), tuple(changed))


def _other_options(out: Path, before: dict[str, Any], now: dict[str, Any]) -> str:
    differ = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    return (
        f"{out} was made with other options: {'; '.join(differ)}. Use the same ones to continue, "
        "another --out, or --again to run everything again"
    )
