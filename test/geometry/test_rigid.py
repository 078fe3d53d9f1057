"""SE(3): round trips, quaternions, and what is refused as a pose."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gld_ros.geometry.rigid import (
    invert_rigid,
    is_rigid,
    matrix_from_quaternion_xyzw,
    nearest_rotation,
    quaternion_xyzw_from_matrix,
    relative_transform,
    require_rigid,
    rigid_transform,
    transform_points,
)

_unit = st.floats(-1, 1, allow_nan=False)
_metres = st.floats(-100, 100, allow_nan=False)


@st.composite
def rigid_transforms(draw):
    q = torch.tensor([draw(_unit) for _ in range(4)], dtype=torch.float64)
    if q.norm() < 1e-3:
        q = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    t = torch.tensor([draw(_metres) for _ in range(3)], dtype=torch.float64)
    return rigid_transform(matrix_from_quaternion_xyzw(q), t)


@given(rigid_transforms())
def test_inverse_of_inverse_is_identity(T):
    torch.testing.assert_close(invert_rigid(T) @ T, torch.eye(4, dtype=T.dtype), atol=1e-12, rtol=0)
    torch.testing.assert_close(invert_rigid(invert_rigid(T)), T, atol=1e-12, rtol=1e-12)


@given(rigid_transforms())
def test_quaternion_round_trip_with_non_negative_w(T):
    q = quaternion_xyzw_from_matrix(T[:3, :3])
    assert q[3] >= 0
    assert abs(float(q.norm()) - 1) < 1e-12
    torch.testing.assert_close(matrix_from_quaternion_xyzw(q), T[:3, :3], atol=1e-12, rtol=0)


@given(rigid_transforms(), rigid_transforms(), rigid_transforms())
def test_relative_transform_does_not_depend_on_the_world_frame(T_w_a, T_w_b, T_v_w):
    torch.testing.assert_close(
        relative_transform(T_v_w @ T_w_a, T_v_w @ T_w_b),
        relative_transform(T_w_a, T_w_b),
        atol=1e-9,
        rtol=1e-9,
    )


@given(rigid_transforms(), rigid_transforms())
def test_points_follow_composition(T_a_b, T_b_c):
    points = torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(
        transform_points(T_a_b @ T_b_c, points),
        transform_points(T_a_b, transform_points(T_b_c, points)),
        atol=1e-9,
        rtol=1e-9,
    )


def test_half_turn_quaternion_is_exact():
    R = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    assert quaternion_xyzw_from_matrix(R).tolist() == [0, 1, 0, 0]


def test_batched_quaternions_equal_single_ones():
    q = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    R = matrix_from_quaternion_xyzw(q)
    assert R.shape == (3, 5, 3, 3)
    torch.testing.assert_close(
        quaternion_xyzw_from_matrix(R)[2, 4], quaternion_xyzw_from_matrix(R[2, 4])
    )


def test_nearest_rotation_of_a_scaled_rotation_is_that_rotation():
    R = matrix_from_quaternion_xyzw(torch.tensor([0.1, -0.4, 0.2, 0.7], dtype=torch.float64))
    torch.testing.assert_close(nearest_rotation(R * 7.0), R)


def test_nearest_rotation_is_right_handed():
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    assert float(torch.linalg.det(nearest_rotation(mirror))) == pytest.approx(1.0)


def _broken(kind):
    T = torch.eye(4)
    if kind == "nan":
        T[0, 3] = torch.nan
    elif kind == "scaled":
        T[:3, :3] *= 1.01
    elif kind == "mirrored":
        T[0, 0] = -1
    elif kind == "last row":
        T[3, 0] = 0.5
    elif kind == "zero":
        T[:] = 0
    return T


@pytest.mark.parametrize("kind", ["nan", "scaled", "mirrored", "last row", "zero"])
def test_bad_pose_is_named(kind):
    T = torch.stack([torch.eye(4), _broken(kind)])
    assert is_rigid(T).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"T_world_cam\[1\]"):
        require_rigid(T, "T_world_cam")


def test_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"\(\.\.\., 4, 4\), got \(3, 4\)"):
        require_rigid(torch.zeros(3, 4))


def test_float32_pose_of_a_long_chain_is_accepted():
    step = matrix_from_quaternion_xyzw(torch.tensor([0.01, 0.02, -0.03, 0.99]))
    R = torch.eye(3)
    for _ in range(200):
        R = R @ step
    require_rigid(rigid_transform(R, torch.tensor([1e4, -1e4, 3.0])))
