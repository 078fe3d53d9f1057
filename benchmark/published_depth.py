"""Depth that is published of real images, against the recording's own depth.

    python benchmark/published_depth.py RECORDING ... [--bundle tiny] [--set NAME=VALUE]

Shows every frame of a recording to the node's session and asks for the observed products of every
keyframe: what stereo measured, in this keyframe and carried from others, and what the model
completes. RECORDING is a scene folder or bag with depth, which serves only as truth. Coverage is
the share of pixels with known true depth.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.evaluation.held_out import recording_kind
from gld_ros.evaluation.recordings import keyframes_as_published
from gld_ros.mapping.model import LoadedModel, load_model
from gld_ros.mapping.parameters import SessionParameters
from gld_ros.mapping.provenance import Provenance
from gld_ros.ros.parameters.files import load_snapshot
from gld_ros.scenes.datasets import open_recordings
from gld_ros.scenes.recording import Recording

LABELS = ("MEASURED", "COMPLETED")


def main() -> None:
    """Print one table for all recordings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--bundle", default="tiny", help="folder or name (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    overrides = [f"model.bundle={args.bundle}", "depth.source=stereo", *args.set]
    parameters = load_snapshot(None, overrides).session
    model = load_model(parameters)
    print(f"{'scene':<20}{'label':<11}{'coverage':>9}{'median':>8}{'mean':>8}{'>20 %':>8}")
    for path in args.recordings:
        for recording in open_recordings(recording_kind(path), path):
            errors, known_pixels = published_errors(recording, model, parameters)
            for label, of_label in errors.items():
                print(row(recording.scene_id, label, of_label, known_pixels), flush=True)


def published_errors(
    recording: Recording, model: LoadedModel, parameters: SessionParameters
) -> tuple[dict[str, NDArray[np.floating[Any]]], int]:
    """Relative errors (N,) of published pixels by label, and how many pixels have a known truth."""
    errors: dict[str, list[NDArray[np.floating[Any]]]] = {name: [] for name in LABELS}
    known_pixels = 0
    for depth, labels in keyframes_as_published(recording, model, parameters):
        known = np.isfinite(depth.true_depth_m) & (depth.true_depth_m > 0)
        known_pixels += int(known.sum())
        error = np.abs(depth.depth_m / np.where(known, depth.true_depth_m, 1.0) - 1)
        published = known & np.isfinite(error)
        for name in LABELS:
            errors[name].append(error[published & (labels == Provenance[name])])
    by_label = {name.lower(): np.concatenate(parts) for name, parts in errors.items()}
    return by_label | {"all": np.concatenate(list(by_label.values()))}, known_pixels


def row(scene: str, label: str, error: NDArray[np.floating[Any]], known_pixels: int) -> str:
    """One line of the table; `error` is relative, of published pixels."""
    coverage = f"{error.size / max(known_pixels, 1):.1%}"
    if not error.size:
        return f"{scene:<20}{label:<11}{coverage:>9}"
    figures = (np.median(error), error.mean(), (error > 0.2).mean())
    return f"{scene:<20}{label:<11}{coverage:>9}" + "".join(f"{x:>8.2%}" for x in figures)


if __name__ == "__main__":
    main()
