"""Colours of the surfaces that rays hit: patterns, ambient light, ceiling lights, shadows.

Surface patterns belong to textures.py, hits and shadow rays to raycast.py. Shapes as there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gld_ros.scenes.rooms.layout import MATERIAL_COLUMNS
from gld_ros.scenes.rooms.packed import (
    COS,
    CX,
    CY,
    CZ,
    HX,
    HY,
    HZ,
    IS_CYLINDER,
    IS_SPHERE,
    MATERIAL,
    SIN,
    PackedRooms,
)
from gld_ros.scenes.rooms.raycast import Hits, unoccluded
from gld_ros.scenes.rooms.textures import SurfacePoints, pattern_gain
from gld_ros.scenes.rooms.vectors import Vec, dot, each, equal, less

SHADOW_BIAS_M = 2e-3


@dataclass(frozen=True)
class Shading:
    """Colour of ray hits: rgb (B, V, 3, N) in [0, 1].

    surface (B, V, N) differs between neighbouring pixels wherever an edge runs between them:
    other primitive, face, painted panel or shadow.
    """

    rgb: Tensor
    surface: Tensor


def shade(
    rooms: PackedRooms, origin: Vec, direction: Vec, hits: Hits, pixel_angle: Tensor
) -> Shading:
    """Colour where rays end: pattern, ambient light, ceiling lights with or without shadows.

    pixel_angle (B, V, 1) is the size of a pixel at 1 m depth, for the band limit of patterns.
    """
    depth = hits.depth_m
    num_rooms, num_primitives = rooms.shape.shape[:2]
    room_index = torch.arange(num_rooms, device=depth.device)[:, None, None]
    hit_shape = _rows(rooms.shape, hits.primitive.long() + room_index * num_primitives)
    cos, sin, is_sphere, is_cylinder = (hit_shape[k] for k in (COS, SIN, IS_SPHERE, IS_CYLINDER))
    half = (hit_shape[HX], hit_shape[HY], hit_shape[HZ])

    world = each(lambda o, d: torch.addcmul(o, depth, d), origin, direction)
    rx, ry = world[0] - hit_shape[CX], world[1] - hit_shape[CY]
    local = (
        (cos * rx).addcmul_(sin, ry),
        (cos * ry).sub_(sin * rx),
        world[2] - hit_shape[CZ],
    )
    out = each(torch.div, local, half)  # 1 or -1 on the faces of a box
    square = each(torch.square, out)

    # Boxes and the shell: the face is the axis along which the point lies farthest out.
    is_shell = equal(hits.primitive, 0.0)
    straight = (1.0 - is_sphere).sub_(is_cylinder)
    on_z = less(torch.maximum(square[0], square[1]), square[2])
    on_x = less(-square[0], -square[1]) * (1.0 - on_z)
    on_y = (1.0 - on_z).sub_(on_x)
    on_cap = less(square[0] + square[1], square[2]).mul_(is_cylinder)
    on_x, on_y = on_x.mul_(straight), on_y.mul_(straight)
    on_z = on_z.mul_(straight).add_(on_cap)
    curved = (1.0 - on_x).sub_(on_y).sub_(on_z)
    outward = 1.0 - 2.0 * is_shell  # the shell is seen from inside
    nx, ny, nz = each(
        lambda o, on: torch.sign(o).mul_(on).mul_(outward).addcmul_(curved, o),
        out,
        (on_x, on_y, on_z),
    )
    nz = nz.addcmul_(curved * is_cylinder, out[2], value=-1.0)  # the side of a cylinder is upright

    positive = less(-(out[0] * on_x).addcmul_(out[1], on_y).addcmul_(out[2], on_z), 0.0)
    face = (2.0 * on_y).add_(on_z, alpha=4.0).add_(positive)
    material = torch.addcmul(hit_shape[MATERIAL], is_shell, face)
    for i in range(rooms.panels.shape[1]):
        panel_face, u0, u1, v0, v1, row = (rooms.panels[:, i, k, None, None] for k in range(6))
        u = torch.lerp(local[0], local[1], (panel_face < 2).float())
        # Products of distances to opposite borders are positive inside.
        within = less(-((u - u0) * (u1 - u)), 0.0)
        within.mul_(less(-((local[2] - v0) * (v1 - local[2])), 0.0))
        within.mul_(equal(face, panel_face)).mul_(is_shell)
        material.lerp_(row, within)
    # 8 faces, up to 256 primitives and materials, then a bit per light: exact in float32.
    surface = (face * (1.0 - curved)).add_(material, alpha=8.0)
    surface = surface.add_(hits.primitive, alpha=8.0 * 64)

    hit_material = _rows(rooms.materials, material.long() + room_index * rooms.materials.shape[1])
    gain: Tensor | None = None
    if rooms.textures:
        ray = (
            (cos * direction[0]).addcmul_(sin, direction[1]),
            (cos * direction[1]).sub_(sin * direction[0]),
            direction[2],
        )
        points = SurfacePoints(
            local=local,
            normal=(nx, ny, nz),
            ray=ray,
            radius=half[0],
            on_x=on_x,
            on_z=on_z,
            curved=curved if rooms.curved_textures else None,
            pixel_m=depth * pixel_angle,
        )
        columns = dict(zip(MATERIAL_COLUMNS, hit_material, strict=True))
        gain = pattern_gain(points, columns, rooms.textures)

    normal = ((cos * nx).sub_(sin * ny), (sin * nx).addcmul_(cos, ny), nz)
    brightness = rooms.ambient[:, None, None].expand_as(depth).clone()
    for i in range(rooms.lights.shape[1]):
        to_light = each(
            lambda p, at: at - p,
            world,
            tuple(rooms.lights[:, i, k, None, None] for k in range(3)),  # type: ignore[arg-type]
        )
        weight = rooms.lights[:, i, 3, None, None]
        distance2 = dot(to_light, to_light).clamp_(min=1e-6)
        lambert = dot(normal, to_light).mul_(distance2.rsqrt_()).clamp_(min=0)
        if rooms.shadows:
            start = each(lambda p, n: p + SHADOW_BIAS_M * n, world, normal)
            lit = unoccluded(rooms, start, to_light)
            lambert.mul_(lit)
            # A light of no weight pads the batch; its shadows are no edges.
            surface.addcmul_(lit, (weight > 0).float(), value=float(2 ** (17 + i)))
        brightness.addcmul_(weight, lambert)
    if gain is not None:
        brightness.mul_(gain)
    rgb = torch.empty(*depth.shape[:2], 3, depth.shape[2], device=depth.device)
    for k in range(3):
        torch.mul(hit_material[k], brightness, out=rgb[:, :, k])
    return Shading(rgb.clamp_(0, 1), surface)


def _rows(table: Tensor, row: Tensor) -> Sequence[Tensor]:
    """Columns, each in the shape of row, of the chosen rows of a table (B, rows, columns)."""
    columns = table.flatten(0, 1).t().contiguous().index_select(1, row.flatten())
    return columns.reshape(-1, *row.shape).unbind(0)
