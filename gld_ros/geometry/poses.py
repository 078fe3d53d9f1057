"""Rigid poses as (4, 4) float64 arrays, quaternions, and the axes of bodies and cameras.

Owns pose algebra for robot logic, without torch (`gld_ros.geometry.rigid` is its batched twin for
models). `T_a_b` maps points in frame b to frame a. Quaternions are xyzw, as in ROS messages.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.floating[Any]]
PoseConvention = Literal["body", "optical"]

POSE_CONVENTIONS: tuple[PoseConvention, ...] = ("body", "optical")
RIGID_TOLERANCE = 1e-3  # poses arrive as float32 or as rounded text; 1e-3 is 0.06 degrees
QUATERNION_TOLERANCE = 0.01  # of the length; what TF publishers that round to 3 digits still meet

# REP-103: a body has x forward, y left, z up; an optical frame has x right, y down, z forward.
T_BODY_OPTICAL: FloatArray = np.array(
    [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
T_BODY_OPTICAL.setflags(write=False)


def invert_rigid(T_a_b: FloatArray) -> FloatArray:
    """`T_b_a` of rigid `T_a_b` (4, 4)."""
    T_b_a = np.eye(4)
    T_b_a[:3, :3] = T_a_b[:3, :3].T
    T_b_a[:3, 3] = -T_a_b[:3, :3].T @ T_a_b[:3, 3]
    return T_b_a


def rigid_transform(R_a_b: ArrayLike, t_a_b: ArrayLike) -> FloatArray:
    """`T_a_b` (4, 4) of a rotation (3, 3) and a translation (3,)."""
    T_a_b = np.eye(4)
    T_a_b[:3, :3] = R_a_b
    T_a_b[:3, 3] = t_a_b
    return T_a_b


def transform_points(T_a_b: FloatArray, points_b: FloatArray) -> FloatArray:
    """Points (..., 3) of frame b in frame a."""
    return points_b @ T_a_b[:3, :3].T + T_a_b[:3, 3]


def rotation_angle_rad(R: FloatArray) -> float:
    """Angle in [0, pi] of a rotation (3, 3); accurate near 0 and near pi."""
    return float(rotation_angles_rad(R))


def rotation_angles_rad(R: FloatArray) -> FloatArray:
    """`rotation_angle_rad` of many rotations (..., 3, 3)."""
    skew = R - np.swapaxes(R, -1, -2)
    sine2 = np.sqrt(skew[..., 2, 1] ** 2 + skew[..., 0, 2] ** 2 + skew[..., 1, 0] ** 2)
    angles: FloatArray = np.arctan2(sine2, np.trace(R, axis1=-2, axis2=-1) - 1.0)
    return angles


def distance_m(T_a_b: FloatArray, T_a_c: FloatArray) -> float:
    """Distance between the origins of two poses in one frame."""
    return float(np.linalg.norm(T_a_b[:3, 3] - T_a_c[:3, 3]))


def turn_rad(T_a_b: FloatArray, T_a_c: FloatArray) -> float:
    """Angle between two poses in one frame."""
    return rotation_angle_rad(T_a_b[:3, :3].T @ T_a_c[:3, :3])


def rotation_z(angle_rad: float) -> FloatArray:
    """Rotation (3, 3) about z by a right-handed angle."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def pose_vector(position_m: ArrayLike, xyzw: ArrayLike) -> FloatArray:
    """`x y z qx qy qz qw` (7,) of a position and a quaternion, which gets length 1.

    Raises ValueError for NaN, infinity, or a quaternion whose length is not 1 within 1 %: a zero
    quaternion is the commonest uninitialised message, and normalising it would invent a direction.
    """
    position, quaternion = np.asarray(position_m, float), np.asarray(xyzw, float)
    if position.shape != (3,) or not np.isfinite(position).all():
        raise ValueError(f"position is {position.tolist()}; three finite numbers are needed")
    if quaternion.shape != (4,) or not np.isfinite(quaternion).all():
        raise ValueError(f"quaternion is {quaternion.tolist()}; four finite numbers are needed")
    length = float(np.linalg.norm(quaternion))
    if abs(length - 1.0) > QUATERNION_TOLERANCE:
        raise ValueError(f"quaternion xyzw {quaternion.tolist()} has length {length:.4g}, not 1")
    return np.concatenate((position, quaternion / length))


def pose_from_vector(vector: FloatArray) -> FloatArray:
    """`T` (4, 4) of a pose vector (7,) with a quaternion of length 1."""
    x, y, z, w = vector[3:].tolist()
    R = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return rigid_transform(R, vector[:3])


def pose_from_quaternion(position_m: ArrayLike, xyzw: ArrayLike) -> FloatArray:
    """`T` (4, 4) of a position and a quaternion; raises ValueError as `pose_vector` does."""
    return pose_from_vector(pose_vector(position_m, xyzw))


def interpolated_pose(first: FloatArray, second: FloatArray, ratio: float) -> FloatArray:
    """The pose vector (7,) at `ratio` in [0, 1] of the way between two.

    The position moves on a straight line, the rotation on the shorter arc, as in tf2.
    """
    position = first[:3] + ratio * (second[:3] - first[:3])
    cosine = float(first[3:] @ second[3:])
    nearer = -second[3:] if cosine < 0 else second[3:]
    angle = np.arccos(min(1.0, abs(cosine)))
    if angle < 1e-6:  # the sines vanish; the arc is straight
        quaternion = (1.0 - ratio) * first[3:] + ratio * nearer
    else:
        quaternion = np.sin((1.0 - ratio) * angle) * first[3:] + np.sin(ratio * angle) * nearer
    return np.concatenate((position, quaternion / np.linalg.norm(quaternion)))


def quaternion_xyzw(R: FloatArray) -> FloatArray:
    """Unit quaternion (4,), w >= 0, of a rotation (3, 3).

    The largest of the four components is taken from the diagonal, so that precision holds for
    every angle; the others follow from sums and differences across it.
    """
    diagonal = np.diagonal(R)
    four_squares = np.array([*(1.0 + 2.0 * diagonal - diagonal.sum()), 1.0 + diagonal.sum()])
    largest = int(np.argmax(four_squares))
    sums = R + R.T
    differences = (R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1])
    products = np.empty((4, 4))  # entry (i, j) is 4 q_i q_j
    products[:3, :3] = sums
    products[3, :3] = products[:3, 3] = differences
    np.fill_diagonal(products, four_squares)
    quaternion = products[largest] / np.linalg.norm(products[largest])
    return quaternion if quaternion[3] >= 0 else -quaternion


def is_rigid(T: FloatArray) -> bool:
    """Whether `T` is a finite (4, 4) rigid motion."""
    if T.shape != (4, 4) or not np.isfinite(T).all():
        return False
    R = T[:3, :3]
    return bool(
        np.abs(R @ R.T - np.eye(3)).max() <= RIGID_TOLERANCE
        and np.linalg.det(R) > 0
        and np.abs(T[3] - (0.0, 0.0, 0.0, 1.0)).max() <= RIGID_TOLERANCE
    )


def optical_pose(T_fixed_target: FloatArray, convention: PoseConvention) -> FloatArray:
    """`T_fixed_cam` (4, 4) with optical axes of a pose given in `convention`.

    `body` poses (x forward) are what RViz arrows and Nav2 use. Raises ValueError for other names.
    """
    if convention == "body":
        return T_fixed_target @ T_BODY_OPTICAL
    if convention == "optical":
        return T_fixed_target
    raise ValueError(f"pose convention is {convention!r}; allowed are {POSE_CONVENTIONS}")
