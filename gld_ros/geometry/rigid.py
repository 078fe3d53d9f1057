"""Rigid motions SE(3) as (..., 4, 4) matrices and quaternions; checks of poses that users give.

Owns rotation/translation algebra only: similarity with scale is `similarity`, cameras `intrinsics`.
`T_a_b` maps points in frame b to frame a. Quaternions are xyzw, scalar last.
"""

import torch
from torch import Tensor

from gld_ros.geometry.poses import RIGID_TOLERANCE


def rigid_transform(R_a_b: Tensor, t_a_b: Tensor) -> Tensor:
    """`T_a_b` (..., 4, 4) from rotations (..., 3, 3) and translations (..., 3)."""
    top = torch.cat([R_a_b, t_a_b.unsqueeze(-1)], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def invert_rigid(T_a_b: Tensor) -> Tensor:
    """`T_b_a` of rigid `T_a_b` (..., 4, 4): [R^T | -R^T t], without a general matrix inverse."""
    R_b_a = T_a_b[..., :3, :3].transpose(-1, -2)
    return rigid_transform(R_b_a, -(R_b_a @ T_a_b[..., :3, 3:]).squeeze(-1))


def relative_transform(T_world_a: Tensor, T_world_b: Tensor) -> Tensor:
    """`T_a_b` (..., 4, 4) of two poses in one frame; leading shapes broadcast."""
    return invert_rigid(T_world_a) @ T_world_b


def transform_points(T_a_b: Tensor, points_b: Tensor) -> Tensor:
    """Points (..., N, 3) of frame b in frame a, for `T_a_b` (..., 4, 4)."""
    return points_b @ T_a_b[..., :3, :3].transpose(-1, -2) + T_a_b[..., None, :3, 3]


def quaternion_xyzw_from_matrix(R: Tensor) -> Tensor:
    """Unit quaternions (..., 4), xyzw with w >= 0, of rotations (..., 3, 3).

    Of the four algebraically equal forms, the one with the largest divisor is taken, so precision
    holds for every angle.
    """
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = R.flatten(-2).unbind(-1)
    # Squares of 2x, 2y, 2z, 2w; negative only by rounding.
    squares = torch.stack(
        [1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22, 1 + m00 + m11 + m22], dim=-1
    )
    candidates = torch.stack(
        [
            torch.stack([squares[..., 0], m10 + m01, m20 + m02, m21 - m12], dim=-1),
            torch.stack([m10 + m01, squares[..., 1], m21 + m12, m02 - m20], dim=-1),
            torch.stack([m20 + m02, m21 + m12, squares[..., 2], m10 - m01], dim=-1),
            torch.stack([m21 - m12, m02 - m20, m10 - m01, squares[..., 3]], dim=-1),
        ],
        dim=-2,
    )
    best = squares.argmax(dim=-1)
    chosen = torch.take_along_dim(candidates, best[..., None, None], dim=-2).squeeze(-2)
    largest = torch.take_along_dim(squares, best.unsqueeze(-1), dim=-1).clamp(min=0.01)
    quaternion = chosen / (2 * largest.sqrt())
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def matrix_from_quaternion_xyzw(quaternion: Tensor) -> Tensor:
    """Rotations (..., 3, 3) of quaternions (..., 4) xyzw of any non-zero length."""
    x, y, z, w = quaternion.unbind(-1)
    two_over_square = 2.0 / (quaternion * quaternion).sum(-1)
    xx, yy, zz = x * x * two_over_square, y * y * two_over_square, z * z * two_over_square
    xy, xz, yz = x * y * two_over_square, x * z * two_over_square, y * z * two_over_square
    wx, wy, wz = w * x * two_over_square, w * y * two_over_square, w * z * two_over_square
    rows = [
        torch.stack([1 - yy - zz, xy - wz, xz + wy], dim=-1),
        torch.stack([xy + wz, 1 - xx - zz, yz - wx], dim=-1),
        torch.stack([xz - wy, yz + wx, 1 - xx - yy], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def nearest_rotation(M: Tensor) -> Tensor:
    """The rotations closest to matrices (..., 3, 3): U diag(1, 1, ±1) V^T of the SVD."""
    U, _, Vh = torch.linalg.svd(M)
    sign = torch.where(torch.linalg.det(U @ Vh) < 0, -1.0, 1.0).to(M.dtype)
    U = torch.cat([U[..., :2], U[..., 2:] * sign[..., None, None]], dim=-1)
    return U @ Vh


def is_rigid(T: Tensor) -> Tensor:
    """Boolean (...): finite, last row 0 0 0 1, rotation part orthonormal and right-handed."""
    T = T.double()
    R = T[..., :3, :3]
    identity = torch.eye(3, dtype=T.dtype, device=T.device)
    orthonormal = (R.transpose(-1, -2) @ R - identity).abs().amax((-1, -2)) <= RIGID_TOLERANCE
    last_row = T.new_tensor([0.0, 0.0, 0.0, 1.0])
    homogeneous = (T[..., 3, :] - last_row).abs().amax(-1) <= RIGID_TOLERANCE
    finite = torch.isfinite(T).all(-1).all(-1)
    # A matrix with a NaN has no determinant worth asking for; `finite` settles it.
    right_handed = torch.linalg.det(torch.nan_to_num(R)) > 0
    return finite & orthonormal & homogeneous & right_handed


def require_rigid(T: Tensor, name: str = "pose") -> None:
    """Raise ValueError naming the first matrix of `T` (..., 4, 4) that is not a rigid motion."""
    if T.ndim < 2 or T.shape[-2:] != (4, 4):
        raise ValueError(f"{name} must have shape (..., 4, 4), got {tuple(T.shape)}")
    rigid = is_rigid(T).flatten().tolist()
    for index, matrix in enumerate(T.reshape(-1, 4, 4)):
        if rigid[index]:
            continue
        where = f"{name}[{index}]" if T.ndim > 2 else name
        if not bool(torch.isfinite(matrix).all()):
            raise ValueError(f"{where} has values that are not finite: {matrix.tolist()}")
        raise ValueError(
            f"{where} is not a rigid transform (rotation orthonormal within {RIGID_TOLERANCE} and "
            f"right-handed, last row 0 0 0 1): {matrix.tolist()}"
        )
