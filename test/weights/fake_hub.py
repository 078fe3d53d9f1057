"""A Hugging Face hub on the loopback: real addresses and headers, any files, faults on request."""

import hashlib
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

REVISION = "c" * 40
BLOCK = 1 << 18  # bytes that are read and sent at once
ZEROS = bytes(BLOCK)
LARGE_FILES = (".pt", ".safetensors", ".bin")  # in git LFS, as on the hub


@dataclass
class Fault:
    """An answer in place of the file (or of the repository's listing): status and headers."""

    status: int
    headers: dict = field(default_factory=dict)
    times: int = 10**6


class SparseFile:
    """A file whose holes are served filled with numbers, so that gigabytes take no disk.

    The numbers are float32 between -0.02 and 0.02; their period is a prime, so that bytes of a
    wrong position are wrong bytes.
    """

    FILLING = np.random.default_rng(0).uniform(-0.02, 0.02, 262_147).astype("<f4").tobytes()
    TWICE = 2 * FILLING

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return self.path.stat().st_size

    def __getitem__(self, part):
        """Bytes of a slice, which is as much as is in memory at once."""
        start, stop, _ = part.indices(len(self))
        with self.path.open("rb") as file:
            first = start // BLOCK
            file.seek(first * BLOCK)
            blocks = [self._filled(file.read(BLOCK), k) for k in range(first, -(-stop // BLOCK))]
        return b"".join(blocks)[start - first * BLOCK : stop - first * BLOCK]

    def _filled(self, block, index):
        if block != ZEROS[: len(block)]:
            return block
        at = index * BLOCK % len(self.FILLING)
        return self.TWICE[at : at + len(block)]

    @cached_property
    def sha256(self):
        digest = hashlib.sha256()
        for at in range(0, len(self), BLOCK):
            digest.update(self[at : at + BLOCK])
        return digest.hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that was killed
            super().handle_error(request, client_address)


class _Storage(_Server):
    """The other host, where the hub keeps large files."""


class FakeHub(_Server):
    """Serves `repositories` (name -> path -> bytes or SparseFile).

    As the real one it redirects large files to a storage of another address, whose links can
    expire. faults: path (or repository name) -> Fault; storage_faults: path -> Fault of the
    storage. cut_after: bytes after which a download's line drops, once. bytes_per_s: of every
    download.
    """

    def __init__(self, repositories):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.storage = _Storage(("127.0.0.1", 0), _StorageHandler)
        self.storage.hub = self
        self.repositories = repositories
        self.faults, self.storage_faults = {}, {}
        self.cut_after = None
        self.bytes_per_s = None
        self.corrupt = set()
        self.ignores_ranges = False
        self.requests = []  # (path, start) of every download
        self.tokens, self.storage_tokens = set(), set()
        self.sent_bytes = 0
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        self.threads = [
            threading.Thread(target=server.serve_forever, daemon=True)
            for server in (self, self.storage)
        ]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        for server, thread in zip((self, self.storage), self.threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()

    def listing(self, name):
        files = self.repositories[name]
        siblings = []
        for path, content in files.items():
            entry = {"rfilename": path, "size": len(content)}
            if path.endswith(LARGE_FILES):
                entry["blobId"] = "a" * 40  # of the pointer that git holds in place of the file
                entry["lfs"] = {"size": len(content), "sha256": _sha256(content)}
                entry["lfs"]["pointerSize"] = 130
            else:
                entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            siblings.append(entry)
        return {"id": name, "sha": REVISION, "siblings": siblings}


def _sha256(content):
    if isinstance(content, SparseFile):
        return content.sha256
    return hashlib.sha256(content).hexdigest()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def _fault(self, faults, key):
        fault = faults.get(key)
        if fault is None or not fault.times:
            return None
        fault.times -= 1
        return fault

    def _refuse(self, fault):
        body = b'{"error": "no"}'
        self._head(fault.status, len(body), fault.headers, body)

    def _head(self, status, length, headers, body=b""):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, server, path, content):
        start = 0
        headers = {"X-Repo-Commit": REVISION}
        if (
            match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        ) and not server.ignores_ranges:
            start = int(match[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        server.requests.append((path, start))
        end = len(content)
        self._head(206 if start else 200, end - start, headers)
        if server.cut_after is not None and server.cut_after < end - start:
            end = start + server.cut_after
            server.cut_after = None
            self.close_connection = True
        step = BLOCK
        if server.bytes_per_s is not None:
            step = max(1, server.bytes_per_s // 20)
        for at in range(start, end, step):
            part = content[at : min(at + step, end)]
            if path in server.corrupt and at + len(part) == len(content):
                part = part[:-1] + bytes([part[-1] ^ 1])
            self.wfile.write(part)
            server.sent_bytes += len(part)
            if server.bytes_per_s is not None:
                time.sleep(0.05)


class _Handler(_Answers):
    server: FakeHub

    def do_GET(self):
        server = self.server
        server.tokens.add(self.headers.get("Authorization"))
        path = self.path.split("?")[0]
        if path.startswith("/api/models/"):
            name = path.removeprefix("/api/models/")
            if fault := self._fault(server.faults, name):
                return self._refuse(fault)
            if name not in server.repositories:
                return self._refuse(Fault(404, {"X-Error-Code": "RepoNotFound"}))
            body = json.dumps(server.listing(name)).encode()
            return self._head(200, len(body), {"Content-Type": "application/json"}, body)
        match = re.fullmatch(rf"/(.+?/.+?)/resolve/{REVISION}/(.+)", path)
        content = server.repositories.get(match[1], {}).get(match[2]) if match else None
        if content is None:
            return self._refuse(Fault(404, {"X-Error-Code": "EntryNotFound"}))
        if fault := self._fault(server.faults, match[2]):
            return self._refuse(fault)
        if not match[2].endswith(LARGE_FILES):
            return self._send_file(server, match[2], content)
        port = server.storage.server_address[1]
        link = f"http://127.0.0.1:{port}/{match[1]}/{match[2]}?Expires=1"
        return self._head(302, 0, {"Location": link, "X-Repo-Commit": REVISION})


class _StorageHandler(_Answers):
    server: _Storage

    def do_GET(self):
        hub = self.server.hub
        hub.storage_tokens.add(self.headers.get("Authorization"))
        owner, name, path = self.path.split("?")[0].lstrip("/").split("/", 2)
        if fault := self._fault(hub.storage_faults, path):
            return self._refuse(fault)
        return self._send_file(hub, path, hub.repositories[f"{owner}/{name}"][path])
