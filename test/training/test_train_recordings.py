"""`gld-ros train STAGE --recordings ... --held-out ...`: the recordings that are named, typed."""

import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from gld_ros.cli.main import main
from gld_ros.scenes.folders import write_scene_folder
from gld_ros.training.curves import read_metrics
from gld_ros.training.environment import ALLOCATOR_ENVIRONMENT

from .conftest import run_values

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture(autouse=True)
def _no_restart(monkeypatch):
    for name, value in ALLOCATOR_ENVIRONMENT.items():
        monkeypatch.setenv(name, os.environ.get(name, value))


def write_recording(path, seed):
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (6, 1, 1))
    poses[:, 0, 3] = np.arange(6) * 0.1
    images = [rng.integers(0, 255, (30, 40, 3), dtype=np.uint8) for _ in range(6)]
    K_px = np.array([[30.0, 0, 19.5], [0, 30.0, 14.5], [0, 0, 1]])
    depths = [np.full((30, 40), 1.0 + seed, np.float32)] * 6
    write_scene_folder(path, images, K_px, poses, depths, metric=True)
    return path


@pytest.fixture
def days(tmp_path):
    """Four recordings of a site."""
    names = ("monday", "tuesday", "thursday", "friday")
    return {name: write_recording(tmp_path / name, seed) for seed, name in enumerate(names)}


@pytest.fixture
def train(tmp_path, plan_folder):
    """Run the command on a configuration whose own recordings do not exist; its figures."""
    config = tmp_path / "run.yaml"
    values = run_values(Path("nowhere"), "encoder", steps=2)
    values["data"] |= {"kind": "folders", "held_out_paths": ["nowhere"]}
    config.write_text(yaml.safe_dump(values))

    def run(name, *arguments):
        words = ["train", "encoder", "--config", config, "--model", plan_folder, "--device", "cpu"]
        status = main([*map(str, words), "--run", str(tmp_path / name), *map(str, arguments)])
        rows = read_metrics(tmp_path / name / "metrics.jsonl") if status == 0 else []
        losses = [row["loss"] for row in rows if "loss" in row]
        validations = [
            {key: value for key, value in row.items() if key.startswith("validation/")}
            for row in rows
        ]
        return status, losses, next(filter(None, reversed(validations)), {})

    return run


def test_it_learns_from_the_named_recordings_and_validates_on_the_held_out_one(train, days):
    learned = ("--recordings", days["monday"], days["tuesday"])
    status, losses, thursday = train("first", *learned, "--held-out", days["thursday"])
    assert status == 0
    assert len(losses) == 2
    assert thursday

    # Another held-out day: other figures of the same training.
    status, same_losses, friday = train("second", *learned, "--held-out", days["friday"])
    assert status == 0
    assert same_losses == losses
    assert friday.keys() == thursday.keys()
    assert friday != thursday

    # Other days to learn from: another training.
    status, other_losses, _ = train(
        "third", "--recordings", days["monday"], "--held-out", days["thursday"]
    )
    assert status == 0
    assert other_losses != losses


@pytest.mark.parametrize("option", ["--recordings", "--held-out"])
def test_a_recording_that_is_not_there_is_named(train, days, tmp_path, capsys, option):
    given = {"--recordings": days["monday"], "--held-out": days["friday"]}
    given[option] = tmp_path / "sunday"
    words = [word for pair in given.items() for word in pair]
    status, _, _ = train("run", *words)
    assert status == 1
    assert "sunday" in capsys.readouterr().err


def test_without_the_options_those_of_the_configuration_count(train, capsys):
    assert train("run")[0] == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_configuration_without_recordings_refuses_them(
    tmp_path, plan_folder, rooms, days, capsys
):
    config = tmp_path / "rooms.yaml"
    config.write_text(yaml.safe_dump(run_values(rooms, "encoder")))
    words = ["train", "encoder", "--config", config, "--model", plan_folder, "--device", "cpu"]
    words += ["--run", tmp_path / "run", "--recordings", days["monday"]]
    assert main([*map(str, words)]) == 1
    assert "need one part of recordings in the data; it has 0" in capsys.readouterr().err
