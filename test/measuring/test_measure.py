"""Depth measured with posed images of textured planes whose depth is known."""

import numpy as np
import pytest
import torch
from textured_planes import HW, camera_at, plane_depth, plane_image, texture

from gld_ros.measuring.frames import PosedImage
from gld_ros.measuring.measure import MeasuringParameters, measure_depth

PARAMETERS = MeasuringParameters(depth_range_m=(0.8, 8.0))
PLACES = (camera_at(-0.2), camera_at(0.15, 0.05), camera_at(0.3), camera_at(0.0, -0.2))


def relative_error(depth_m: np.ndarray, true_m: np.ndarray) -> np.ndarray:
    """Errors of measured pixels, as shares of the true depth."""
    error = np.abs(depth_m - true_m) / true_m
    return error[np.isfinite(error)]


@pytest.mark.parametrize(("depth_m", "slope_y"), [(1.3, 0.0), (2.5, 0.0), (2.0, -1.0)])
def test_textured_plane_is_measured_within_one_percent(
    depth_m: float, slope_y: float, device: torch.device | None
) -> None:
    values = texture()
    frames = [plane_image(T, depth_m, values, slope_y) for T in (camera_at(), *PLACES)]
    measured = measure_depth(frames[0], frames[1:], PARAMETERS, device)
    error = relative_error(measured.depth_m, plane_depth(camera_at(), depth_m, slope_y))
    assert measured.coverage > 0.7
    assert np.median(error) < 0.01
    assert (error > 0.05).mean() < 0.01


def test_nothing_is_measured_without_parallax(device: torch.device | None) -> None:
    values = texture()
    turned = [camera_at(yaw_deg=angle) for angle in (0.0, 3.0, -4.0, 6.0)]
    frames = [plane_image(T, 2.0, values) for T in turned]
    assert measure_depth(frames[0], frames[1:], PARAMETERS, device).coverage < 0.01


def test_nothing_is_measured_without_neighbours(device: torch.device | None) -> None:
    measured = measure_depth(plane_image(camera_at(), 2.0, texture()), [], PARAMETERS, device)
    assert measured.coverage == 0
    assert not measured.confidence.any()


def test_nothing_is_measured_without_texture(device: torch.device | None) -> None:
    rng = np.random.default_rng(0)
    frames = []
    for T in (camera_at(), *PLACES):  # a plain wall, and the noise of a sensor
        image = np.clip(128 + rng.normal(0, 1.0, (*HW, 3)), 0, 255).astype(np.uint8)
        frames.append(PosedImage(image, plane_image(T, 2.0, texture()).K_px, T, 0, "camera"))
    assert measure_depth(frames[0], frames[1:], PARAMETERS, device).coverage < 0.05


def test_order_of_neighbours_does_not_matter(device: torch.device | None) -> None:
    values = texture()
    frames = [plane_image(T, 2.0, values) for T in (camera_at(), *PLACES)]
    forwards = measure_depth(frames[0], frames[1:], PARAMETERS, device)
    backwards = measure_depth(frames[0], frames[:0:-1], PARAMETERS, device)
    np.testing.assert_allclose(forwards.depth_m, backwards.depth_m, rtol=1e-4)
