"""Rays of cameras and cameras of rays: Plücker maps and the deterministic camera fit of GLD.

Depth Anything 3's own randomised routine is `gld_ros.backbones.da3.ray_cameras`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gld_ros.geometry.intrinsics import pixel_grid
from gld_ros.geometry.rigid import nearest_rotation, rigid_transform

FIT_STRIDE = 4  # as in the published routine

RayGrid = Literal["official", "centred"]

# The ray of a pixel passes (column + x, row + y). The published weights were trained with the
# first, whose signs differ between the axes; "centred" looks through the centres of the pixels.
RAY_GRID_OFFSET_PX: dict[str, tuple[float, float]] = {
    "official": (-0.5, 0.5),
    "centred": (0.0, 0.0),
}


def plucker_map(
    T_frame_cam: Tensor, K_px: Tensor, image_hw: tuple[int, int], ray_grid: RayGrid = "official"
) -> Tensor:
    """Plücker coordinates (..., 6, H, W) of all pixels: direction d (unit), moment o x d.

    T_frame_cam (..., 4, 4), K_px (..., 3, 3). The moment has the unit of the translations; both
    have the precision of the poses. Raises ValueError for an unknown `ray_grid`.
    """
    if ray_grid not in RAY_GRID_OFFSET_PX:
        raise ValueError(f"ray_grid must be one of {sorted(RAY_GRID_OFFSET_PX)}, got {ray_grid!r}")
    offset_x, offset_y = RAY_GRID_OFFSET_PX[ray_grid]
    x = torch.arange(image_hw[1], device=T_frame_cam.device) + offset_x
    y = torch.arange(image_hw[0], device=T_frame_cam.device) + offset_y
    pose = T_frame_cam.double()
    ray_from_pixel = pose[..., :3, :3] @ torch.linalg.inv(K_px.double())
    # Both halves are linear in the pixel until the division by the length of the ray.
    origin = pose[..., :3, 3:].expand_as(ray_from_pixel)
    moment_from_pixel = torch.linalg.cross(origin, ray_from_pixel, dim=-2)
    from_pixel = torch.cat([ray_from_pixel, moment_from_pixel], dim=-2)[..., None]
    by_column = from_pixel[..., 0, :] * x
    by_row = from_pixel[..., 1, :] * y + from_pixel[..., 2, :]
    dtype = T_frame_cam.dtype
    rays = by_column.to(dtype)[..., None, :] + by_row.to(dtype)[..., None]
    # Not torch.linalg.vector_norm, which is slow over an outer axis on the CPU.
    length = rays[..., :3, :, :].square().sum(-3, keepdim=True).sqrt()
    return rays / length


@dataclass(frozen=True)
class RecoveredCameras:
    """Cameras that a prediction describes, by its rays or otherwise; float64, model units.

    `K_px` is that of view 0, which the official fit to rays reports for all views; `K_px_per_view`
    is the same for each view (equal at view 0), for views of different fields of view.
    """

    T_model_cam: Tensor  # (B, V, 4, 4)
    K_px: Tensor  # (B, 3, 3)
    K_px_per_view: Tensor  # (B, V, 3, 3)


def cameras_from_rays(
    ray: Tensor, ray_confidence: Tensor, image_hw: tuple[int, int]
) -> RecoveredCameras:
    """Cameras from predicted rays by a confidence-weighted linear fit, all in float64.

    ray (B, V, h', w', 6): direction (unnormalised) and origin; ray_confidence (B, V, h', w');
    `image_hw` the image size that K is for. Per view a 3x3 map from grid position to direction is
    fitted on every FIT_STRIDE-th row and column; view 0's inverse is K, and the rotations are the
    polar factors relative to view 0 (which gets the identity). The centre is the weighted mean
    origin of the whole map. Raises ValueError when the rays do not determine a camera.
    """
    height, width = image_hw
    rows, columns = ray.shape[2:4]
    ray, weight = ray.double(), ray_confidence.double()

    positions = pixel_grid((rows, columns), dtype=torch.float64, device=ray.device)
    positions = positions[::FIT_STRIDE, ::FIT_STRIDE].flatten(0, 1)  # (n, 3)
    directions = ray[:, :, ::FIT_STRIDE, ::FIT_STRIDE, :3].flatten(2, 3)  # (B, V, n, 3)
    w = weight[:, :, ::FIT_STRIDE, ::FIT_STRIDE].flatten(2, 3).unsqueeze(-1)
    if not bool(torch.isfinite(directions).all() and torch.isfinite(w).all()):
        raise ValueError("rays or their confidences are not finite; no camera can be recovered")
    # Only the orthogonal factor of the design matrix is needed: better conditioned than normal
    # equations, and batched least squares on CUDA offers nothing more robust.
    Q, R = torch.linalg.qr(w * positions)
    H = torch.linalg.solve(R, Q.transpose(-1, -2) @ (w * directions)).transpose(-1, -2)

    determinant = torch.linalg.det(H)
    if bool((determinant.abs() < 1e-15).any()):
        raise ValueError("predicted rays of a view lie in one plane; no camera can be recovered")
    rotation = nearest_rotation(H @ torch.linalg.inv(H[:, :1]))
    weight_sum = weight.sum((2, 3)) + 1e-12
    centre = (weight.unsqueeze(-1) * ray[..., 3:]).sum((2, 3)) / weight_sum.unsqueeze(-1)

    K = torch.linalg.inv(rotation.transpose(-1, -2) @ H)
    K = K / K[..., 2:, 2:]
    to_image = K.new_tensor([width / columns, height / rows, 1.0]).unsqueeze(-1)
    K = to_image * K
    return RecoveredCameras(rigid_transform(rotation, centre), K[:, 0], K)
