"""`--params` and `--set`: the node's parameters, for commands that run its session."""

import argparse
from pathlib import Path


def add_parameter_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare a parameter file as `params` and overrides NAME=VALUE as `overrides`."""
    parser.add_argument("--params", type=Path, help="ROS parameter file, as for the node")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="overrides",
        help="override a parameter; `gld-ros params` lists them",
    )
