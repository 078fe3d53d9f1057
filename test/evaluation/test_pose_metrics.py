"""Camera figures for trajectories whose errors are known."""

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gld_ros.evaluation.pose_metrics import (
    baseline_in_depths,
    pair_angles_deg,
    pair_figures,
    scale_from_baselines,
    trajectory_errors,
)


def _poses(centres, rotations_deg=0.0):
    T = np.tile(np.eye(4), (len(centres), 1, 1))
    T[:, :3, 3] = centres
    yaw = np.broadcast_to(np.radians(rotations_deg), len(centres))
    T[:, :3, :3] = Rotation.from_rotvec(yaw[:, None] * [0, 1, 0]).as_matrix()
    return T


CENTRES = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0.5, 1.0]])


def _moved(T, scale):
    """The same cameras in another frame and unit."""
    motion = _poses([[3.0, -1, 2]], 40.0)[0]
    moved = motion @ T
    moved[:, :3, 3] = scale * moved[:, :3, 3]
    return moved


def test_a_similarity_costs_nothing():
    T = _poses(CENTRES, [0, 10, 20, 30])
    model = _moved(T, 0.25)
    rotation, direction = pair_angles_deg(T, model, 2)
    assert len(rotation) == 5  # pairs that hold at least one of the two targets
    assert max(rotation.max(), direction.max()) < 1e-4
    assert scale_from_baselines(T, model, 1.0, metric=True) == pytest.approx(4.0)
    assert all(value < 1e-6 for value in trajectory_errors(T, model).values())
    figures = pair_figures(rotation, direction)
    assert all(value == 1.0 for value in figures.values())


def test_a_scale_that_the_node_would_refuse_is_none():
    T = _poses(0.01 * CENTRES)
    assert math.isnan(scale_from_baselines(T, T, 1.0, metric=True))
    assert scale_from_baselines(T, T, 1.0, metric=False) == pytest.approx(1.0)
    scattered = _poses(CENTRES * [[1, 1, 1], [1, 1, 1], [3, 1, 1], [1, 2, 1]])
    assert math.isnan(scale_from_baselines(_poses(CENTRES), scattered, 1.0, metric=True))


def test_cameras_in_one_place_have_no_direction_that_is_right():
    T = _poses(CENTRES, [0, 10, 20, 30])
    same = np.tile(np.eye(4), (4, 1, 1))
    rotation, direction = pair_angles_deg(T, same, 2)
    assert (direction == 180).all()
    assert pair_figures(rotation, direction)["RTA@15"] == 0.0


def test_a_baseline_counts_in_depths_whatever_the_unit():
    depth = np.full((4, 2, 3), 2.0)
    depth[0, 0, 0] = 0.0  # unknown
    T = _poses(CENTRES)
    share = baseline_in_depths(T, depth)
    assert share > 0.3
    assert baseline_in_depths(_moved(T, 0.25), 0.25 * depth) == pytest.approx(share)
    assert baseline_in_depths(_moved(T, 1e-3), depth) < 0.01 * share
    assert math.isnan(baseline_in_depths(T, 0 * depth))


def test_cameras_that_a_model_puts_in_one_place_have_no_scale():
    T = _poses(CENTRES)
    assert math.isnan(scale_from_baselines(T, _moved(T, 1e-5), 1.0, metric=True))


def test_a_turned_target_is_found_in_rotations_and_directions():
    T = _poses(CENTRES)
    model = T.copy()
    model[3] = T[3] @ _poses([[0, 0, 0]], 20.5)[0]
    rotation, direction = pair_angles_deg(T, model, 3)
    assert rotation == pytest.approx([20.5] * 3, abs=1e-6)
    assert np.abs(direction).max() < 1e-5
    figures = pair_figures(rotation, direction)
    assert figures["RRA@15"] == 0.0
    assert figures["RTA@15"] == 1.0
    assert figures["AUC@30"] == pytest.approx(10 / 30)  # 20.5 degrees is below 21, ..., 30
    assert figures["mAA@30"] == pytest.approx(10 / 30)
    assert trajectory_errors(T, model)["RPE_rotation_deg"] == pytest.approx(
        math.sqrt(20.5**2 * 3 / 6), abs=1e-3
    )


def test_ate_is_the_rest_after_alignment():
    square = np.array([[1, 1, 0], [1, -1, 0], [-1, -1, 0], [-1, 1, 0.0]])
    bent = square + np.array([[0, 0, 1], [0, 0, -1], [0, 0, 1], [0, 0, -1]]) * 0.1
    errors = trajectory_errors(_poses(square), _poses(bent))
    scale = 2 / (2 + 0.1**2)  # Umeyama's: covariance over the variance of what is moved
    expected = math.sqrt(2 * (1 - scale) ** 2 + (0.1 * scale) ** 2)
    assert errors["ATE"] == pytest.approx(expected, abs=1e-6)


def test_cameras_on_a_line_have_no_alignment_but_a_scale():
    T = _poses([[0, 0, 0], [1, 0, 0], [2, 0, 0], [3.0, 0, 0]])
    assert trajectory_errors(T, T) is None
    assert scale_from_baselines(T, _moved(T, 2.0), 1.0, metric=True) == pytest.approx(0.5)


def test_a_camera_that_only_turns_has_no_direction_and_no_scale():
    T = _poses(np.zeros((3, 3)), [0, 10, 20])
    rotation, direction = pair_angles_deg(T, T, 1)
    assert np.isfinite(rotation).all()
    assert np.isnan(direction).all()
    assert math.isnan(scale_from_baselines(T, T, 1.0, metric=False))
    assert math.isnan(pair_figures(rotation, direction)["RTA@15"])
