"""`gld-ros eval`: imagined views against withheld frames, next to baseline methods."""

import argparse
from pathlib import Path

from gld_ros.cli._sampling_arguments import add_preset_argument
from gld_ros.cli._size_argument import SIZE_FORM, size_hw

_DESCRIPTION = """\
Gives the model some frames of every scene (references), withholds others (targets), lets it imagine
views at the withheld cameras and compares them. Baselines on the same views: copying the nearest
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

_EXAMPLES = """\
examples:
  gld-ros eval --data rooms:narrow:64 --images narrow.png
  gld-ros eval --data rooms:look_around:32 --seeds 4 --json look_around.json
  gld-ros eval --data rooms:look_around:32 --measurements
  gld-ros eval --data meshes:site.glb:32
  gld-ros eval --data recordings/lounge/bag --references 2 --targets 2 --every 5
  gld-ros eval --bundle runs/encoder/export --data rooms:narrow:32 --real-features
"""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> argparse.ArgumentParser:
    """Declare `gld-ros eval`."""
    parser = subparsers.add_parser(
        "eval",
        help="compare imagined views with withheld frames, next to baselines",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", default="tiny", help="folder or name (default: %(default)s)")
    parser.add_argument("--data", required=True, help="what to evaluate on, see above")
    views = parser.add_argument_group("views")
    views.add_argument(
        "--references",
        type=int,
        default=2,
        metavar="R",
        help="views given to the model (default: 2)",
    )
    views.add_argument(
        "--targets", type=int, default=2, metavar="T", help="views withheld (default: 2)"
    )
    views.add_argument(
        "--reference-choice",
        choices=("spread", "first"),
        help="references spread over the path with targets between, or first on it with targets "
        "beyond (default: spread; look_around rooms: first)",
    )
    views.add_argument(
        "--every",
        type=int,
        metavar="N",
        help="recordings: frames from one view of a sample to the next (default: 5, or what fits)",
    )
    views.add_argument(
        "--max-scenes",
        type=int,
        metavar="N",
        help="samples to evaluate (default: 64 rooms; of recordings, as many as share no frame)",
    )
    views.add_argument(
        "--size", type=size_hw, metavar=SIZE_FORM, help="image size (default: the bundle's best)"
    )
    model = parser.add_argument_group("model")
    add_preset_argument(model)
    model.add_argument("--steps", type=int, help="sampling steps (default: the preset's)")
    model.add_argument("--guidance", type=float, help="guidance scale (default: the bundle's)")
    model.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="samples per scene; from 2 on their spread is reported. Tables are of the first "
        "(default: 1)",
    )
    model.add_argument("--first-seed", type=int, default=0, help="default: 0")
    model.add_argument(
        "--real-features",
        action="store_true",
        help="also decode the features of the true images: the upper bound of the decoders",
    )
    model.add_argument(
        "--measurements",
        action="store_true",
        help="also targets whose visible part is measured, by the references' true depth, and the "
        "rest the model's or inpainted; needs depth. Bundles that read measurements are shown them",
    )
    model.add_argument("--batch", type=int, default=8, help="scenes at once (default: 8)")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    model.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="precision of denoisers and RGB decoder (default: auto: float32 on a CPU, bfloat16 "
        "elsewhere)",
    )
    out = parser.add_argument_group("output")
    out.add_argument("--json", type=Path, metavar="FILE", help="write every figure and setting")
    out.add_argument("--images", type=Path, metavar="FILE.png", help="write an image grid")
    out.add_argument("--rows", type=int, default=8, help="scenes in the image grid (default: 8)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the report; 0 if it is complete."""
    import torch
    from PIL import Image

    from gld_ros.evaluation.held_out import ViewPlan, open_held_out
    from gld_ros.evaluation.image_grid import image_grid
    from gld_ros.evaluation.model_runs import EvaluatedModel
    from gld_ros.evaluation.report import table, write_json
    from gld_ros.evaluation.run import evaluate
    from gld_ros.evaluation.totals import EvaluationSettings
    from gld_ros.weights.bundle import Bundle
    from gld_ros.weights.tensor_file import DTYPE_NAMES

    for path in (args.json, args.images):
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"{path}: the folder to write it into does not exist")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.device != "auto":
        device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {args.device}: torch sees no CUDA device here; use cpu")
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    if args.dtype != "auto":
        dtype = DTYPE_NAMES[args.dtype]

    bundle = Bundle.open(args.bundle)
    plan = ViewPlan(
        args.references, args.targets, args.reference_choice, args.every, args.max_scenes
    )
    settings = EvaluationSettings(
        num_references=args.references,
        num_targets=args.targets,
        preset=args.preset,
        num_steps=args.steps,
        guidance_scale=args.guidance,
        seeds=args.seeds,
        first_seed=args.first_seed,
        batch_size=args.batch,
        real_features=args.real_features,
        measurements=args.measurements,
        images=0 if args.images is None else args.rows,
    )
    held_out = open_held_out(
        args.data, plan, (args.size,) if args.size else bundle.config.resolutions_hw
    )
    if bundle.config.random_weights:
        print(f"bundle {bundle.config.name!r} has RANDOM WEIGHTS: figures will mean nothing")
    evaluation = evaluate(EvaluatedModel(bundle, device, dtype), held_out, settings)
    print(table(evaluation.report))
    if args.json is not None:
        write_json(args.json, evaluation.report)
        print(f"figures  {args.json}")
    if args.images is not None:
        data = evaluation.report["data"]["name"]
        note = " RANDOM WEIGHTS" if bundle.config.random_weights else ""
        grid = image_grid(evaluation.examples, f"{bundle.config.name}{note} on {data}")
        Image.fromarray(grid).save(args.images)
        print(f"images   {args.images}")
    return 0
