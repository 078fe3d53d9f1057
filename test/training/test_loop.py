"""The training loop: what is skipped, saved, resumed and refused."""

import dataclasses
import errno
import itertools
import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from gld_ros.training import checkpoint as checkpoint_module
from gld_ros.training.checkpoint import (
    CheckpointError,
    append_checksum,
    load_checkpoint,
    save_checkpoint,
)
from gld_ros.training.curves import read_metrics
from gld_ros.training.data import BadBatch
from gld_ros.training.ema import ParameterAverage
from gld_ros.training.loop import MAX_CONSECUTIVE_SKIPS, TrainingFailed, train
from gld_ros.training.run_lock import RunFolderInUse
from gld_ros.training.schedule import learning_rate

from .conftest import LineStage, assert_same, checkpoint_state, line_config

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_curves(request):
    if "products" not in request.node.name:
        request.getfixturevalue("no_curves")


def test_training_reduces_the_loss_and_leaves_its_products(tmp_path):
    stage = LineStage()
    config = line_config(optimizer={"learning_rate": 0.3}, validate_every=10)
    outcome = train(stage, config, tmp_path, device=CPU)
    assert outcome.finished
    assert outcome.progress.step == 20
    rows = read_metrics(tmp_path / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 20
    assert losses[-1] < 0.2 * losses[0]
    assert [row["step"] for row in rows if "validation/distance" in row] == [10, 20]
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert list((tmp_path / "tensorboard").iterdir())
    assert len(stage.exported) == 1


def test_what_is_exported_is_the_average_and_the_live_parameters_go_on(tmp_path):
    stage = LineStage()
    train(stage, line_config(optimizer={"learning_rate": 0.3}), tmp_path, device=CPU)
    state = checkpoint_state(tmp_path / "last.pt")
    assert torch.equal(stage.exported[0], state["ema"]["shadow"]["w"])
    assert torch.equal(stage.w.detach(), state["model"]["w"])
    assert not torch.equal(stage.exported[0], state["model"]["w"])


def test_resuming_equals_never_stopping_bit_for_bit(tmp_path):
    config = line_config(validate_every=10)
    train(LineStage(), config, tmp_path / "straight", device=CPU)
    train(LineStage(), config, tmp_path / "halves", device=CPU, stop_at_step=10)
    torch.manual_seed(999)
    train(LineStage(), config, tmp_path / "halves", device=CPU)
    straight, halves = (
        checkpoint_state(tmp_path / name / "last.pt") for name in ("straight", "halves")
    )
    for name in ("model", "ema", "optimizer"):
        assert_same(straight[name], halves[name], name)
    logs = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(path)]
        for path in (tmp_path / n / "metrics.jsonl" for n in ("straight", "halves"))
    ]
    assert logs[0] == logs[1]


def test_random_states_survive_a_restart(tmp_path):
    config = line_config()
    train(LineStage(), config, tmp_path, device=CPU, stop_at_step=5)
    expected = torch.rand(3)
    torch.manual_seed(4)
    train(LineStage(), config, tmp_path, device=CPU, stop_at_step=5)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("spoil", "counter"),
    [
        ("nan loss", "skipped_batches"),
        ("huge loss", "skipped_batches"),
        ("nan gradient", "dropped_steps"),
    ],
)
def test_a_bad_step_is_counted_and_changes_nothing(tmp_path, spoil, counter):
    stage = LineStage()
    train(stage, line_config(), tmp_path, device=CPU, stop_at_step=5)
    before = checkpoint_state(tmp_path / "last.pt")
    stage = LineStage()
    stage.spoil = {5: spoil}
    outcome = train(stage, line_config(), tmp_path, device=CPU, stop_at_step=6)
    after = checkpoint_state(tmp_path / "last.pt")
    assert getattr(outcome.progress, counter) == 1
    assert outcome.progress.skipped_batches + outcome.progress.dropped_steps == 1
    for name in ("model", "ema", "optimizer"):
        assert_same(
            before[name]["state"] if name == "optimizer" else before[name],
            after[name]["state"] if name == "optimizer" else after[name],
            name,
        )
    outcome = train(LineStage(), line_config(), tmp_path, device=CPU)
    assert outcome.finished
    assert getattr(outcome.progress, counter) == 1


def test_a_batch_that_cannot_be_formed_is_counted(tmp_path):
    class Sparse(LineStage):
        def batch(self, step, samples):
            if step == 3:
                raise BadBatch("no usable frames")
            return super().batch(step, samples)

    outcome = train(Sparse(), line_config(), tmp_path, device=CPU)
    assert outcome.progress.skipped_batches == 1
    assert outcome.finished


def test_too_many_bad_batches_end_the_run_and_keep_the_last_good_state(tmp_path):
    config = line_config()
    config = dataclasses.replace(config, steps=500)
    train(LineStage(), config, tmp_path, device=CPU, stop_at_step=5)
    good = (tmp_path / "last.pt").read_bytes()
    stage = LineStage()
    stage.spoil = dict.fromkeys(range(5, 500), "nan loss")
    with pytest.raises(TrainingFailed, match=f"{MAX_CONSECUTIVE_SKIPS} batches in a row"):
        train(stage, config, tmp_path, device=CPU)
    assert (tmp_path / "last.pt").read_bytes() == good
    assert not stage.exported


def test_a_checkpoint_of_another_configuration_is_refused_by_field(tmp_path):
    train(LineStage(), line_config(), tmp_path, device=CPU, stop_at_step=2)
    with pytest.raises(CheckpointError, match=r"differing: .*seed \(0 there, 7 here\)"):
        train(LineStage(), line_config(seed=7), tmp_path, device=CPU)
    with pytest.raises(CheckpointError, match=r"optimizer\.learning_rate"):
        train(LineStage(), line_config(optimizer={"learning_rate": 0.5}), tmp_path, device=CPU)


def test_a_checkpoint_of_a_model_of_other_sizes_is_refused(tmp_path):
    train(LineStage(), line_config(), tmp_path, device=CPU, stop_at_step=2)
    stage = LineStage()
    stage.w = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(CheckpointError, match=r"other sizes; differing: w"):
        train(stage, line_config(), tmp_path, device=CPU)


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(LineStage(), line_config(), tmp_path, device=CPU, stop_at_step=2)
    path = tmp_path / "last.pt"
    good = path.read_bytes()
    path.write_bytes(good[:100])
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged"):
        train(LineStage(), line_config(), tmp_path, device=CPU)
    for position in range(0, len(good), len(good) // 40):
        flipped = bytearray(good)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=r"last\.pt is damaged: its checksum"):
            load_checkpoint(path, config={})
    path.write_bytes(good)
    assert train(LineStage(), line_config(), tmp_path, device=CPU).finished


HOLDER = """
import sys
from pathlib import Path
import torch
from gld_ros.training.distributed import Ranks
from gld_ros.training.run_lock import run_folder_lock
with run_folder_lock(Path(sys.argv[1]), Ranks(0, 1), torch.device("cpu")):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_trainers_in_one_run_folder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RunFolderInUse, match=rf"in use by process {other.pid} on .* since"):
            train(LineStage(), line_config(), tmp_path, device=CPU)
        other.kill()
    assert train(LineStage(), line_config(), tmp_path, device=CPU).finished


def test_a_checkpoint_never_runs_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"format": 1, "config": {}, "evil": Evil()}, tmp_path / "last.pt")
    append_checksum(tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "last.pt", config={})
    assert not (tmp_path / "owned").exists()


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    train(LineStage(), line_config(), tmp_path, device=CPU, stop_at_step=5)
    good = (tmp_path / "last.pt").read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module.torch, "save", full)
    with pytest.raises(CheckpointError, match=r"no space left .* previous checkpoint is intact"):
        train(LineStage(), line_config(), tmp_path, device=CPU)
    assert (tmp_path / "last.pt").read_bytes() == good
    assert not list(tmp_path.glob(".*partial"))


def test_a_write_that_dies_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})

    class Killed(BaseException):
        pass

    def killed(state, target):
        target.write_bytes(b"half")
        raise Killed

    monkeypatch.setattr(checkpoint_module.torch, "save", killed)
    with pytest.raises(Killed):
        save_checkpoint(path, {"step": 2})
    monkeypatch.undo()
    assert checkpoint_state(path)["step"] == 1


def test_the_wall_clock_guard_stops_saved(tmp_path):
    outcome = train(LineStage(), line_config(), tmp_path, device=CPU, max_minutes=0.0)
    assert not outcome.finished
    assert outcome.progress.step == 1
    assert checkpoint_state(tmp_path / "last.pt")["progress"]["step"] == 1


def test_a_termination_signal_stops_after_the_step_saved(tmp_path):
    class Signalled(LineStage):
        def after_step(self, step, batch):
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return {}

    outcome = train(Signalled(), line_config(), tmp_path, device=CPU)
    assert not outcome.finished
    assert checkpoint_state(tmp_path / "last.pt")["progress"]["step"] == 5


def test_accumulated_micro_batches_equal_the_whole_batch(tmp_path):
    whole, parts = LineStage(), LineStage()
    train(whole, line_config(batch_size=4), tmp_path / "whole", device=CPU)
    train(parts, line_config(batch_size=4, accumulation=2), tmp_path / "parts", device=CPU)
    assert torch.allclose(whole.w, parts.w, atol=1e-6)


def test_log_rows_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    train(LineStage(), line_config(), tmp_path, device=CPU, stop_at_step=5)
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as log:
        log.write(json.dumps({"step": 6, "loss": 1.0}) + "\n" + '{"step": 7, "lo')
    train(LineStage(), line_config(), tmp_path, device=CPU, stop_at_step=8)
    assert [row["step"] for row in read_metrics(path)] == list(range(1, 9))


def test_schedule_warms_up_and_decays():
    rates = [
        learning_rate(i, peak=2.0, warmup_steps=4, total_steps=24, final_fraction=0.1)
        for i in range(25)
    ]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[14] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates[24] == pytest.approx(0.2)
    assert all(b <= a for a, b in itertools.pairwise(rates[4:]))


def test_average_warms_up_and_swaps_back():
    stage = LineStage()
    average = ParameterAverage(stage, 0.99)
    with torch.no_grad():
        stage.w.fill_(1.0)
    average.update(stage)  # decay 1/10
    assert torch.allclose(average.shadow["w"], torch.full((2,), 0.9))
    average.update(stage)  # decay 2/11
    assert torch.allclose(average.shadow["w"], torch.full((2,), 1 - 0.1 * 2 / 11))
    average.updates = 10_000
    average.swap(stage)
    assert not torch.equal(stage.w, torch.ones(2))
    average.swap(stage)
    assert torch.equal(stage.w, torch.ones(2))
    before = average.shadow["w"].clone()
    with torch.no_grad():
        stage.w.fill_(2.0)
    average.update(stage)
    assert torch.allclose(average.shadow["w"], 0.99 * before + 0.01 * 2)
    with pytest.raises(ValueError, match=r"EMA decay is 1\.0"):
        ParameterAverage(stage, 1.0)
