"""`gld-ros eval-recordings`: many recordings, each judged as `gld-ros eval-recording` would."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gld_ros.cli._batch_run import (
    add_batch_arguments,
    add_threads_argument,
    check_batch_arguments,
    chosen_threads,
    run_batch,
)
from gld_ros.cli._recording_run import (
    RecordingEvaluator,
    RecordingOptions,
    add_recording_options,
)

if TYPE_CHECKING:
    from gld_ros.batch.work import BatchTask

HELP = "evaluate many recordings at withheld frames, on one machine or a cluster"
DESCRIPTION = """\
Evaluate every recording as `gld-ros eval-recording` would and write into OUT: every figure in
reports/NAME.json, one image of each in thumbnails/, manifest.json, summary.csv and index.html.
The same command resumes after a stop: finished recordings are kept, failed or changed ones are run
again.

RECORDING is a bag, a scene folder, a folder that contains some of these, a glob, or @FILE with one
of these per line. A recording with a rejected goal counts as one with a problem.

With Ray (pip install ray pyarrow) recordings run on workers, as for `gld-ros bags`. With
pyarrow the table is also written as summary.parquet.
"""

EXAMPLES = """\
examples:
  gld-ros eval-recordings tours/ --out judged
  gld-ros eval-recordings 'monday/*.mcap' --goals 8 --out judged --workers 2 --threads 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `gld-ros eval-recordings`."""
    parser.add_argument("recordings", nargs="+", metavar="RECORDING", help="see above")
    add_recording_options(parser)
    add_threads_argument(parser)
    add_batch_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate what is not done yet; the exit status is as --fail-on says."""
    from gld_ros.batch.inputs import find_recordings
    from gld_ros.evaluation.summaries import recording_batch

    check_batch_arguments(args)
    options, threads = RecordingOptions.of(args), chosen_threads(args)
    return run_batch(
        args,
        recording_batch(),
        find_recordings(args.recordings, args.out),
        options.to_json() | {"threads": threads},
        RecordingWork(options, threads),
        threads=threads,
        on_gpu=options.snapshot().session.model.device != "cpu",
    )


class RecordingWork:
    """What a worker does with recordings: `gld-ros eval-recording`, its figures and an image."""

    def __init__(self, options: RecordingOptions, threads: int) -> None:
        self._evaluator, self._threads = RecordingEvaluator(options), threads

    def load(self) -> None:
        """Load the model."""
        import torch

        torch.set_num_threads(self._threads)
        self._evaluator.load()

    def run(self, task: "BatchTask") -> dict[str, Any]:
        """Write figures and image of one item; return its summary. Raises WorkerUnusable."""
        from gld_ros.batch.work import WorkerUnusable
        from gld_ros.evaluation.recording_figures import recording_figures, write_recording_grid
        from gld_ros.evaluation.report import write_json
        from gld_ros.evaluation.summaries import recording_summary
        from gld_ros.mapping.synthesizer import DeviceFault

        task.thumbnail.parent.mkdir(parents=True, exist_ok=True)
        task.thumbnail.unlink(missing_ok=True)
        try:
            runs = list(self._evaluator.runs(Path(task.source)))
        except DeviceFault as error:
            raise WorkerUnusable(str(error)) from error
        figures = [recording_figures(one) for one in runs]
        write_recording_grid(runs, task.thumbnail)
        write_json(task.output, figures)
        return recording_summary(figures)
