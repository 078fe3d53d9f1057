"""`gld-ros quickstart` with files of the published names and sizes, 7.86 GB, from a loopback hub.

The hub's files are holes that are filled while they are served; what arrives, is converted and run
is real. Printed: seconds, processor seconds and peak memory of every attempt (`pytest -s`).
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag
from gld_ros.weights.bundle import Bundle
from gld_ros.weights.catalog import CATALOG

from ..weights.fake_hub import FakeHub, SparseFile
from ..weights.published_layout import GLD_REPOSITORY, hub_repositories, write_published_sizes

LARGEST = "checkpoints/da3_level1.pt"
NEEDED_BYTES = 13e9  # files and bundle
DOMAIN = "narrow"
MINUTES = 60


@pytest.fixture
def hub(tmp_path, monkeypatch):
    if shutil.disk_usage(tmp_path).free < NEEDED_BYTES:
        pytest.skip(f"needs {NEEDED_BYTES / 1e9:.0f} GB of disk")
    layout = write_published_sizes(tmp_path / "GLD")
    monkeypatch.setenv("GLD_ROS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    repositories = hub_repositories(layout, SparseFile)
    for files in repositories.values():
        for content in files.values():
            if isinstance(content, SparseFile):
                content.sha256  # noqa: B018 - takes longer than a client waits for an answer
    with FakeHub(repositories) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        yield served
    shutil.rmtree(tmp_path / "data", ignore_errors=True)


@pytest.fixture
def command(tmp_path, hub):
    bag = tmp_path / "tour"
    room = first_room_with_tour(DOMAIN)
    write_tour_bag(bag, DOMAIN, room, image_hw=(56, 100), seconds=2.0, rate_hz=1.0)
    settings = ("mode=depth", "depth.min_confidence=0.0")  # a view takes an hour on a processor
    words = ["quickstart", "--bag", str(bag), "--statistics", "GLD", "--yes", "--no-open"]
    return [sys.executable, "-m", "gld_ros.cli.main", *words] + [
        word for setting in settings for word in ("--set", setting)
    ]


class Attempt:
    """The command in a process of its own: what it said, its memory, and its end."""

    def __init__(self, command, name):
        self.name = name
        self.started = time.monotonic()
        self.bytes = self.peak_bytes = self.resident_bytes = 0
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        self.lines = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            print(f"{self.name} {time.monotonic() - self.started:6.1f} s  {line.rstrip()}")
            self.lines.append(line)

    @property
    def said(self):
        return "".join(self.lines)

    def alive(self):
        """Whether it runs; notes its resident memory, mapped files left out."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("utf-8")
        resident = re.search(r"^RssAnon:\s+(\d+)", status, re.M)
        if resident is None:  # it has ended
            return False
        self.bytes = 1024 * int(resident[1])
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        self.resident_bytes = 1024 * int(re.search(r"^VmHWM:\s+(\d+)", status, re.M)[1])
        return True

    def until(self, condition):
        deadline = time.monotonic() + 60 * MINUTES
        while not condition():
            assert self.alive(), f"{self.name} ended early:\n{self.said}"
            assert time.monotonic() < deadline, f"{self.name}:\n{self.said}"
            time.sleep(0.2)

    def note(self, what):
        print(
            f"{self.name}, {what}: {time.monotonic() - self.started:.0f} s, "
            f"largest resident set {self.resident_bytes / 1e9:.2f} GB with mapped files, "
            f"{self.peak_bytes / 1e9:.2f} GB without"
        )

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.finish()

    def finish(self):
        while self.alive():
            time.sleep(0.2)
        _, status, used = os.wait4(self.process.pid, 0)
        self.reader.join()
        print(f"{self.name}: processor {used.ru_utime + used.ru_stime:.0f} s")
        self.note("the end")
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return self.process.returncode


@pytest.mark.slow
@pytest.mark.timeout(4 * 60 * MINUTES)
def test_the_published_sizes_survive_three_kills(hub, command, tmp_path):
    model = CATALOG["gld-da3"]
    files = [content for files in hub.repositories.values() for content in files.values()]
    total = sum(len(content) for content in files if isinstance(content, SparseFile))
    assert total / 1e9 == pytest.approx(model.download_gb, abs=0.05)
    largest = len(hub.repositories[GLD_REPOSITORY][LARGEST])
    downloads, bundles = tmp_path / "data/downloads/gld-da3", tmp_path / "data/bundles"
    part = downloads / f"{LARGEST}.part"

    def part_bytes():
        return part.stat().st_size if part.exists() else 0

    attempt = Attempt(command, "download")
    attempt.until(lambda: part_bytes() > 0.05 * largest)
    early = attempt.bytes
    attempt.until(lambda: part_bytes() > 0.8 * largest)
    assert attempt.peak_bytes < early + 50e6  # 2 GB have passed
    attempt.kill()
    assert "1 fetch 7.9 of 7.9 GB" in attempt.said
    assert "6 files, 7.86 GB, 7.86 GB of them to be fetched" in attempt.said
    kept = part_bytes()

    attempt = Attempt(command, "conversion")
    attempt.until(lambda: any(bundles.glob(".gld-da3.partial-*/level1.safetensors")))
    attempt.kill()
    assert "continuing at" in attempt.said
    assert (LARGEST, kept) in hub.requests
    assert not (bundles / "gld-da3").exists()
    requests = len(hub.requests)

    attempt = Attempt(command, "run")
    attempt.until(lambda: "2 convert: " in attempt.said)
    attempt.note("files verified again")
    attempt.until(lambda: "removed" in attempt.said)
    attempt.note("converted")
    attempt.until(lambda: "every byte as recorded" in attempt.said)
    attempt.note("bundle tested")
    time.sleep(5)
    attempt.kill()
    assert not (tmp_path / "tour-gld-da3").exists()
    assert len(hub.requests) == requests  # every file was here
    assert "0.00 GB of them to be fetched" in attempt.said
    assert "every byte as recorded" in attempt.said
    assert [path.name for path in bundles.iterdir()] == ["gld-da3"]
    assert not downloads.exists()
    config = Bundle.open("gld-da3").config
    assert sum(record.num_values for record in config.files.values()) > 1.8e9

    hub.repositories.clear()  # from here on no network is needed
    attempt = Attempt(command, "rest")
    assert attempt.finish() == 0, attempt.said
    assert "is here already" in attempt.said
    assert np.asarray(Image.open(tmp_path / "tour-gld-da3.png")).max() > 0
