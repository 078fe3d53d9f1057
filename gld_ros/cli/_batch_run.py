"""A batch from its plan to its table: what `gld-ros bags`, `evals` and `eval-recordings` share.

Owns workers, resuming, the summary files and the exit status. What is made of an item is the
command's.
"""

import argparse
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gld_ros.batch.kind import BatchKind
    from gld_ros.batch.work import BatchOutcome, BatchTask, BatchWork

CSV_FILE, PARQUET_FILE, PAGE_FILE = "summary.csv", "summary.parquet", "index.html"
_INSTALL = "pip install ray pyarrow"
_NO_RAY = f"Ray is not installed ({_INSTALL})"


def add_batch_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Declare what all batches take; returns the group about the exit status."""
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--again", action="store_true", help="also run finished items again")
    result = parser.add_argument_group("exit status")
    result.add_argument(
        "--fail-on",
        choices=("any", "all", "none"),
        default="any",
        help="exit 1 if any item has a problem (default), if all have, or never",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the table as JSON on standard output, and all else on standard error",
    )
    workers = parser.add_argument_group("workers")
    workers.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of workers (default: one per GPU, or one per --threads processors without "
        "GPUs; 0: this process, without Ray)",
    )
    workers.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="N",
        help="GPUs per worker; with 0.5 two share one (default: 1 if there are any)",
    )
    workers.add_argument(
        "--address", help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT (default: this machine)"
    )
    workers.add_argument(
        "--retries",
        type=int,
        default=2,
        metavar="N",
        help="how often an item whose worker died is run again (default: 2)",
    )
    return result


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `threads`."""
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="processor threads of the networks (default: torch's choice); on a CPU another "
        "number changes the last digits",
    )


def chosen_threads(args: argparse.Namespace) -> int:
    """The threads of each worker: those given, else torch's choice. Raises ValueError below 1."""
    import torch

    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads is {args.threads}; at least 1 is needed")
    return args.threads or torch.get_num_threads()


def check_batch_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for numbers and combinations that mean nothing."""
    for name, least in (("workers", 0), ("retries", 0), ("gpus_per_worker", 0)):
        given = getattr(args, name)
        if given is not None and not given >= least:
            raise ValueError(f"--{name.replace('_', '-')} is {given}; at least {least} is needed")
    if args.address is not None and args.workers == 0:
        raise ValueError(
            "--workers 0 runs everything in this process, but --address names a cluster"
        )
    if not _has("ray") and (args.address is not None or (args.workers or 0) > 1):
        raise ValueError(f"{_NO_RAY}, and --workers and --address need it")


def run_batch(
    args: argparse.Namespace,
    kind: "BatchKind",
    sources: Sequence[str],
    options: dict[str, Any],
    work: "BatchWork",
    *,
    threads: int,
    on_gpu: bool,
) -> int:
    """Run what is not done yet; the exit status is as --fail-on says.

    `options`: all that decides about the outputs, as plain JSON. `threads` is of each worker.
    """
    import json
    from contextlib import redirect_stdout

    if not args.json:
        return _run_and_tell(args, kind, sources, options, work, threads, on_gpu)[0]
    with redirect_stdout(sys.stderr):
        status, rows = _run_and_tell(args, kind, sources, options, work, threads, on_gpu)
    print(json.dumps({"out": str(args.out.absolute()), f"{kind.noun}s": rows}, indent=1))
    return status


def _run_and_tell(
    args: argparse.Namespace,
    kind: "BatchKind",
    sources: Sequence[str],
    options: dict[str, Any],
    work: "BatchWork",
    threads: int,
    on_gpu: bool,
) -> tuple[int, list[dict[str, Any]]]:
    """The exit status, and the rows of the table for what was given."""
    import logging

    from gld_ros.batch.kind import problem_with
    from gld_ros.batch.manifest import manifest_lock, write_manifest
    from gld_ros.batch.plan import plan_batch
    from gld_ros.batch.sigterm import exit_on_sigterm
    from gld_ros.batch.table import table_rows

    logging.basicConfig(level=logging.ERROR, format="%(levelname)s: %(message)s")
    out = args.out.absolute()
    with exit_on_sigterm(), manifest_lock(out):
        plan = plan_batch(out, kind, sources, options, again=args.again)
        records = plan.manifest.items
        print(
            f"{len(sources)} {kind.noun}s, {plan.num_done} done already, {len(plan.tasks)} to run "
            f"-> {out}"
        )
        for name in plan.changed:
            print(f"  {name} has changed since it was run")
        write_manifest(out, plan.manifest)
        try:
            if plan.tasks:
                outcomes = _outcomes(args, kind, plan.tasks, work, threads, on_gpu)
                for outcome in _shown(kind, outcomes, len(plan.tasks)):
                    records[outcome.task.source].take(outcome)
                    write_manifest(out, plan.manifest)
        finally:
            tables = _write_summary(out, kind, records)
        given = [records[source] for source in sources]
    problems = [record for record in given if problem_with(kind, record)]
    print(f"{len(given) - len(problems)} of {len(given)} {kind.noun}s without a problem")
    print(f"table: {tables}, page: {out / PAGE_FILE}")
    rows = list(table_rows(kind, {source: records[source] for source in sources}))
    if args.fail_on == "none":
        return 0, rows
    failed = len(problems) == len(given) if args.fail_on == "all" else bool(problems)
    return int(failed), rows


def _write_summary(out: Path, kind: "BatchKind", records: dict[str, Any]) -> str:
    """Write table and page; returns the names of the tables."""
    from gld_ros.batch.page import write_page
    from gld_ros.batch.plan import THUMBNAILS_FOLDER
    from gld_ros.batch.table import write_csv, write_parquet

    write_csv(out / CSV_FILE, kind, records)
    write_page(out / PAGE_FILE, kind, records, out / THUMBNAILS_FOLDER)
    if not _has("pyarrow"):
        # One of an earlier run would contradict the table.
        (out / PARQUET_FILE).unlink(missing_ok=True)
        return f"{out / CSV_FILE} (no Parquet without pyarrow: {_INSTALL})"
    write_parquet(out / PARQUET_FILE, kind, records)
    return f"{out / CSV_FILE} and {PARQUET_FILE}"


def _outcomes(
    args: argparse.Namespace,
    kind: "BatchKind",
    tasks: "Sequence[BatchTask]",
    work: "BatchWork",
    threads: int,
    on_gpu: bool,
) -> "Iterator[BatchOutcome]":
    """Run the tasks on Ray, or here."""
    from gld_ros.batch.one_process import run_here
    from gld_ros.batch.ray_workers import RayOptions, run_on_ray

    if args.workers == 0:
        return run_here(tasks, work)
    if not _has("ray"):
        if args.workers is None:
            print(f"{_NO_RAY}: {kind.noun}s run in this process, one after the other")
        return run_here(tasks, work)
    cluster = RayOptions(
        args.workers,
        threads=threads,
        gpus=args.gpus_per_worker if on_gpu else 0.0,
        address=args.address,
        retries=args.retries,
    )
    return run_on_ray(tasks, work, cluster, _say)


def _shown(
    kind: "BatchKind", outcomes: "Iterator[BatchOutcome]", total: int
) -> "Iterator[BatchOutcome]":
    """Pass outcomes on, with a bar on a terminal and a line for each."""
    from tqdm import tqdm

    from gld_ros.batch.kind import problem_with
    from gld_ros.batch.manifest import BatchRecord

    with tqdm(total=total, unit=kind.noun, desc=f"{kind.noun}s", disable=None) as bar:
        for number, outcome in enumerate(outcomes, 1):
            record = BatchRecord(outcome.task.name)
            record.take(outcome)
            problem = problem_with(kind, record)
            told = f"PROBLEM: {problem}"
            if not problem:
                told = f"{kind.line(record.summary)}, {record.seconds:.1f} s"
            _say(f"[{number}/{total}] {record.name}: {told}")
            bar.update()
            yield outcome


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _say(text: str) -> None:
    """Print a line above the bar."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
