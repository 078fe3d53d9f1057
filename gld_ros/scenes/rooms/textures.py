"""Surface patterns of procedural rooms, limited to the band that a pixel can show.

A pattern is a signal in [-1, 1] of two surface coordinates in metres; it scales the brightness.
Edges are filtered over the footprint of the pixel, and the whole pattern fades to its mean between
four and two pixels per period: what lies beyond would be aliasing noise in the training data.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gld_ros.scenes.rooms.layout import TEXTURES
from gld_ros.scenes.rooms.vectors import Vec

_TABLE_SIDE = 64
_STEEPEST = 0.02  # cosine below which a ray grazes no flatter


@dataclass(frozen=True)
class SurfacePoints:
    """Ray hits, all (B, V, N), in the frame of the primitive that was hit; masks are 0 or 1.

    curved is None where no curved surface carries a pattern. pixel_m is the size of a pixel at the
    depth of the hit, ray the direction it was seen along (any length).
    """

    local: Vec
    normal: Vec
    ray: Vec
    radius: Tensor
    on_x: Tensor
    on_z: Tensor
    curved: Tensor | None
    pixel_m: Tensor


def pattern_gain(
    points: SurfacePoints, material: Mapping[str, Tensor], textures: Sequence[str]
) -> Tensor:
    """Brightness factor of every hit, mean 1, (B, V, N).

    material holds the columns of layout.MATERIAL_COLUMNS at every hit; textures names the patterns
    that occur among them.
    """
    (px, py, pz), (rx, ry, rz), (nx, ny, nz) = points.local, points.ray, points.normal
    on_x, on_z = points.on_x, points.on_z
    # How far one pixel reaches along u and v: its width, stretched where the ray grazes.
    facing = (rx * nx).addcmul_(ry, ny).addcmul_(rz, nz).abs_()
    shortest = _STEEPEST * torch.sqrt((rx * rx).addcmul_(ry, ry).addcmul_(rz, rz))
    facing = torch.maximum(facing, shortest, out=facing)
    u, v = torch.lerp(px, py, on_x), torch.lerp(pz, py, on_z)
    slant_u, slant_v = torch.lerp(rx, ry, on_x), torch.lerp(rz, ry, on_z)
    if points.curved is not None:
        around = points.radius * _angle(py, px)
        u = torch.lerp(u, around, points.curved)
        slant_u = torch.lerp(slant_u, torch.ones_like(u), points.curved)
        slant_v = torch.lerp(slant_v, torch.ones_like(u), points.curved)
    reach_u = slant_u.div_(facing).square_().add_(1.0).sqrt_().mul_(points.pixel_m)
    reach_v = slant_v.div_(facing).square_().add_(1.0).sqrt_().mul_(points.pixel_m)
    u, v = u + material["offset_u"], v + material["offset_v"]
    period = material["period"]

    signal: Tensor | None = None
    for name in textures:
        mine = torch.eq(material["texture"], float(TEXTURES.index(name)), out=torch.empty_like(u))
        shown = _PATTERNS[name](u, v, reach_u, reach_v, period, mine)
        signal = shown.mul_(mine) if signal is None else signal.addcmul_(shown, mine)
    if signal is None:
        return torch.ones_like(u)
    return signal.mul_(material["contrast"]).mul_(0.5).add_(1.0)


def _angle(y: Tensor, x: Tensor) -> Tensor:
    """Angle of (x, y) in radians, to 1e-3, the same in every lane of every processor.

    torch.atan2 rounds differently at the end of an array, and an image must not depend on the
    batch it was rendered in.
    """
    short, long = torch.minimum(x.abs(), y.abs()), torch.maximum(x.abs(), y.abs())
    slope = short / long.clamp_(min=1e-9)
    square = slope * slope
    octant = slope * (1.0 + square * (-0.3276228 + square * (0.1593142 - 0.0464965 * square)))
    steep, left = (y.abs() > x.abs()).float(), (x < 0).float()
    angle = torch.lerp(octant, 0.5 * math.pi - octant, steep)
    return torch.lerp(angle, math.pi - angle, left) * torch.sign(y)


def _fade(period: Tensor, reach: Tensor) -> Tensor:
    """1 from four pixels per period on, 0 below two."""
    return (0.5 * period).div_(reach).sub_(1.0).clamp_(0.0, 1.0)


def _square_wave(x: Tensor, reach: Tensor, period: Tensor) -> Tensor:
    """A square wave in [-1, 1] whose edges are ramps as wide as the pixel's reach."""
    phase = x / period
    triangle = phase.sub_(phase.floor()).sub_(0.5).abs_().mul_(-4.0).add_(1.0)
    periods_per_reach = (0.5 * period).div_(reach)
    fade = (periods_per_reach - 1.0).clamp_(0.0, 1.0)
    return triangle.mul_(periods_per_reach).clamp_(-1.0, 1.0).mul_(fade)


def _checker(
    u: Tensor, v: Tensor, reach_u: Tensor, reach_v: Tensor, period: Tensor, mine: Tensor
) -> Tensor:
    return _square_wave(u, reach_u, period).mul_(_square_wave(v, reach_v, period))


def _stripes(
    u: Tensor, v: Tensor, reach_u: Tensor, reach_v: Tensor, period: Tensor, mine: Tensor
) -> Tensor:
    return _square_wave(u, reach_u, period)


def _on_chosen(pattern: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute a pattern that looks up tables only for the hits that show it."""

    @functools.wraps(pattern)
    def chosen_only(
        u: Tensor, v: Tensor, reach_u: Tensor, reach_v: Tensor, period: Tensor, mine: Tensor
    ) -> Tensor:
        chosen = mine.flatten().nonzero()[:, 0]
        values = pattern(
            *(c.flatten().index_select(0, chosen) for c in (u, v, reach_u, reach_v, period))
        )
        return torch.zeros_like(u).flatten().index_copy_(0, chosen, values).reshape(u.shape)

    return chosen_only


@_on_chosen
def _planks(u: Tensor, v: Tensor, reach_u: Tensor, reach_v: Tensor, period: Tensor) -> Tensor:
    """Boards a quarter of the period wide along u, each with its own brightness."""
    width = 0.25 * period
    border = torch.floor(u / width + 0.5)
    blend = ((u - border * width) / reach_u + 0.5).clamp_(0.0, 1.0)
    row = torch.zeros_like(border)
    return torch.lerp(_random_at(border - 1, row), _random_at(border, row), blend).mul_(
        _fade(2 * width, reach_u)
    )


@_on_chosen
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
    return _random_table(x.device).index_select(0, index)


@functools.cache
def _random_table(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(20260)
    return (2 * torch.rand(_TABLE_SIDE**2, generator=generator) - 1).to(device)


_PATTERNS: dict[str, Callable[..., Tensor]] = {
    "checker": _checker,
    "stripes": _stripes,
    "planks": _planks,
    "noise": _noise,
}
