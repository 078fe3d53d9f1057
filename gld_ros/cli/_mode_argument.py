"""`--mode`: views or only depth, for commands that run a bundle."""

import argparse


def add_mode_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `mode`."""
    parser.add_argument(
        "--mode",
        choices=("auto", "views", "depth"),
        help="imagine views, or only give every image its depth; auto: views, unless the bundle "
        "has only a geometry backbone (default: the parameter mode, which is auto)",
    )
