"""A hidden folder to write into, renamed when complete; leftovers of killed writers are removed."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path


class PartialFolder:
    """An empty folder at `path`, beside `final`, locked from the start until `close`.

    What writers of the same name left when they were killed is removed first; what another process
    writes now stays.
    """

    def __init__(self, final: Path) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final)
        self.path = Path(tempfile.mkdtemp(prefix=_prefix(final), dir=final.parent))
        self._lock = os.open(self.path, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove what is still there."""
        os.close(self._lock)
        shutil.rmtree(self.path, ignore_errors=True)


def remove_leftovers(final: Path) -> None:
    """Remove what killed writers of `final` left beside it, as the next writer would."""
    for other in final.parent.glob(f"{_prefix(final)}*"):
        _remove_unless_in_use(other)


def _prefix(final: Path) -> str:
    return f".{final.name}.partial-"


def _remove_unless_in_use(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # another process is writing it
    finally:
        os.close(lock)
