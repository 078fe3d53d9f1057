import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gld_ros.geometry.poses import is_rigid
from gld_ros.mapping.targets import (
    InvalidTarget,
    frontier,
    look_around,
    nearest_targets,
    path_ahead,
    poses_as_targets,
    stereo_baseline,
)

FORWARD = np.array([0.0, 0.0, 1.0])


def gaze(T_fixed_cam):
    return T_fixed_cam[:3, :3] @ FORWARD


def tilted(T_fixed_cam, down_rad):
    c, s = np.cos(down_rad), np.sin(down_rad)
    T = T_fixed_cam.copy()
    T[:3, :3] = T[:3, :3] @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    return T


def test_looking_around_turns_about_the_vertical(camera_at):
    T_fixed_cam = tilted(camera_at(1, 2), 0.3)
    left, right = look_around(T_fixed_cam, [np.pi / 2, -np.pi / 2])
    for target in (left, right):
        np.testing.assert_allclose(target[:3, 3], T_fixed_cam[:3, 3])
        assert gaze(target)[2] == pytest.approx(-np.sin(0.3))  # the tilt stays
        assert is_rigid(target)
    assert gaze(left)[1] > 0.9  # REP-103: y is left of x
    assert gaze(right)[1] < -0.9


def test_stereo_baselines_move_sideways(camera_at):
    right, left = stereo_baseline(camera_at(0, 0), [0.2, -0.1])
    np.testing.assert_allclose(right[:3, 3], [0, -0.2, 1.2], atol=1e-12)
    np.testing.assert_allclose(left[:3, 3], [0, 0.1, 1.2], atol=1e-12)
    np.testing.assert_array_equal(right[:3, :3], camera_at(0, 0)[:3, :3])


def test_body_poses_become_optical_in_the_fixed_frame():
    T_fixed_map = np.eye(4)
    T_fixed_map[:3, 3] = [10, 0, 0]
    half = np.sqrt(0.5)
    (target,) = poses_as_targets(T_fixed_map, [((1, 2, 3), (0, 0, half, half))], "body")
    np.testing.assert_allclose(target[:3, 3], [11, 2, 3])
    np.testing.assert_allclose(gaze(target), [0, 1, 0], atol=1e-12)  # yaw of 90 degrees
    (optical,) = poses_as_targets(np.eye(4), [((0, 0, 0), (0, 0, 0, 1))], "optical")
    np.testing.assert_array_equal(optical, np.eye(4))


def test_the_broken_pose_is_named():
    poses = [((0, 0, 0), (0, 0, 0, 1)), ((0, 0, 0), (0, 0, 0, 0))]
    with pytest.raises(InvalidTarget, match="target pose 1: quaternion"):
        poses_as_targets(np.eye(4), poses, "body")


def test_path_targets_follow_the_path(camera_at):
    path = np.array([[-1, 0, 0], [2, 0, 0], [2, 0, 0], [2, 5, 0]], float)
    base = np.eye(4)
    base[:3, 3] = [0.5, 0.3, 0]  # beside the path
    targets = path_ahead(path, base, tilted(camera_at(0.5, 0.3, z=0.9), 0.2), 1.0, 4)
    positions = np.array([t[:3, 3] for t in targets])
    np.testing.assert_allclose(
        positions, [[1.5, 0, 0.9], [2, 0.5, 0.9], [2, 1.5, 0.9], [2, 2.5, 0.9]], atol=1e-9
    )
    np.testing.assert_allclose(gaze(targets[0]), [np.cos(0.2), 0, -np.sin(0.2)], atol=1e-9)
    np.testing.assert_allclose(gaze(targets[3]), [0, np.cos(0.2), -np.sin(0.2)], atol=1e-9)
    for target in targets:
        assert target[2, 0] == pytest.approx(0)  # level sideways


def test_a_climbing_path_lifts_the_camera(camera_at):
    path = np.array([[0, 0, 0], [10, 0, 5]], float)
    (target,) = path_ahead(path, np.eye(4), camera_at(0, 0, z=1.0), 2.0, 1)
    np.testing.assert_allclose(target[:3, 3], [2, 0, 2], atol=1e-9)


def test_short_or_broken_paths_give_no_more_than_they_have(camera_at):
    T = camera_at(0, 0)
    assert path_ahead(np.zeros((0, 3)), np.eye(4), T, 1.0, 4) == []
    assert path_ahead(np.zeros((5, 3)), np.eye(4), T, 1.0, 4) == []
    assert len(path_ahead(np.array([[0, 0, 0], [2.5, 0, 0]]), np.eye(4), T, 1.0, 4)) == 2
    with pytest.raises(InvalidTarget, match="NaN"):
        path_ahead(np.array([[0, 0, 0], [np.nan, 0, 0]]), np.eye(4), T, 1.0, 4)
    with pytest.raises(ValueError, match="spacing"):
        path_ahead(np.zeros((2, 3)), np.eye(4), T, 0.0, 4)


def test_frontier_targets_face_the_unknown(camera_at):
    grid = np.full((20, 20), -1, np.int8)
    grid[5:15, 5:15] = 0
    grid[14, 5:15] = 100  # a wall on one side hides the unknown behind it
    T_fixed_grid = np.eye(4)
    T_fixed_grid[:3, 3] = [-5, -5, 0]
    cam = camera_at(0.75, 0.25, z=0.8)
    targets = frontier(grid, 0.5, T_fixed_grid, cam, 3.0, 4)
    assert 1 <= len(targets) <= 4
    assert gaze(targets[0])[0] > 0.9  # the nearest edge is at x = 2.5
    for target in targets:
        assert target[2, 3] == 0.8
        ahead = target[:3, 3] + 0.5 * gaze(target)
        column, row = np.floor((ahead[:2] + 5) / 0.5).astype(int)
        assert grid[row, column] == -1
        assert np.linalg.norm(target[:2, 3] - cam[:2, 3]) <= 3.0
    assert frontier(np.zeros((5, 5), np.int8), 0.5, T_fixed_grid, cam, 9.0, 4) == []
    with pytest.raises(ValueError, match="resolution"):
        frontier(grid, 0.0, T_fixed_grid, cam, 3.0, 4)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.integers(1, 4))
def test_the_nearest_targets_stay_in_order(camera_at, offsets, count):
    targets = [camera_at(0, y) for y in offsets]
    chosen = nearest_targets(targets, camera_at(0, 0), count)
    indices = [next(i for i, t in enumerate(targets) if t is c) for c in chosen]
    assert indices == sorted(indices)
    assert len(chosen) == min(count, len(targets))
    left_out = [abs(y) for i, y in enumerate(offsets) if i not in indices]
    assert not left_out or max(abs(offsets[i]) for i in indices) <= min(left_out) + 1e-12
