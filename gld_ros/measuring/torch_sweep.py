"""Matching cost of depth hypotheses in torch: all of them in all neighbours at once, for a GPU.

The cost that `sweep` computes in strips for the cache of a CPU. Here each step is one operation on
all hypotheses, neighbours and pixels, since a GPU loses its time with small operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gld_ros.measuring.frames import FloatArray
from gld_ros.measuring.levels import GreyImage
from gld_ros.measuring.sweep import NEAREST_Z, NEUTRAL_COST, RIM_PX, TEXTURE_FLOOR, mean_grey

# Values (neighbours x hypotheses x pixels) that are worked on at a time; a keyframe's default
# search stays below. About 15 tensors of so many exist at the worst moment: 250 MB.
_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False)
class _Projections:
    """Where the reference's pixels fall in N neighbours: linear in column, row, inverse depth."""

    far: Tensor  # (N, 3, 1, h, w): x * z, y * z and z at inverse depth 0; pixels of the neighbour
    by_inverse_depth: Tensor  # (N, 3, 1, 1, 1)
    last_xy: tuple[Tensor, Tensor]  # (N, 1, 1, 1) each: the neighbour's last column and row


def matching_cost(
    reference: GreyImage,
    neighbours: Sequence[GreyImage],
    T_neighbour_reference: Sequence[FloatArray],
    around: Tensor,
    steps: Tensor,
    radius: int,
) -> Tensor:
    """Cost (D, h, w) in [0, 1] of inverse depths `around` (h, w) or (1, 1), plus steps (D,).

    As `sweep.matching_cost`, on the device of `around`.
    """
    device = around.device
    mean_everywhere = mean_grey(reference)
    images = _stacked(neighbours, device).sub_(float(mean_everywhere))
    # Beside the image windows see its outermost pixels again.
    rows, columns = (_repeated(size, radius, device) for size in reference.hw)
    projections = _projections(reference, neighbours, T_neighbour_reference, rows, columns)
    if around.numel() > 1:
        around = around[rows][:, columns]
    grey = torch.from_numpy(reference.grey - mean_everywhere).to(device)[rows][:, columns]
    mean, of_squares = _window_means(torch.stack([grey, grey * grey]), radius)
    windows = grey, mean, torch.rsqrt(of_squares - mean * mean + TEXTURE_FLOOR)
    planes = max(1, _AT_ONCE // (len(neighbours) * grey.numel()))
    parts = [
        _cost(windows, images, projections, around + some[:, None, None], radius)
        for some in steps.split(planes)
    ]
    return torch.cat(parts)


def seen_by_any(
    reference: GreyImage,
    neighbours: Sequence[GreyImage],
    T_neighbour_reference: Sequence[FloatArray],
    inverse_depth: Tensor,
) -> Tensor:
    """Whether surfaces at inverse depths (h, w) fall into a neighbour's image: bool (h, w)."""
    rows, columns = (_repeated(size, 0, inverse_depth.device) for size in reference.hw)
    projections = _projections(reference, neighbours, T_neighbour_reference, rows, columns)
    _, _, seen = _places(projections, inverse_depth[None])
    return seen.any(dim=0)[0]


def _repeated(size: int, radius: int, device: torch.device) -> Tensor:
    """Ordinals of `size` pixels with the first and last one repeated `radius` times."""
    return torch.arange(-radius, size + radius, device=device).clamp_(0, size - 1)


def _stacked(images: Sequence[GreyImage], device: torch.device) -> Tensor:
    """Grey values (N, 1, h, w) of images in the upper left of one size."""
    height, width = (max(sizes) for sizes in zip(*(image.hw for image in images), strict=True))
    stack = np.zeros((len(images), 1, height, width), np.float32)
    for image, room in zip(images, stack[:, 0], strict=True):
        room[: image.hw[0], : image.hw[1]] = image.grey
    return torch.from_numpy(stack).to(device)


def _projections(
    reference: GreyImage,
    neighbours: Sequence[GreyImage],
    T_neighbour_reference: Sequence[FloatArray],
    rows: Tensor,
    columns: Tensor,
) -> _Projections:
    # A point at inverse depth w projects to M [column, row, 1] + w m.
    to_ray = np.linalg.inv(reference.K_px)
    M_and_m = np.stack(
        [
            np.hstack([n.K_px @ T[:3, :3] @ to_ray, (n.K_px @ T[:3, 3])[:, None]])
            for n, T in zip(neighbours, T_neighbour_reference, strict=True)
        ]
    )
    last = np.array([(n.hw[1] - 1, n.hw[0] - 1) for n in neighbours])
    sent = torch.from_numpy(np.hstack([M_and_m.reshape(len(last), -1), last]).astype(np.float32))
    sent = sent.to(rows.device)[..., None, None, None]  # in one transfer
    by_column, by_row, constant, by_w = sent[:, :12].unflatten(1, (3, 4)).unbind(2)
    far = by_column * columns + by_row * rows[:, None] + constant
    return _Projections(far, by_w, (sent[:, 12], sent[:, 13]))


def _places(projections: _Projections, inverse_depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """X and y of points at inverse depths (D, h, w), and whether seen there: (N, D, h, w) each."""
    points = torch.addcmul(projections.far, projections.by_inverse_depth, inverse_depth)
    x, y, z = points.unbind(1)
    seen = z > float(NEAREST_Z)
    z.clamp_(min=float(NEAREST_Z))
    for place, last in zip((x, y), projections.last_xy, strict=True):
        place.div_(z)
        seen &= (place >= -RIM_PX) & (place <= last + RIM_PX)
    return x, y, seen


def _cost(
    windows: tuple[Tensor, Tensor, Tensor],
    images: Tensor,
    projections: _Projections,
    inverse_depth: Tensor,
    radius: int,
) -> Tensor:
    """Cost (d, h, w) of inverse depths (d, h + 2 radius, w + 2 radius) or (d, 1, 1)."""
    grey, mean, scale = windows
    x, y, seen = _places(projections, inverse_depth)
    sampled = _sampled(images, x, y, projections.last_xy)
    maps = torch.stack([sampled, sampled * sampled, sampled * grey])
    n_mean, of_squares, of_products = _window_means(maps, radius)
    variance = of_squares.addcmul_(n_mean, n_mean, value=-1.0).add_(TEXTURE_FLOOR)
    covariance = of_products.addcmul_(n_mean, mean, value=-1.0)
    cost = covariance.mul_(scale).mul_(variance.rsqrt_()).mul_(-0.5).add_(0.5)
    height, width = mean.shape
    inner = seen[..., radius : radius + height, radius : radius + width]
    return _better_half_mean(torch.where(inner, cost, torch.inf))


def _sampled(images: Tensor, x: Tensor, y: Tensor, last_xy: tuple[Tensor, Tensor]) -> Tensor:
    """Grey values (N, D, h, w) at places (N, D, h, w), beside an image those of its border."""
    sizes = images.shape[-1], images.shape[-2]
    grid = torch.stack(
        [
            torch.minimum(place.clamp(min=0), last).mul_(2 / max(1, size - 1)).sub_(1)
            for place, last, size in zip((x, y), last_xy, sizes, strict=True)
        ],
        dim=-1,
    )
    sampled = F.grid_sample(images, grid.flatten(1, 2), padding_mode="border", align_corners=True)
    return sampled[:, 0].unflatten(1, x.shape[1:3])


def _window_means(images: Tensor, radius: int) -> Tensor:
    """Means (..., h, w) over (2 radius + 1)^2 windows that lie in (..., h + 2 radius, ...)."""
    side = 2 * radius + 1
    # On a CPU ten times as fast as pooling; on a GPU two reductions as well as any.
    return images.unfold(-1, side, 1).sum(-1).unfold(-2, side, 1).sum(-1).mul_(1 / side**2)


def _better_half_mean(costs: Tensor) -> Tensor:
    """Mean (...) of the lower half of costs (N, ...); infinite is a neighbour that does not see."""
    kept = list(costs.unbind(0))
    keep = (len(kept) + 1) // 2
    # The highest go to the end, one by one: few costs, many places, so much faster than sorting.
    while len(kept) > keep:
        for k in range(len(kept) - 1):
            low, high = torch.minimum(kept[k], kept[k + 1]), torch.maximum(kept[k], kept[k + 1])
            kept[k], kept[k + 1] = low, high
        kept.pop()
    lower = torch.stack(kept)
    sees = lower.isfinite()
    mean = lower.masked_fill_(~sees, 0.0).sum(dim=0).div_(sees.sum(dim=0).clamp_(min=1))
    return torch.where(sees.any(dim=0), mean, NEUTRAL_COST)
