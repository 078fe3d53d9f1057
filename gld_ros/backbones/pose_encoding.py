"""Cameras as nine numbers: translation (3), quaternion xyzw (4), view angles y and x (2).

Which transform is encoded differs between backbones (Depth Anything 3: camera to world, VGGT: world
to camera) and is their business; the numbers are made and read here.
"""

import torch
from torch import Tensor

from gld_ros.geometry.rigid import (
    matrix_from_quaternion_xyzw,
    quaternion_xyzw_from_matrix,
    rigid_transform,
)

POSE_NUMBERS = 9
MIN_HALF_ANGLE_TAN = 1e-6  # a predicted view angle of zero means a very long, not infinite, focal


def encode_transform(T: Tensor, K_px: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """Encode rigid transforms T (..., 4, 4) and intrinsics K_px (..., 3, 3) as (..., 9).

    K_px is in pixels of an image of size image_hw; angles are in radians, the quaternion has
    w >= 0. The principal point is not encoded.
    """
    half_size_yx = K_px.new_tensor(image_hw) / 2
    focal_yx = torch.stack([K_px[..., 1, 1], K_px[..., 0, 0]], dim=-1)
    return torch.cat(
        [
            T[..., :3, 3],
            quaternion_xyzw_from_matrix(T[..., :3, :3]),
            2 * torch.atan(half_size_yx / focal_yx),
        ],
        dim=-1,
    )


def decode_transform(encoding: Tensor, image_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the transform (..., 4, 4) and K_px (..., 3, 3) of an encoding (..., 9).

    The quaternion need not have length one; the principal point is the image centre.
    """
    translation, quaternion, fov_yx = encoding.split((3, 4, 2), dim=-1)
    T = rigid_transform(matrix_from_quaternion_xyzw(quaternion), translation)
    focal_y, focal_x = (
        side / 2 / torch.tan(fov / 2).clamp(min=MIN_HALF_ANGLE_TAN)
        for side, fov in zip(image_hw, fov_yx.unbind(-1), strict=True)
    )
    K_px = torch.zeros(*encoding.shape[:-1], 3, 3, dtype=encoding.dtype, device=encoding.device)
    K_px[..., 0, 0], K_px[..., 1, 1] = focal_x, focal_y
    K_px[..., 0, 2], K_px[..., 1, 2] = image_hw[1] / 2, image_hw[0] / 2
    K_px[..., 2, 2] = 1
    return T, K_px
