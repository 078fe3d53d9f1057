"""Folders that appear complete or not at all, and come back when a replacement was stopped."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gld_ros.weights.errors import BundleError


@contextmanager
def new_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """A hidden folder beside `folder` to write into; takes its place when the block succeeds.

    On an error `folder` is as it was. After a kill it is as it was, or, for one that is replaced,
    comes back with `restore_folder`. What killed writers left beside it is removed by the next one.
    Raises BundleError if it exists and `overwrite` is not set.
    """
    restore_folder(folder)
    if folder.exists() and not overwrite:
        raise BundleError(f"{folder} exists; choose another folder or allow overwriting it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}.partial-"
    for other in folder.parent.glob(f"{prefix}*"):
        _remove_unless_in_use(other)
    partial = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    replaced = _replaced(folder)
    lock = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield partial
        partial.chmod(0o755)
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        os.close(lock)
        shutil.rmtree(partial, ignore_errors=True)
        restore_folder(folder)


def restore_folder(folder: Path) -> None:
    """Bring back a folder whose replacement was stopped between taking it away and the new one."""
    replaced = _replaced(folder)
    if replaced.is_dir() and not folder.exists():
        replaced.rename(folder)


def _remove_unless_in_use(partial: Path) -> None:
    """Remove a hidden folder whose writer, which held a lock on it, has ended."""
    try:
        lock = os.open(partial, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(partial, ignore_errors=True)
    except OSError:
        pass  # another process is writing it
    finally:
        os.close(lock)


def _replaced(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")
