"""Images of packed rooms: a ray through each pixel centre, more where an edge runs through.

Casting rays belongs to raycast.py, colours to shading.py.
"""

import torch
from torch import Tensor

from gld_ros.scenes.rooms.packed import PackedRooms
from gld_ros.scenes.rooms.raycast import cast_rays, image_rays, pixel_rays
from gld_ros.scenes.rooms.shading import shade


def render(
    rooms: PackedRooms,
    T_world_cam: Tensor,
    K_px: Tensor,
    image_hw: tuple[int, int],
    antialias: int = 1,
) -> tuple[Tensor, Tensor]:
    """Images of packed rooms: rgb (B, V, 3, H, W) in [0, 1] and depth_m (B, V, H, W).

    antialias k > 1 casts k x k rays in the pixels that an edge runs through; depth is always that
    of the ray through the pixel centre.
    """
    height, width = image_hw
    origin, direction = image_rays(T_world_cam, K_px, image_hw)
    hits = cast_rays(rooms, origin, direction)
    pixel_angle = (1.0 / K_px[..., 0, 0])[..., None]
    shading = shade(rooms, origin, direction, hits, pixel_angle)
    rgb = shading.rgb
    if antialias > 1:
        edge = _edge_pixels(shading.surface.unflatten(2, image_hw))
        _supersample(rooms, T_world_cam, K_px, width, edge, rgb, antialias)
    return rgb.unflatten(3, (height, width)), hits.depth_m.unflatten(2, (height, width))


def _edge_pixels(surface: Tensor) -> Tensor:
    """1.0 on both sides of every edge between pixels, (B, V, H * W), from surface (B, V, H, W)."""
    edge = torch.zeros_like(surface)
    across, down = surface.diff(dim=-1).abs_(), surface.diff(dim=-2).abs_()
    edge[..., 1:] += across
    edge[..., :-1] += across
    edge[..., 1:, :] += down
    edge[..., :-1, :] += down
    return edge.flatten(2).clamp_(max=1.0)


def _supersample(
    rooms: PackedRooms,
    T_world_cam: Tensor,
    K_px: Tensor,
    width: int,
    edge: Tensor,
    rgb: Tensor,
    antialias: int,
) -> None:
    """Replace the edge pixels of rgb (B, V, 3, N) by the mean of antialias^2 rays."""
    most = int(edge.sum(-1).max())
    if most == 0:
        return
    # All edge pixels of every view; views with fewer fill up with pixels that keep their colour.
    is_edge, pixel = edge.topk(most, dim=-1, sorted=False)
    x, y = (pixel % width).float(), (pixel // width).float()
    pixel_angle = (1.0 / K_px[..., 0, 0])[..., None] / antialias
    total = torch.zeros(*pixel.shape[:2], 3, most, device=rgb.device)
    for i in range(antialias):
        for j in range(antialias):
            shift_x, shift_y = (i + 0.5) / antialias - 0.5, (j + 0.5) / antialias - 0.5
            origin, direction = pixel_rays(K_px, T_world_cam, x + shift_x, y + shift_y)
            hits = cast_rays(rooms, origin, direction)
            total += shade(rooms, origin, direction, hits, pixel_angle).rgb
    index = pixel[:, :, None].expand(-1, -1, 3, -1)
    single = rgb.gather(3, index)
    rgb.scatter_(3, index, single.lerp(total / antialias**2, is_edge[:, :, None]))
