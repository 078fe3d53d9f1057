"""The probability that measured depth is right, on surfaces whose truth is known."""

import numpy as np
from textured_planes import HW, camera_at, plane_depth, plane_image, texture

from gld_ros.measuring.confidence import (
    RIGHT_WITHIN,
    FoundSurface,
    carried_confidence,
    confirmed_confidence,
    surface_confidence,
)
from gld_ros.measuring.frames import MeasuredDepth
from gld_ros.measuring.measure import MeasuringParameters, measure_depth


def found(inverse_depth: np.ndarray, margin: float = 0.15, seen: bool = True) -> FoundSurface:
    """A surface with a sharp minimum at every pixel."""
    shape = inverse_depth.shape
    return FoundSurface(
        inverse_depth.astype(np.float32),
        np.full(shape, margin, np.float32),
        np.full(shape, 0.1, np.float32),
        np.full(shape, seen),
    )


def test_pixels_beside_a_jump_of_depth_are_less_certain_the_nearer_the_jump() -> None:
    inverse = np.full((40, 60), 0.5)
    inverse[:, 30:] = 0.8
    confidence = surface_confidence(found(inverse))[20]
    assert confidence[5] > 0.9  # far from the jump
    assert confidence[29] < confidence[24] < confidence[5]
    assert confidence[30] < confidence[35] < confidence[55]


def test_nothing_is_certain_where_images_cannot_tell_depths_apart() -> None:
    plane = np.full((20, 30), 0.5)
    assert not surface_confidence(found(plane, margin=0.005)).any()
    assert not surface_confidence(found(plane, seen=False)).any()


def test_other_images_raise_and_lower_the_probability() -> None:
    def with_others(agreeing: int, through: int, hiding: int) -> float:
        counts = (np.array([n]) for n in (agreeing, through, hiding))
        return float(confirmed_confidence(np.array([0.7]), *counts)[0])

    agreed = [with_others(n, 0, 0) for n in (0, 1, 2, 4)]
    assert agreed == sorted(agreed)
    assert with_others(1, 1, 0) < with_others(1, 0, 0)
    assert with_others(1, 0, 1) < with_others(1, 0, 0)


def test_carried_depth_is_surer_where_the_image_agrees_and_less_beside_jumps_and_other_depth() -> (
    None
):
    depth_m = np.full((60, 80), 2.0, np.float32)
    depth_m[:, 40:] = 3.0
    depth_m[:10] = np.nan
    carried = MeasuredDepth(depth_m, np.where(depth_m > 0, 0.8, 0.0).astype(np.float32), "stereo")
    nowhere, nothing = np.zeros((60, 80), bool), np.full((60, 80), np.nan, np.float32)
    plain = carried_confidence(carried, nowhere, nothing)
    assert not plain[:10].any()
    assert plain[40, 38] < plain[40, 10]
    assert plain[40, 42] < plain[40, 70]
    assert carried_confidence(carried, ~nowhere, nothing)[40, 10] > plain[40, 10]
    same, other = (np.full((60, 80), d, np.float32) for d in (2.0, 2.6))
    np.testing.assert_allclose(carried_confidence(carried, nowhere, same)[40, 10], plain[40, 10])
    assert carried_confidence(carried, nowhere, other)[40, 10] < plain[40, 10]


def test_certainty_stays_a_probability() -> None:
    counts = np.array([0, 9])
    for own in (0.0, 1.0):
        told = confirmed_confidence(np.full(2, own), counts, counts[::-1], counts)
        assert ((told > 0) & (told < 1)).all()


def test_at_least_as_many_pixels_are_right_as_the_probability_says() -> None:
    values = texture(3)
    places = (camera_at(-0.2), camera_at(0.15, 0.05), camera_at(0.3))
    frames = [plane_image(T, 2.0, values, slope_y=-0.8) for T in (camera_at(), *places)]
    measured = measure_depth(frames[0], frames[1:], MeasuringParameters((0.8, 8.0)))
    true_m = plane_depth(camera_at(), 2.0, -0.8)
    assert true_m.shape == HW
    right = np.abs(measured.depth_m / true_m - 1) <= RIGHT_WITHIN
    known = np.isfinite(measured.depth_m)
    assert right[known].mean() >= measured.confidence[known].mean() - 0.02
