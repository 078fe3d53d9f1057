"""Operations of a guided step at the published size, as benchmark/flops.py counts them."""

import runpy
from pathlib import Path

import pytest

from gld_ros.diffusion.config import GLD_DA3_CASCADE, GLD_DA3_LEVEL1

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmark" / "flops.py"
OFFICIAL_LEVEL1 = 24.51e12  # the released code: guided step, 4 + 4 views of 504x280


@pytest.fixture(scope="module")
def guided_call():
    count = runpy.run_path(str(BENCHMARK))["guided_call"]
    return lambda config: count(config, 4, 4, (280, 504))


def test_a_guided_level_1_step_takes_fewer_operations_than_the_released_code(guided_call):
    plain, fast = guided_call(GLD_DA3_LEVEL1)
    assert fast < plain
    assert fast < OFFICIAL_LEVEL1


def test_a_cascade_step_takes_fewer_operations_than_the_plain_network(guided_call):
    plain, fast = guided_call(GLD_DA3_CASCADE)
    assert fast < plain
