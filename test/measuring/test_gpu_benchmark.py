"""benchmark/gpu.py measures a keyframe on the device; in small also where there is no GPU."""

import sys
import time
from pathlib import Path

import pytest
import torch

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmark"


@pytest.fixture
def machine(monkeypatch):
    """The benchmark's, at tiny size on a CPU."""
    monkeypatch.syspath_prepend(BENCHMARK)
    before = set(sys.modules)
    from gpu_parts.machine import Machine

    yield Machine(torch.device("cpu"), "tiny", time.monotonic() + 60)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARK)):
            del sys.modules[name]


def test_a_keyframe_is_measured_on_the_device_and_compared_with_numpy(machine):
    from gpu_parts.measuring import measuring

    in_numpy, in_torch, scan = measuring(machine)
    for row in (in_numpy, in_torch):
        assert "80x60" in row["search"]
        assert row["ms"] > 0
        assert row["coverage"] > 0.9
        assert row["median_error"] < 0.01
    assert in_torch["within_1_percent_of_numpy"] > 0.99
    assert in_torch["operations"] < 5 * (80 + 53 + 27) + 600  # five per step of the scans
    assert scan["ms"] > 0
