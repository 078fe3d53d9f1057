"""Withheld frames of recordings, as `gld-ros eval-recording` and the workers of a batch run them.

Owns what the options of both commands mean.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gld_ros import __version__
from gld_ros.cli._arguments import add_parameter_arguments, folder_or_name

if TYPE_CHECKING:
    from gld_ros.evaluation.recordings import RecordingRun
    from gld_ros.mapping.model import LoadedModel
    from gld_ros.ros.parameters.snapshot import Snapshot

_Watch = Callable[[str, int, int], None]  # stage, done, total


def add_recording_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that decide about the figures."""
    parser.add_argument("--bundle", default="tiny", help="folder or name (default: %(default)s)")
    parser.add_argument("--goals", type=int, default=4, help="frames withheld (default: 4)")
    add_parameter_arguments(parser)


@dataclass(frozen=True)
class RecordingOptions:
    """What decides, besides the recording, about the figures."""

    bundle: str
    goals: int
    params: Path | None
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, args: argparse.Namespace) -> "RecordingOptions":
        """The options of a command line. Raises ValueError for fewer than one goal."""
        if args.goals < 1:
            raise ValueError(f"--goals is {args.goals}; at least 1 is needed")
        params = args.params and args.params.absolute()
        return cls(folder_or_name(args.bundle), args.goals, params, tuple(args.overrides))

    def snapshot(self) -> "Snapshot":
        """All parameters under these options. Raises ParameterError."""
        from gld_ros.ros.parameters.files import load_snapshot

        return load_snapshot(self.params, [f"model.bundle={self.bundle}", *self.overrides])

    def to_json(self) -> dict[str, Any]:
        """The options for a manifest, the bundle by what is in it. Raises ValueError."""
        from gld_ros.evaluation.totals import bundle_hash
        from gld_ros.weights.bundle import Bundle

        snapshot = self.snapshot()
        bundle = Bundle.open(snapshot.session.model.bundle)
        return {
            "gld_ros": __version__,
            "bundle": bundle_hash(bundle)[:16],
            "goals": self.goals,
            **{name: list(v) if isinstance(v, tuple) else v for name, v in snapshot.values.items()},
        }


class RecordingEvaluator:
    """Evaluates recordings with the same options one after the other; the model is loaded once."""

    def __init__(self, options: RecordingOptions) -> None:
        self._options = options
        self._model: LoadedModel | None = None

    def load(self) -> "LoadedModel":
        """The model, loaded at the first call. Raises ModelUnavailable or ParameterError."""
        if self._model is None:
            from gld_ros.mapping.model import load_model

            self._model = load_model(replace(self._options.snapshot().session, mode="views"))
        return self._model

    def runs(
        self, path: Path, watch: "Callable[[str], _Watch]" = lambda name: lambda *_: None
    ) -> "Iterator[RecordingRun]":
        """Run every recording at a path; `watch` is told its name and returns what is told of it.

        Raises ValueError for what is no recording.
        """
        from gld_ros.evaluation.held_out import recording_kind
        from gld_ros.evaluation.recordings import run_recording
        from gld_ros.scenes.datasets import open_recordings

        parameters = self._options.snapshot().session
        for recording in open_recordings(recording_kind(path), path):
            show = watch(recording.scene_id)
            yield run_recording(recording, self.load(), parameters, self._options.goals, show)
