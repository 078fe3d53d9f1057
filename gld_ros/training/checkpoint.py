"""Checkpoints of a training run: atomic, with a checksum, and tied to their configuration."""

import errno
import hashlib
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT_VERSION = 1
CHECKSUM_BYTES = 64  # SHA-256 in hex, at the end of the file


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or that does not fit the run."""


def random_states() -> dict[str, Any]:
    """Return the states of every global random generator as plain, safely loadable values."""
    state: Any = np.random.get_state()
    kind, keys, position, has_gauss, cached = state
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "python": [random.getstate()[0], list(random.getstate()[1]), random.getstate()[2]],
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Undo `random_states`."""
    torch.set_rng_state(states["torch"])
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(temporary_path)` and rename the result to `path` once it is safely on disk.

    Raises CheckpointError when the disk is full; the previous file then still stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise CheckpointError(
                f"no space left for {path}; free some and resume: the previous checkpoint is intact"
            ) from error
        # torch.save reports a short write as a RuntimeError of its zip writer.
        raise CheckpointError(f"could not write {path}: {error}") from error


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that `path` is always either the old or the new complete file."""

    def write(temporary: Path) -> None:
        torch.save({"format": FORMAT_VERSION, **state}, temporary)
        append_checksum(temporary)

    write_atomically(path, write)


def append_checksum(path: Path) -> None:
    """End a file of `torch.save` with the SHA-256 of its content.

    The file is a zip archive and stays one: the digits are its comment, whose length is the last
    two bytes before it.
    """
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", CHECKSUM_BYTES))
        file.seek(0)
        digest = hashlib.sha256()
        while block := file.read(1 << 22):
            digest.update(block)
        file.seek(0, os.SEEK_END)
        file.write(digest.hexdigest().encode())


def check_checksum(path: Path) -> None:
    """Raise CheckpointError unless the file ends with the SHA-256 of what comes before."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        remaining = max(path.stat().st_size - CHECKSUM_BYTES, 0)
        while remaining and (block := file.read(min(remaining, 1 << 22))):
            digest.update(block)
            remaining -= len(block)
        recorded = file.read()
    if recorded != digest.hexdigest().encode():
        raise CheckpointError(
            f"{path} is damaged: its checksum (SHA-256) does not match its content, or it was "
            "written by a version without checksums. Restore the file from a copy, or delete it "
            "to start from the beginning."
        )


def load_checkpoint(path: Path, *, config: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint onto the CPU and check that it belongs to `config`.

    Raises CheckpointError that names the differing configuration fields, or the damage.
    """
    check_checksum(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT_VERSION:
        raise CheckpointError(f"{path} is not a checkpoint of format {FORMAT_VERSION}")
    if "config" not in state:
        raise CheckpointError(f"{path} is no whole checkpoint: it has no configuration")
    different = differing_fields(state["config"], config)
    if different:
        raise CheckpointError(
            f"{path} was written by another configuration; differing: {', '.join(different)}. "
            "Restore these values, or choose another run folder."
        )
    return dict(state)


def differing_fields(left: Any, right: Any, prefix: str = "") -> list[str]:
    """Return the dotted names under which two nested configurations differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        names: list[str] = []
        for key in sorted(left.keys() | right.keys()):
            names += differing_fields(left.get(key), right.get(key), f"{prefix}{key}.")
        return names
    return [] if left == right else [f"{prefix.rstrip('.')} ({left!r} there, {right!r} here)"]
