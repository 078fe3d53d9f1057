"""Poses of neighbours, corrected by the corners that images share."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from textured_planes import HW, K_PX, camera_at, plane_depth, plane_image, texture

from gld_ros.measuring.frames import PosedImage
from gld_ros.measuring.measure import MeasuringParameters, measure_depth
from gld_ros.measuring.pose_refinement import refined_poses

PLACES = (
    camera_at(),
    camera_at(-0.2),
    camera_at(0.15, 0.05),
    camera_at(0.3, yaw_deg=-4.0),
    camera_at(0.0, -0.2),
)
FLOOR, WALL, SLOPE = texture(1), texture(2), -1.5


def corner_of_a_room(T_fixed_cam: np.ndarray) -> tuple[PosedImage, np.ndarray]:
    """An image of a leaning and an upright plane, the nearer one seen, and its depth (h, w)."""
    leaning = plane_image(T_fixed_cam, 1.6, FLOOR, SLOPE)
    upright = plane_image(T_fixed_cam, 2.2, WALL)
    depths = plane_depth(T_fixed_cam, 1.6, SLOPE), plane_depth(T_fixed_cam, 2.2)
    nearer = depths[0] < depths[1]
    image = np.where(nearer[..., None], leaning.image, upright.image)
    return PosedImage(image, K_PX, T_fixed_cam, 0, "camera"), np.minimum(*depths)


def with_noise(frame: PosedImage, noise_m: float, noise_deg: float, seed: int) -> PosedImage:
    """The frame with a pose that is a little wrong."""
    rng = np.random.default_rng(seed)
    T = np.array(frame.T_fixed_cam)
    T[:3, 3] += rng.normal(0, noise_m / np.sqrt(3), 3)
    turn = Rotation.from_rotvec(rng.normal(0, np.radians(noise_deg) / np.sqrt(3), 3))
    T[:3, :3] = T[:3, :3] @ turn.as_matrix()
    return PosedImage(frame.image, frame.K_px, T, frame.stamp_ns, frame.camera)


def wrong_by_px(frames: list[PosedImage], true: list[PosedImage]) -> float:
    """How far points two metres ahead of the first frame move in the others for wrong poses."""
    v, u = np.mgrid[0 : HW[0] : 8, 0 : HW[1] : 8].reshape(2, -1)
    points = 2.0 * np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K_PX).T

    def projected(frame: PosedImage, reference: PosedImage) -> np.ndarray:
        T = np.linalg.inv(frame.T_fixed_cam) @ reference.T_fixed_cam
        there = (points @ T[:3, :3].T + T[:3, 3]) @ K_PX.T
        return there[:, :2] / there[:, 2:]

    errors = [
        projected(a, frames[0]) - projected(b, true[0])
        for a, b in zip(frames[1:], true[1:], strict=True)
    ]
    return float(np.linalg.norm(errors, axis=-1).mean())


@pytest.mark.parametrize("seed", range(4))
def test_poses_a_centimetre_and_half_a_degree_off_are_brought_within_half_a_pixel(
    seed: int,
) -> None:
    true = [corner_of_a_room(T)[0] for T in PLACES]
    given = [with_noise(frame, 0.01, 0.5, 10 * seed + k) for k, frame in enumerate(true)]
    refined = refined_poses(given[0], given[1:])
    left_px = wrong_by_px([given[0], *refined.neighbours], true)
    assert refined.given_error_px > 0.5
    assert left_px < 0.5 * wrong_by_px(given, true)
    assert left_px < 0.5


def test_poses_that_are_right_stay() -> None:
    true = [corner_of_a_room(T)[0] for T in PLACES]
    refined = refined_poses(true[0], true[1:])
    assert refined.given_error_px < 0.5
    for neighbour, frame in zip(refined.neighbours, true[1:], strict=True):
        moved_m = np.linalg.norm(neighbour.T_fixed_cam[:3, 3] - frame.T_fixed_cam[:3, 3])
        assert moved_m < 1e-3
    assert wrong_by_px([true[0], *refined.neighbours], true) < 0.1


def test_depth_is_measured_under_wrong_poses_nearly_as_under_right_ones() -> None:
    true = [corner_of_a_room(T)[0] for T in PLACES]
    depth_m = corner_of_a_room(PLACES[0])[1]
    given = [with_noise(frame, 0.01, 0.5, k) for k, frame in enumerate(true)]
    parameters = MeasuringParameters(depth_range_m=(0.8, 8.0))
    exact = measure_depth(true[0], true[1:], parameters)
    measured = measure_depth(given[0], given[1:], parameters)
    assert measured.coverage > 0.9 * exact.coverage
    # Camera baselines of 20 cm are a centimetre off: so is the scale of depth, whatever is done.
    assert np.nanmedian(np.abs(measured.depth_m / depth_m - 1)) < 0.05
    assert measured.pose_error_px > exact.pose_error_px


def test_the_order_of_neighbours_does_not_matter() -> None:
    true = [corner_of_a_room(T)[0] for T in PLACES]
    given = [with_noise(frame, 0.01, 0.5, k) for k, frame in enumerate(true)]
    forwards = refined_poses(given[0], given[1:])
    backwards = refined_poses(given[0], given[:0:-1])
    assert forwards.given_error_px == pytest.approx(backwards.given_error_px)
    for one, other in zip(forwards.neighbours, reversed(backwards.neighbours), strict=True):
        np.testing.assert_allclose(one.T_fixed_cam, other.T_fixed_cam, atol=1e-7)


def test_images_without_corners_keep_their_poses() -> None:
    plain = np.full((*HW, 3), 90, np.uint8)
    frames = [PosedImage(plain, K_PX, T, 0, "camera") for T in PLACES]
    refined = refined_poses(frames[0], frames[1:])
    assert np.isnan(refined.given_error_px)
    assert refined.neighbours == frames[1:]


def test_units_of_poses_do_not_matter() -> None:
    given = [with_noise(corner_of_a_room(T)[0], 0.01, 0.5, k) for k, T in enumerate(PLACES)]
    larger = []
    for frame in given:
        T = np.array(frame.T_fixed_cam)
        T[:3, 3] *= 50.0
        larger.append(PosedImage(frame.image, K_PX, T, 0, "camera"))
    refined = refined_poses(given[0], given[1:])
    refined_larger = refined_poses(larger[0], larger[1:])
    for one, other in zip(refined.neighbours, refined_larger.neighbours, strict=True):
        np.testing.assert_allclose(
            50.0 * one.T_fixed_cam[:3, 3], other.T_fixed_cam[:3, 3], atol=1e-5
        )
