"""Workers on a cluster of Ray that is running already: where it is, what it has, its bytes."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from gld_ros.batch.ray_workers import RayOptions, run_on_ray
from gld_ros.batch.work import BatchTask
from gld_ros.cli.main import main
from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

OPTIONS = ["--every", "4", "--threads", "1", "--set", "policy.yaw_offsets=[0.2]"]
OPTIONS += ["--set", "keyframes.min_interval=0.0", "--set", "keyframes.max_angular_velocity=100.0"]


@pytest.fixture(scope="module", autouse=True)
def _workers_know_this_file():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def cluster():
    """Addresses of a cluster of this machine alone, with two GPUs that do not exist."""
    # Sockets lie below the folder, and their paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    words = "start --head --block --port 0 --node-ip-address 127.0.0.1 --num-cpus 4 --num-gpus 2"
    words += f" --include-dashboard false --disable-usage-stats --temp-dir {folder}"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words += f" --ray-client-server-port {port} --object-store-memory 100000000"
    said = folder / "said.txt"
    with said.open("w") as output:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), *words.split()],
            stdout=output,
            stderr=subprocess.STDOUT,
            # This process, which has imported Ray, could not learn of a token any more. With a
            # niceness of 15 workers would hardly run beside other tests.
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"},
            start_new_session=True,  # `ray stop` would end every cluster on the machine
        )
    try:
        while not (found := re.search(r"--address='([\d.:]+)'", said.read_text())):
            assert process.poll() is None, said.read_text()
            time.sleep(0.1)
        yield {"": found[1], "ray://": f"ray://127.0.0.1:{port}"}
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


class SeenByWorkers:
    """Says which process ran an item, and which GPUs CUDA would show to it."""

    def load(self):
        pass

    def run(self, task):
        time.sleep(1.0)  # so that every worker gets something to do
        return {"process": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        ({}, ["0", "1"]),
        ({"gpus": 0.5}, ["0", "0", "1", "1"]),
        ({"workers": 1}, ["0"]),
        ({"gpus": 0.0, "threads": 2}, ["", ""]),
    ],
    ids=["one each", "two share one", "fewer workers than GPUs", "none"],
)
def test_every_worker_has_its_share_of_the_gpus(cluster, tmp_path, options, gpus):
    tasks = [BatchTask(str(tmp_path / n), n, tmp_path / n, tmp_path / n) for n in "abcdefghijkl"]
    outcomes = list(run_on_ray(tasks, SeenByWorkers(), RayOptions(address=cluster[""], **options)))
    assert [outcome.reason for outcome in outcomes] == [""] * len(tasks)
    seen = {outcome.summary["process"]: outcome.summary["gpus"] for outcome in outcomes}
    assert sorted(seen.values()) == gpus


def test_a_cluster_can_be_reached_from_outside(cluster, tmp_path):
    task = BatchTask(str(tmp_path), "a", tmp_path, tmp_path)
    options = RayOptions(address=cluster["ray://"], workers=1)
    (outcome,) = run_on_ray([task], SeenByWorkers(), options)
    assert (outcome.reason, outcome.summary["gpus"]) == ("", "0")


def test_more_gpus_than_there_are_is_said(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("gld_ros.batch.ray_workers._PATIENCE_S", 1.0)
    said = []

    class EnoughError(Exception):
        pass

    def say(text):
        said.append(text)
        raise EnoughError

    task = BatchTask(str(tmp_path), "a", tmp_path, tmp_path)
    options = RayOptions(address=cluster[""], gpus=3.0)
    with pytest.raises(EnoughError):
        list(run_on_ray([task], SeenByWorkers(), options, say))
    assert "each needs 1 processors and 3 GPUs; the cluster has 4 processors and 2 GPUs" in said[0]


def test_bags_on_a_cluster_have_the_bytes_of_the_single_command(cluster, tmp_path, monkeypatch):
    room = first_room_with_tour("narrow")
    for name in ("one", "two"):
        path = tmp_path / "rec" / name
        write_tour_bag(path, "narrow", room, image_hw=(42, 56), seconds=6.0, rate_hz=1.0)
    threads = torch.get_num_threads()
    try:
        assert main(["bag", str(path), str(tmp_path / "alone/two"), *OPTIONS]) == 0
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setenv("RAY_ADDRESS", cluster[""])  # as a job of a cluster has it
    words = ["bags", str(tmp_path / "rec"), "--out", str(tmp_path / "views"), "--address", "auto"]
    assert main([*words, *OPTIONS]) == 0
    written, alone = (
        {file.name: file.read_bytes() for file in (tmp_path / folder / "two").iterdir()}
        for folder in ("views/bags", "alone")
    )
    assert sorted(written) == ["metadata.yaml", "two.mcap"]
    assert written == alone
