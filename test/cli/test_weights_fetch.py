"""`gld-ros weights fetch` against a loopback hub: what a person reads when something is wrong."""

import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from gld_ros.backbones.da3.model import DepthAnything3
from gld_ros.backbones.da3.official_keys import official_key
from gld_ros.cli import _download_progress
from gld_ros.cli.main import main
from gld_ros.weights import fetch
from gld_ros.weights.bundle import Bundle

from ..weights.conftest import DA3
from ..weights.fake_hub import FakeHub, Fault

REPOSITORY = "depth-anything/DA3-BASE"
FILE = "model.safetensors"
FETCH = ["weights", "fetch", "da3-base"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    state = DepthAnything3(DA3).state_dict()
    return save({official_key(key): values.contiguous() for key, values in state.items()})


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    monkeypatch.setenv("GLD_ROS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with FakeHub({REPOSITORY: {FILE: model}}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        yield served


@pytest.fixture
def waits_s(monkeypatch):
    waits_s = []
    monkeypatch.setattr(fetch.time, "sleep", waits_s.append)
    return waits_s


def refused(capsys, tmp_path):
    """What the command says when it fails; no bundle may be left."""
    assert main([*FETCH, "--download-only"]) == 1
    printed, error = capsys.readouterr()
    assert error.startswith("gld-ros weights: error: ")
    assert "Traceback" not in printed + error
    assert not (tmp_path / "data/bundles").exists()
    return error


@pytest.mark.parametrize("where", [REPOSITORY, FILE])
@pytest.mark.parametrize(
    ("fault", "hint"),
    [
        (Fault(401), r"asks for a login \(401\).*HF_TOKEN"),
        (
            Fault(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Ask the authors first."}),
            r"restricted \(403\).*Ask the authors first\..*accept the terms there",
        ),
        (Fault(404), r"not found \(404\); it was renamed, moved or removed.*--from-folder"),
        (Fault(429, {"Retry-After": "600"}), r"\(429\); run the same command again in 10 minutes"),
    ],
)
def test_what_the_hub_refuses_is_said_at_once(hub, capsys, tmp_path, waits_s, fault, hint, where):
    hub.faults[where] = Fault(fault.status, fault.headers)
    assert re.search(hint, refused(capsys, tmp_path), re.DOTALL)
    assert waits_s == []


@pytest.mark.parametrize("where", [REPOSITORY, FILE])
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_failing_hub_is_asked_less_and_less_often(hub, capsys, tmp_path, waits_s, status, where):
    hub.faults[where] = Fault(status)
    error = refused(capsys, tmp_path)
    assert f"({status})" in error
    assert "Given up after 6 tries. Run the same command again to continue" in error
    assert waits_s == [1, 2, 4, 8, 16]


def test_a_file_of_another_hash_is_discarded_and_named(hub, capsys, tmp_path):
    hub.corrupt.add(FILE)
    error = refused(capsys, tmp_path)
    assert f"{REPOSITORY}/{FILE} arrived damaged" in error
    assert "run the same command again to fetch it alone" in error
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


def test_a_proxy_that_does_not_answer_is_named(hub, capsys, tmp_path, waits_s, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://user:secret@127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    error = refused(capsys, tmp_path)
    assert "The proxy 127.0.0.1:9 is in use" in error
    assert "NO_PROXY" in error
    assert "secret" not in error


def test_without_a_terminal_progress_is_lines(hub, model, capsys, monkeypatch):
    monkeypatch.setattr(_download_progress, "LINE_EVERY_S", 0.1)
    hub.bytes_per_s = len(model)
    assert main([*FETCH, "--download-only"]) == 0
    lines = re.findall(
        r"^da3-base: .* of .* GB, .* MB/s, \d+ min left$", capsys.readouterr().out, re.M
    )
    assert len(lines) > 2


def test_what_a_killed_conversion_left_is_removed_before_space_is_asked_for(
    hub, tmp_path, monkeypatch
):
    leftover = tmp_path / "data/bundles/.da3-base.partial-killed"
    leftover.mkdir(parents=True)

    def usage(path):
        return shutil._ntuple_diskusage(10**9, 0, 0 if leftover.exists() else 10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert main(FETCH) == 0
    assert Bundle.open("da3-base").config.module_names == ("backbone",)


def test_two_disks_are_asked_for_their_own_share(hub, model, capsys, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(fetch, "on_one_disk", lambda folder, bundle: False)
    room = {tmp_path: 10**9, other: 10}

    def usage(path):
        return shutil._ntuple_diskusage(10**9, 0, room[other if path == other else tmp_path])

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert main([*FETCH, "--to", str(other / "bundle")]) == 1
    assert f"the disk of {other} has 0.00 GB free and the bundle made from it needs" in (
        capsys.readouterr().err
    )
    assert hub.requests == []


SMALL_DISK = """
mkdir -p disk
mount -t tmpfs -o size={room} tmpfs disk
fetch() {{ {python} -m gld_ros.cli.main weights fetch da3-base --dtype float32; }}

mkdir -p disk/bundles/.da3-base.partial-other disk/downloads
head -c {model} /dev/zero > disk/others
echo "== no room"
fetch && exit 1
[ -z "$(find disk/downloads -type f)" ] || exit 2

rm disk/others
echo "== fills up"
(fetch || echo "ended with $?") &
until [ -s disk/downloads/da3-base/model.safetensors.part ]; do sleep 0.05; done
head -c {room} /dev/zero > disk/others || echo "the disk is full"
wait
find disk/downloads -name '*.part' -size +0 | grep . || exit 3

rm disk/others
echo "== room again"
fetch
ls disk/bundles
"""


@pytest.mark.slow
def test_a_small_disk_is_named_before_and_while_it_fills(hub, model, tmp_path, monkeypatch):
    in_a_namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    probe = [*in_a_namespace, f"mount -t tmpfs tmpfs {tmp_path}"]
    if shutil.which("unshare") is None or subprocess.run(probe, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    monkeypatch.setenv("GLD_ROS_DATA", str(tmp_path / "disk"))
    hub.bytes_per_s = len(model) // 5
    script = SMALL_DISK.format(
        room=5 * len(model) // 2 // 4096 * 4096, model=len(model), python=sys.executable
    )
    ran = subprocess.run(
        [*in_a_namespace, f"set -e; {script}"],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    refusal, filling, rest = re.split(r"^== .*\n", ran.stdout, flags=re.M)[1:]
    assert "GB free and the download with the bundle made from it needs" in refusal
    assert "no space left on the disk of" in filling
    assert "it continues where it stopped" in filling
    assert "ended with 1" in filling
    assert "continuing at" in rest
    assert "verified" in rest
    assert rest.split()[-1] == "da3-base"
