"""Memory estimates of an earlier run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gld_ros import remembered_estimates
from gld_ros.memory_estimate import MemoryEstimate, RunShape, StageMemory
from gld_ros.remembered_estimates import KEPT, remembered_estimate
from gld_ros.weights.bundle import Bundle

CONFIG = Bundle.open("tiny").config
SHAPE = RunShape(2, 1, CONFIG.resolutions_hw[0])
FLOAT32 = {"dtype": torch.float32, "keep_weights": True}


@pytest.fixture
def traced(tmp_path, monkeypatch):
    """Runs that were traced, on a machine that has made no estimate; each gets another one."""
    monkeypatch.setenv("GLD_ROS_DATA", str(tmp_path / "data"))
    runs = []

    def estimate(*args, **kwargs):
        runs.append((args, kwargs))
        return MemoryEstimate({"backbone": 7}, {"encoding": StageMemory(7, len(runs))})

    monkeypatch.setattr(remembered_estimates, "estimate_memory", estimate)
    return runs


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "cache" / "estimates"


def test_the_same_run_is_traced_once(traced):
    first = remembered_estimate(CONFIG, SHAPE, **FLOAT32)
    assert remembered_estimate(CONFIG, SHAPE, **FLOAT32) == first
    assert traced == [((CONFIG, SHAPE), FLOAT32)]


def test_whatever_decides_the_estimate_makes_another(traced, monkeypatch):
    runs = (
        ((CONFIG, SHAPE), FLOAT32),
        ((CONFIG, replace(SHAPE, samples=2)), FLOAT32),
        ((CONFIG, SHAPE), FLOAT32 | {"dtype": torch.bfloat16}),
        ((CONFIG, SHAPE), FLOAT32 | {"keep_weights": False}),
        ((replace(CONFIG, boundary_level=1, num_views=9), SHAPE), FLOAT32),
    )
    estimates = [remembered_estimate(*args, **options) for args, options in runs]
    assert len(traced) == len(runs) == len({e.peak_bytes for e in estimates})
    monkeypatch.setattr(torch, "__version__", "0.0")
    remembered_estimate(CONFIG, SHAPE, **FLOAT32)
    assert len(traced) == len(runs) + 1


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"weights": {}, "stages": {"a": 1}}'])
def test_a_broken_file_is_made_anew(traced, folder, content):
    remembered_estimate(CONFIG, SHAPE, **FLOAT32)
    (file,) = folder.iterdir()
    file.write_bytes(content)
    anew = remembered_estimate(CONFIG, SHAPE, **FLOAT32)
    assert len(traced) == 2
    assert remembered_estimate(CONFIG, SHAPE, **FLOAT32) == anew
    assert len(traced) == 2


def test_only_the_newest_are_kept(traced, folder):
    for samples in range(1, KEPT + 3):
        remembered_estimate(CONFIG, replace(SHAPE, samples=samples), **FLOAT32)
    assert len(list(folder.iterdir())) == KEPT
    remembered_estimate(CONFIG, replace(SHAPE, samples=KEPT + 2), **FLOAT32)
    assert len(traced) == KEPT + 2


def test_nothing_is_kept_where_nothing_can_be_written(traced, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GLD_ROS_DATA", str(tmp_path / "file"))
    for _ in range(2):
        assert remembered_estimate(CONFIG, SHAPE, **FLOAT32).weights == {"backbone": 7}
    assert len(traced) == 2


def test_a_user_without_a_home_gets_an_estimate(traced, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("GLD_ROS_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert remembered_estimate(CONFIG, SHAPE, **FLOAT32).weights == {"backbone": 7}
