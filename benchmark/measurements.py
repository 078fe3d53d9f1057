"""What measurements of the targets are worth: hidden pixels with and without them.

    python benchmark/measurements.py --bundle tiny --data rooms:look_around:32

Several --data may be named, also furnished:FOLDER?paths=look_around:COUNT and
meshes:WORLD.glb?paths=look_around:COUNT. The references' true depth is what was measured, as by a
depth camera. Figures are of pixels that no reference sees, from fixed seeds: colour, depth order
and depth error of the model alone, of the model shown the measurements (where the bundle reads
them), of both joined with the measured pixels as a robot publishes them, and of measured pixels
with OpenCV's inpainting. `gld-ros eval --measurements` prints the whole report.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from gld_ros.evaluation import methods
from gld_ros.evaluation.held_out import ViewPlan, open_held_out
from gld_ros.evaluation.model_runs import EvaluatedModel
from gld_ros.evaluation.run import evaluate
from gld_ros.evaluation.totals import EvaluationSettings
from gld_ros.weights.bundle import Bundle

ROWS = (
    methods.GENERATED,
    methods.GENERATED_SHOWN,
    methods.JOINED,
    methods.JOINED_SHOWN,
    methods.INPAINTED,
    methods.WARP,
    methods.MEAN_COLOUR,
    methods.MEAN_DEPTH,
)
COLUMNS = (
    ("psnr_hidden", "PSNR dB", 1, 2),
    ("ordinal_hidden", "order %", 100, 1),
    ("abs_rel_median_hidden", "AbsRel", 1, 3),
    ("psnr", "PSNR, all", 1, 2),
)


def main() -> None:
    """Evaluate on every data set and print one table each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="tiny", help="folder or name (default: %(default)s)")
    parser.add_argument("--data", nargs="+", required=True, help="as of gld-ros eval")
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    bundle = Bundle.open(args.bundle)
    model = EvaluatedModel(bundle, device, dtype)
    if not bundle.config.reads_measurements:
        print(f"bundle {args.bundle!r} reads no measurements; rows without them alone")
    settings = EvaluationSettings(first_seed=args.first_seed, measurements=True)
    for data in args.data:
        held_out = open_held_out(data, ViewPlan(2, 2), bundle.config.resolutions_hw)
        print(table(evaluate(model, held_out, settings).report), flush=True)


def table(report: dict[str, Any]) -> str:
    """Hidden pixels of one data set, a row per method."""
    data = report["data"]
    hidden = data["hidden_share"]
    known = "unknown" if hidden is None else f"{hidden:.1%}"
    rows = [method for method in ROWS if method in report["views"]]
    width = max(map(len, rows))
    lines = [
        f"{data['name']}: {data['scenes']} scenes, hidden {known}; hidden pixels, then all",
        " " * width + "".join(f"  {head:>9}" for _, head, *_ in COLUMNS),
    ]
    for method in rows:
        cells = []
        for metric, _, factor, digits in COLUMNS:
            mean = report["views"][method].get(metric, {}).get("mean")
            cells.append("-" if mean is None else f"{factor * mean:.{digits}f}")
        lines.append(f"{method:<{width}}" + "".join(f"  {cell:>9}" for cell in cells))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
