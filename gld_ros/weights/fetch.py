"""Downloads of published files: planned in advance, verified, resumable, never incomplete.

A file being downloaded is called `NAME.part`; it gets its name only when its size and hash are
those the hub states. Nothing here runs unless a person asked for a download.
"""

import errno
import hashlib
import itertools
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gld_ros.weights.catalog import PublishedFile, PublishedModel
from gld_ros.weights.errors import WeightsError
from gld_ros.weights.hub import FetchError, Hub, RemoteFile, Repository, TransientError
from gld_ros.weights.tensor_file import sha256_of

Report = Callable[[str], None]
Progress = Callable[[int], None]  # bytes that arrived since the last call
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # before each further try of a request
Result = TypeVar("Result")


@dataclass(frozen=True)
class PlannedFile:
    """A file to have at `path`; `have_bytes` of it are there, complete or in its part file."""

    repository: Repository
    remote: RemoteFile
    path: Path
    have_bytes: int


@dataclass(frozen=True)
class DownloadPlan:
    """Every file of a model, and how much of it is missing."""

    folder: Path
    files: tuple[PlannedFile, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.remote.size_bytes for file in self.files)

    @property
    def missing_bytes(self) -> int:
        """Bytes that are not here yet."""
        return self.total_bytes - sum(file.have_bytes for file in self.files)


def plan_download(
    model: PublishedModel,
    folder: Path,
    hub: Hub,
    report: Report,
    waits_s: Sequence[float] = WAITS_S,
) -> DownloadPlan:
    """Ask the hub for every file of a catalog entry, and look what is below `folder` already.

    Raises WeightsError for a file that the repository does not have, or a hub out of reach.
    """
    names = dict.fromkeys(file.repository for file in model.files)
    repositories = {
        name: _tried(lambda name=name: hub.repository(name), report, waits_s)  # type: ignore[misc]
        for name in names
    }
    planned = []
    for published in model.files:
        repository = repositories[published.repository]
        remote = _remote(published, repository)
        path = folder / published.folder / remote.path
        here = path if path.is_file() else _part(path)
        have = here.stat().st_size if here.is_file() else 0
        planned.append(PlannedFile(repository, remote, path, min(have, remote.size_bytes)))
    return DownloadPlan(folder, tuple(planned))


def downloaded_files(model: PublishedModel, folder: Path) -> list[Path]:
    """The files of a catalog entry that are below `folder`, whole ones and parts."""
    places = [
        folder / published.folder / path for published in model.files for path in published.paths
    ]
    return [path for place in places for path in (place, _part(place)) if path.is_file()]


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise WeightsError unless the disk of `folder`, which need not exist, has room."""
    free = free_bytes(folder)
    if free < needed_bytes:
        raise WeightsError(
            f"the disk of {_existing(folder)} has {free / 1e9:.2f} GB free and {what} needs "
            f"{needed_bytes / 1e9:.2f} GB. Free {(needed_bytes - free) / 1e9:.2f} GB, or set "
            "GLD_ROS_DATA to a folder on a larger disk."
        )


def free_bytes(folder: Path) -> int:
    """Free space of the disk of a folder, which need not exist."""
    return shutil.disk_usage(_existing(folder)).free


def on_one_disk(folder: Path, other: Path) -> bool:
    """Whether two folders, which need not exist, share the space of one file system."""
    return _existing(folder).stat().st_dev == _existing(other).stat().st_dev


def download(
    plan: DownloadPlan,
    hub: Hub,
    report: Report,
    progress: Progress = lambda count: None,
    waits_s: Sequence[float] = WAITS_S,
) -> list[Path]:
    """Bring every file of a plan to its place; returns their paths.

    Files that are there with the right size and hash are not fetched again, part files are
    continued, interruptions and failures of the hub are retried after `waits_s`. `report` gets one
    line per event. Raises WeightsError for a hash that differs, a full disk, or a hub that does not
    answer; complete files and part files stay, so that the same call continues.
    """
    return [_fetch(file, hub, report, progress, waits_s) for file in plan.files]


def _remote(published: PublishedFile, repository: Repository) -> RemoteFile:
    for path in published.paths:
        if path in repository.files:
            return repository.files[path]
    raise FetchError(
        f"{published.repository} (commit {repository.revision[:12]}) has no "
        f"{' or '.join(published.paths)}; it was reorganised after this version of gld_ros"
    )


def _existing(folder: Path) -> Path:
    """The folder itself or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _fetch(
    file: PlannedFile, hub: Hub, report: Report, progress: Progress, waits_s: Sequence[float]
) -> Path:
    path, remote = file.path, file.remote
    if path.is_file():
        if path.stat().st_size == remote.size_bytes and _hash_agrees(path, remote):
            report(f"{remote.path}: already here, verified")
            return path
        report(f"{remote.path}: the file here is another version, fetching again")
        progress(-file.have_bytes)
        path.unlink()
    part = _part(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        if part.stat().st_size > remote.size_bytes:
            part.write_bytes(b"")
        if have := part.stat().st_size:
            sizes = f"{have / 1e6:.0f} of {remote.size_bytes / 1e6:.0f} MB"
            report(f"{remote.path}: continuing at {sizes}")
        _receive(file, part, hub, report, progress, waits_s)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        missing = remote.size_bytes - part.stat().st_size
        raise WeightsError(
            f"no space left on the disk of {part} while fetching {remote.path}, of which "
            f"{missing / 1e9:.2f} GB are missing. Free some space, or set GLD_ROS_DATA to a folder "
            "on a larger disk, and run the same command again: it continues where it stopped."
        ) from error
    if part.stat().st_size != remote.size_bytes or not _hash_agrees(part, remote):
        part.unlink()
        raise WeightsError(
            f"{file.repository.name}/{remote.path} arrived damaged: its hash is not the one that "
            "the hub states. This file was discarded, all others are kept; run the same command "
            "again to fetch it alone."
        )
    part.rename(path)
    report(f"{remote.path}: verified")
    return path


def _receive(
    file: PlannedFile,
    part: Path,
    hub: Hub,
    report: Report,
    progress: Progress,
    waits_s: Sequence[float],
) -> None:
    """Append to `part` until it has all bytes; tries count from the last byte that arrived."""
    tries = 0
    # Unbuffered: what has arrived outlives a kill at once.
    with part.open("ab", buffering=0) as target:
        while target.tell() < file.remote.size_bytes:
            before = target.tell()
            try:
                for chunk in hub.stream(file.repository, file.remote, before):
                    target.write(chunk)
                    progress(len(chunk))
                if target.tell() < file.remote.size_bytes:
                    raise TransientError(f"{file.remote.path}: the connection ended early")
            except TransientError as error:
                if target.tell() > before:
                    tries = 0
                _wait(error, tries, report, waits_s)
                tries += 1


def _tried(action: Callable[[], Result], report: Report, waits_s: Sequence[float]) -> Result:
    """Result of `action`, tried again after each of `waits_s` while what stops it may pass."""
    for tries in itertools.count():
        try:
            return action()
        except TransientError as error:
            _wait(error, tries, report, waits_s)
    raise AssertionError  # the loop ends by one of its two ways out


def _wait(error: TransientError, tries: int, report: Report, waits_s: Sequence[float]) -> None:
    """Sleep before try `tries` + 2, or raise what stopped the last one."""
    if tries >= len(waits_s):
        raise FetchError(
            f"{error}\nGiven up after {tries + 1} tries. Run the same command again to continue "
            "where it stopped."
        ) from error
    wait_s = waits_s[tries] if error.wait_s is None else error.wait_s
    report(f"{str(error).splitlines()[0]}; trying again in {wait_s:g} s")
    time.sleep(wait_s)


def _hash_agrees(path: Path, remote: RemoteFile) -> bool:
    if remote.sha256 is not None:
        return sha256_of(path) == remote.sha256
    if remote.git_blob is None:
        raise WeightsError(f"the hub states no hash for {remote.path}, so it is not used")
    return _git_blob(path) == remote.git_blob


def _git_blob(path: Path) -> str:
    """Git's name for the content of a (small) file."""
    content = path.read_bytes()
    header = f"blob {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()
