"""Workers of Ray: every bag gets its outcome, whatever happens to the worker that ran it."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from gld_ros.batch.ray_workers import RayOptions, run_on_ray
from gld_ros.batch.work import BatchTask, WorkerUnusable

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def _workers_know_this_file():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class Work:
    """Does to each bag what its name says; counts loads and runs in files of `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self):
        (self.folder / f"load-{os.getpid()}").touch()

    def run(self, task):
        mark = self.folder / f"run-{task.name}-{os.getpid()}-{time.monotonic_ns()}"
        first = not list(self.folder.glob(f"run-{task.name}-*"))
        mark.touch()
        if task.name == "bad":
            raise ValueError("bag is broken")
        if task.name == "bug":
            return {}[task.name]
        if task.name == "deadly" or (task.name == "killed" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if task.name == "device" and first:
            raise WorkerUnusable("the device is lost")
        return {"views": 1}


class NoModel(Work):
    """A worker that never gets ready."""

    def load(self):
        raise RuntimeError("no such bundle")


def tasks(folder, *names):
    return [
        BatchTask(str(folder / name), name, folder / "out" / name, folder / f"{name}.jpg")
        for name in names
    ]


def test_dead_workers_are_replaced_and_failures_stay_with_their_bag(tmp_path):
    names = ("killed", "bad", "good", "device", "bug", "deadly", "also good")
    said = []
    outcomes = {
        outcome.task.name: outcome
        for outcome in run_on_ray(
            tasks(tmp_path, *names), Work(tmp_path), RayOptions(workers=2, retries=1), said.append
        )
    }
    assert set(outcomes) == set(names)
    for name, attempts in (("good", 1), ("also good", 1), ("killed", 2), ("device", 2)):
        assert (outcomes[name].reason, outcomes[name].attempts) == ("", attempts)
        assert outcomes[name].summary == {"views": 1}
    assert outcomes["bad"].reason == "bag is broken"
    assert outcomes["bug"].reason == "KeyError: 'bug'"
    assert outcomes["deadly"].reason.startswith("its worker died 2 times")
    assert len(list(tmp_path.glob("run-deadly-*"))) == 2
    assert sum("it is run again" in line for line in said) == 3
    # A process loads once, however many bags it runs: two, and one in place of each dead one.
    assert len(list(tmp_path.glob("load-*"))) <= 6


def test_workers_that_cannot_load_end_the_run_with_their_reason(tmp_path):
    with pytest.raises(RuntimeError, match=r"no worker could be started.*no such bundle"):
        list(run_on_ray(tasks(tmp_path, "good"), NoModel(tmp_path), RayOptions(workers=1)))


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_is_not_there_is_named_at_once(tmp_path, scheme):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"{scheme}127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConnectionError, match=f"no Ray cluster answers at {address}"):
        list(run_on_ray(tasks(tmp_path, "good"), Work(tmp_path), RayOptions(address=address)))


def test_a_cluster_that_refuses_this_process_is_said_with_what_to_set(tmp_path, monkeypatch):
    def refuse(**options):
        raise ConnectionError(f"Failed to connect to Ray cluster at {options['address']}")

    monkeypatch.setattr(ray, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=r"does not let this.*RAY_AUTH_MODE=token"):
            list(run_on_ray(tasks(tmp_path, "good"), Work(tmp_path), RayOptions(address=address)))
