"""A Hugging Face hub on the loopback: real addresses and headers, any files, faults on request."""

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "c" * 40


@dataclass
class Fault:
    """An answer in place of the file (or of the repository's listing): status and headers."""

    status: int
    headers: dict = field(default_factory=dict)
    times: int = 10**6


class FakeHub(ThreadingHTTPServer):
    """Serves `repositories` (name -> path -> bytes).

    faults: path (or repository name) -> Fault. cut_after: bytes after which a download's line
    drops, once. bytes_per_s: of every download. stated_sizes: sizes in the listing other than those
    of the content, for files that are listed and never downloaded.
    """

    daemon_threads = True

    def __init__(self, repositories):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.faults = {}
        self.cut_after = None
        self.bytes_per_s = None
        self.stated_sizes = {}
        self.corrupt = set()
        self.ignores_ranges = False
        self.requests = []  # (path, start) of every download
        self.tokens = set()
        self.sent_bytes = 0
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        self.thread.join()

    def listing(self, name):
        files = self.repositories[name]
        siblings = []
        for path, content in files.items():
            size = self.stated_sizes.get(path, len(content))
            entry = {"rfilename": path, "size": size, "blobId": _git_blob(content)}
            if path.endswith((".pt", ".safetensors", ".bin")):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"size": size, "sha256": sha256, "pointerSize": 130}
            siblings.append(entry)
        return {"id": name, "sha": REVISION, "siblings": siblings}


def _git_blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.tokens.add(self.headers.get("Authorization"))
        path = self.path.split("?")[0]
        if path.startswith("/api/models/"):
            name = path.removeprefix("/api/models/")
            if fault := self._fault(name):
                return self._refuse(fault)
            if name not in self.server.repositories:
                return self._refuse(Fault(404, {"X-Error-Code": "RepoNotFound"}))
            body = json.dumps(self.server.listing(name)).encode()
            return self._head(200, len(body), {"Content-Type": "application/json"}, body)
        match = re.fullmatch(rf"/(.+?/.+?)/resolve/{REVISION}/(.+)", path)
        content = self.server.repositories.get(match[1], {}).get(match[2]) if match else None
        if content is None:
            return self._refuse(Fault(404, {"X-Error-Code": "EntryNotFound"}))
        if fault := self._fault(match[2]):
            return self._refuse(fault)
        return self._send_file(match[2], content)

    def _fault(self, key):
        fault = self.server.faults.get(key)
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

    def _send_file(self, path, content):
        server = self.server
        start = 0
        headers = {"X-Repo-Commit": REVISION}
        if (
            match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        ) and not server.ignores_ranges:
            start = int(match[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        server.requests.append((path, start))
        if path in server.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        body = content[start:]
        self._head(206 if start else 200, len(body), headers)
        if server.cut_after is not None and server.cut_after < len(body):
            self.wfile.write(body[: server.cut_after])
            server.cut_after = None
            self.close_connection = True
            return
        block = len(body) or 1
        if server.bytes_per_s is not None:
            block = max(1, server.bytes_per_s // 20)
        for at in range(0, len(body), block):
            self.wfile.write(body[at : at + block])
            server.sent_bytes += len(body[at : at + block])
            if server.bytes_per_s is not None:
                time.sleep(0.05)
