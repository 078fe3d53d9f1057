"""Matching cost of depth hypotheses: how alike neighbours look where a surface would put them.

Zero-mean normalised cross-correlation (ZNCC) over small windows, which a change of exposure does
not touch. Per pixel the better half of the neighbours is averaged, since surfaces are hidden from
some of them. Plane sweep: Collins, "A space-sweep approach to true multi-image matching", 1996.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gld_ros.measuring.frames import FloatArray
from gld_ros.measuring.levels import GreyImage

NEUTRAL_COST = 0.5  # of a hypothesis that no neighbour sees: neither for nor against
# Added to the variance of windows, in grey values squared: without it the noise of plain walls
# would correlate as strongly as texture.
TEXTURE_FLOOR = 4.0
_HIDDEN = 2.0  # cost of a neighbour that does not see: above every other
_NEAREST_Z = 1e-3  # metres before a neighbour's camera; nearer projections mean nothing
# Values per tensor: what one step writes the next one finds in the cache.
_CPU_CHUNK = 48 * 1024


@dataclass(frozen=True, eq=False)
class _Windows:
    """The reference's windows."""

    grey: Tensor  # (h, w)
    mean: Tensor  # (h, w)
    scale: Tensor  # (h, w) 1 / standard deviation


@dataclass(frozen=True, eq=False)
class _Projection:
    """Where the reference's pixels fall in a neighbour: at `far + offset * inverse depth`."""

    image: Tensor  # (1, 1, h', w') grey values of the neighbour
    far: tuple[Tensor, Tensor, Tensor]  # (h, w) each: x, y in [-z, z] of its image, and z
    offset: tuple[float, float, float]


def box_mean(values: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1)^2 windows of (B, h, w); the border is repeated outwards."""
    if radius == 0:
        return values
    height, width = values.shape[-2:]
    span = 2 * radius + 1
    # Sums of shifted views: several times faster on a CPU than average pooling.
    padded = F.pad(values, (radius, radius, radius, radius), mode="replicate")
    rows = padded[..., :height, :] + padded[..., 1 : height + 1, :]
    for k in range(2, span):
        rows += padded[..., k : k + height, :]
    total = rows[..., :width] + rows[..., 1 : width + 1]
    for k in range(2, span):
        total += rows[..., k : k + width]
    return total.mul_(1.0 / span**2)


def matching_cost(
    reference: GreyImage,
    neighbours: Sequence[GreyImage],
    T_neighbour_reference: Sequence[FloatArray],
    inverse_depth: Tensor,
    radius: int,
) -> tuple[Tensor, Tensor]:
    """Cost (D, h, w) in [0, 1] of inverse depths (D, h, w) or (D, 1, 1), and if any sees them.

    Cost is (1 - ZNCC) / 2 averaged over the better half of the neighbours in whose images the
    surface falls; NEUTRAL_COST where there is none. The second result is bool (D, h, w). The order
    of neighbours does not matter.
    """
    windows = _windows(reference.grey, radius)
    projections = [
        _projection(neighbour, T, reference)
        for neighbour, T in zip(neighbours, T_neighbour_reference, strict=True)
    ]
    height, width = reference.hw
    shape = (len(inverse_depth), height, width)
    on_cpu = inverse_depth.device.type == "cpu"
    planes = max(1, _CPU_CHUNK // (height * width)) if on_cpu else len(inverse_depth)
    cost = torch.empty(shape, device=inverse_depth.device)
    seen = torch.empty(shape, dtype=torch.bool, device=inverse_depth.device)
    for start in range(0, len(inverse_depth), planes):
        part = slice(start, start + planes)
        costs = [_cost(windows, p, inverse_depth[part], radius) for p in projections]
        cost[part], seen[part] = better_half_mean(costs)
    return cost, seen


def better_half_mean(costs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean of the lower half of costs at each place, hidden ones left out, and if any is left.

    Of n costs the lowest ceil(n / 2), or as many of those as see the place.
    """
    kept = list(costs)
    # The highest go to the end, one by one: few costs, many places, so much faster than sorting.
    for end in range(len(costs) - 1, (len(costs) - 1) // 2, -1):
        for k in range(end):
            low = torch.minimum(kept[k], kept[k + 1])
            kept[k + 1] = torch.maximum(kept[k], kept[k + 1])
            kept[k] = low
        kept.pop()
    total = torch.zeros_like(kept[0])
    count = torch.zeros_like(kept[0])
    for cost in kept:
        seen = cost < _HIDDEN
        total += torch.where(seen, cost, 0.0)
        count += seen
    mean = torch.where(count > 0, total / count.clamp(min=1.0), NEUTRAL_COST)
    return mean, count > 0


def _windows(grey: Tensor, radius: int) -> _Windows:
    mean, of_squares = box_mean(torch.stack([grey, grey * grey]), radius)
    variance = of_squares - mean * mean
    return _Windows(grey, mean, (variance.clamp(min=0.0) + TEXTURE_FLOOR).rsqrt())


def _projection(
    neighbour: GreyImage, T_neighbour_reference: FloatArray, reference: GreyImage
) -> _Projection:
    height, width = reference.hw
    n_height, n_width = neighbour.hw
    # A point at inverse depth w projects to M [u, v, 1] + w m; here in [-1, 1] of the image.
    to_unit = np.array(
        [[2 / (n_width - 1), 0, -1], [0, 2 / (n_height - 1), -1], [0, 0, 1]], np.float64
    )
    M = to_unit @ neighbour.K_px @ T_neighbour_reference[:3, :3] @ np.linalg.inv(reference.K_px)
    m = to_unit @ neighbour.K_px @ T_neighbour_reference[:3, 3]
    device = reference.grey.device
    u = torch.arange(width, dtype=torch.float32, device=device)
    v = torch.arange(height, dtype=torch.float32, device=device)[:, None]
    x, y, z = (float(M[k, 0]) * u + float(M[k, 1]) * v + float(M[k, 2]) for k in range(3))
    image = neighbour.grey[None, None]
    return _Projection(image, (x, y, z), (float(m[0]), float(m[1]), float(m[2])))


def _cost(windows: _Windows, projection: _Projection, w: Tensor, radius: int) -> Tensor:
    """Cost (d, h, w) of hypotheses for one neighbour; _HIDDEN where they fall outside its image."""
    x, y, z = (
        torch.add(far, w, alpha=offset)
        for far, offset in zip(projection.far, projection.offset, strict=True)
    )
    outside = (x.abs() > z).logical_or_(y.abs() > z).logical_or_(z < _NEAREST_Z)
    divisor = z.clamp_(min=_NEAREST_Z).reciprocal_()
    grid = torch.stack([x.mul_(divisor), y.mul_(divisor)], dim=-1)
    image = projection.image.expand(len(x), *projection.image.shape[1:])
    maps = torch.empty((3, *x.shape), device=x.device)
    maps[0] = F.grid_sample(image, grid, padding_mode="border", align_corners=True)[:, 0]
    torch.mul(maps[0], maps[0], out=maps[1])
    torch.mul(maps[0], windows.grey, out=maps[2])
    mean, of_squares, of_products = box_mean(maps.flatten(0, 1), radius).unflatten(0, (3, len(x)))
    covariance = of_products.addcmul_(mean, windows.mean, value=-1.0)
    variance = of_squares.addcmul_(mean, mean, value=-1.0).clamp_(min=0.0).add_(TEXTURE_FLOOR)
    correlation = covariance.mul_(windows.scale).mul_(variance.rsqrt_())
    cost = correlation.mul_(-0.5).add_(0.5).clamp_(0.0, 1.0)
    return cost.masked_fill_(outside, _HIDDEN)
