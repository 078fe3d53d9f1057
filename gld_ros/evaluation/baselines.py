"""Baseline methods on the same views: copies, warps, mean colour, mean depth.

Shapes: B scenes, R references, T targets. The warp knows the TRUE depth of the references, which
the model does not.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from gld_ros.geometry.intrinsics import unproject
from gld_ros.geometry.rigid import invert_rigid, transform_points
from gld_ros.scenes.rooms import DOMAINS, render_rooms, split_ids

# A surface this much farther than the nearest one at a pixel lies behind it.
SAME_SURFACE = 0.05
# A pixel that a warped one covers by less than this does not hide what is behind it.
SOLID_COVERAGE = 0.25
# Less coverage than this by all warped pixels is a hole.
MIN_COVERAGE = 0.02


@dataclass(frozen=True)
class WarpedViews:
    """References seen from the target cameras: rgb (B, T, 3, H, W), depth_m (B, T, H, W).

    `covered` (B, T, H, W) says where a reference pixel landed; elsewhere the nearest covered pixel
    is used, and depth is 0 where nothing landed at all.
    """

    rgb: Tensor
    depth_m: Tensor
    covered: Tensor


def nearest_reference(T_world_cam: Tensor, num_references: int, depth: Tensor) -> Tensor:
    """Index (B, T) of the reference whose camera is nearest to each target's.

    Nearness is centre distance plus angle (radians) times `depth` (B,), the scene's typical depth:
    roughly how far pixels move.
    """
    references, targets = T_world_cam[:, :num_references], T_world_cam[:, num_references:]
    T_target_ref = invert_rigid(targets[:, :, None]) @ references[:, None]
    cosine = (T_target_ref[..., :3, :3].diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    distance = T_target_ref[..., :3, 3].norm(dim=-1)
    return (distance + depth[:, None, None] * cosine.clamp(-1, 1).arccos()).argmin(-1)


def typical_depth(T_world_cam: Tensor, reference_depth_m: Tensor | None) -> Tensor:
    """Typical depth (B,) of scenes: the references' median; else the longest camera distance."""
    if reference_depth_m is not None:
        depth = reference_depth_m.flatten(1)
        median = torch.where(depth > 0, depth, torch.nan).nanmedian(1).values
        if bool(torch.isfinite(median).all()):
            return median
    centres = T_world_cam[:, :, :3, 3]
    return torch.cdist(centres, centres).amax((1, 2)).clamp_min(1e-6)


def take_references(values: Tensor, index: Tensor) -> Tensor:
    """Of values (B, R, ...) those at index (B, T): (B, T, ...)."""
    return values[torch.arange(len(values), device=values.device)[:, None], index]


def mean_colour(reference_images: Tensor, num_targets: int) -> Tensor:
    """Plain images (B, T, 3, H, W) in the mean colour of each scene's references."""
    mean = reference_images.mean((1, 3, 4), keepdim=True)
    batch, _, _, height, width = reference_images.shape
    return mean.expand(batch, num_targets, 3, height, width)


def forward_warp(
    images: Tensor,
    depth_m: Tensor,
    K_px: Tensor,
    T_world_cam: Tensor,
    target_K_px: Tensor,
    target_T_world_cam: Tensor,
) -> WarpedViews:
    """Move every reference pixel of known depth to where each target sees it, nearest wins.

    images (B, R, 3, H, W), depth_m (B, R, H, W), K_px (B, R, 3, 3), T_world_cam (B, R, 4, 4) of the
    references; cameras of the targets likewise with T. A pixel is spread over the four target
    pixels around where it lands; holes take the nearest covered pixel.
    """
    batch, _, _, height, width = images.shape
    targets = target_K_px.shape[1]
    rgb = torch.zeros(batch, targets, 3, height, width)
    depth = torch.zeros(batch, targets, height, width)
    covered = torch.zeros(batch, targets, height, width, dtype=torch.bool)
    images, depth_m, K_px, T_world_cam = (x.cpu() for x in (images, depth_m, K_px, T_world_cam))
    target_K_px, target_T_world_cam = target_K_px.cpu(), target_T_world_cam.cpu()
    for b in range(batch):
        points_cam = unproject(depth_m[b], K_px[b]).flatten(1, 2)
        points = transform_points(T_world_cam[b], points_cam).flatten(0, 1)
        known = depth_m[b].flatten() > 0
        colours = images[b].permute(0, 2, 3, 1).reshape(-1, 3)[known]
        for t in range(targets):
            T_cam_world = invert_rigid(target_T_world_cam[b, t])
            in_camera = points[known] @ T_cam_world[:3, :3].T + T_cam_world[:3, 3]
            image, z, hit = _splat(in_camera, colours, target_K_px[b, t], (height, width))
            rgb[b, t], depth[b, t] = _fill_holes(image, z, hit)
            covered[b, t] = hit
    device = images.device
    return WarpedViews(rgb.to(device), depth.to(device), covered.to(device))


def mean_depth_image(
    domain: str, image_hw: tuple[int, int], num_views: int, num_scenes: int
) -> Tensor:
    """Mean depth in metres (H, W) over all views of training rooms of a domain.

    The depth order that a model could reach by learning only typical depths.
    """
    if domain not in DOMAINS:
        raise ValueError(f"unknown domain {domain!r}; use one of {', '.join(DOMAINS)}")
    total = torch.zeros(image_hw)
    ids = split_ids("train", num_scenes)
    for first in range(0, num_scenes, 16):
        rooms = render_rooms(domain, ids[first : first + 16], num_views, image_hw, antialias=1)
        total += rooms["depth_m"].mean(1).sum(0)
    return total / num_scenes


def _splat(
    points_cam: Tensor, colours: Tensor, K_px: Tensor, image_hw: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Image (3, H, W), depth (H, W) and where anything landed (H, W) of points in the camera."""
    height, width = image_hw
    z = points_cam[:, 2]
    in_front = z > 1e-6
    points_cam, colours, z = points_cam[in_front], colours[in_front], z[in_front]
    projected = points_cam @ K_px.T
    u, v = projected[:, 0] / z, projected[:, 1] / z
    left, top = u.floor(), v.floor()
    places, weights, sources = [], [], []
    for du in (0, 1):
        for dv in (0, 1):
            column, row = left + du, top + dv
            weight = (1 - (u - column).abs()) * (1 - (v - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            inside &= weight > 1e-3
            places.append((row * width + column)[inside].long())
            weights.append(weight[inside])
            sources.append(inside.nonzero()[:, 0])
    place, weight, source = torch.cat(places), torch.cat(weights), torch.cat(sources)
    count = height * width
    nearest = torch.full((count,), torch.inf)
    # A pixel that is touched only at its edge must not hide what covers it fully.
    solid = weight >= SOLID_COVERAGE
    nearest.scatter_reduce_(0, place[solid], z[source[solid]], "amin")
    touched = torch.full((count,), torch.inf).scatter_reduce_(0, place, z[source], "amin")
    nearest = torch.where(nearest.isinf(), touched, nearest)
    in_view = (z[source] / nearest[place] - 1).abs() <= SAME_SURFACE
    place, weight, source = place[in_view], weight[in_view], source[in_view]
    total = torch.zeros(count).index_add_(0, place, weight)
    colour = torch.zeros(count, 3).index_add_(0, place, weight[:, None] * colours[source])
    depth = torch.zeros(count).index_add_(0, place, weight * z[source])
    hit = total >= MIN_COVERAGE
    divisor = torch.where(hit, total, 1.0)
    image = torch.where(hit[:, None], colour / divisor[:, None], 0.0).T
    depth = torch.where(hit, depth / divisor, 0.0)
    return image.reshape(3, height, width), depth.reshape(height, width), hit.reshape(image_hw)


def _fill_holes(image: Tensor, depth: Tensor, covered: Tensor) -> tuple[Tensor, Tensor]:
    """The images with every hole at the value of the nearest covered pixel; grey if none is."""
    if not bool(covered.any()):
        return torch.full_like(image, 0.5), depth
    rows, columns = distance_transform_edt(
        ~covered.numpy(), return_distances=False, return_indices=True
    )
    rows, columns = (torch.from_numpy(i.astype(np.int64)) for i in (rows, columns))
    return image[:, rows, columns], depth[rows, columns]
