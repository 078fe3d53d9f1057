"""`gld-ros bags` with real workers: one killed, the command stopped, killed and resumed."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gld_ros.cli.main import main
from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

GOOD = ("tour0", "tour1", "tour2")
OPTIONS = ["--every", "4", "--threads", "1"]
for setting in (
    "policy.yaw_offsets=[0.2]",
    "keyframes.min_interval=0.0",
    "keyframes.max_angular_velocity=100.0",
):
    OPTIONS += ["--set", setting]


class Command:
    """A `gld-ros` command in a process group of its own; what it says goes to a file."""

    def __init__(self, said: Path, *words: object) -> None:
        self.said = said
        with said.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gld_ros.cli.main", *map(str, words)],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.said.read_text()

    def wait(self) -> int:
        return self.process.wait(600)

    def wait_until(self, fact) -> object:
        """What `fact` returns, once that is true; the command has to run until then."""
        while not (found := fact()):
            assert self.process.poll() is None, self.text()
            time.sleep(0.05)
        return found

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(tmp_path):
    """Start a `gld-ros` command; what still runs afterwards is killed."""
    started: list[Command] = []

    def run(*words) -> Command:
        started.append(Command(tmp_path / f"said{len(started)}.txt", *words))
        return started[-1]

    yield run
    for command in started:
        command.end()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Three short bags and one that was cut off."""
    folder = tmp_path_factory.mktemp("recordings")
    room = first_room_with_tour("narrow")
    for number, name in enumerate(GOOD):
        write_tour_bag(
            folder / name, "narrow", room, image_hw=(42, 56), seconds=6.0 + number, rate_hz=1.0
        )
    shutil.copytree(folder / "tour0", folder / "cut")
    stored = next((folder / "cut").glob("*.mcap"))
    stored.write_bytes(stored.read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def expected(recordings, tmp_path_factory):
    """What `gld-ros bag` writes for each good bag."""
    folder = tmp_path_factory.mktemp("single")
    threads = torch.get_num_threads()
    try:
        for name in GOOD:
            assert main(["bag", str(recordings / name), str(folder / name), *OPTIONS]) == 0
    finally:
        torch.set_num_threads(threads)
    return {name: files_of(folder / name) for name in GOOD}


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def times_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def written(out):
    return {name: files_of(out / "bags" / name) for name in GOOD if (out / "bags" / name).exists()}


def records(out):
    if not (out / "manifest.json").exists():
        return {}
    document = json.loads((out / "manifest.json").read_text())
    return {record["name"]: record for record in document["items"].values()}


def done(out):
    return [name for name, record in records(out).items() if record["status"] == "done"]


def rows(out):
    with (out / "summary.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def writer_of_a_bag(out):
    """(process, name) of a worker that has begun a good bag and not ended it."""
    for partial in (out / "bags").glob(".tour*.partial-*/*/*.mcap"):
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                if link.readlink() == partial:
                    return int(link.parts[2]), partial.parent.name
    return None


def test_with_a_worker_killed_and_a_cut_bag_the_bytes_are_those_of_the_single_command(
    recordings, expected, start, tmp_path
):
    out = tmp_path / "views"
    command = start("bags", recordings, "--out", out, "--workers", "2", *OPTIONS)
    pid, victim = command.wait_until(lambda: writer_of_a_bag(out))
    os.kill(pid, signal.SIGKILL)
    assert command.wait() == 1, command.text()
    found = records(out)
    assert {name for name, record in found.items() if record["status"] == "failed"} == {"cut"}
    assert "cut" in found["cut"]["reason"]
    assert {name: record["attempts"] for name, record in found.items()} == {
        name: 1 + (name == victim) for name in (*GOOD, "cut")
    }
    assert found[victim]["worker"].split(":")[-1] != str(pid)
    assert f"{victim}: its worker died" in command.text()
    assert "3 of 4 bags without a problem" in command.text()
    assert written(out) == expected
    assert not list((out / "bags").glob(".*"))  # what the dead worker had begun


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGTERM, 1), (signal.SIGINT, 1)]
)
def test_a_stopped_run_leaves_table_and_page(
    recordings, expected, start, tmp_path, number, workers
):
    out = tmp_path / "views"
    words = ["bags", recordings / "tour*", "--out", out, "--workers", workers, *OPTIONS]
    command = start(*words)
    command.wait_until(lambda: done(out))
    command.process.send_signal(number)
    assert command.wait() == 128 + number, command.text()
    table = rows(out)
    assert sorted(table) == sorted(GOOD)
    finished = [name for name, row in table.items() if row["status"] == "done"]
    assert finished == done(out)
    assert 1 <= len(finished) < 3
    assert all(table[name]["status"] == "waiting" for name in GOOD if name not in finished)
    assert all(f"<h2>{name}</h2>" in (out / "index.html").read_text() for name in GOOD)
    assert "Traceback" not in command.text()


def test_a_killed_run_goes_on_while_its_worker_still_writes(recordings, expected, start, tmp_path):
    out = tmp_path / "views"
    words = ["bags", recordings / "tour*", "--out", out, "--workers", "1", *OPTIONS]
    first = start(*words)
    first.wait_until(lambda: done(out) and writer_of_a_bag(out))
    first.process.kill()  # its worker is in the middle of a bag, and learns of it later
    first.process.wait()
    finished = done(out)
    kept = {name: times_of(out / "bags" / name) for name in finished}

    second = start(*words)
    assert second.wait() == 0, second.text()
    assert f"{len(finished)} done already, {3 - len(finished)} to run" in second.text()
    assert {name: times_of(out / "bags" / name) for name in finished} == kept
    assert written(out) == expected
    assert not list((out / "bags").glob(".*"))
