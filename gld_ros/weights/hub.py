"""The Hugging Face hub: contents of a repository, bytes from any position, and helpful errors.

Names, addresses and tokens are huggingface_hub's. Bytes are streamed here, because its
`hf_hub_download` discards what it has of a file when it is stopped. Files on disk are `fetch`.
"""

import email.utils
import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol
from urllib.parse import urlsplit

from gld_ros.weights.errors import WeightsError

TIMEOUT_S = 30.0
LONGEST_WAIT_S = 300.0  # the hub counts requests in windows of five minutes
_OFFLINE = (
    "On a machine without network, fetch on another one (`gld-ros weights fetch NAME "
    "--download-only`) and give the files with --from-folder."
)


class FetchError(WeightsError):
    """The hub gave an answer that trying again does not change; the text says what to do."""


class TransientError(WeightsError):
    """A request that may succeed when repeated, after `wait_s` if the hub names a time."""

    def __init__(self, text: str, wait_s: float | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s


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
    """The two things that fetching needs from a hub; both raise FetchError and TransientError."""

    def repository(self, name: str) -> Repository:
        """The current state of a repository."""
        ...

    def stream(self, repository: Repository, remote: RemoteFile, start: int) -> Iterator[bytes]:
        """The file's bytes from position `start` on."""
        ...


class HuggingFaceHub:
    """The real hub; `endpoint` None is the public one or $HF_ENDPOINT."""

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = endpoint

    def repository(self, name: str) -> Repository:
        """Commit, sizes and hashes of a repository."""
        from huggingface_hub import HfApi

        with self._explained(name, name):
            info = HfApi(endpoint=self._address()).model_info(
                name, files_metadata=True, timeout=TIMEOUT_S
            )
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

    def stream(self, repository: Repository, remote: RemoteFile, start: int) -> Iterator[bytes]:
        """The file's bytes from `start` on; the token is not sent on to another host."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(
            repository.name, remote.path, revision=repository.revision, endpoint=self._address()
        )
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            self._explained(f"{repository.name}/{remote.path}", repository.name),
            get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response,
        ):
            if response.is_error:
                response.read()
                if response.history:  # the hub sent us on, to where the bytes are
                    raise _storage_error(repository, remote, response)
                hf_raise_for_status(response)
            unwanted = start if response.status_code == 200 else 0  # the range was ignored
            for chunk in response.iter_bytes():
                if unwanted < len(chunk):
                    yield chunk[unwanted:]
                unwanted = max(0, unwanted - len(chunk))

    @contextmanager
    def _explained(self, what: str, repository: str) -> Iterator[None]:
        """Turn what a request raises into FetchError or TransientError about `what`."""
        from huggingface_hub import errors

        try:
            yield
        except (OSError, errors.HfHubHTTPError, getattr(errors, "HTTPError", OSError)) as error:
            response = getattr(error, "response", None)
            if response is None:
                raise connection_error(what, error, self._address()) from error
            raise explain_status(
                what, repository, response.status_code, response.headers, self._address()
            ) from error

    def _address(self) -> str:
        from huggingface_hub import constants

        endpoint = self.endpoint or os.environ.get("HF_ENDPOINT") or str(constants.ENDPOINT)
        return endpoint.rstrip("/")


def explain_status(
    what: str, repository: str, status: int, headers: Any, endpoint: str
) -> FetchError | TransientError:
    """The error for an answer of the hub: what was asked for, why not, and what to do."""
    reason = headers.get("X-Error-Message") or ""
    gated = headers.get("X-Error-Code") == "GatedRepo"
    if status == 401 and not gated:
        token = "does not accept the token it was given" if _has_token() else "asks for a login"
        return FetchError(
            f"{what}: the hub {token} (401). Create a read token at {endpoint}/settings/tokens and "
            "give it with `hf auth login` or the variable HF_TOKEN. A repository that was renamed "
            "or removed answers the same way."
        )
    if gated:
        return FetchError(
            f"{what}: access is restricted ({status}). The hub says: {reason or 'nothing more'}\n"
            f"Open {endpoint}/{repository}, accept the terms there, and run again with a token of "
            "that account (`hf auth login`, or the variable HF_TOKEN)."
        )
    if status == 403:
        return FetchError(
            f"{what}: the request was refused (403). The answer says: {reason or 'nothing more'}\n"
            "Either the token in use does not have the permission (a fine-grained one needs read "
            "access to public repositories; `hf auth logout` does without), or a firewall refuses."
        )
    if status == 407:
        return _proxy_login(what, endpoint)
    if status == 404:
        return FetchError(
            f"{what}: not found (404); it was renamed, moved or removed after this version of "
            f"gld_ros. Look for it at {endpoint}/{repository.split('/')[0]}; files that you have "
            "already are converted with --from-folder."
        )
    if status == 429:
        wait_s = stated_wait_s(headers, datetime.now(timezone.utc))
        text = f"{what}: the hub limits the number of requests (429)"
        if wait_s is not None and wait_s > LONGEST_WAIT_S:
            return FetchError(
                f"{text}; run the same command again in {wait_s / 60:.0f} minutes. With a token "
                "(`hf auth login`) the limit is higher."
            )
        return TransientError(text, wait_s)
    if status >= 500 or status in (408, 416):
        return TransientError(f"{what}: the hub failed ({status})")
    return FetchError(f"{what}: the hub answered {status}. {reason}".rstrip())


def connection_error(what: str, error: BaseException, endpoint: str) -> FetchError | TransientError:
    """The error for a request without an answer: what stood in between, and what to do."""
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return FetchError(
            f"{what}: the certificate of {endpoint} is not trusted: {reason}\n"
            "If a proxy or firewall reads the traffic, name the file with its certificate "
            "authority in SSL_CERT_FILE. Otherwise check the clock of this machine (`date`)."
        )
    proxy = proxy_in_use(endpoint)
    if proxy is not None and "407" in reason:
        return _proxy_login(what, endpoint)
    if proxy is None:
        hint = "No proxy is set; where one is needed, set HTTPS_PROXY. " + _OFFLINE
    else:
        hint = f"The proxy {proxy} is in use: check it, or exclude {endpoint} with NO_PROXY."
    return TransientError(f"{what}: no connection to {endpoint}: {reason}\n{hint}")


def _proxy_login(what: str, endpoint: str) -> FetchError:
    proxy = proxy_in_use(endpoint) or "in between"
    return FetchError(
        f"{what}: the proxy {proxy} asks for a user name and password (407). Put them into its "
        "address: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT, with special characters encoded "
        "(%40 for @)."
    )


def _storage_error(repository: Repository, remote: RemoteFile, response: Any) -> TransientError:
    """For a refusal by the host that has the bytes: the hub gives a new link when asked again."""
    wait_s = stated_wait_s(response.headers, datetime.now(timezone.utc))
    return TransientError(
        f"{repository.name}/{remote.path}: the storage at {response.url.host} answered "
        f"{response.status_code}; its links expire\n"
        f"If that repeats, a proxy or firewall may not let {response.url.host} through.",
        None if wait_s is None else min(wait_s, LONGEST_WAIT_S),
    )


def proxy_in_use(endpoint: str) -> str | None:
    """The proxy that the environment names for an address, without user name and password."""
    parts = urlsplit(endpoint)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return proxy.rsplit("@", 1)[-1].removeprefix(f"{urlsplit(proxy).scheme}://")


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def stated_wait_s(headers: Any, now: datetime) -> float | None:
    """Seconds after which an answer says to ask again; None if it does not.

    `Retry-After` in seconds or as a date, else the window of `RateLimit` (IETF draft
    ratelimit-headers: `"resolvers";r=0;t=240`) that has no request left.
    """
    after = headers.get("Retry-After") or ""
    if re.fullmatch(r"\s*\d+(\.\d*)?\s*", after):
        return float(after)
    try:
        date = email.utils.parsedate_to_datetime(after)
        return max(0.0, (date - now).total_seconds())
    except (TypeError, ValueError):  # none, neither, or a date without zone
        pass
    limits = (headers.get("RateLimit") or "").split(",")
    waits = [
        float(until[1])
        for limit in limits
        if re.search(r";\s*r=0\b", limit) and (until := re.search(r";\s*t=(\d+)", limit))
    ]
    return max(waits, default=None)
