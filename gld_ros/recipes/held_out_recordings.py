"""Recordings of a site, those to learn from and the one held out, which must share no frame."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gld_ros.evaluation.held_out import recording_kind
from gld_ros.scenes.datasets import open_recordings
from gld_ros.scenes.recording import Recording, RecordingError

POSE_DECIMALS = 6  # poses that agree so far may belong to one frame; its pixels decide
FRAMES_COMPARED = 20  # a robot that stands still has many frames of one pose


class OverlapError(ValueError):
    """The held-out recording shares frames with those that are learned from."""


def open_site_recordings(paths: Sequence[Path]) -> dict[Path, list[Recording]]:
    """Recordings of bags and scene folders by path; RecordingError for what cannot be opened."""
    opened = {}
    for path in paths:
        if not path.exists():
            raise RecordingError(f"{path} does not exist; give a bag or a scene folder")
        opened[path] = open_recordings(recording_kind(path), path)
    return opened


def refuse_overlap(
    learned: dict[Path, list[Recording]], held_out: Path, held_out_recordings: list[Recording]
) -> None:
    """Raise OverlapError when `held_out` is one of the learned recordings, or shares frames."""
    place = held_out.resolve()
    for path, recordings in learned.items():
        other = path.resolve()
        if place == other or place in other.parents or other in place.parents:
            raise OverlapError(
                f"the held-out recording {held_out} is {path}, which is learned from; hold out "
                "another drive"
            )
        for recording in recordings:
            for held in held_out_recordings:
                shared = shared_frame(recording, held)
                if shared is not None:
                    raise OverlapError(
                        f"the held-out recording {held_out} shares frames with {path}: its frame "
                        f"{shared[1]} is frame {shared[0]} there; hold out another drive"
                    )


def shared_frame(one: Recording, other: Recording) -> tuple[int, int] | None:
    """Numbers of a frame of both recordings: same pose, same pixels; None where there is none."""
    poses = {key: i for i, key in enumerate(_pose_keys(one))}
    pairs = [(poses[key], i) for i, key in enumerate(_pose_keys(other)) if key in poses]
    step = max(1, len(pairs) // FRAMES_COMPARED)
    for first, second in pairs[::step]:
        try:
            left, right = one.load(first).rgb, other.load(second).rgb
        except RecordingError:
            continue  # an unreadable frame is learned from by nobody
        if left.shape == right.shape and np.array_equal(left, right):
            return first, second
    return None


def _pose_keys(recording: Recording) -> list[bytes]:
    rounded = np.round(np.asarray(recording.T_world_cam, dtype=np.float64), POSE_DECIMALS)
    return [(pose + 0.0).tobytes() for pose in rounded]  # -0.0 is 0.0


def shown_name(path: Path) -> str:
    """The name of a recording; a folder called "bag" is told by the one around it."""
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == "bag" else resolved.name
