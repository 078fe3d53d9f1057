"""Surface patterns of procedural rooms, limited to the band that a pixel can show.

A pattern is a signal in [-1, 1] of two surface coordinates in metres; it scales the albedo. Edges
are filtered over the footprint of the pixel, and the whole pattern fades to its mean between four
and two pixels per period: what lies beyond would be aliasing noise to whoever learns from it.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from gld_ros.scenes.rooms.layout import MATERIAL_COLUMNS, TEXTURES

Vec = tuple[Tensor, Tensor, Tensor]
_TABLE_SIDE = 64


def textured_albedo(
    albedo: Vec,
    material_table: Tensor,
    material_row: Tensor,
    local: Vec,
    half: Vec,
    normal: Vec,
    direction: Vec,
    yaw: tuple[Tensor, Tensor],
    face: Vec,
    depth_m: Tensor,
    pixel_angle: Tensor,
) -> Vec:
    """Albedo of every hit with its pattern on it; only textured hits are computed.

    All (B, V, N): local, half and normal in the frame of the primitive, direction in the world,
    face = (on an x face, on a y face, on a curved side), yaw = (cos, sin) of the primitive;
    pixel_angle (B, V, 1). material_table (columns, rows) is indexed by material_row.
    """
    column = {name: material_table[k] for k, name in enumerate(MATERIAL_COLUMNS)}
    where = (column["contrast"].take(material_row) > 0).nonzero(as_tuple=True)
    if where[0].numel() == 0:
        return albedo
    row = material_row[where]
    texture, period = column["texture"][row], column["period"][row]
    p, n = [c[where] for c in local], [c[where] for c in normal]
    on_x, on_y, curved = (c[where] for c in face)
    cos, sin = (c[where] for c in yaw)
    ray = [c[where] for c in direction]
    ray = [cos * ray[0] + sin * ray[1], cos * ray[1] - sin * ray[0], ray[2]]
    length = torch.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2)
    facing = (ray[0] * n[0] + ray[1] * n[1] + ray[2] * n[2]).abs() / length
    facing = facing.clamp(min=0.02)

    around = half[0][where] * torch.atan2(p[1], p[0])
    u = torch.where(curved, around, torch.where(on_x, p[1], p[0]))
    v = torch.where(curved | on_x | on_y, p[2], p[1])
    # How far one pixel reaches along u and v: its width, stretched where the ray grazes.
    size = depth_m[where] * pixel_angle.expand_as(depth_m)[where]
    along_u = torch.where(on_x, ray[1], ray[0]) / length
    along_v = torch.where(on_x | on_y, ray[2], ray[1]) / length
    reach_u = size * torch.sqrt(1 + (torch.where(curved, 1.0, along_u) / facing) ** 2)
    reach_v = size * torch.sqrt(1 + (torch.where(curved, 1.0, along_v) / facing) ** 2)

    u, v = u + column["offset_u"][row], v + column["offset_v"][row]
    signal = torch.zeros_like(u)
    for code, name in enumerate(TEXTURES):
        chosen = (texture == code).nonzero(as_tuple=True)[0]
        if name != "plain" and chosen.numel():
            signal[chosen] = _PATTERNS[name](
                u[chosen], v[chosen], reach_u[chosen], reach_v[chosen], period[chosen]
            )
    gain = 1.0 + 0.5 * column["contrast"][row] * signal
    red, green, blue = (c.index_put(where, c[where] * gain) for c in albedo)
    return red, green, blue


def _fade(period: Tensor, reach: Tensor) -> Tensor:
    """1 from four pixels per period on, 0 below two."""
    return (0.5 * period / reach - 1.0).clamp_(0.0, 1.0)


def _square_wave(x: Tensor, reach: Tensor, period: Tensor) -> Tensor:
    """A square wave in [-1, 1] whose edges are ramps as wide as the pixel's reach."""
    phase = x / period
    triangle = 1.0 - 4.0 * (phase - phase.floor() - 0.5).abs()
    return (triangle * (0.5 * period / reach)).clamp_(-1.0, 1.0) * _fade(period, reach)


def _checker(u: Tensor, v: Tensor, reach_u: Tensor, reach_v: Tensor, period: Tensor) -> Tensor:
    return _square_wave(u, reach_u, period) * _square_wave(v, reach_v, period)


def _stripes(u: Tensor, v: Tensor, reach_u: Tensor, reach_v: Tensor, period: Tensor) -> Tensor:
    return _square_wave(u, reach_u, period)


def _planks(u: Tensor, v: Tensor, reach_u: Tensor, reach_v: Tensor, period: Tensor) -> Tensor:
    """Boards a quarter of the period wide along v, each with its own brightness."""
    width = 0.25 * period
    border = torch.floor(u / width + 0.5)
    blend = ((u / width - border) * width / reach_u + 0.5).clamp_(0.0, 1.0)
    left, right = _random_at(border - 1, border * 0), _random_at(border, border * 0)
    return torch.lerp(left, right, blend) * _fade(2 * width, reach_u)


def _noise(u: Tensor, v: Tensor, reach_u: Tensor, reach_v: Tensor, period: Tensor) -> Tensor:
    """Value noise of three octaves, each faded by its own period."""
    total = torch.zeros_like(u)
    reach = torch.maximum(reach_u, reach_v)
    for octave, weight in enumerate((0.6, 0.3, 0.15)):
        cell = period / 2**octave
        x, y = u / cell, v / cell
        x0, y0 = torch.floor(x), torch.floor(y)
        fx, fy = x - x0, y - y0
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        low = torch.lerp(_random_at(x0, y0), _random_at(x0 + 1, y0), fx)
        high = torch.lerp(_random_at(x0, y0 + 1), _random_at(x0 + 1, y0 + 1), fx)
        total += weight * torch.lerp(low, high, fy) * _fade(cell, reach)
    return total


def _random_at(x: Tensor, y: Tensor) -> Tensor:
    """A fixed random number in [-1, 1] of every lattice point."""
    side = _TABLE_SIDE
    index = (x.long() % side) * side + y.long() % side
    return _random_table(x.device).take(index)


@functools.cache
def _random_table(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(20260)
    return (2 * torch.rand(_TABLE_SIDE**2, generator=generator) - 1).to(device)


_PATTERNS = {"checker": _checker, "stripes": _stripes, "planks": _planks, "noise": _noise}
