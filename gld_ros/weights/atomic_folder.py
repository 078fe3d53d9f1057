"""Folders that appear complete or not at all, and are restored after an interrupted replacement."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gld_ros.partial_folder import PartialFolder
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
    partial = PartialFolder(folder)
    replaced = _replaced(folder)
    try:
        yield partial.path
        partial.path.chmod(0o755)
        if folder.exists():
            folder.rename(replaced)
        partial.path.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        partial.close()
        restore_folder(folder)


def restore_folder(folder: Path) -> None:
    """Bring back a folder whose replacement was stopped between taking it away and the new one."""
    replaced = _replaced(folder)
    if replaced.is_dir() and not folder.exists():
        replaced.rename(folder)


def _replaced(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")
