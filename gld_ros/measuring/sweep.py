"""Matching cost of depth hypotheses: how alike neighbours look where a surface would put them.

Zero-mean normalised cross-correlation (ZNCC) over small windows, which a change of exposure does
not touch. Per pixel the better half of the neighbours is averaged, since surfaces are hidden from
some of them. Plane sweep: Collins, "A space-sweep approach to true multi-image matching", 1996.
"""

from collections.abc import Sequence

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
_HIDDEN = 2.0  # above every cost; sorts hidden neighbours last
_NEAREST_Z = 1e-3  # metres before a neighbour's camera; nearer projections mean nothing


def box_mean(values: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1)^2 windows of (B, h, w); the border is repeated outwards."""
    if radius == 0:
        return values
    height, width = values.shape[-2:]
    span = 2 * radius + 1
    # Sums of shifted views: several times faster on a CPU than average pooling.
    padded = F.pad(values, (radius, radius, 0, 0), mode="replicate")
    total = padded[..., :width].clone()
    for k in range(1, span):
        total += padded[..., k : k + width]
    padded = F.pad(total, (0, 0, radius, radius), mode="replicate")
    total = padded[..., :height, :].clone()
    for k in range(1, span):
        total += padded[..., k : k + height, :]
    return total.mul_(1.0 / span**2)


def matching_cost(
    reference: GreyImage,
    neighbours: Sequence[GreyImage],
    T_neighbour_reference: Sequence[FloatArray],
    inverse_depth: Tensor,
    radius: int,
) -> tuple[Tensor, Tensor]:
    """Cost (D, h, w) in [0, 1] of inverse depths (D, h, w) or (D, 1, 1), and who sees them.

    Cost is (1 - ZNCC) / 2 averaged over the better half of the neighbours in whose images the
    surface falls; NEUTRAL_COST where there is none. The second result counts the neighbours that
    were averaged. The order of neighbours does not matter.
    """
    grey = reference.grey
    mean = box_mean(grey[None], radius)
    variance = box_mean((grey * grey)[None], radius) - mean * mean
    scale = (variance.clamp(min=0.0) + TEXTURE_FLOOR).rsqrt()
    costs = []
    for neighbour, T in zip(neighbours, T_neighbour_reference, strict=True):
        sampled, seen = _look_up(neighbour, T, reference, inverse_depth)
        other = box_mean(sampled, radius)
        spread = box_mean(sampled * sampled, radius).addcmul_(other, other, value=-1.0)
        covariance = box_mean(sampled.mul_(grey), radius).addcmul_(other, mean, value=-1.0)
        correlation = covariance.mul_(scale).mul_(spread.clamp_(min=0).add_(TEXTURE_FLOOR).rsqrt_())
        cost = correlation.mul_(-0.5).add_(0.5).clamp_(0.0, 1.0)
        costs.append(torch.where(seen, cost, _HIDDEN))
    return better_half_mean(costs)


def better_half_mean(costs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean of the lower half of costs at each place, hidden ones left out, and how many that is.

    Of n costs the lowest ceil(n / 2), or as many of those as see the place.
    """
    ordered = list(costs)
    # A sorting network: few costs, many places; much faster than a sort along an axis.
    for end in range(len(ordered) - 1, 0, -1):
        for k in range(end):
            low = torch.minimum(ordered[k], ordered[k + 1])
            ordered[k + 1] = torch.maximum(ordered[k], ordered[k + 1])
            ordered[k] = low
    total = torch.zeros_like(ordered[0])
    count = torch.zeros_like(ordered[0])
    for cost in ordered[: (len(ordered) + 1) // 2]:
        seen = cost < _HIDDEN
        total += torch.where(seen, cost, 0.0)
        count += seen
    mean = torch.where(count > 0, total / count.clamp(min=1.0), NEUTRAL_COST)
    return mean, count


def _look_up(
    neighbour: GreyImage, T_neighbour_reference: FloatArray, reference: GreyImage, w: Tensor
) -> tuple[Tensor, Tensor]:
    """A neighbour's grey values (D, h, w) where hypotheses fall in it, and whether they do."""
    height, width = reference.hw
    n_height, n_width = neighbour.hw
    # A point at inverse depth w projects to M [u, v, 1] + w m; here in [-1, 1] of the image.
    to_unit = np.array(
        [[2 / (n_width - 1), 0, -1], [0, 2 / (n_height - 1), -1], [0, 0, 1]], np.float64
    )
    M = to_unit @ neighbour.K_px @ T_neighbour_reference[:3, :3] @ np.linalg.inv(reference.K_px)
    m = to_unit @ neighbour.K_px @ T_neighbour_reference[:3, 3]
    u = torch.arange(width, dtype=torch.float32, device=w.device)
    v = torch.arange(height, dtype=torch.float32, device=w.device)[:, None]
    x, y, z = (
        float(M[k, 0]) * u + float(M[k, 1]) * v + float(M[k, 2]) + float(m[k]) * w for k in range(3)
    )
    divisor = z.clamp(min=_NEAREST_Z).reciprocal_()
    grid = torch.empty((*x.shape, 2), dtype=torch.float32, device=w.device)
    torch.mul(x, divisor, out=grid[..., 0])
    torch.mul(y, divisor, out=grid[..., 1])
    image = neighbour.grey.expand(x.shape[0], 1, n_height, n_width)
    sampled = F.grid_sample(image, grid, padding_mode="border", align_corners=True)[:, 0]
    inside = (grid[..., 0].abs() <= 1.0) & (grid[..., 1].abs() <= 1.0) & (z > _NEAREST_Z)
    return sampled, inside
