"""Training in processes of its own: the command, a kill in the middle, several ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gld_ros.cli.main import main
from gld_ros.training.curves import read_metrics
from gld_ros.training.environment import ALLOCATOR_ENVIRONMENT

from .conftest import assert_same, checkpoint_state, run_values

ROOT = Path(__file__).parents[2]


def command(*arguments):
    environment = {
        **os.environ,
        **ALLOCATOR_ENVIRONMENT,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def write_config(path, store, stage, **changes):
    path.write_text(json.dumps(run_values(store, stage, **changes)))
    return path


def finish(process):
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["encoder", "level1"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, rooms, plan_folder, micro_bundle, stage):
    config = write_config(
        tmp_path / "run.yaml", rooms, stage, steps=20, checkpoint_minutes=0.0, batch_size=2
    )
    common = ["-m", "gld_ros.cli.main", "train", stage, "--config", config, "--device", "cpu"]
    common += ["--model", plan_folder]
    common += [] if stage == "encoder" else ["--bundle", micro_bundle]
    finish(command(*common, "--run", tmp_path / "straight"))
    victim = command(*common, "--run", tmp_path / "killed")
    deadline = time.monotonic() + 400
    log = tmp_path / "killed" / "metrics.jsonl"
    while len(read_metrics(log)) < 8:
        assert victim.poll() is None, victim.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    done = checkpoint_state(tmp_path / "killed" / "last.pt")["progress"]["step"]
    assert 0 < done < 20
    assert not (tmp_path / "killed" / "export").exists()
    output = finish(command(*common, "--run", tmp_path / "killed"))
    assert f"at step {done}" in output
    straight, killed = (checkpoint_state(tmp_path / n / "last.pt") for n in ("straight", "killed"))
    for part in ("model", "ema", "optimizer"):
        assert_same(straight[part], killed[part], part)


@pytest.mark.slow
@pytest.mark.parametrize("distributed", ["ddp", "fsdp"])
def test_two_processes_train_as_one(tmp_path, rooms, plan_folder, micro_bundle, distributed):
    config = write_config(
        tmp_path / "run.yaml",
        rooms,
        "level1",
        steps=6,
        batch_size=4,
        distributed=distributed,
        validate_every=3,
    )
    job = ["train", "level1", "--config", config, "--device", "cpu", "--bundle", micro_bundle]
    job += ["--model", plan_folder]
    finish(command("-m", "gld_ros.cli.main", *job, "--run", tmp_path / "one"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = [*launcher, "-m", "gld_ros.cli.main", *job, "--run", tmp_path / "two"]
    finish(command(*two, "--set", "steps=6"))
    rows = [
        [row for row in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in row]
        for name in ("one", "two")
    ]
    assert len(rows[0]) == len(rows[1]) == 6
    for one, both in zip(*rows, strict=True):
        for name in ("loss", "target_part", "gradient_norm"):
            assert both[name] == pytest.approx(one[name], rel=2e-4), name
    one, both = (checkpoint_state(tmp_path / name / "last.pt") for name in ("one", "two"))
    for part in ("model", "ema"):
        left = one[part] if part == "model" else one[part]["shadow"]
        right = both[part] if part == "model" else both[part]["shadow"]
        for name, value in left.items():
            assert torch.allclose(value, right[name], atol=2e-5), (part, name)


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
