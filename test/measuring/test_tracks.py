"""What corners that images share say about the scene and about the poses."""

import numpy as np
import pytest
from textured_planes import K_PX, camera_at, plane_image, texture

from gld_ros.measuring.agreement import image_pose_agreement
from gld_ros.measuring.depth_range import depth_range
from gld_ros.measuring.frames import PosedImage
from gld_ros.measuring.neighbours import choose_neighbours

VALUES = texture(2)


def ride(offset_s: float, error_deg: float = 0.0) -> list[PosedImage]:
    """A camera that rises and swings sideways, whose poses are those of `offset_s` later."""

    def pose(time_s: float) -> np.ndarray:
        return camera_at(y_m=-0.5 * time_s, yaw_deg=8.0 * np.sin(6.0 * time_s))

    rng = np.random.default_rng(0)
    frames = []
    for k in range(10):
        seen = plane_image(pose(0.1 * k), 2.0, VALUES, slope_y=-0.5)
        T = pose(0.1 * k + offset_s)
        T[:3, :3] = T[:3, :3] @ _small_turn(rng.normal(0, error_deg, 3))
        frames.append(PosedImage(seen.image, K_PX, T, round(1e8 * k), "camera"))
    return frames


def _small_turn(degrees: np.ndarray) -> np.ndarray:
    x, y, z = np.radians(degrees)
    U, _, Vh = np.linalg.svd(np.array([[1, -z, y], [z, 1, -x], [-y, x, 1]]))
    return U @ Vh


def test_images_and_poses_that_belong_together_agree() -> None:
    found = image_pose_agreement(ride(0.0))
    assert not found.disagrees
    assert found.error_px < 0.5
    assert found.time_offset_s is None


def test_offset_of_clocks_is_found() -> None:
    found = image_pose_agreement(ride(0.04))
    assert found.time_offset_s == pytest.approx(-0.04, abs=0.011)
    assert f"{found.time_offset_s * 1e3:+.0f} ms" in found.describe()


def test_wrong_poses_are_reported_without_an_offset() -> None:
    found = image_pose_agreement(ride(0.0, error_deg=4.0))
    assert found.disagrees
    assert "check extrinsics" in found.describe()


def test_frames_without_texture_are_not_judged() -> None:
    plain = [
        PosedImage(np.full_like(frame.image, 90), K_PX, frame.T_fixed_cam, frame.stamp_ns, "camera")
        for frame in ride(0.0)
    ]
    found = image_pose_agreement(plain)
    assert np.isnan(found.error_px)
    assert not found.disagrees


def test_depth_range_spans_the_scene() -> None:
    frames = [plane_image(T, 2.0, VALUES) for T in (camera_at(), camera_at(0.2), camera_at(-0.3))]
    found = depth_range(frames[0], frames[1:])
    assert found is not None
    assert found.typical_m == pytest.approx(2.0, rel=0.02)
    assert found.near_m < 2.0 < found.far_m


def test_images_of_different_sizes_share_corners() -> None:
    frames = [plane_image(T, 2.0, VALUES) for T in (camera_at(), camera_at(0.2))]
    for rows, columns in ((70, 128), (96, 100)):
        cut = np.ascontiguousarray(frames[1].image[:rows, :columns])
        smaller = PosedImage(cut, K_PX, frames[1].T_fixed_cam, 1, "camera")
        for pair in ((frames[0], smaller), (smaller, frames[0])):
            found = depth_range(pair[0], [pair[1]])
            assert found is not None
            assert found.typical_m == pytest.approx(2.0, rel=0.02)


def test_depth_range_is_unknown_without_parallax() -> None:
    frames = [plane_image(camera_at(yaw_deg=angle), 2.0, VALUES) for angle in (0.0, 4.0)]
    assert depth_range(frames[0], frames[1:]) is None


def test_neighbours_have_parallax_and_look_the_same_way() -> None:
    places = {
        "same place": camera_at(yaw_deg=5.0),
        "left": camera_at(-0.2),
        "right": camera_at(0.2),
        "turned": camera_at(0.2, yaw_deg=60.0),
        "far": camera_at(3.0),
    }
    frames = {name: plane_image(T, 2.0, VALUES) for name, T in places.items()}
    reference = plane_image(camera_at(), 2.0, VALUES)
    candidates = [reference, *frames.values()]
    chosen = choose_neighbours(reference, candidates, typical_depth_m=2.0)
    assert set(chosen) == {frames["left"], frames["right"]}
    assert set(choose_neighbours(reference, candidates[::-1], 2.0)) == set(chosen)
    assert len(choose_neighbours(reference, candidates, 2.0, count=1)) == 1


def test_transforms_that_are_late_disagree_and_the_offset_is_found() -> None:
    found = image_pose_agreement(ride(-0.06))  # poses of 60 ms earlier
    assert found.disagrees
    assert found.time_offset_s == pytest.approx(0.06, abs=0.02)


def test_frames_without_parallax_are_not_judged() -> None:
    turning = [camera_at(yaw_deg=8.0 * np.sin(0.6 * k)) for k in range(10)]
    frames = [
        PosedImage(plane_image(T, 2.0, VALUES).image, K_PX, late, round(1e8 * k), "camera")
        for k, (T, late) in enumerate(zip(turning[1:], turning, strict=False))
    ]
    found = image_pose_agreement(frames)
    assert np.isnan(found.error_px)
    assert not found.disagrees
