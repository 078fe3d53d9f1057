"""Which pixels of a view other views also see, by reprojecting depth.

Works on any dataset with depth: procedural rooms accept scenes with it, evaluation splits visible
from hidden pixels with it. Pixel centres lie at integer coordinates.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DepthViews:
    """Views with depth: depth_m (B, V, H, W) z-depth, 0 = unknown; K_px (B, V, 3, 3) pixels;
    T_world_cam (B, V, 4, 4) camera-to-world, OpenCV axes.
    """  # noqa: D205

    depth_m: Tensor
    K_px: Tensor
    T_world_cam: Tensor


def visible_from(references: DepthViews, target: DepthViews, tolerance: float = 0.03) -> Tensor:
    """Pixels of the target views whose surface point any reference sees, (B, V_target, H, W) bool.

    A point counts as seen when its depth in a reference agrees with that reference's depth there,
    within the relative tolerance: with one of the four nearest pixels, or with their interpolated
    inverse depth (exact on planes, however slanted). Pixels of unknown depth are never visible.
    """
    if references.depth_m.shape[0] != target.depth_m.shape[0]:
        raise ValueError(
            f"references hold {references.depth_m.shape[0]} scenes, target "
            f"{target.depth_m.shape[0]}; both need the same"
        )
    points = _world_points(target)  # 3 x (B, T, N)
    known = (target.depth_m > 0).flatten(2)
    visible = torch.zeros_like(known)
    for r in range(references.depth_m.shape[1]):
        visible |= _seen_by(
            references.depth_m[:, r],
            references.K_px[:, r],
            references.T_world_cam[:, r],
            points,
            tolerance,
        )
    return (visible & known).reshape(target.depth_m.shape)


def visible_fraction(visible: Tensor, depth_m: Tensor) -> Tensor:
    """Share of the pixels of known depth that are visible, (B, V); 0 where no depth is known."""
    return visible.flatten(2).sum(-1) / (depth_m > 0).flatten(2).sum(-1).clamp(min=1)


def _world_points(views: DepthViews) -> tuple[Tensor, Tensor, Tensor]:
    height, width = views.depth_m.shape[-2:]
    device = views.depth_m.device
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None].expand(height, width)
    x = torch.arange(width, device=device, dtype=torch.float32).expand(height, width)
    K, T, depth = views.K_px, views.T_world_cam, views.depth_m.flatten(2)
    right = (x.reshape(-1) - K[..., 0, 2, None]) / K[..., 0, 0, None] * depth
    down = (y.reshape(-1) - K[..., 1, 2, None]) / K[..., 1, 1, None] * depth
    world = tuple(
        T[..., i, 0, None] * right
        + T[..., i, 1, None] * down
        + T[..., i, 2, None] * depth
        + T[..., i, 3, None]
        for i in range(3)
    )
    return world  # type: ignore[return-value]


def _seen_by(
    depth_m: Tensor,
    K_px: Tensor,
    T_world_cam: Tensor,
    points: tuple[Tensor, Tensor, Tensor],
    tolerance: float,
) -> Tensor:
    """Whether one reference per scene (depth (B, H, W)) sees the points, (B, T, N)."""
    height, width = depth_m.shape[-2:]
    offset = [p - T_world_cam[:, i, 3, None, None] for i, p in enumerate(points)]
    x, y, z = (
        T_world_cam[:, 0, i, None, None] * offset[0]
        + T_world_cam[:, 1, i, None, None] * offset[1]
        + T_world_cam[:, 2, i, None, None] * offset[2]
        for i in range(3)
    )
    in_front = z > 1e-6
    safe_z = torch.where(in_front, z, 1.0)
    u = K_px[:, 0, 0, None, None] * x / safe_z + K_px[:, 0, 2, None, None]
    v = K_px[:, 1, 1, None, None] * y / safe_z + K_px[:, 1, 2, None, None]
    inside = in_front & (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
    u0, v0 = u.clamp(0, width - 1).floor(), v.clamp(0, height - 1).floor()
    flat = depth_m.flatten(1)
    agrees = torch.zeros_like(inside)
    inverse_depth = torch.zeros_like(safe_z)
    weight_sum = torch.zeros_like(safe_z)
    limit = tolerance * safe_z
    for du in (0, 1):
        for dv in (0, 1):
            column = (u0 + du).clamp(max=width - 1)
            line = (v0 + dv).clamp(max=height - 1)
            index = (line * width + column).long().flatten(1).clamp(0, height * width - 1)
            seen = flat.gather(1, index).reshape(z.shape)
            known = seen > 0
            agrees |= known & ((seen - safe_z).abs() < limit)
            weight = (1 - (u - u0 - du).abs()).clamp(0, 1) * (1 - (v - v0 - dv).abs()).clamp(0, 1)
            weight = torch.where(known, weight, 0.0)
            inverse_depth += weight / torch.where(known, seen, 1.0)
            weight_sum += weight
    # Interpolation counts only where all of its weight is known depth.
    interpolated = (weight_sum > 0.999) & ((1.0 / inverse_depth - safe_z).abs() < limit)
    return inside & (agrees | interpolated)
