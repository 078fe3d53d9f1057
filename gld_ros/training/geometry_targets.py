"""True geometry in the form backbones predict it, and the losses against it.

Used by the encoder stage and by the fine-tuning of the geometry head in the decoder stage.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gld_ros.backbones.interface import Geometry, GeometryBackbone
from gld_ros.geometry.intrinsics import pixel_grid
from gld_ros.geometry.rigid import invert_rigid
from gld_ros.training.losses import confident_l1, log_depth_gradient

MIN_BASELINE = 0.01  # mean distance of the cameras to the first, in the scene's unit of length


@dataclass(frozen=True)
class GeometryTargets:
    """True geometry of a batch in model units, view 0 being the world frame."""

    depth: Tensor  # (B, V, H, W), 0 where unknown
    ray: Tensor  # (B, V, h', w', 6): direction R·K^-1·[u, v, 1], then the camera centre
    ray_depth: Tensor  # (B, V, h', w') depth at the ray positions, 0 where unknown


@torch.no_grad()
def relative_cameras(depth_m: Tensor, K_px: Tensor, T_world_cam: Tensor) -> tuple[Tensor, Tensor]:
    """Return poses (B, V, 4, 4) relative to view 0 in scene units, and that unit in metres (B,).

    The unit is the mean distance from camera 0 of all points with a known depth; one metre for a
    scene without any.
    """
    height, width = depth_m.shape[-2:]
    T_view0_cam = invert_rigid(T_world_cam[:, :1]) @ T_world_cam
    centres = T_view0_cam[..., :3, 3]
    valid = (depth_m > 0).float()
    rays = world_directions(K_px, T_view0_cam, _grid(height, width, 1.0, 1.0, depth_m))
    points = rays * depth_m[..., None] + centres[:, :, None, None]
    # A reduction over three numbers: many times faster written out than as a vector norm.
    length = points.square().sum(-1).sqrt()
    known = valid.sum((1, 2, 3))
    distance = (length * valid).sum((1, 2, 3)) / known.clamp_min(1)
    unit_m = torch.where(known > 0, distance.clamp_min(1e-3), 1.0)
    T_scaled = T_view0_cam.clone()
    T_scaled[..., :3, 3] = centres / unit_m[:, None, None]
    return T_scaled, unit_m


def true_camera_tokens(
    backbone: GeometryBackbone,
    depth_m: Tensor,
    K_px: Tensor,
    T_world_cam: Tensor,
    image_hw: tuple[int, int],
) -> Tensor | None:
    """Return the tokens of known cameras, in the scene's unit; None if the backbone takes none."""
    T_view0_cam, _ = relative_cameras(depth_m, K_px, T_world_cam)
    return backbone.known_camera_tokens(invert_rigid(T_view0_cam), K_px, image_hw)


@torch.no_grad()
def geometry_targets(
    depth_m: Tensor, K_px: Tensor, T_world_cam: Tensor, ray_hw: tuple[int, int]
) -> GeometryTargets:
    """Express depth and rays relative to view 0 and divide by the mean point distance.

    Rays are taken at image positions (W/w'·i, H/h'·j), the grid that the published ray-to-camera
    fit assumes, so that the fit returns the true intrinsics.
    """
    height, width = depth_m.shape[-2:]
    T_view0_cam, unit_m = relative_cameras(depth_m, K_px, T_world_cam)
    grid = _grid(*ray_hw, width / ray_hw[1], height / ray_hw[0], depth_m)
    directions = world_directions(K_px, T_view0_cam, grid)
    origins = T_view0_cam[..., None, None, :3, 3].expand_as(directions)
    columns = grid[0, :, 0].round().long().clamp_max(width - 1)
    rows = grid[:, 0, 1].round().long().clamp_max(height - 1)
    depth = depth_m / unit_m.view(-1, 1, 1, 1)
    return GeometryTargets(
        depth=depth,
        ray=torch.cat([directions, origins], -1),
        ray_depth=depth[:, :, rows][..., columns],
    )


def _grid(height: int, width: int, step_x: float, step_y: float, like: Tensor) -> Tensor:
    """Return homogeneous pixel positions (height, width, 3) at the given steps."""
    pixels = pixel_grid((height, width), dtype=like.dtype, device=like.device)
    return pixels * pixels.new_tensor([step_x, step_y, 1.0])


def world_directions(K_px: Tensor, T_world_cam: Tensor, pixels: Tensor) -> Tensor:
    """Return R·K^-1·[u, v, 1] for (B, V) cameras and (h, w, 3) pixels: (B, V, h, w, 3)."""
    to_world = T_world_cam[..., :3, :3] @ torch.linalg.inv(K_px)
    return torch.einsum("bvij,hwj->bvhwi", to_world, pixels)


def geometry_losses(
    geometry: Geometry, depth_m: Tensor, K_px: Tensor, T_world_cam: Tensor
) -> dict[str, Tensor]:
    """Return losses `depth` and `gradient` of depth; with rays also `ray`, `origin` and `points`.

    `depth_m` is (B, V, H, W) with 0 where unknown; scenes without any depth count in no loss,
    because their unit of length is unknown too. `origin` compares camera centres in units of the
    scene's own mean baseline: in those of `ray` a short path is nearly free to be ignored.
    """
    _, unit_m = relative_cameras(depth_m, K_px, T_world_cam)
    true_depth = depth_m / unit_m.view(-1, 1, 1, 1)
    depth_valid = (true_depth > 0).float()
    depth_error = (geometry.depth - true_depth).abs()
    losses = {
        "depth": confident_l1(depth_error, geometry.depth_confidence, depth_valid),
        "gradient": log_depth_gradient(geometry.depth, true_depth, depth_valid),
    }
    ray, ray_confidence = geometry.ray, geometry.ray_confidence
    if ray is None or ray_confidence is None:
        return losses
    ray_hw = (ray.shape[2], ray.shape[3])
    targets = geometry_targets(depth_m, K_px, T_world_cam, ray_hw)
    ray_valid = (targets.ray_depth > 0).float()
    depth_at_rays = sample_at_rays(geometry.depth, ray_hw)
    points = ray[..., :3] * depth_at_rays[..., None] + ray[..., 3:]
    true_points = targets.ray[..., :3] * targets.ray_depth[..., None] + targets.ray[..., 3:]
    scene_valid = depth_valid.amax((1, 2, 3)).view(-1, 1, 1, 1)
    ray_error = (ray - targets.ray).abs().mean(-1)
    return losses | {
        "origin": _origin_error(ray[..., 3:], targets.ray[..., 3:], depth_valid.amax((1, 2, 3))),
        "ray": confident_l1(ray_error, ray_confidence, scene_valid.expand_as(ray_error)),
        "points": ((points - true_points).abs().mean(-1) * ray_valid).sum()
        / ray_valid.sum().clamp_min(1),
    }


def _origin_error(origins: Tensor, true_origins: Tensor, known: Tensor) -> Tensor:
    """Return the distance of mean ray origins to the true ones over the mean true baseline.

    Origins are (B, V, h', w', 3); scenes with `known` 0, or without a baseline, do not count.
    """
    centres, true_centres = origins.mean((2, 3)), true_origins.mean((2, 3))
    baseline = true_centres.square().sum(-1).sqrt().mean(1)
    counted = known * (baseline > MIN_BASELINE)
    error = (centres - true_centres).abs().sum(-1).mean(1) / baseline.clamp_min(MIN_BASELINE)
    return (error * counted).sum() / counted.sum().clamp_min(1)


def weighted_geometry_loss(
    losses: dict[str, Tensor], *, ray: float, points: float, gradient: float, origin: float
) -> Tensor:
    """Return the depth loss plus those of `geometry_losses` that there are, weighted."""
    total = losses["depth"]
    weights = {"ray": ray, "points": points, "gradient": gradient, "origin": origin}
    for name, weight in weights.items():
        if name in losses:
            total = total + weight * losses[name]
    return total


def median_scaled_abs_rel(depth: Tensor, depth_m: Tensor) -> float:
    """Return mean |s·d - d*| / d* with one median scale s per view; (B, V, H, W) each."""
    total, views = 0.0, 0
    for predicted, true in zip(depth.flatten(0, 1), depth_m.flatten(0, 1), strict=True):
        valid = true > 0
        if not bool(valid.any()):
            continue
        p, t = predicted[valid], true[valid]
        scale = t.median() / p.median().clamp_min(1e-6)
        total += float(((scale * p - t).abs() / t).mean())
        views += 1
    return total / max(views, 1)


def sample_at_rays(depth: Tensor, ray_hw: tuple[int, int]) -> Tensor:
    """Read (B, V, H, W) depth bilinearly at the image positions of the ray grid."""
    batch, views, height, width = depth.shape
    rows = torch.arange(ray_hw[0], device=depth.device) * (height / ray_hw[0])
    columns = torch.arange(ray_hw[1], device=depth.device) * (width / ray_hw[1])
    y = rows * 2 / max(height - 1, 1) - 1
    x = columns * 2 / max(width - 1, 1) - 1
    grid = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1).to(depth.dtype)
    grid = grid.expand(batch * views, *grid.shape)
    flat = depth.reshape(batch * views, 1, height, width)
    return F.grid_sample(flat, grid, align_corners=True).view(batch, views, *ray_hw)
