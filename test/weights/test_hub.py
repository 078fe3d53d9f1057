"""Fetching: verified, continued after an interruption, and never half there.

The real huggingface_hub client talks to a small server on this machine.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gld_ros.weights.catalog import CATALOG, PublishedFile, PublishedModel, published_model
from gld_ros.weights.errors import WeightsError
from gld_ros.weights.hub import HuggingFaceHub, RemoteFile, Repository, fetch_model
from gld_ros.weights.official import OFFICIAL_FILES

LARGE = bytes(range(256)) * 4096
SMALL = b'{"small": true}\n'
MODEL = PublishedModel(
    name="test-model",
    summary="two files",
    kind="da3",
    files=(
        PublishedFile("someone/model", ("not/there.bin", "folder/large.bin"), "large.bin"),
        PublishedFile("someone/model", ("small.json",), "sub/small.json"),
    ),
    licences=("someone/model: Apache-2.0",),
    non_commercial=False,
    download_gb=0.001,
)


class HubServer(ThreadingHTTPServer):
    """Serves two files as the hub does; `cut_after` drops the connection after so many bytes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files = {"folder/large.bin": LARGE, "small.json": SMALL}
        self.cut_after = None
        self.ranges = []
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
        if self.path.startswith("/api/models/someone/model"):
            body = json.dumps(
                {
                    "id": "someone/model",
                    "sha": "c" * 40,
                    "siblings": [
                        {
                            "rfilename": "folder/large.bin",
                            "size": len(LARGE),
                            "blobId": "b" * 40,
                            "lfs": {
                                "size": len(LARGE),
                                "sha256": hashlib.sha256(LARGE).hexdigest(),
                                "pointerSize": 130,
                            },
                        },
                        {
                            "rfilename": "small.json",
                            "size": len(SMALL),
                            "blobId": hashlib.sha1(b"blob %d\0" % len(SMALL) + SMALL).hexdigest(),
                        },
                    ],
                }
            ).encode()
            self._send(200, body, {"Content-Type": "application/json"}, with_body)
            return
        name = self.path.removeprefix(f"/someone/model/resolve/{'c' * 40}/")
        content = self.server.files.get(name)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": "c" * 40}
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if with_body:
            self.server.ranges.append((name, start))
        self._send(206 if start else 200, content[start:], headers, with_body)

    def _send(self, status, body, headers, with_body):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            cut = self.server.cut_after
            self.wfile.write(body if cut is None else body[:cut])
            if cut is not None and cut < len(body):
                self.close_connection = True


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = HubServer()
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


def fetch(server, folder):
    lines = []
    fetch_model(MODEL, folder, HuggingFaceHub(server.endpoint), lines.append)
    return "\n".join(lines)


def test_files_arrive_whole_and_are_not_fetched_twice(server, tmp_path):
    folder = tmp_path / "files"
    fetch(server, folder)
    assert (folder / "large.bin").read_bytes() == LARGE
    assert (folder / "sub/small.json").read_bytes() == SMALL
    assert list(folder.rglob("*.part")) == []
    server.ranges.clear()
    assert "already here, verified" in fetch(server, folder)
    assert server.ranges == []


def test_an_interrupted_download_continues_where_it_stopped(server, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "large.bin.part").write_bytes(LARGE[:300_000])
    report = fetch(server, folder)
    assert server.ranges[0] == ("folder/large.bin", 300_000)
    assert "continuing at" in report
    assert (folder / "large.bin").read_bytes() == LARGE


def test_damaged_content_is_discarded_and_never_named_as_complete(server, tmp_path):
    server.files["folder/large.bin"] = LARGE[:-1] + b"?"
    with pytest.raises(WeightsError, match=r"large\.bin arrived damaged"):
        fetch(server, tmp_path / "files")
    assert [p for p in (tmp_path / "files").rglob("*") if p.is_file()] == []
    server.files["folder/large.bin"] = LARGE
    fetch(server, tmp_path / "files")
    assert (tmp_path / "files/large.bin").read_bytes() == LARGE


def test_a_damaged_file_on_disk_is_fetched_again(server, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "large.bin").write_bytes(b"x" * len(LARGE))
    assert "another version" in fetch(server, folder)
    assert (folder / "large.bin").read_bytes() == LARGE


class DroppingHub:
    """A hub whose line breaks in the middle of a file."""

    def __init__(self, fail_at):
        self.fail_at = fail_at

    def repository(self, name):
        sha256 = hashlib.sha256(LARGE).hexdigest()
        git_blob = hashlib.sha1(b"blob %d\0" % len(SMALL) + SMALL).hexdigest()
        return Repository(
            name,
            "c" * 40,
            {
                "folder/large.bin": RemoteFile("folder/large.bin", len(LARGE), sha256, None),
                "small.json": RemoteFile("small.json", len(SMALL), None, git_blob),
            },
        )

    def download(self, repository, remote, file, resume_bytes):
        content = LARGE if remote.path == "folder/large.bin" else SMALL
        if self.fail_at is not None and len(content) > self.fail_at:
            file.write(content[resume_bytes : self.fail_at])
            raise WeightsError("the line broke")
        file.write(content[resume_bytes:])


def test_a_broken_line_leaves_a_part_file_only(tmp_path):
    with pytest.raises(WeightsError, match="the line broke"):
        fetch_model(MODEL, tmp_path, DroppingHub(5000), lambda line: None)
    assert [p.name for p in tmp_path.iterdir()] == ["large.bin.part"]
    fetch_model(MODEL, tmp_path, DroppingHub(None), lambda line: None)
    assert (tmp_path / "large.bin").read_bytes() == LARGE


def test_a_file_that_the_repository_lacks_is_named(server, tmp_path):
    model = PublishedModel(
        **{**vars(MODEL), "files": (PublishedFile("someone/model", ("gone.pt",), "gone.pt"),)}
    )
    with pytest.raises(WeightsError, match=r"someone/model .*has no gone\.pt"):
        fetch_model(model, tmp_path, HuggingFaceHub(server.endpoint), lambda line: None)


def test_a_hub_out_of_reach_says_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match=r"could not be fetched.*(\n.*)*--from-folder"):
        fetch_model(MODEL, tmp_path, HuggingFaceHub("http://127.0.0.1:9"), lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_the_catalog_fetches_what_the_converter_needs():
    places = {file.place for file in CATALOG["gld-da3"].files}
    needed = {names[0] for part, names in OFFICIAL_FILES.items() if "statistics" not in part}
    assert places == needed
    assert CATALOG["gld-vggt"].non_commercial
    with pytest.raises(WeightsError, match="known: gld-da3"):
        published_model("nothing")
