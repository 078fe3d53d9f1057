"""Pinhole intrinsics `K_px` (..., 3, 3): checking, projecting.

Pixel (0, 0) is the CENTRE of the first pixel (as in ROS CameraInfo and OpenCV), so an image of
width W covers [-0.5, W - 0.5). Cropping and resizing images, with their
intrinsics, is `crop_resize`.
"""

import torch
from torch import Tensor


def require_intrinsics(K_px: Tensor, name: str = "intrinsics") -> None:
    """Raise ValueError unless every `K_px` (..., 3, 3) is a usable pinhole matrix.

    Usable: finite, fx > 0, fy > 0, zero below the diagonal, last row 0 0 1.
    """
    if K_px.ndim < 2 or K_px.shape[-2:] != (3, 3):
        raise ValueError(f"{name} must have shape (..., 3, 3), got {tuple(K_px.shape)}")
    matrices = K_px.detach().double().reshape(-1, 3, 3)
    finite = torch.isfinite(matrices).all(-1).all(-1)
    focal = (matrices[:, 0, 0] > 0) & (matrices[:, 1, 1] > 0)
    last_row = matrices.new_tensor([0.0, 0.0, 1.0])
    upper = (matrices[:, 1, 0].abs() <= 1e-6) & ((matrices[:, 2] - last_row).abs().amax(-1) <= 1e-6)
    usable = (finite & focal & upper).tolist()
    if all(usable):
        return
    index = usable.index(False)
    where = f"{name}[{index}]" if K_px.ndim > 2 else name
    K = matrices[index].tolist()
    if not bool(finite[index]):
        raise ValueError(f"{where} has values that are not finite: {K}")
    if not bool(focal[index]):
        raise ValueError(
            f"{where} is singular: fx and fy must be positive, got {K[0][0]} and {K[1][1]}"
        )
    raise ValueError(f"{where} must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]], got {K}")


def pixel_grid(
    image_hw: tuple[int, int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Homogeneous pixel coordinates (H, W, 3): [column, row, 1]."""
    height, width = image_hw
    x = torch.arange(width, dtype=dtype, device=device)
    y = torch.arange(height, dtype=dtype, device=device)
    return torch.stack(
        [x.expand(height, width), y[:, None].expand(height, width), x.new_ones(height, width)], -1
    )


def unproject(depth: Tensor, K_px: Tensor) -> Tensor:
    """Camera-frame points (..., H, W, 3), in depth's unit, of z-depth (..., H, W)."""
    height, width = depth.shape[-2:]
    pixels = pixel_grid((height, width), dtype=depth.dtype, device=depth.device)
    K_inverse = torch.linalg.inv(K_px.double()).to(depth.dtype)
    directions = pixels.flatten(0, 1) @ K_inverse.transpose(-1, -2)
    return directions.unflatten(-2, (height, width)) * depth.unsqueeze(-1)
