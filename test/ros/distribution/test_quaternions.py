"""tf_transformations and we read quaternions alike, and it reads what we write."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gld_ros.geometry.poses import pose_from_quaternion, quaternion_xyzw
from gld_ros.ros.distribution.quaternions import pose_matrix

quaternions = st.tuples(*[st.floats(-1, 1)] * 4)
positions = st.tuples(*[st.floats(-100, 100)] * 3)


@given(positions, quaternions)
def test_a_pose_is_what_our_geometry_says(position, quaternion):
    length = math.hypot(*quaternion)
    assume(length > 1e-3)
    xyzw = tuple(q / length for q in quaternion)
    T = pose_matrix(position, xyzw)
    np.testing.assert_allclose(T, pose_from_quaternion(position, xyzw), atol=1e-12)
    np.testing.assert_array_equal(T[:3, 3], position)


@pytest.mark.parametrize("xyzw", [(0, 0, 0, 0), (0, 0, 0, math.nan), (0, 0, 0, 1.1), (0, 0, 1)])
def test_what_is_no_rotation_raises(xyzw):
    with pytest.raises(ValueError, match="quaternion"):
        pose_matrix((0, 0, 0), xyzw)


@pytest.mark.ros
@given(quaternions)
def test_tf_transformations_reads_what_we_write(quaternion):
    tf_transformations = pytest.importorskip(
        "tf_transformations", reason="only a ROS distribution has tf_transformations"
    )
    length = math.hypot(*quaternion)
    assume(length > 1e-3)
    R = pose_from_quaternion((0, 0, 0), tuple(q / length for q in quaternion))[:3, :3]
    theirs = tf_transformations.quaternion_matrix(quaternion_xyzw(R))[:3, :3]
    np.testing.assert_allclose(theirs, R, atol=1e-12)
