"""Depth measured with posed images of textured planes whose depth is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from textured_planes import HW, camera_at, plane_depth, plane_image, texture

from gld_ros.measuring.confidence import SURE
from gld_ros.measuring.consistency import MeasuredImage, consistent
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


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_number_of_neighbours_does_not_bias_depth(
    count: int, device: torch.device | None
) -> None:
    values = texture()
    frames = [plane_image(T, 2.0, values) for T in (camera_at(), *PLACES)]
    measured = measure_depth(frames[0], frames[1 : 1 + count], PARAMETERS, device)
    assert measured.coverage > 0.5
    assert abs(np.nanmedian(measured.depth_m) / 2.0 - 1) < 0.003


@pytest.mark.parametrize("gains", [(0.7, 1.3, 0.8, 1.2), (0.5, 0.6, 1.5, 1.4)])
def test_exposure_of_each_image_may_differ(
    gains: tuple[float, ...], device: torch.device | None
) -> None:
    values = texture()
    reference = plane_image(camera_at(), 2.0, values)
    seen = [
        replace(frame, image=np.clip(frame.image * gain, 0, 255).astype(np.uint8))
        for gain, frame in zip(gains, (plane_image(T, 2.0, values) for T in PLACES), strict=True)
    ]
    measured = measure_depth(reference, seen, PARAMETERS, device)
    error = relative_error(measured.depth_m, plane_depth(camera_at(), 2.0))
    assert measured.coverage > 0.6
    assert np.median(error) < 0.01
    assert (error > 0.05).mean() < 0.02


def test_little_is_measured_of_blocks_that_move_between_images() -> None:
    shares = [published_share_of_moving_block(seed) for seed in (1, 2, 3)]
    assert np.mean(shares) < 0.1


def published_share_of_moving_block(seed: int) -> float:
    """Of its pixels; most of the wall behind it has to be published."""
    values, block = texture(), texture(seed=seed)[:40, :24]
    images = []
    for k, x_m in enumerate((-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)):
        frame = plane_image(camera_at(x_m), 2.0, values)
        image = frame.image.copy()
        left = (17 + 29 * k) % 100  # of what walks through the image, faster than the camera
        image[30:70, left : left + 24] = block[..., None]
        images.append(replace(frame, image=image))
    block_at = slice(30, 70), slice((17 + 29 * 3) % 100, (17 + 29 * 3) % 100 + 24)
    measured = [
        MeasuredImage(one, measure_depth(one, [o for o in images if o is not one], PARAMETERS))
        for one in images
    ]
    published = consistent(measured[3], [o for o in measured if o is not measured[3]])
    sure_m = np.where(published.confidence >= SURE, published.depth_m, np.nan)
    assert np.isfinite(sure_m).mean() > 0.5
    return float(np.isfinite(sure_m[block_at]).mean())
