import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gld_ros.geometry.poses import (
    T_BODY_OPTICAL,
    invert_rigid,
    is_rigid,
    optical_pose,
    pose_from_quaternion,
    quaternion_xyzw,
    rotation_angle_rad,
    rotation_z,
)

rotation_vectors = st.tuples(*[st.floats(-np.pi, np.pi)] * 3).filter(
    lambda v: np.linalg.norm(v) <= np.pi
)


@given(rotation_vectors)
def test_quaternions_and_angles_agree_with_scipy(vector):
    R = Rotation.from_rotvec(vector).as_matrix()
    xyzw = quaternion_xyzw(R)
    np.testing.assert_allclose(pose_from_quaternion([1, 2, 3], xyzw)[:3, :3], R, atol=1e-9)
    assert xyzw[3] >= 0
    assert rotation_angle_rad(R) == pytest.approx(np.linalg.norm(vector), abs=1e-6)


@given(rotation_vectors)
def test_inverse_undoes_a_pose(vector):
    T = pose_from_quaternion([4.0, -5.0, 6.0], Rotation.from_rotvec(vector).as_quat())
    np.testing.assert_allclose(T @ invert_rigid(T), np.eye(4), atol=1e-12)


def test_body_poses_look_along_their_x_axis():
    T_fixed_cam = optical_pose(np.eye(4), "body")
    np.testing.assert_allclose(T_fixed_cam[:3, 2], [1, 0, 0])  # optical z is body x
    np.testing.assert_allclose(T_fixed_cam[:3, 0], [0, -1, 0])  # optical x is to the right
    np.testing.assert_allclose(T_fixed_cam[:3, 1], [0, 0, -1])  # optical y is down
    assert is_rigid(T_BODY_OPTICAL)
    np.testing.assert_array_equal(optical_pose(T_BODY_OPTICAL, "optical"), T_BODY_OPTICAL)


def test_unknown_convention_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'camera'.*body.*optical"):
        optical_pose(np.eye(4), "camera")


@pytest.mark.parametrize(
    ("position", "quaternion", "message"),
    [
        ([0, 0, 0], [0, 0, 0, 0], "length 0"),
        ([0, 0, 0], [0, 0, 0, 2], "length 2"),
        ([0, 0, np.nan], [0, 0, 0, 1], "position"),
        ([0, 0, 0], [0, np.inf, 0, 1], "quaternion"),
        ([0, 0], [0, 0, 0, 1], "position"),
    ],
)
def test_uninitialised_poses_are_refused(position, quaternion, message):
    with pytest.raises(ValueError, match=message):
        pose_from_quaternion(position, quaternion)


def test_only_rigid_motions_are_rigid():
    T = np.eye(4)
    T[:3, :3] = rotation_z(0.3)
    assert is_rigid(T)
    mirrored, scaled, broken = T.copy(), T.copy(), T.copy()
    mirrored[:3, 0] *= -1
    scaled[:3, :3] *= 1.01
    broken[0, 3] = np.nan
    assert not any(map(is_rigid, (mirrored, scaled, broken)))
