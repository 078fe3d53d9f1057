"""`gld-ros evals`: many scenes, each judged as `gld-ros eval` would."""

import argparse
from typing import TYPE_CHECKING, Any

from gld_ros.cli._batch_run import (
    add_batch_arguments,
    add_threads_argument,
    check_batch_arguments,
    chosen_threads,
    run_batch,
)
from gld_ros.cli._eval_run import EvaluationOptions, Evaluator, add_evaluation_options

if TYPE_CHECKING:
    from gld_ros.batch.work import BatchTask

_IMAGE_ROWS = 2  # scenes in the image of each item

HELP = "evaluate many scenes, each on its own, on one machine or a cluster"
DESCRIPTION = """\
Evaluate every scene as `gld-ros eval` would, each on its own, and write into OUT: every figure in
reports/NAME.json, one image of each in thumbnails/, manifest.json, summary.csv and index.html.
The same command resumes after a stop: finished scenes are kept, failed or changed ones are run
again.

DATA is what `gld-ros eval --data` takes; a folder stands for all bags, scene folders and stores
below it, and a glob or @FILE, with one entry per line, for several.

With Ray (pip install ray pyarrow) scenes run on workers, as for `gld-ros bags`. With
pyarrow the table is also written as summary.parquet.
"""

EXAMPLES = """\
examples:
  gld-ros evals rooms:narrow:64 rooms:wide:64 rooms:look_around:64 --out judged
  gld-ros evals scenes/ 'bags/*.mcap' --references 2 --targets 2 --out judged
  gld-ros evals @held_out.txt --bundle runs/encoder/export --out judged --workers 2 --threads 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `gld-ros evals`."""
    parser.add_argument("data", nargs="+", metavar="DATA", help="scenes, see above")
    add_evaluation_options(parser)
    add_threads_argument(parser)
    add_batch_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate what is not done yet; the exit status is as --fail-on says."""
    from gld_ros.batch.inputs import find_held_out
    from gld_ros.evaluation.summaries import held_out_batch
    from gld_ros.scenes.layouts import LAYOUTS
    from gld_ros.scenes.rendered import KINDS

    check_batch_arguments(args)
    options, threads = EvaluationOptions.of(args), chosen_threads(args)
    return run_batch(
        args,
        held_out_batch(),
        find_held_out(args.data, args.out, (*KINDS, *LAYOUTS)),
        options.to_json() | {"threads": threads},
        HeldOutWork(options, threads),
        threads=threads,
        on_gpu=options.device != "cpu",
    )


class HeldOutWork:
    """What a worker does with scenes: `gld-ros eval`, its report as JSON and an image."""

    def __init__(self, options: EvaluationOptions, threads: int) -> None:
        self._evaluator, self._threads = Evaluator(options, _IMAGE_ROWS), threads

    def load(self) -> None:
        """Load the model."""
        import torch

        torch.set_num_threads(self._threads)
        self._evaluator.load()

    def run(self, task: "BatchTask") -> dict[str, Any]:
        """Write report and image of one item and return its summary."""
        from PIL import Image

        from gld_ros.evaluation.report import write_json
        from gld_ros.evaluation.summaries import held_out_summary

        task.thumbnail.unlink(missing_ok=True)
        evaluation = self._evaluator.run(task.source)
        if evaluation.examples:
            task.thumbnail.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(self._evaluator.grid(evaluation)).save(task.thumbnail, quality=80)
        write_json(task.output, evaluation.report)
        return held_out_summary(evaluation.report)
