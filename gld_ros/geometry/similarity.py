"""Similarity transforms Sim(3): rotation, translation and one scale between two point sets.

Owns the closed-form alignment (Umeyama 1991) and its use on camera poses.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gld_ros.geometry.rigid import rigid_transform


@dataclass(frozen=True)
class Similarity:
    """x_a = scale * R_a_b @ x_b + t_a_b; float64 (), (3, 3), (3,)."""

    scale: Tensor
    R_a_b: Tensor
    t_a_b: Tensor

    def transform_points(self, points_b: Tensor) -> Tensor:
        """Points (..., 3) of frame b in frame a."""
        return self.scale * (points_b @ self.R_a_b.T) + self.t_a_b

    def transform_poses(self, T_b_cam: Tensor) -> Tensor:
        """Camera poses (..., 4, 4) in frame a; rotations stay rotations, centres are scaled."""
        return rigid_transform(
            self.R_a_b @ T_b_cam[..., :3, :3], self.transform_points(T_b_cam[..., :3, 3])
        )


def umeyama(points_a: Tensor, points_b: Tensor) -> Similarity:
    """The similarity minimising the sum of |x_a - (s R x_b + t)|^2 over matched points (N, 3).

    Computed in float64 (Umeyama, PAMI 1991). Raises ValueError for wrong shapes, values that are
    not finite, or points that do not fix a rotation (all on one line, fewer than three).
    """
    if points_a.shape != points_b.shape or points_a.ndim != 2 or points_a.shape[-1] != 3:
        raise ValueError(
            "similarity needs matched points (N, 3), got "
            f"{tuple(points_a.shape)} and {tuple(points_b.shape)}"
        )
    a, b = points_a.double(), points_b.double()
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("similarity needs finite points")
    if len(a) < 3:
        raise ValueError(f"similarity needs at least 3 points, got {len(a)}")
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = a - mean_a, b - mean_b
    for name, points in (("first", a), ("second", b)):
        singular = torch.linalg.svdvals(points)
        if singular[1] <= 1e-9 * singular[0].clamp(min=1e-30):
            raise ValueError(
                f"similarity is not determined: the {name} points coincide or lie on one line "
                f"(extents {singular.tolist()})"
            )
    covariance = a.T @ b / len(a)
    U, D, Vh = torch.linalg.svd(covariance)
    sign = torch.ones(3, dtype=a.dtype, device=a.device)
    if torch.linalg.det(U) * torch.linalg.det(Vh) < 0:
        sign[2] = -1
    R_a_b = U @ torch.diag(sign) @ Vh
    scale = (D * sign).sum() / b.square().sum(-1).mean()
    return Similarity(scale, R_a_b, mean_a - scale * (R_a_b @ mean_b))
