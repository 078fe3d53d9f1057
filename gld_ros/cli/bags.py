"""`gld-ros bags`: many bags, each as `gld-ros bag` would, on one machine or a cluster."""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gld_ros.cli._bag_run import BagOptions, BagRunner, add_bag_options

if TYPE_CHECKING:
    from gld_ros.batch.manifest import BagRecord
    from gld_ros.batch.work import BagOutcome, BagTask

CSV_FILE, PAGE_FILE = "summary.csv", "index.html"
_THUMBNAIL_TOPICS = ("/gld/predicted/color/image", "/gld/predicted/depth/image")
_NO_RAY = "Ray is not installed (pip install 'gld_ros[cluster]')"

_DESCRIPTION = """\
Run every bag as `gld-ros bag` would, with byte-identical output, and write into OUT: bags/NAME, an
image of each bag in thumbnails/, manifest.json, summary.csv and index.html. The same command
resumes after a stop: finished bags are kept, failed or changed ones are run again.

With Ray (pip install 'gld_ros[cluster]') bags run on workers, processes that load the model once; a
worker that dies is replaced and its bag run again. Without Ray, bags run one after the other in
this process.
"""

_EXAMPLES = """\
examples:
  gld-ros bags recordings/ --out views
  gld-ros bags 'monday/*.mcap' @more_bags.txt --out views --workers 2 --threads 1
  gld-ros bags /data/recordings --out /data/views --address auto
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Declare the arguments of `gld-ros bags`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bags",
        help="imagine views for many recorded bags, on one machine or a cluster",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IN",
        help="a bag, a folder of bags, a glob, or @FILE with one of these per line",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    add_bag_options(parser)
    parser.add_argument("--again", action="store_true", help="also run finished bags again")
    result = parser.add_argument_group("exit status")
    result.add_argument(
        "--fail-on",
        choices=("any", "all", "none"),
        default="any",
        help="exit 1 if any bag has a problem (default), if all have, or never",
    )
    result.add_argument(
        "--require-metric",
        action="store_true",
        help="a bag without any job of metric scale has a problem",
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
        help="how often a bag whose worker died is run again (default: 2)",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run what is not done yet; the exit status is as --fail-on says."""
    import logging

    from gld_ros.batch.inputs import find_bags
    from gld_ros.batch.manifest import manifest_lock, write_manifest
    from gld_ros.batch.page import write_page
    from gld_ros.batch.plan import THUMBNAILS_FOLDER, plan_batch
    from gld_ros.batch.table import problem_with, write_csv

    logging.basicConfig(level=logging.ERROR, format="%(levelname)s: %(message)s")
    _check_numbers(args)
    out = args.out.absolute()
    options = _resolved(BagOptions.of(args))
    bags = find_bags(args.inputs, out)
    with manifest_lock(out):
        plan = plan_batch(out, bags, _recorded(options), again=args.again)
        records = plan.manifest.bags
        print(f"{len(bags)} bags, {plan.num_done} done already, {len(plan.tasks)} to run -> {out}")
        for name in plan.changed:
            print(f"  {name} has changed since it was run")
        write_manifest(out, plan.manifest)
        try:
            if plan.tasks:
                for outcome in _shown(_outcomes(args, plan.tasks, options), len(plan.tasks), args):
                    records[str(outcome.task.bag)].take(outcome)
                    write_manifest(out, plan.manifest)
        finally:
            write_csv(out / CSV_FILE, records, require_metric=args.require_metric)
            write_page(
                out / PAGE_FILE,
                records,
                out / THUMBNAILS_FOLDER,
                require_metric=args.require_metric,
            )
        given = [records[str(bag)] for bag in bags]
    problems = [r for r in given if problem_with(r, require_metric=args.require_metric)]
    print(f"{len(given) - len(problems)} of {len(given)} bags without a problem")
    print(f"table: {out / CSV_FILE}, page: {out / PAGE_FILE}")
    if args.fail_on == "none":
        return 0
    return int(len(problems) == len(given) if args.fail_on == "all" else bool(problems))


class OfflineWork:
    """What a worker does with bags: `gld-ros bag`, and an image of the result."""

    def __init__(self, options: BagOptions) -> None:
        self._runner = BagRunner(options)

    def load(self) -> None:
        """Load the model."""
        self._runner.load()

    def run(self, task: "BagTask") -> dict[str, Any]:
        """Write or replace a bag; its summary. Raises WorkerUnusable if the device is lost."""
        from gld_ros.batch.work import WorkerUnusable
        from gld_ros.mapping.offline_summary import summary_document
        from gld_ros.mapping.synthesizer import DeviceFault

        # A worker that died may have finished the bag before it could say so.
        shutil.rmtree(task.output, ignore_errors=True)
        task.thumbnail.unlink(missing_ok=True)
        try:
            summary = self._runner.run(task.bag, task.output)
        except DeviceFault as error:
            raise WorkerUnusable(str(error)) from error
        if summary.views or summary.depth_images:
            _write_thumbnail(task.output, task.thumbnail)
        return summary_document(summary)


def _write_thumbnail(bag: Path, path: Path) -> None:
    from PIL import Image

    from gld_ros.mapping.bag_pictures import contact_sheet

    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(bag, columns=4, cell_width=160, topics=_THUMBNAIL_TOPICS)
    Image.fromarray(sheet).save(path, quality=80)


def _check_numbers(args: argparse.Namespace) -> None:
    for name, least in (("workers", 0), ("retries", 0), ("gpus_per_worker", 0)):
        given = getattr(args, name)
        if given is not None and not given >= least:
            raise ValueError(f"--{name.replace('_', '-')} is {given}; at least {least} is needed")
    if args.address is not None and args.workers == 0:
        raise ValueError("--workers 0 runs bags in this process, but --address names a cluster")


def _resolved(options: BagOptions) -> BagOptions:
    """The options as every worker, wherever it is, has to understand them."""
    import torch

    bundle = options.bundle
    if bundle is not None and Path(bundle).is_dir():
        bundle = str(Path(bundle).absolute())
    return replace(
        options,
        bundle=bundle,
        params=options.params and options.params.absolute(),
        threads=options.threads or torch.get_num_threads(),
    )


def _recorded(options: BagOptions) -> dict[str, Any]:
    """All that decides about the outputs, for the manifest. Raises ValueError for what is wrong."""
    import hashlib

    from gld_ros import __version__
    from gld_ros.weights.bundle import Bundle

    values = options.snapshot().values
    bundle = Bundle.open(str(values["model.bundle"]))
    if bundle.config.random_weights:
        print("WARNING: this bundle has RANDOM weights; its views are meaningless")
    described = (bundle.folder / "config.json").read_bytes()
    return {
        "gld_ros": __version__,
        "bundle": hashlib.sha256(described).hexdigest()[:16],
        "every": options.every,
        "threads": options.threads,
        "policy_topic": options.policy_topic,
        **{name: list(v) if isinstance(v, tuple) else v for name, v in values.items()},
    }


def _outcomes(
    args: argparse.Namespace, tasks: "Sequence[BagTask]", options: BagOptions
) -> "Iterator[BagOutcome]":
    """Run the tasks on Ray, or here."""
    from importlib.util import find_spec

    from gld_ros.batch.one_process import run_here
    from gld_ros.batch.ray_workers import RayOptions, run_on_ray

    work = OfflineWork(options)
    if find_spec("ray") is None:
        if args.address is not None or (args.workers or 0) > 1:
            raise ValueError(f"{_NO_RAY}, and --workers and --address need it")
        if args.workers is None:
            print(f"{_NO_RAY}: bags run in this process, one after the other")
        return run_here(tasks, work)
    if args.workers == 0:
        return run_here(tasks, work)
    on_gpu = options.snapshot().session.model.device != "cpu"
    cluster = RayOptions(
        args.workers,
        threads=options.threads,
        gpus=args.gpus_per_worker if on_gpu else 0.0,
        address=args.address,
        retries=args.retries,
    )
    return run_on_ray(tasks, work, cluster, _say)


def _shown(
    outcomes: "Iterator[BagOutcome]", total: int, args: argparse.Namespace
) -> "Iterator[BagOutcome]":
    """Pass outcomes on, with a bar on a terminal and a line for each."""
    from tqdm import tqdm

    from gld_ros.batch.manifest import BagRecord
    from gld_ros.batch.table import problem_with

    with tqdm(total=total, unit="bag", desc="bags", disable=None) as bar:
        for number, outcome in enumerate(outcomes, 1):
            record = BagRecord(outcome.task.name)
            record.take(outcome)
            problem = problem_with(record, require_metric=args.require_metric)
            _say(f"[{number}/{total}] {record.name}: {_line(record, problem)}")
            bar.update()
            yield outcome


def _line(record: "BagRecord", problem: str) -> str:
    if problem:
        return f"PROBLEM: {problem}"
    summary = record.summary
    return (
        f"{summary['jobs']} jobs ({summary['metric_jobs']} metric), {summary['views']} views, "
        f"{record.seconds:.1f} s"
    )


def _say(text: str) -> None:
    """Print a line above the bar."""
    import sys

    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
