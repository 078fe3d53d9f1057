"""The fast plane sweep against the one that is written to be read."""

import numpy as np
from textured_planes import HW, camera_at, plane_image, texture

from gld_ros.measuring.aggregation import semi_global
from gld_ros.measuring.levels import grey_image
from gld_ros.measuring.measure import MeasuringParameters, measure_depth
from gld_ros.measuring.reference import reference_cost, reference_depth, reference_semi_global
from gld_ros.measuring.sweep import NEUTRAL_COST, matching_cost, seen_by_any


def test_cost_equals_the_reference() -> None:
    values = texture()
    places = (camera_at(), camera_at(-0.2), camera_at(0.3, 0.1, yaw_deg=8.0), camera_at(z_m=0.3))
    frames = [plane_image(T, 2.0, values) for T in places]
    inverse_depths = np.linspace(0.2, 1.2, 5)
    cost = matching_cost(
        grey_image(frames[0], HW),
        [grey_image(frame, HW) for frame in frames[1:]],
        [np.linalg.inv(T) for T in places[1:]],  # the reference stands at the origin
        np.full((1, 1), inverse_depths[0], np.float32),
        (inverse_depths - inverse_depths[0]).astype(np.float32),
        2,
    )
    expected = reference_cost(frames[0], frames[1:], inverse_depths, 2)
    # OpenCV samples at 1/32 of a pixel, and a neighbour at the rim of its image is seen or not.
    difference = np.abs(cost - expected)
    assert np.median(difference) < 0.005
    assert np.quantile(difference, 0.98) < 0.05


def test_forty_copies_of_a_neighbour_cost_what_one_does() -> None:
    reference, neighbour = (
        plane_image(T, 2.0, texture(seed)) for seed, T in enumerate((camera_at(), camera_at(-0.2)))
    )
    images = [grey_image(frame, HW) for frame in (reference, neighbour)]
    T = np.linalg.inv(camera_at(-0.2))
    search = np.full((1, 1), 0.2, np.float32), np.linspace(0.0, 1.0, 3, dtype=np.float32), 2
    once = matching_cost(images[0], images[1:], [T], *search)
    often = matching_cost(images[0], images[1:] * 40, [T] * 40, *search)
    np.testing.assert_allclose(often, once, atol=2e-5, rtol=0)
    assert (once == NEUTRAL_COST).any()  # where the neighbour does not see the plane


def test_what_no_neighbour_sees_is_known() -> None:
    images = [
        grey_image(plane_image(T, 2.0, texture()), HW) for T in (camera_at(), camera_at(-0.2))
    ]
    T = np.linalg.inv(camera_at(-0.2))
    plane = np.full(HW, 0.5, np.float32)
    seen = seen_by_any(images[0], images[1:], [T], plane)
    assert 0.5 < seen.mean() < 1
    assert not seen_by_any(images[0], images[1:], [T], plane * 1e6).all()  # behind the neighbour


def test_aggregation_equals_the_reference() -> None:
    rng = np.random.default_rng(0)
    cost = rng.random((7, 9, 11)).astype(np.float32)
    grey = rng.integers(0, 255, (9, 11)).astype(np.float32)
    fast = semi_global(cost, grey)
    np.testing.assert_allclose(fast, reference_semi_global(cost, grey), atol=1e-5)


def test_depth_agrees_with_the_reference() -> None:
    values = texture(1)
    frames = [plane_image(T, 2.0, values) for T in (camera_at(), camera_at(-0.2), camera_at(0.25))]
    range_m = (1.0, 5.0)
    measured = measure_depth(frames[0], frames[1:], MeasuringParameters(range_m, planes=24)).depth_m
    expected = reference_depth(frames[0], frames[1:], range_m, 48, 2)
    difference = np.abs(measured / expected - 1)
    assert np.nanmedian(difference) < 0.01
    assert np.isfinite(difference).mean() > 0.6
