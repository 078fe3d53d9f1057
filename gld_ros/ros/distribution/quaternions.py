"""The distribution's tf_transformations for the quaternions of messages."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gld_ros.geometry.poses import pose_from_vector, pose_vector

FloatArray = NDArray[np.floating[Any]]

try:
    import tf_transformations
except (ImportError, AttributeError):  # ROS 2 from PyPI, or a transforms3d older than this numpy
    tf_transformations = None


def pose_matrix(position_m: ArrayLike, xyzw: ArrayLike) -> FloatArray:
    """Return `T` (4, 4) float64 of a message's position and quaternion.

    Raises ValueError as `geometry.poses.pose_vector` does: tf_transformations would take a zero
    quaternion for no rotation, and NaN for a number.
    """
    vector = pose_vector(position_m, xyzw)
    if tf_transformations is None:
        return pose_from_vector(vector)
    T = np.array(tf_transformations.quaternion_matrix(vector[3:]), dtype=np.float64)
    T[:3, 3] = vector[:3]
    return T
