"""`gld-ros train`: one command per training job, resumable, on rooms or recorded scenes."""

import argparse
import sys
from pathlib import Path

STAGES = {
    "encoder": "a small geometric encoder from nothing, on scenes with depth",
    "statistics": "mean and variance of the encoder's features",
    "decoder": "features to RGB (and the depth head, for missing levels)",
    "level1": "multi-view diffusion of level-1 features",
    "cascade": "diffusion of level 0, conditioned on level 1",
    "distill": "a student of one of these two that samples in 1 to 4 calls",
}

_DESCRIPTION = """\
Train one part of GLD. Jobs build on each other through bundles: each writes RUN/export, a bundle
with its own part and all earlier parts, which the next job takes as --bundle. The small model from
scratch, where C stands for config/train/tiny:

  gld-ros scenes store runs/data/narrow --domain narrow --count 16000
  gld-ros train encoder --config C/encoder_small.yaml --model C/model --run runs/encoder
  gld-ros train statistics --config C/statistics.yaml --bundle runs/encoder/export --run runs/stats
  gld-ros train decoder --config C/decoder.yaml --model C/model --bundle runs/stats/export \\
                        --run runs/decoder
  gld-ros train level1 --config C/level1_small.yaml --model C/model --bundle runs/decoder/export \\
                       --run runs/level1

The jobs encoder and level1 train on small images here; encoder.yaml and level1.yaml continue at
full size, see docs/training.md.

A student that samples in two calls, from any bundle that can imagine views:

  gld-ros train distill --config C/distill.yaml --bundle runs/level1/export --run runs/distill

The same command resumes after a stop, a kill or --max-minutes. To fine-tune, give --bundle any
bundle, including the converted published weights. Several processes:

  torchrun --nproc-per-node 8 -m gld_ros.cli.main train level1 ...
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Declare the arguments of `gld-ros train`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        help=f"train one part of GLD ({', '.join(STAGES)})",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser, STAGES)
    return parser


def add_arguments(parser: argparse.ArgumentParser, stages: dict[str, str]) -> None:
    """Declare stage, configuration, run folder and the rest; `stages` maps names to their help."""
    parser.add_argument(
        "stage", choices=list(stages), help="; ".join(f"{k}: {v}" for k, v in stages.items())
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the job")
    parser.add_argument(
        "--run", type=Path, required=True, dest="run_folder", help="folder of checkpoints and logs"
    )
    parser.add_argument("--bundle", help="bundle to build on or to fine-tune: folder or name")
    parser.add_argument(
        "--model", type=Path, help="folder with the config.json of a new model's sizes"
    )
    parser.add_argument(
        "--recordings",
        nargs="+",
        default=[],
        metavar="PATH",
        help="bags or scene folders to learn from, in place of those of the config",
    )
    parser.add_argument(
        "--held-out",
        nargs="+",
        default=[],
        metavar="PATH",
        help="recordings to validate on, never learned from",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="overrides",
        help="override a value of the config, e.g. --set optimizer.learning_rate=3e-4",
    )
    parser.add_argument(
        "--max-minutes",
        type=float,
        default=float("inf"),
        help="save a checkpoint and stop after this time",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def run(args: argparse.Namespace) -> int:
    """Run or resume the job; exit status 0 also when the time limit stopped it, saved."""
    from gld_ros.training.environment import restart_with_tuned_allocator

    restart_with_tuned_allocator(["-m", "gld_ros.cli.main", *sys.argv[1:]])
    from gld_ros.training.jobs import run_job

    return run_job(args)
