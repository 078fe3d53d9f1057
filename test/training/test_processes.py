"""Training in processes of its own: the command, a kill in the middle, several ranks."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from gld_ros.cli.main import main
from gld_ros.training.curves import read_metrics
from gld_ros.training.data import open_held_out, open_scenes
from gld_ros.training.distributed import join_ranks
from gld_ros.training.environment import ALLOCATOR_ENVIRONMENT
from gld_ros.training.jobs import build_stage
from gld_ros.training.loop import train

from .conftest import assert_same, checkpoint_state, run_config, run_values

CPU = torch.device("cpu")

ROOT = Path(__file__).parents[2]


def write_config(path, store, stage, **changes):
    path.write_text(json.dumps(run_values(store, stage, **changes)))
    return path


def forked(work):
    """Start `work` in a copy of this process, which has everything imported; return its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    # The progress bar's lock is shared with copies; one that is killed would never give it back.
    tqdm.set_lock(threading.RLock())
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001  (the copy must never return into pytest)
        traceback.print_exc()
    finally:
        os._exit(status)


def run_stage(config, folder, bundle, plan, ranks=None, **options):
    stage = build_stage(
        config, bundle, plan, open_scenes(config.data), open_held_out(config.data), CPU
    )
    train(stage, config, folder, device=CPU, ranks=ranks, **options)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize("stage", ["encoder", "level1"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, rooms, plan_folder, micro_bundle, stage):
    bundle = None if stage == "encoder" else micro_bundle
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run_stage(run_config(rooms, stage, steps=10), straight, bundle, plan_folder)
    config = run_config(rooms, stage, steps=10, checkpoint_minutes=0.0)
    victim = forked(lambda: run_stage(config, killed, bundle, plan_folder))
    while len(read_metrics(killed / "metrics.jsonl")) < 3:
        assert os.waitpid(victim, os.WNOHANG) == (0, 0), "ended before it was killed"
        time.sleep(0.002)
    os.kill(victim, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(victim, 0)[1])
    assert 0 < checkpoint_state(killed / "last.pt")["progress"]["step"] < 10
    assert not (killed / "export").exists()
    run_stage(config, killed, bundle, plan_folder)
    states = [checkpoint_state(folder / "last.pt") for folder in (straight, killed)]
    for part in ("model", "ema", "optimizer"):
        assert_same(states[0][part], states[1][part], part)


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize("distributed", ["ddp", "fsdp"])
def test_two_processes_train_as_one(
    tmp_path, rooms, plan_folder, micro_bundle, distributed, monkeypatch
):
    settings = {"steps": 4, "batch_size": 4, "distributed": distributed, "validate_every": 2}
    config = run_config(rooms, "level1", **settings)
    one, two = tmp_path / "one", tmp_path / "two"
    run_stage(config, one, micro_bundle, plan_folder)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setenv("WORLD_SIZE", "2")

    def member():
        ranks = join_ranks(CPU)
        for stop in (2, None):  # the second half resumes what the first one saved
            run_stage(config, two, micro_bundle, plan_folder, ranks, stop_at_step=stop)

    members = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        members.append(forked(member))
    assert [os.waitpid(process, 0)[1] for process in members] == [0, 0]
    rows = [read_metrics(folder / "metrics.jsonl") for folder in (one, two)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for alone, together in zip(*rows, strict=True):
        for name in alone.keys() - {"step", "seconds"}:
            assert together[name] == pytest.approx(alone[name], rel=2e-4), name
    states = [checkpoint_state(folder / "last.pt") for folder in (one, two)]
    for name, value in states[0]["model"].items():
        assert torch.allclose(value, states[1]["model"][name], atol=2e-5), name
        average = states[0]["ema"]["shadow"][name]
        assert torch.allclose(average, states[1]["ema"]["shadow"][name], atol=2e-5), name


@pytest.mark.slow
def test_torchrun_starts_several_processes(tmp_path, rooms, plan_folder, micro_bundle):
    config = write_config(tmp_path / "run.yaml", rooms, "level1", steps=2, batch_size=4)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    job = [*launcher, "-m", "--", "gld_ros.cli.main", "train", "level1", "--config", config]
    job += ["--device", "cpu", "--bundle", micro_bundle, "--model", plan_folder]
    environment = {**os.environ, **ALLOCATOR_ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, job), "--run", str(tmp_path / "run")],
        env={**environment, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=590,
    )
    assert done.returncode == 0, done.stderr
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 3  # two steps, one validation
    assert (tmp_path / "run" / "export" / "level1.safetensors").is_file()


@pytest.mark.slow
def test_the_allocator_is_set_and_said(tmp_path, rooms, plan_folder):
    config = write_config(tmp_path / "run.yaml", rooms, "encoder", steps=1)
    environment = {k: v for k, v in os.environ.items() if k not in ALLOCATOR_ENVIRONMENT}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    job = ["train", "encoder", "--config", config, "--model", plan_folder, "--device", "cpu"]
    job += ["--run", tmp_path / "run"]
    done = subprocess.run(
        [sys.executable, "-m", "gld_ros.cli.main", *map(str, job)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert "allocator tuned: yes" in done.stderr
    assert "precision: fp32" in done.stderr


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, ["--set", "steps=0"], "steps is 0; it must be at least 1"),
        ({}, ["--set", "data.paths=[nowhere]"], "nowhere does not exist"),
        ({"stage": "decoder"}, [], "is a configuration of 'decoder', not 'encoder'"),
        ({}, ["--device", "cuda:9"], "sees no CUDA device"),
        ({}, ["--bundle", "no-such-bundle"], "no bundle 'no-such-bundle'"),
    ],
)
def test_errors_of_the_command_are_one_line(
    tmp_path, rooms, monkeypatch, capsys, changes, arguments, message
):
    for name, value in ALLOCATOR_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)  # no restart inside the test
    if "cuda:9" in arguments and torch.cuda.is_available():
        message = "CUDA"
    config = write_config(tmp_path / "run.yaml", rooms, **{"stage": "encoder", **changes})
    job = ["train", "encoder", "--config", str(config), "--run", str(tmp_path / "run"), *arguments]
    assert main(job) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert error[-1].startswith("gld-ros train: error:")
    assert "Traceback" not in "\n".join(error)
