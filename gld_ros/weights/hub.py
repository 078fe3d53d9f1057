"""Files of the Hugging Face hub, fetched on request: verified, resumable, never half there.

A file being downloaded is called `NAME.part`; it gets its name only when its size and hash are
those the hub states. Nothing here runs unless a person asked for a download.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlparse

from gld_ros.weights.catalog import PublishedFile, PublishedModel
from gld_ros.weights.errors import WeightsError
from gld_ros.weights.tensor_file import sha256_of

Report = Callable[[str], None]


@dataclass(frozen=True)
class RemoteFile:
    """What the hub says about a file: size, and SHA-256 (large files) or git blob id (small)."""

    path: str
    size_bytes: int
    sha256: str | None
    git_blob: str | None


@dataclass(frozen=True)
class Repository:
    """One state of a hub repository: commit and files by path."""

    name: str
    revision: str
    files: dict[str, RemoteFile]


class Hub(Protocol):
    """The two things that fetching needs from a hub."""

    def repository(self, name: str) -> Repository:
        """The current state of a repository."""
        ...

    def download(
        self, repository: Repository, remote: RemoteFile, file: BinaryIO, resume_bytes: int
    ) -> None:
        """Append the file's bytes from `resume_bytes` on; shows its own progress."""
        ...


class HuggingFaceHub:
    """The real hub, through huggingface_hub; `endpoint` None is the public one or $HF_ENDPOINT."""

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = endpoint

    def repository(self, name: str) -> Repository:
        """Commit, sizes and hashes of a repository; raises WeightsError when out of reach."""
        from huggingface_hub import HfApi

        try:
            info = HfApi(endpoint=self.endpoint).model_info(name, files_metadata=True)
        except _hub_errors() as error:
            raise _out_of_reach(name, error) from error
        files = {
            sibling.rfilename: RemoteFile(
                path=sibling.rfilename,
                size_bytes=int(sibling.size or 0),
                sha256=None if sibling.lfs is None else sibling.lfs.sha256,
                git_blob=sibling.blob_id,
            )
            for sibling in info.siblings or []
        }
        return Repository(name, str(info.sha), files)

    def download(
        self, repository: Repository, remote: RemoteFile, file: BinaryIO, resume_bytes: int
    ) -> None:
        """Stream the file with a progress bar, retrying short interruptions."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(
            repository.name, remote.path, revision=repository.revision, endpoint=self.endpoint
        )
        headers = build_hf_headers()
        try:
            location = get_hf_file_metadata(url).location
            if urlparse(location).netloc != urlparse(url).netloc:
                headers.pop("authorization", None)  # a token is for the hub, not for its storage
            http_get(
                location,
                file,
                resume_size=resume_bytes,
                headers=headers,
                expected_size=remote.size_bytes,
                displayed_filename=remote.path,
            )
        except _hub_errors() as error:
            raise _out_of_reach(f"{repository.name}/{remote.path}", error) from error


def fetch_model(model: PublishedModel, folder: Path, hub: Hub, report: Report) -> list[Path]:
    """Download every file of a catalog entry below `folder`; returns their paths.

    Files that are there with the right size and hash are not fetched again, `.part` files are
    continued. `report` gets one line per step. Raises WeightsError for a file that the repository
    does not have, a hash that differs, or a hub out of reach; complete files stay.
    """
    repositories = {file.repository: hub.repository(file.repository) for file in model.files}
    chosen = [(f, _remote(f, repositories[f.repository])) for f in model.files]
    total = sum(remote.size_bytes for _, remote in chosen)
    report(f"{len(chosen)} files, {total / 1e9:.2f} GB, into {folder}")
    paths = []
    for published, remote in chosen:
        path = folder / published.place
        _fetch_file(repositories[published.repository], remote, path, hub, report)
        paths.append(path)
    return paths


def _remote(published: PublishedFile, repository: Repository) -> RemoteFile:
    for path in published.paths:
        if path in repository.files:
            return repository.files[path]
    raise WeightsError(
        f"{published.repository} (commit {repository.revision[:12]}) has no "
        f"{' or '.join(published.paths)}; it may have been reorganised since this version"
    )


def _fetch_file(
    repository: Repository, remote: RemoteFile, path: Path, hub: Hub, report: Report
) -> None:
    if path.is_file():
        if path.stat().st_size == remote.size_bytes and _hash_agrees(path, remote):
            report(f"{remote.path}: already here, verified")
            return
        report(f"{remote.path}: the file here is another version, fetching again")
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.touch()
    have = part.stat().st_size
    if have > remote.size_bytes:
        part.write_bytes(b"")
        have = 0
    if have:
        report(f"{remote.path}: continuing at {have / 1e6:.0f} of {remote.size_bytes / 1e6:.0f} MB")
    with part.open("r+b") as file:
        file.seek(have)
        if have < remote.size_bytes:
            hub.download(repository, remote, file, have)
    if part.stat().st_size != remote.size_bytes or not _hash_agrees(part, remote):
        size = part.stat().st_size
        part.unlink()
        raise WeightsError(
            f"{repository.name}/{remote.path} arrived damaged ({size} bytes, expected "
            f"{remote.size_bytes}, or another hash) and was discarded; fetch again"
        )
    part.rename(path)
    report(f"{remote.path}: verified")


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


def _hub_errors() -> tuple[type[BaseException], ...]:
    """What a request through huggingface_hub can raise; its transport differs between versions."""
    from huggingface_hub import errors

    return (OSError, errors.HfHubHTTPError, getattr(errors, "HTTPError", OSError))


def _out_of_reach(what: str, error: BaseException) -> WeightsError:
    first_line = str(error).strip().split("\n")[0] or type(error).__name__
    return WeightsError(
        f"{what} could not be fetched from the Hugging Face hub: {first_line}\n"
        "Run the same command again to continue where it stopped. On a machine without network, "
        "fetch on another one and use --from-folder."
    )
