"""Depth cameras that are scaled wrongly or registered beside the colour image, against stereo."""

import numpy as np
import pytest

from gld_ros.measuring.depth_camera_agreement import depth_camera_agreement
from gld_ros.measuring.frames import MeasuredDepth

HW = (120, 160)


def scene(seed):
    """Depth (h, w) of a floor and a wall, with two boxes that are elsewhere in each image."""
    rows = np.indices(HW)[0].astype(np.float32)
    depth_m = np.minimum(4.0, 150.0 / np.maximum(rows - 40.0, 1.0)).astype(np.float32)
    left = 15 + 10 * seed
    depth_m[30:80, left : left + 30] = 1.5
    depth_m[45:75, left + 50 : left + 75] = 2.2
    return depth_m


def images(scale=1.0, shift_px=(0, 0)):
    """What the depth camera and stereo measured of six images; stereo is 1 % off here and there."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(6):
        true_m = scene(seed)
        there_m = scale * np.roll(true_m, shift_px[::-1], (0, 1))
        stereo_m = true_m * rng.normal(1.0, 0.01, HW).astype(np.float32)
        sure = np.full(HW, 0.9, np.float32)
        found.append(
            (
                MeasuredDepth(there_m, np.ones(HW, np.float32), "camera"),
                MeasuredDepth(stereo_m, sure, "stereo"),
            )
        )
    return found


def test_a_depth_camera_that_fits_gives_no_reason():
    agreement = depth_camera_agreement(images())
    assert not agreement.disagrees
    assert agreement.scale == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("scale", [0.9, 1.1])
def test_a_wrong_scale_is_told(scale):
    agreement = depth_camera_agreement(images(scale))
    assert agreement.has_wrong_scale
    assert not agreement.is_shifted
    assert agreement.scale == pytest.approx(scale, rel=0.01)
    assert f"{scale:.2f} times as far" in agreement.describe()


@pytest.mark.parametrize("shift_px", [(5, 0), (-5, 0), (0, 5), (3, -4)])
def test_a_wrong_registration_is_told_with_its_shift(shift_px):
    agreement = depth_camera_agreement(images(1.0, shift_px))
    assert agreement.is_shifted
    np.testing.assert_allclose(agreement.shift_px, shift_px, atol=1.0)
    assert not agreement.has_wrong_scale
    assert "registered" in agreement.describe()


def test_too_little_in_common_says_nothing():
    agreement = depth_camera_agreement(images()[:0])
    assert not agreement.disagrees
    assert "too little" in agreement.describe()
