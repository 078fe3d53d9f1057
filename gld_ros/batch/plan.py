"""What a call has to do: which bags are done, which changed, and whether the options still fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gld_ros.batch.inputs import output_names
from gld_ros.batch.manifest import BagRecord, Manifest, input_files, read_manifest
from gld_ros.batch.work import BagTask

BAGS_FOLDER = "bags"
THUMBNAILS_FOLDER = "thumbnails"


@dataclass(frozen=True)
class BatchPlan:
    """The tasks of this call, and the manifest with a record of every bag."""

    manifest: Manifest
    tasks: tuple[BagTask, ...]
    num_done: int  # of the bags given: done already
    changed: tuple[str, ...]  # names of bags that are run again because they changed


def plan_batch(
    out: Path, bags: Sequence[Path], options: dict[str, Any], *, again: bool = False
) -> BatchPlan:
    """Compare the bags (absolute paths) with the manifest of `out`.

    Done bags whose files are the same are left alone; failed, interrupted and changed ones are run,
    all of them with `again`. Raises ValueError when the options are not those of the manifest,
    unless `again`, and for outputs that no manifest knows.
    """
    manifest = read_manifest(out) or Manifest(options)
    if manifest.options != options and not again:
        raise ValueError(_other_options(out, manifest.options, options))
    if manifest.options != options:
        for record in manifest.bags.values():
            record.status = "waiting"
    manifest.options = options
    taken = {Path(bag): record.name for bag, record in manifest.bags.items()}
    tasks, changed = [], []
    for bag, name in output_names(bags, taken).items():
        known = manifest.bags.get(str(bag))
        task = BagTask(bag, name, out / BAGS_FOLDER / name, out / THUMBNAILS_FOLDER / f"{name}.jpg")
        if known is None and task.output.exists():
            raise ValueError(
                f"{task.output} is in the way: {out} has no record of it; remove it or choose "
                "another --out"
            )
        record = known or manifest.bags.setdefault(str(bag), BagRecord(name))
        files = input_files(bag)
        if record.status == "done" and task.output.exists() and not again:
            if record.input == files:
                continue
            changed.append(name)
        record.status, record.input = "waiting", files
        tasks.append(task)
    return BatchPlan(manifest, tuple(tasks), len(bags) - len(tasks), tuple(changed))


def _other_options(out: Path, before: dict[str, Any], now: dict[str, Any]) -> str:
    differ = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    return (
        f"{out} was made with other options: {'; '.join(differ)}. Use the same ones to continue, "
        "another --out, or --again to run all its bags again"
    )
