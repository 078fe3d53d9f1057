"""Arguments that several commands take, so that they mean and say the same everywhere.

Arguments of two commands that do the same work stay with that work: `_bag_run`, `_eval_run`,
`_recording_run`, `_batch_run`.
"""

import argparse
from pathlib import Path

from gld_ros.diffusion.presets import PRESET_NAMES

SIZE_FORM = "WxH"


def add_mode_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `mode`: views or only depth."""
    parser.add_argument(
        "--mode",
        choices=("auto", "views", "depth"),
        help="imagine views, or only give every image its depth; auto: views, unless the bundle "
        "has only a geometry backbone (default: the parameter mode, which is auto)",
    )


def add_preset_argument(
    parser: argparse._ActionsContainer,
    *,
    default: str | None = "published",
    says: str = "published",
) -> None:
    """Declare `preset`: how views are sampled; `says` tells the default."""
    parser.add_argument(
        "--preset",
        default=default,
        choices=PRESET_NAMES,
        help=f"how views are sampled (default: {says})",
    )


def add_parameter_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the node's parameters: a file as `params`, NAME=VALUE as `overrides`."""
    parser.add_argument("--params", type=Path, help="ROS parameter file, as for the node")
    add_set_argument(parser, "override a parameter; `gld-ros params` lists them")


def add_set_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare `overrides`, a list of NAME=VALUE; `what` is the help."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides", help=what
    )


def size_hw(text: str) -> tuple[int, int]:
    """Height and width in pixels of a size that was typed as WxH; a `type` for argparse.

    Raises ArgumentTypeError, which says the form.
    """
    width, cross, height = text.lower().partition("x")
    if not cross or not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; write width and height in pixels as {SIZE_FORM}, such as 112x84"
        )
    if not (int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r}: width and height need at least 1 pixel")
    return int(height), int(width)


def folder_or_name(bundle: str) -> str:
    """A bundle as processes in any folder understand it: its absolute path, or its name."""
    return str(Path(bundle).absolute()) if Path(bundle).is_dir() else bundle


def check_output_files(*paths: Path | None) -> None:
    """Raise ValueError where the folder of a file to write does not exist."""
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"{path}: the folder to write it into does not exist")
