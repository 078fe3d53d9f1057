"""`gld-ros demo`: node, player and goals in separate processes, and images of the results."""

import argparse
from pathlib import Path

HELP = "play a bag to the node, request views at withheld frames, write images"
DESCRIPTION = """\
Start gld_node and a player as processes, play a bag in real time (default: a tour of a held-out
procedural room, rendered on first use), and send action goals at the poses of frames that are
withheld from the node. Any bag with images, CameraInfo and TF works. Exit status 0 only if every
goal was answered and every product arrived, and, on that tour with the embedded bundle, views and
depth are of the expected quality.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros demo`."""
    parser.add_argument("--bag", type=Path, help="bag to play instead of the procedural room")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/demo"),
        help="folder for the products (default: out/demo)",
    )
    parser.add_argument("--bundle", default="tiny", help="weights: name or folder (default: tiny)")
    parser.add_argument("--goals", type=int, default=4, help="frames to withhold (default: 4)")
    parser.add_argument(
        "--rate", type=float, default=1.0, help="playback speed; 1 is real time (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demonstration."""
    from gld_ros.demo.run import DemoOptions, run_demo

    return run_demo(DemoOptions(args.bag, args.out, args.bundle, args.goals, args.rate))
