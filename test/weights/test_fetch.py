"""Fetching: verified, continued after an interruption, never half there, and errors that help.

The real huggingface_hub client talks to a small server on this machine.
"""

import dataclasses
import errno
import re
import shutil
import ssl
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest

from gld_ros.weights import fetch as fetch_module
from gld_ros.weights.catalog import CATALOG, PublishedFile, PublishedModel, published_model
from gld_ros.weights.errors import WeightsError
from gld_ros.weights.families import FAMILIES
from gld_ros.weights.fetch import download, plan_download, require_space
from gld_ros.weights.hub import (
    FetchError,
    HuggingFaceHub,
    connection_error,
    proxy_in_use,
    stated_wait_s,
)

from .fake_hub import FakeHub, Fault

LARGE = bytes(range(256)) * 4096
SMALL = b'{"small": true}\n'
REPOSITORY = "someone/model"
MODEL = PublishedModel(
    name="test-model",
    summary="two files",
    kind="da3",
    files=(
        PublishedFile(REPOSITORY, ("not/there.bin", "folder/large.bin")),
        PublishedFile(REPOSITORY, ("small.json",), "sub"),
    ),
    licences=("someone/model: Apache-2.0",),
    non_commercial=False,
    download_gb=0.001,
)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with FakeHub({REPOSITORY: {"folder/large.bin": LARGE, "small.json": SMALL}}) as hub:
        yield hub


def fetch(server, folder, *, tries=3):
    lines, arrived = [], []
    hub = HuggingFaceHub(server.endpoint)
    waits_s = (0.0,) * (tries - 1)
    plan = plan_download(MODEL, folder, hub, lines.append, waits_s)
    download(plan, hub, lines.append, arrived.append, waits_s)
    return "\n".join(lines), sum(arrived), plan


def test_files_arrive_whole_and_are_not_fetched_twice(server, tmp_path):
    folder = tmp_path / "files"
    _, arrived, plan = fetch(server, folder)
    assert (folder / "folder/large.bin").read_bytes() == LARGE
    assert (folder / "sub/small.json").read_bytes() == SMALL
    assert list(folder.rglob("*.part")) == []
    assert arrived == plan.total_bytes == plan.missing_bytes == len(LARGE) + len(SMALL)
    server.requests.clear()
    report, arrived, plan = fetch(server, folder)
    assert "already here, verified" in report
    assert (arrived, plan.missing_bytes, server.requests) == (0, 0, [])


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_an_interrupted_download_continues_where_it_stopped(server, tmp_path, ignores_ranges):
    server.ignores_ranges = ignores_ranges
    folder = tmp_path / "files"
    (folder / "folder").mkdir(parents=True)
    (folder / "folder/large.bin.part").write_bytes(LARGE[:300_000])
    report, arrived, _ = fetch(server, folder)
    assert server.requests[0] == ("folder/large.bin", 0 if ignores_ranges else 300_000)
    assert "continuing at" in report
    assert (folder / "folder/large.bin").read_bytes() == LARGE
    assert arrived == len(LARGE) - 300_000 + len(SMALL)


def test_a_line_that_drops_is_taken_up_again(server, tmp_path):
    server.cut_after = 400_000
    report, _, _ = fetch(server, tmp_path / "files")
    starts = [start for path, start in server.requests if path == "folder/large.bin"]
    assert starts[0] == 0
    assert 0 < starts[1] <= 400_000
    assert "trying again" in report
    assert (tmp_path / "files/folder/large.bin").read_bytes() == LARGE


def test_a_bad_hash_names_its_file_and_keeps_the_rest(server, tmp_path):
    server.corrupt.add("small.json")
    with pytest.raises(WeightsError, match=r"someone/model/small\.json arrived damaged"):
        fetch(server, tmp_path / "files")
    kept = [p.name for p in (tmp_path / "files").rglob("*") if p.is_file()]
    assert kept == ["large.bin"]
    server.corrupt.clear()
    server.requests.clear()
    fetch(server, tmp_path / "files")
    assert server.requests == [("small.json", 0)]


def test_a_damaged_file_on_disk_is_fetched_again(server, tmp_path):
    folder = tmp_path / "files"
    (folder / "folder").mkdir(parents=True)
    (folder / "folder/large.bin").write_bytes(b"x" * len(LARGE))
    report, arrived, plan = fetch(server, folder)
    assert "another version" in report
    assert arrived == plan.missing_bytes  # the bar ends at its total
    assert (folder / "folder/large.bin").read_bytes() == LARGE


@pytest.mark.parametrize("where", [REPOSITORY, "small.json"])
@pytest.mark.parametrize(
    ("fault", "hint"),
    [
        (Fault(401), r"asks for a login \(401\).*/settings/tokens.*`hf auth login`.*HF_TOKEN"),
        (
            Fault(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Ask the authors first."}),
            r"(?s)restricted \(403\).*says: Ask the authors first\..*accept the terms there",
        ),
        (
            Fault(404, {"X-Error-Code": "EntryNotFound"}),
            r"not found \(404\); it was renamed, moved or removed.*--from-folder",
        ),
        (
            Fault(403),
            r"(?s)refused \(403\)\. The answer says: nothing more.*permission.*firewall refuses",
        ),
        (
            Fault(407),
            r"the proxy in between asks for a user name and password \(407\).*HTTPS_PROXY",
        ),
        (Fault(429, {"Retry-After": "600"}), r"\(429\); run the same command again in 10 minutes"),
        (
            Fault(429, {"RateLimit": '"resolvers";r=0;t=420'}),
            r"\(429\); run the same command again in 7 minutes",
        ),
        (Fault(429), r"(?s)limits the number of requests \(429\).*Given up after 3 tries"),
        (Fault(503), r"(?s)the hub failed \(503\).*Given up after 3 tries.*same command again"),
    ],
)
def test_every_status_has_its_hint(server, tmp_path, fault, hint, where):
    server.faults[where] = dataclasses.replace(fault)
    with pytest.raises(WeightsError, match=hint) as caught:
        fetch(server, tmp_path / "files")
    assert where in str(caught.value)
    server.faults.clear()
    fetch(server, tmp_path / "files")


def test_a_token_that_is_not_accepted_is_told_apart_from_none(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    server.faults[REPOSITORY] = Fault(401)
    with pytest.raises(WeightsError, match="does not accept the token"):
        fetch(server, tmp_path / "files")
    assert "Bearer hf_wrong" in server.tokens


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_failures_that_pass_are_retried(server, tmp_path, status):
    server.faults[REPOSITORY] = Fault(status, times=2)
    server.faults["folder/large.bin"] = Fault(status, {"Retry-After": "0"}, times=2)
    report, _, _ = fetch(server, tmp_path / "files")
    assert report.count("trying again in 0 s") == 4
    assert (tmp_path / "files/folder/large.bin").read_bytes() == LARGE


NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "17"}, 17),
        ({"Retry-After": "Tue, 01 Jan 2030 12:04:00 GMT"}, 240),
        ({"Retry-After": "Tue, 01 Jan 2030 11:00:00 GMT"}, 0),
        ({"Retry-After": "soon"}, None),
        (
            {"RateLimit": '"resolvers";r=0;t=240', "RateLimit-Policy": '"resolvers";q=3000;w=300'},
            240,
        ),
        ({"RateLimit": '"api";r=17;t=290, "resolvers";r=0;t=12'}, 12),
        ({"RateLimit": '"resolvers";r=5;t=240'}, None),
        ({"RateLimit": "nonsense"}, None),
        ({"Retry-After": "3", "RateLimit": '"resolvers";r=0;t=240'}, 3),
        ({}, None),
    ],
)
def test_every_way_to_say_when_to_ask_again_is_understood(headers, wait_s):
    assert stated_wait_s(headers, NOW) == wait_s


@pytest.mark.parametrize("where", [REPOSITORY, "folder/large.bin"])
def test_a_limited_number_of_requests_is_waited_for(server, tmp_path, monkeypatch, where):
    slept_s = []
    monkeypatch.setattr(fetch_module.time, "sleep", slept_s.append)
    server.faults[where] = Fault(429, {"RateLimit": '"resolvers";r=0;t=240'}, times=1)
    report, _, _ = fetch(server, tmp_path / "files")
    assert slept_s == [240]
    assert re.search(r"limits the number of requests \(429\); trying again in 240 s", report)
    assert (tmp_path / "files/folder/large.bin").read_bytes() == LARGE


def test_the_storage_that_the_hub_redirects_to_gets_the_range_but_not_the_token(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    folder = tmp_path / "files"
    (folder / "folder").mkdir(parents=True)
    (folder / "folder/large.bin.part").write_bytes(LARGE[:300_000])
    fetch(server, folder)
    assert ("folder/large.bin", 300_000) in server.requests
    assert server.tokens == {"Bearer hf_secret"}
    assert server.storage_tokens == {None}
    assert (folder / "folder/large.bin").read_bytes() == LARGE


def test_a_link_that_has_expired_is_asked_for_again(server, tmp_path):
    server.storage_faults["folder/large.bin"] = Fault(403, times=2)
    report, _, _ = fetch(server, tmp_path / "files")
    assert report.count("the storage at 127.0.0.1 answered 403; its links expire; trying") == 2
    assert (tmp_path / "files/folder/large.bin").read_bytes() == LARGE


def test_a_storage_that_never_answers_well_is_named(server, tmp_path):
    server.storage_faults["folder/large.bin"] = Fault(403)
    with pytest.raises(WeightsError, match=r"(?s)storage at .* 403.*firewall.*3 tries") as caught:
        fetch(server, tmp_path / "files")
    assert "terms" not in str(caught.value)


def test_a_proxy_that_asks_for_a_password_is_told_apart(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    error = connection_error(
        "x", OSError("407 Proxy Authentication Required"), "https://hub.example"
    )
    assert isinstance(error, FetchError)
    assert re.search(r"proxy proxy.example:3128 asks for a user name.*\(407\)", str(error))


def test_a_certificate_that_is_not_trusted_is_named_with_the_way_to_trust_it(
    server, tmp_path, monkeypatch
):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            *subject,
            *files,
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.endpoint = server.endpoint.replace("http:", "https:")
    with pytest.raises(FetchError, match=r"(?s)certificate of https.*SSL_CERT_FILE.*`date`"):
        fetch(server, tmp_path / "files")


def test_a_hub_out_of_reach_names_the_proxy(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    hub = HuggingFaceHub("http://hub.invalid")
    with pytest.raises(WeightsError, match=r"(?s)no connection.*proxy 127\.0\.0\.1:9") as caught:
        plan_download(MODEL, tmp_path, hub, lambda line: None, ())
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("no_proxy", "hub.invalid")
    assert proxy_in_use("http://hub.invalid") is None


def test_a_hub_out_of_reach_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(WeightsError, match=r"(?s)no connection.*HTTPS_PROXY.*--from-folder"):
        plan_download(MODEL, tmp_path, HuggingFaceHub("http://127.0.0.1:9"), lambda line: None, ())
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_named_before_the_first_byte(tmp_path):
    with pytest.raises(WeightsError, match=r"GB free and the download needs 10\d+\.\d+ GB.*Free"):
        require_space(tmp_path / "not" / "there", 10**15, "the download")
    require_space(tmp_path, 1, "the download")


def test_a_disk_that_fills_up_is_named_and_the_rest_is_kept(server, tmp_path, monkeypatch):
    def full(file, part, *_):
        part.write_bytes(LARGE[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch_module, "_receive", full)
    with pytest.raises(WeightsError, match=r"no space left on the disk of .*large\.bin") as caught:
        fetch(server, tmp_path / "files")
    assert "continues where it stopped" in str(caught.value)
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch(server, tmp_path / "files")
    assert server.requests[0] == ("folder/large.bin", 1000)


def test_a_file_that_the_repository_lacks_is_named(server, tmp_path):
    model = PublishedModel(**{**vars(MODEL), "files": (PublishedFile(REPOSITORY, ("gone.pt",)),)})
    with pytest.raises(WeightsError, match=r"someone/model .*has no gone\.pt"):
        plan_download(model, tmp_path, HuggingFaceHub(server.endpoint), lambda line: None, ())


@pytest.mark.parametrize("name", ["gld-da3", "gld-vggt", "da3-base", "vggt-1b"])
def test_the_catalog_fetches_what_the_converter_needs(name):
    model = CATALOG[name]
    stored = {str(Path(file.folder) / path) for file in model.files for path in file.paths}
    for part, places in FAMILIES[model.kind].files.items():
        assert stored & set(places), part
    assert model.non_commercial == FAMILIES[model.kind].non_commercial


def test_an_unknown_model_is_named_with_the_known_ones():
    with pytest.raises(WeightsError, match="known: gld-da3"):
        published_model("nothing")
