"""Batched ray casting of packed rooms in plain torch, on CPU or GPU: first surfaces and shadows.

Rays are parameterised by z-depth: a ray direction has length 1 along the optical axis, so the ray
parameter of a hit *is* its z-depth in metres. Shapes: B rooms, V views, N rays per view. What a
surface looks like belongs to shading.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gld_ros.scenes.rooms.packed import PackedRooms
from gld_ros.scenes.rooms.vectors import Vec, dot, each, less

NEAR_M = 1e-3
# Added to ray directions: keeps an axis-parallel ray from dividing by zero, moves nothing.
_TINY = 1e-12


@dataclass(frozen=True)
class Hits:
    """Where rays end: depth_m (B, V, N) z-depth; primitive (B, V, N) float, 0 is the shell."""

    depth_m: Tensor
    primitive: Tensor


def pixel_rays(K_px: Tensor, T_world_cam: Tensor, x: Tensor, y: Tensor) -> tuple[Vec, Vec]:
    """Origins (B, V, 1) and directions (B, V, N) in the world through pixels x, y.

    K_px (B, V, 3, 3), T_world_cam (B, V, 4, 4), x and y broadcastable to (B, V, N).
    """
    right = (x - K_px[..., 0, 2, None]) / K_px[..., 0, 0, None]
    down = (y - K_px[..., 1, 2, None]) / K_px[..., 1, 1, None]
    d = [
        (right * T_world_cam[..., i, 0, None])
        .addcmul_(down, T_world_cam[..., i, 1, None])
        .add_(T_world_cam[..., i, 2, None])
        for i in range(3)
    ]
    o = [T_world_cam[..., i, 3, None] for i in range(3)]
    return (o[0], o[1], o[2]), (d[0], d[1], d[2])


def image_rays(T_world_cam: Tensor, K_px: Tensor, image_hw: tuple[int, int]) -> tuple[Vec, Vec]:
    """Rays through all pixel centres, row by row."""
    height, width = image_hw
    device = T_world_cam.device
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None].expand(height, width)
    x = torch.arange(width, device=device, dtype=torch.float32).expand(height, width)
    return pixel_rays(K_px, T_world_cam, x.reshape(-1), y.reshape(-1))


def cast_rays(rooms: PackedRooms, origin: Vec, direction: Vec) -> Hits:
    """First surface along every ray. origin broadcastable to direction, each (B, V, N)."""
    direction = each(lambda d: d + _TINY, direction)
    inverse = each(torch.reciprocal, direction)
    closeness = _shell_exit(rooms.size, origin, inverse).reciprocal_()
    primitive = torch.zeros_like(closeness)
    for slot, candidate in enumerate(_entries(rooms, origin, direction, inverse), start=1):
        nearer = less(closeness, candidate)
        torch.maximum(closeness, candidate, out=closeness)
        primitive.lerp_(torch.full_like(primitive[:1, :1, :1], float(slot)), nearer)
    return Hits(closeness.reciprocal_(), primitive)


def unoccluded(rooms: PackedRooms, origin: Vec, direction: Vec) -> Tensor:
    """1.0 where nothing stands between origin and origin + direction, else 0.0, (B, V, N)."""
    direction = each(lambda d: d + _TINY, direction)
    inverse = each(torch.reciprocal, direction)
    closeness = torch.zeros_like(direction[0])
    for candidate in _entries(rooms, origin, direction, inverse):
        torch.maximum(closeness, candidate, out=closeness)
    return less(closeness, 1.0)


def _shell_exit(size: Tensor, origin: Vec, inverse: Vec) -> Tensor:
    half_x, half_y, half_z = (0.5 * size[:, i, None, None] for i in range(3))
    exits = [
        (half * inv.abs()).addcmul_(-at, inv)
        for half, at, inv in (
            (half_x, origin[0], inverse[0]),
            (half_y, origin[1], inverse[1]),
            (half_z, origin[2] - half_z, inverse[2]),
        )
    ]
    nearest = torch.minimum(exits[0], exits[1])
    return torch.minimum(nearest, exits[2], out=nearest)


def _entries(rooms: PackedRooms, origin: Vec, direction: Vec, inverse: Vec) -> Iterator[Tensor]:
    """Yield, for each primitive in order, 1 / depth where rays enter it; 0 or less: they miss."""
    ox, oy, oz = origin
    dx, dy, _ = direction
    inverse_z, abs_inverse_z = inverse[2], inverse[2].abs()
    for i in range(rooms.boxes.shape[1]):
        cx, cy, cz, hx, hy, hz, cos, sin = (rooms.boxes[:, i, k, None, None] for k in range(8))
        rx, ry = cx - ox, cy - oy
        middle, reach = (cz - oz) * inverse_z, hz * abs_inverse_z
        enter, leave = middle - reach, middle.add_(reach)
        for ahead, along, half in (
            (cos * rx + sin * ry, (cos * dx).addcmul_(sin, dy), hx),
            (cos * ry - sin * rx, (cos * dy).addcmul_(-sin, dx), hy),
        ):
            inv = along.add_(_TINY).reciprocal_()
            middle = ahead * inv
            reach = inv.abs_().mul_(half)
            torch.maximum(enter, middle - reach, out=enter)
            torch.minimum(leave, middle.add_(reach), out=leave)
        hit = less(enter, leave)
        yield hit.mul_(less(-enter, -NEAR_M)).div_(enter)
    if rooms.spheres.shape[1]:
        length2 = dot(direction, direction)
        for i in range(rooms.spheres.shape[1]):
            cx, cy, cz, radius = (rooms.spheres[:, i, k, None, None] for k in range(4))
            to_centre = (cx - ox, cy - oy, cz - oz)
            half_b = dot(direction, to_centre)
            behind = radius * radius - dot(to_centre, to_centre)
            discriminant = (half_b * half_b).addcmul_(length2, behind)
            hit = less(-discriminant, 0.0)
            enter = half_b.sub_(discriminant.clamp_(min=0).sqrt_()).div_(length2)
            yield hit.mul_(less(-enter, -NEAR_M)).div_(enter)
    if rooms.cylinders.shape[1]:
        length2 = (dx * dx).addcmul_(dy, dy)
        for i in range(rooms.cylinders.shape[1]):
            cx, cy, cz, radius, hz = (rooms.cylinders[:, i, k, None, None] for k in range(5))
            rx, ry = cx - ox, cy - oy
            half_b = (dx * rx).addcmul_(dy, ry)
            behind = radius * radius - (rx * rx + ry * ry)
            discriminant = (half_b * half_b).addcmul_(length2, behind)
            hit = less(-discriminant, 0.0)
            root = discriminant.clamp_(min=0).sqrt_()
            middle, reach = (cz - oz) * inverse_z, hz * abs_inverse_z
            enter = torch.maximum(middle - reach, (half_b - root).div_(length2))
            leave = torch.minimum(middle.add_(reach), half_b.add_(root).div_(length2))
            hit = hit.mul_(less(enter, leave)).mul_(less(-enter, -NEAR_M))
            yield hit.div_(enter)
