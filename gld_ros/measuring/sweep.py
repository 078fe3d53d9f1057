"""Matching cost of depth hypotheses: how similar neighbours look where a surface would be seen.

Zero-mean normalised cross-correlation (ZNCC) over small windows, which is independent of exposure.
Per pixel the better half of the neighbours is averaged, since a surface may be occluded in some.
Plane sweep: Collins, "A space-sweep approach to true multi-image matching", 1996.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gld_ros.measuring.frames import FloatArray
from gld_ros.measuring.levels import GreyImage

NEUTRAL_COST = 0.5  # of a hypothesis that no neighbour sees: neither for nor against
# Added to the variance of windows, in grey values squared: without it the noise of plain walls
# would correlate as strongly as texture.
TEXTURE_FLOOR = 1.0
# Cost of a neighbour that does not see: above the sum of all others (fewer than 64), and a power of
# two, so that sums of it and of costs can be told apart again.
_HIDDEN = 64.0
_NEAREST_Z = 1e-3  # metres in front of a neighbour's camera; nearer projections are meaningless
# Values per tensor, so that what one step writes is still in the cache for the next.
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

    def __call__(self, inverse_depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, y and z of points at inverse depths (d, h, w) or (d, 1, 1)."""
        x, y, z = (
            torch.add(far, inverse_depth, alpha=offset)
            for far, offset in zip(self.far, self.offset, strict=True)
        )
        return x, y, z


def box_mean(values: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1)^2 windows of (B, h, w); the border is repeated outwards."""
    span = 2 * radius + 1
    if values.device.type == "cpu":
        # Thirty times as fast as torch's pooling there.
        mean = torch.empty_like(values)
        for image, result in zip(values.numpy(), mean.numpy(), strict=True):
            cv2.blur(image, (span, span), dst=result, borderType=cv2.BORDER_REPLICATE)
        return mean
    padded = F.pad(values, (radius, radius, radius, radius), mode="replicate")
    return F.avg_pool2d(padded, span, stride=1)


def matching_cost(
    reference: GreyImage,
    neighbours: Sequence[GreyImage],
    T_neighbour_reference: Sequence[FloatArray],
    inverse_depth: Tensor,
    radius: int,
) -> Tensor:
    """Cost (D, h, w) in [0, 1] of inverse depths (D, h, w) or (D, 1, 1).

    Cost is (1 - ZNCC) / 2 averaged over the better half of the neighbours in whose images the
    surface falls; NEUTRAL_COST where there is none. The order of neighbours does not matter.
    """
    windows = _windows(reference.grey, radius)
    projections = [
        _projection(neighbour, T, reference)
        for neighbour, T in zip(neighbours, T_neighbour_reference, strict=True)
    ]
    height, width = reference.hw
    on_cpu = inverse_depth.device.type == "cpu"
    planes = max(1, _CPU_CHUNK // (height * width)) if on_cpu else len(inverse_depth)
    cost = torch.empty((len(inverse_depth), height, width), device=inverse_depth.device)
    for part, into in zip(inverse_depth.split(planes), cost.split(planes), strict=True):
        _better_half_mean([_cost(windows, p, part, radius) for p in projections], into)
    return cost


def seen_by_any(
    reference: GreyImage,
    neighbours: Sequence[GreyImage],
    T_neighbour_reference: Sequence[FloatArray],
    inverse_depth: Tensor,
) -> Tensor:
    """Whether surfaces at inverse depths (h, w) fall into a neighbour's image: bool (h, w)."""
    seen = torch.zeros(reference.hw, dtype=torch.bool, device=inverse_depth.device)
    for neighbour, T in zip(neighbours, T_neighbour_reference, strict=True):
        x, y, z = _projection(neighbour, T, reference)(inverse_depth[None])
        seen |= (torch.maximum(x.abs(), y.abs()) <= z)[0]
    return seen


def _better_half_mean(costs: Sequence[Tensor], mean: Tensor) -> None:
    """Write the mean of the lower half of costs at each place, hidden ones left out.

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
    total = kept[0].clone()
    for cost in kept[1:]:
        total += cost
    # Sums instead of comparisons: these take several times as long.
    hidden = torch.mul(total, 1 / _HIDDEN).floor_()
    total.add_(hidden, alpha=-_HIDDEN)
    nobody = torch.sub(hidden, len(kept) - 1).clamp_(min=0.0)
    torch.div(total, hidden.neg_().add_(len(kept)).clamp_(min=1.0), out=mean)
    mean.add_(nobody, alpha=NEUTRAL_COST)


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
    x, y, z = projection(w)
    outside = torch.maximum(x.abs(), y.abs()).sub_(z).gt_(0.0)
    divisor = z.clamp_(min=_NEAREST_Z).reciprocal_()
    grid = torch.empty((*x.shape, 2), device=x.device)
    torch.mul(x, divisor, out=grid[..., 0])
    torch.mul(y, divisor, out=grid[..., 1])
    image = projection.image.expand(len(x), *projection.image.shape[1:])
    maps = torch.empty((3, *x.shape), device=x.device)
    maps[0] = F.grid_sample(image, grid, padding_mode="border", align_corners=True)[:, 0]
    torch.mul(maps[0], maps[0], out=maps[1])
    torch.mul(maps[0], windows.grey, out=maps[2])
    mean, of_squares, of_products = box_mean(maps.flatten(0, 1), radius).unflatten(0, (3, len(x)))
    covariance = of_products.addcmul_(mean, windows.mean, value=-1.0)
    variance = of_squares.addcmul_(mean, mean, value=-1.0).clamp_(min=0.0).add_(TEXTURE_FLOOR)
    correlation = covariance.mul_(windows.scale).mul_(variance.rsqrt_())
    cost = correlation.mul_(-0.5).add_(0.5)
    return cost.add_(outside, alpha=2 * _HIDDEN).clamp_(0.0, _HIDDEN)
