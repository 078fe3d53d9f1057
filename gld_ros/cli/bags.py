"""`gld-ros bags`: many bags, each as `gld-ros bag` would, on one machine or a cluster."""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gld_ros.cli._arguments import folder_or_name
from gld_ros.cli._bag_run import BagOptions, BagRunner, add_bag_options, shown_on
from gld_ros.cli._batch_run import add_batch_arguments, check_batch_arguments, run_batch

if TYPE_CHECKING:
    from gld_ros.batch.work import BatchTask

_VIEW_TOPICS = ("/gld/predicted/color/image", "/gld/predicted/depth/image")
_DEPTH_TOPICS = ("/gld/observed/depth/image", "/gld/observed/relative_depth/image")

HELP = "imagine views for many recorded bags, on one machine or a cluster"
DESCRIPTION = """\
Run every bag as `gld-ros bag` would, with byte-identical output, and write into OUT: bags/NAME, an
image of each bag in thumbnails/, manifest.json, summary.csv and index.html. The same command
resumes after a stop: finished bags are kept, failed or changed ones are run again.

With Ray (pip install ray pyarrow) bags run on workers, processes that load the model once; a
worker that dies is replaced and its bag run again. Without Ray, bags run one after the other in
this process. With pyarrow the table is also written as summary.parquet.
"""

EXAMPLES = """\
examples:
  gld-ros bags recordings/ --out views
  gld-ros bags 'monday/*.mcap' @more_bags.txt --out views --workers 2 --threads 1
  gld-ros bags /data/recordings --out /data/views --address auto
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros bags`."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IN",
        help="a bag, a folder of bags, a glob, or @FILE with one of these per line",
    )
    add_bag_options(parser)
    add_batch_arguments(parser).add_argument(
        "--require-metric",
        action="store_true",
        help="a bag without any job of metric scale has a problem",
    )


def run(args: argparse.Namespace) -> int:
    """Run what is not done yet; the exit status is as --fail-on says."""
    from gld_ros.batch.bag_summary import bag_batch
    from gld_ros.batch.inputs import find_bags

    check_batch_arguments(args)
    options = _resolved(BagOptions.of(args))
    return run_batch(
        args,
        bag_batch(require_metric=args.require_metric),
        find_bags(args.inputs, args.out),
        _recorded(options),
        OfflineWork(options),
        threads=options.threads,
        on_gpu=options.snapshot().session.model.device != "cpu",
    )


class OfflineWork:
    """What a worker does with bags: `gld-ros bag`, and an image of the result."""

    def __init__(self, options: BagOptions) -> None:
        self._runner = BagRunner(options)

    def load(self) -> None:
        """Load the model."""
        self._runner.load()

    def run(self, task: "BatchTask") -> dict[str, Any]:
        """Write or replace a bag; its summary. Raises WorkerUnusable if the device is lost."""
        from tqdm import tqdm

        from gld_ros.batch.work import WorkerUnusable
        from gld_ros.mapping.offline_summary import summary_document
        from gld_ros.mapping.synthesizer import DeviceFault

        # A worker that died may have finished the bag before it could say so.
        shutil.rmtree(task.output, ignore_errors=True)
        task.thumbnail.unlink(missing_ok=True)
        try:
            # Workers of Ray have no terminal, so nothing is shown there.
            with tqdm(unit="message", desc=task.name, leave=False, disable=None) as bar:
                summary = self._runner.run(Path(task.source), task.output, shown_on(bar))
        except DeviceFault as error:
            raise WorkerUnusable(str(error)) from error
        if summary.views or summary.depth_images:
            topics = _VIEW_TOPICS if summary.views else _DEPTH_TOPICS
            _write_thumbnail(task.output, task.thumbnail, topics)
        return summary_document(summary)


def _write_thumbnail(bag: Path, path: Path, topics: tuple[str, ...]) -> None:
    from PIL import Image

    from gld_ros.mapping.bag_contact_sheet import contact_sheet

    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(bag, columns=4, cell_width=160, topics=topics)
    Image.fromarray(sheet).save(path, quality=80)


def _resolved(options: BagOptions) -> BagOptions:
    """The options as every worker, wherever it is, has to understand them."""
    import torch

    return replace(
        options,
        bundle=options.bundle and folder_or_name(options.bundle),
        params=options.params and options.params.absolute(),
        threads=options.threads or torch.get_num_threads(),
    )


def _recorded(options: BagOptions) -> dict[str, Any]:
    """All that decides about the outputs, for the manifest. Raises ValueError for what is wrong."""
    from gld_ros import __version__
    from gld_ros.evaluation.totals import bundle_hash
    from gld_ros.weights.bundle import Bundle

    snapshot = options.snapshot()
    bundle = Bundle.open(snapshot.session.model.bundle)
    if bundle.config.random_weights:
        print("WARNING: this bundle has RANDOM weights; its views are meaningless", file=sys.stderr)
    return {
        "gld_ros": __version__,
        "bundle": bundle_hash(bundle)[:16],
        "every": options.every,
        "threads": options.threads,
        "policy_topic": options.policy_topic,
        **{name: list(v) if isinstance(v, tuple) else v for name, v in snapshot.values.items()},
    }
