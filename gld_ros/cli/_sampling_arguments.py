"""`--preset`: how views are sampled, for commands that run a model."""

import argparse

from gld_ros.diffusion.presets import PRESET_NAMES


def add_preset_argument(parser: argparse._ActionsContainer) -> None:
    """Declare `preset`."""
    parser.add_argument(
        "--preset",
        default="published",
        choices=PRESET_NAMES,
        help="how views are sampled (default: published)",
    )
