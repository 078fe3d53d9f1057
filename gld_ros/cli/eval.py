"""`gld-ros eval`: imagined views against withheld frames, next to baseline methods."""

import argparse
from pathlib import Path

from gld_ros.cli._arguments import check_output_files
from gld_ros.cli._eval_run import EvaluationOptions, Evaluator, add_evaluation_options

HELP = "compare imagined views with withheld frames, next to baselines"
DESCRIPTION = """\
Give the model some frames of every scene (references), withhold others (targets), let it imagine
views at the withheld cameras and compare them. Baselines on the same views: copying the nearest
reference, warping the references with their TRUE depth, the mean colour. Control: the same model
with wrong target poses, which shows whether it follows the cameras.
Pixels that no reference sees are reported separately if the data has depth.

DATA is one of
  rooms:DOMAIN[:COUNT]   procedural rooms of the test split (narrow, medium, wide, look_around,
                         look_around_wide); look_around hides a quarter or more of every target
  furnished:DIR[:COUNT]  rooms with the held-out furniture of a folder
  meshes:FILE[:COUNT]    a mesh world; like furnished:, it takes ?paths=look_around after its name
  FOLDER                 a scene folder (cameras.json, images/, depth/), a folder of them,
                         or a store of `gld-ros scenes store`
  BAG                    a ROS 2 bag with images, CameraInfo and TF
  LAYOUT:PATH            a preprocessed dataset (re10k, dl3dv, hypersim, tartanair)

Frames that cannot be used are skipped and counted. Figures that need true depth say "no truth" if
there is none.
"""

EXAMPLES = """\
examples:
  gld-ros eval --data rooms:narrow:64 --images narrow.png
  gld-ros eval --data rooms:look_around:32 --seeds 4 --json look_around.json
  gld-ros eval --data rooms:look_around:32 --measurements
  gld-ros eval --data meshes:site.glb:32
  gld-ros eval --data recordings/lounge/bag --references 2 --targets 2 --every 5
  gld-ros eval --bundle runs/encoder/export --data rooms:narrow:32 --real-features
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `gld-ros eval`."""
    parser.add_argument("--data", required=True, help="what to evaluate on, see above")
    add_evaluation_options(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--json", type=Path, metavar="FILE", help="write every figure and setting")
    out.add_argument("--images", type=Path, metavar="FILE.png", help="write an image grid")
    out.add_argument("--rows", type=int, default=8, help="scenes in the image grid (default: 8)")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the report; 0 if it is complete."""
    from PIL import Image

    from gld_ros.evaluation.report import table, write_json

    check_output_files(args.json, args.images)
    images = 0 if args.images is None else args.rows
    evaluator = Evaluator(EvaluationOptions.of(args), images)
    config = evaluator.load().bundle.config
    if config.random_weights:
        print(f"bundle {config.name!r} has RANDOM WEIGHTS: figures will mean nothing")
    evaluation = evaluator.run(args.data)
    print(table(evaluation.report))
    if args.json is not None:
        write_json(args.json, evaluation.report)
        print(f"figures  {args.json}")
    if args.images is not None:
        Image.fromarray(evaluator.grid(evaluation)).save(args.images)
        print(f"images   {args.images}")
    return 0
