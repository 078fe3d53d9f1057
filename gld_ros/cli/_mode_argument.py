"""`--mode`: views or depth alone, for commands that run a bundle."""

import argparse


def add_mode_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `mode`."""
    parser.add_argument(
        "--mode",
        choices=("auto", "views", "depth"),
        help="imagine views, or give every image its depth and no more; auto: views, unless the "
        "bundle holds a geometry backbone alone (default: the parameter mode, which is auto)",
    )
