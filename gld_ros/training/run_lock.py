"""One process per run folder: a lock that the operating system releases when its holder ends."""

import fcntl
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gld_ros.training.distributed import Ranks, all_ranks_agree

LOCK_FILE = "run.lock"


class RunFolderInUse(ValueError):
    """Another process trains in this run folder; the text names it."""


@contextmanager
def run_folder_lock(folder: Path, ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Hold `folder` for this run, through its first process; raises RunFolderInUse.

    The file stays behind; whether it is locked is what counts, so a killed run needs no clean-up.
    """
    if not ranks.is_first:
        if not all_ranks_agree(True, ranks, device):
            raise RunFolderInUse(f"{folder} is in use; the first process of this run names by whom")
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "a process that has not written its name yet"
            all_ranks_agree(False, ranks, device)
            raise RunFolderInUse(
                f"{folder} is in use by {holder}. Wait for it, stop it, or choose another --run "
                "folder."
            ) from error
        all_ranks_agree(True, ranks, device)
        file.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        command = shlex.join(sys.argv)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {started}: {command}\n")
        file.flush()
        yield
