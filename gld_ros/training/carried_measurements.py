"""Depth and colours of views carried into other cameras of the scene, for whole batches at once.

Owns the z-buffer and the look-up of colours, in torch and for small images. What it does for a step
of training, `measuring.rendering` does with more care for one view of a robot: depth first, the
nearest surface wins, then colours are looked up in the images that see the same point. What lies
beyond space that may be filled, which a robot's view leaves out, is carried here.

Shapes: B scenes, S source views, T target views, N = H x W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gld_ros.geometry.intrinsics import pixel_grid
from gld_ros.geometry.rigid import invert_rigid
from gld_ros.measured_latents import RenderedMeasurements
from gld_ros.measuring.surfaces import ANGLE_RAD, MIN_Z_M, SAME_SURFACE
from gld_ros.scenes.visibility import DepthViews


@torch.no_grad()
def carry(
    images: Tensor, sources: DepthViews, target_K_px: Tensor, target_T_world_cam: Tensor
) -> RenderedMeasurements:
    """What the target cameras see of the surfaces of source views.

    images (B, S, 3, H, W) and the sources' depth (B, S, H, W), 0 where nothing is measured; cameras
    of the targets (B, T, 3, 3) and (B, T, 4, 4). Images of the targets are as large as the sources.
    """
    T_target_source = (
        invert_rigid(target_T_world_cam.double())[:, :, None]
        @ sources.T_world_cam.double()[:, None]
    )  # (B, T, S, 4, 4)
    depth_m = _z_buffer(sources, target_K_px, T_target_source)
    rgb, seen = _colours(images, sources, target_K_px, T_target_source, depth_m)
    covered = seen & (depth_m > 0)
    return RenderedMeasurements(rgb, depth_m, covered)


def _z_buffer(sources: DepthViews, target_K_px: Tensor, T_target_source: Tensor) -> Tensor:
    """Depth (B, T, H, W) of the nearest point in each target pixel; 0 where none falls."""
    height, width = sources.depth_m.shape[-2:]
    batch, targets = T_target_source.shape[:2]
    pixels = _pixels(height, width, sources.depth_m)
    depth = sources.depth_m.flatten(2)[:, None]  # (B, 1, S, N)
    x, y, z = _projected(
        target_K_px[:, :, None], T_target_source, sources.K_px[:, None], pixels, depth
    )
    column, row = (x / z).round(), (y / z).round()
    inside = (depth > 0) & (z > MIN_Z_M)
    inside &= (column >= 0) & (column < width) & (row >= 0) & (row < height)
    image = torch.arange(batch * targets, device=z.device).view(batch, targets, 1, 1)
    place = ((image * height + row.nan_to_num(0, 0, 0)) * width + column.nan_to_num(0, 0, 0)).long()
    nearest = torch.full((batch * targets * height * width,), torch.inf, device=z.device)
    nearest.scatter_reduce_(0, place[inside], z[inside], "amin")
    inverse = (1 / nearest).view(batch, targets, height, width)
    closed = _closed_gaps(inverse)
    return torch.where(closed > 0, 1 / closed.clamp_min(1e-9), 0.0)


def _closed_gaps(inverse: Tensor) -> Tensor:
    """`measuring.surfaces.closed_gaps` of inverse depth (B, T, H, W)."""
    for _ in range(2):
        near = F.max_pool2d(inverse, 3, 1, 1)
        on_front = ((inverse > 0) & (inverse >= near * (1 - 2 * SAME_SURFACE))).to(inverse)
        support, total = (
            F.avg_pool2d(part, 3, 1, 1, divisor_override=1)
            for part in (on_front, on_front * inverse)
        )
        mean = total / support.clamp_min(1)
        gap = (support >= 4) & (inverse < mean * (1 - 2 * SAME_SURFACE))
        inverse = torch.where(gap, mean, inverse)
    return inverse


def _colours(
    images: Tensor,
    sources: DepthViews,
    target_K_px: Tensor,
    T_target_source: Tensor,
    depth_m: Tensor,
) -> tuple[Tensor, Tensor]:
    """Colours (B, T, 3, H, W) of the targets' points in the sources, and where any shows them."""
    height, width = depth_m.shape[-2:]
    batch, targets, views = T_target_source.shape[:3]
    pixels = _pixels(height, width, depth_m)
    depth = depth_m.flatten(2)[:, :, None]  # (B, T, 1, N)
    T_source_target = invert_rigid(T_target_source)
    x, y, z = _projected(
        sources.K_px[:, None], T_source_target, target_K_px[:, :, None], pixels, depth
    )
    u, v = x / z.clamp_min(MIN_Z_M), y / z.clamp_min(MIN_Z_M)
    inside = (depth > 0) & (z > MIN_Z_M) & (u > -0.5) & (u < width - 0.5)
    inside &= (v > -0.5) & (v < height - 0.5)
    column, row = u.round().clamp(0, width - 1).long(), v.round().clamp(0, height - 1).long()
    measured = sources.depth_m.flatten(2)[:, None].expand(-1, targets, -1, -1)
    seen_m = measured.gather(-1, row * width + column)
    same = inside & ((z - seen_m).abs() <= 2 * SAME_SURFACE * seen_m)
    weight = same * _direction_weight(sources.K_px[:, None], T_source_target, u, v, z)

    grid = torch.stack(((2 * u + 1) / width - 1, (2 * v + 1) / height - 1), -1)
    grid = grid.view(batch, targets, views, height, width, 2).transpose(1, 2)
    looked_up = F.grid_sample(
        images.flatten(0, 1),
        grid.reshape(batch * views, targets * height, width, 2),
        padding_mode="border",
        align_corners=False,
    ).view(batch, views, 3, targets, -1)
    total = weight.sum(2)
    rgb = torch.einsum("bsctn,btsn->btcn", looked_up, weight) / total[:, :, None].clamp_min(1e-9)
    seen = (total > 0).view(batch, targets, height, width)
    return rgb.view(batch, targets, 3, height, width), seen


def _direction_weight(
    K_px: Tensor, T_source_target: Tensor, u: Tensor, v: Tensor, z: Tensor
) -> Tensor:
    """`measuring.surfaces.direction_weight` of points (B, T, S, N), by their pixels there."""
    f_x, f_y = K_px[..., 0, 0, None], K_px[..., 1, 1, None]
    rays = (u - K_px[..., 0, 2, None]) / f_x, (v - K_px[..., 1, 2, None]) / f_y
    to_source = torch.stack((rays[0] * z, rays[1] * z, z))
    centre = T_source_target[..., :3, 3].to(z).movedim(-1, 0)[..., None]
    to_target = to_source - centre
    source, target = (
        part.square().sum(0).sqrt().clamp_min(1e-9) for part in (to_source, to_target)
    )
    cosine = (to_source * to_target).sum(0) / (source * target)
    angle = (2 * (1 - cosine.clamp(-1, 1))).sqrt()
    return torch.exp(-angle / ANGLE_RAD).clamp_min(1e-6) * (target / source).clamp_max(1)


def _projected(
    K_px_to: Tensor, T_to_from: Tensor, K_px_from: Tensor, pixels: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel times depth in the camera `to` of pixels (3, N) of `from` at depths (..., N)."""
    K_to = K_px_to.double()
    linear = (K_to @ T_to_from[..., :3, :3] @ torch.linalg.inv(K_px_from.double())).to(depth)
    offset = (K_to @ T_to_from[..., :3, 3:]).to(depth)
    x, y, z = (linear @ pixels * depth[..., None, :] + offset).unbind(-2)
    return x, y, z


def _pixels(height: int, width: int, like: Tensor) -> Tensor:
    """Homogeneous pixels (3, N)."""
    grid = pixel_grid((height, width), dtype=like.dtype, device=like.device)
    return grid.flatten(0, 1).mT.contiguous()
