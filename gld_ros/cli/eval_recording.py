"""`gld-ros eval-recording`: what a robot would have published at withheld frames of a recording."""

import argparse
from collections.abc import Callable
from pathlib import Path

from gld_ros.cli._arguments import check_output_files
from gld_ros.cli._recording_run import (
    RecordingEvaluator,
    RecordingOptions,
    add_recording_options,
)

HELP = "compare what would be published at withheld frames of a recording with the truth"
DESCRIPTION = """\
Withhold frames of a recording and everything within half a second of them, give all other frames
to the node's session, and request views at the withheld cameras. Compare what would be published
(the composite of measured and imagined pixels) with the withheld images, next to the measured
surfaces with OpenCV's inpainting (no network), the model alone, a copy of the nearest given frame,
and the mean colour. If the recording has depth, published depth is compared without rescaling.

RECORDING is a scene folder, a folder of them, or a ROS 2 bag with images, CameraInfo and TF.
"""

EXAMPLES = """\
examples:
  gld-ros eval-recording lounge/bag --images lounge.png
  gld-ros eval-recording tours/hospital --goals 8 --set depth.source=stereo --json hospital.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `gld-ros eval-recording`."""
    parser.add_argument("recording", type=Path, metavar="RECORDING")
    add_recording_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--images", type=Path, metavar="FILE.png", help="write an image grid")


def run(args: argparse.Namespace) -> int:
    """Evaluate every recording; 1 if a goal of one was rejected."""
    from tqdm import tqdm

    from gld_ros.evaluation.recording_figures import (
        figures_table,
        recording_figures,
        write_recording_grid,
    )
    from gld_ros.evaluation.report import write_json

    check_output_files(args.json, args.images)
    evaluator = RecordingEvaluator(RecordingOptions.of(args))
    if evaluator.load().random_weights:
        print("WARNING: this bundle has RANDOM weights; what it imagines means nothing")
    reports, runs = [], []
    with tqdm(disable=None) as bar:

        def watch(name: str) -> Callable[[str, int, int], None]:
            bar.set_description(name)

            def show(stage: str, done: int, total: int) -> None:
                if total != bar.total:
                    bar.reset(total)
                bar.set_postfix_str(stage, refresh=False)
                bar.update(done - bar.n)

            return show

        for run_of_one in evaluator.runs(args.recording, watch):
            runs.append(run_of_one)
            reports.append(recording_figures(run_of_one))
            bar.clear()
            print(figures_table(reports[-1]), flush=True)
    if args.json is not None:
        write_json(args.json, reports)
        print(f"figures  {args.json}")
    if args.images is not None:
        write_recording_grid(runs, args.images)
        print(f"images   {args.images}")
    return 1 if any(report["rejected"] for report in reports) else 0
