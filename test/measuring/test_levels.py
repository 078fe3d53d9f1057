"""The depths that a search compares, coarse to fine."""

import numpy as np
import pytest
from textured_planes import camera_at, plane_image, texture

from gld_ros.measuring.levels import SearchLevel, search_levels

RANGE_M = (0.4, 12.0)


def levels(planes: int) -> list[SearchLevel]:
    values = texture(1)
    first, second = (plane_image(camera_at(x_m), 2.0, values) for x_m in (0.0, 0.1))
    return search_levels(first, [second], RANGE_M, planes, (240, 320))


@pytest.mark.parametrize("planes", [16, 24, 63, 64, 65])
def test_the_whole_range_is_searched_whatever_the_number_of_planes(planes: int) -> None:
    steps = levels(planes)[0].steps
    assert steps[0] == 0.0
    np.testing.assert_allclose(steps[-1], 1 / RANGE_M[0] - 1 / RANGE_M[1], rtol=1e-6)
    assert (np.diff(steps) > 0).all()


@pytest.mark.parametrize("planes", [16, 24, 64])
def test_finer_levels_reach_whatever_lies_between_two_depths_of_the_coarsest(planes: int) -> None:
    coarsest, finer, _ = levels(planes)
    assert finer.steps[-1] >= 0.5 * np.diff(coarsest.steps).max() * (1 - 1e-5)
