"""How accurate a depth image is: relative error, RMSE, delta1, and the order of pixels in depth.

Depths are z-depths (N, H, W); truth 0 is unknown, and so is a prediction that is not finite and
positive. Figures are per image and NaN where nothing can be compared; missing truth never
gives 0.
"""

import torch
from torch import Tensor

from gld_ros.evaluation.image_metrics import MIN_MASK_PIXELS

ORDINAL_RATIO = 1.1  # nearer pairs have no clear order
ORDINAL_PAIRS = 4000
DELTA1_RATIO = 1.25


def comparable(predicted: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pixels (N, H, W) bool where both depths are known, inside the mask."""
    known = (true > 0) & torch.isfinite(predicted) & (predicted > 0)
    return known if mask is None else known & mask


def median_scale(predicted: Tensor, true: Tensor) -> Tensor:
    """Factor (N,) that gives every prediction the true median; NaN where nothing is known."""
    known = comparable(predicted, true)
    return _masked_median(true, known) / _masked_median(predicted, known)


def depth_errors(predicted: Tensor, true: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """abs_rel, rmse (in the truth's unit) and delta1 (share within a factor of 1.25), each (N,)."""
    known = comparable(predicted, true, mask)
    count = known.sum((1, 2))
    p, t = (torch.where(known, depth, 1.0) for depth in (predicted, true))

    def mean(values: Tensor) -> Tensor:
        total = torch.where(known, values, 0.0).sum((1, 2))
        return torch.where(count >= MIN_MASK_PIXELS, total / count, torch.nan)

    return {
        "abs_rel": mean((p - t).abs() / t),
        "rmse": mean((p - t).square()).sqrt(),
        "delta1": mean((torch.maximum(p / t, t / p) < DELTA1_RATIO).float()),
    }


def ordinal_accuracy(predicted: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
    """Share (N,) of random pixel pairs whose order in depth is correct.

    Only pairs count whose true depths differ by more than a factor of 1.1, both inside the mask.
    Equal predicted depths count as wrong.
    """
    known = comparable(predicted, true, mask).flatten(1).cpu()
    p, t = (depth.flatten(1).float().cpu() for depth in (predicted, true))
    accuracy = torch.full((len(true),), torch.nan)
    for i in range(len(true)):
        pixels = known[i].nonzero()[:, 0]
        if len(pixels) < MIN_MASK_PIXELS:
            continue
        generator = torch.Generator().manual_seed(0)
        first, second = pixels[torch.randint(len(pixels), (2, ORDINAL_PAIRS), generator=generator)]
        ratio = t[i, first] / t[i, second]
        clear = torch.maximum(ratio, 1 / ratio) > ORDINAL_RATIO
        if int(clear.sum()) < MIN_MASK_PIXELS:
            continue
        right = torch.sign(p[i, first] - p[i, second]) == torch.sign(t[i, first] - t[i, second])
        accuracy[i] = right[clear].float().mean()
    return accuracy.to(true.device)


def _masked_median(values: Tensor, mask: Tensor) -> Tensor:
    hidden = torch.where(mask, values.float(), torch.nan).flatten(1)
    return hidden.nanmedian(dim=1).values
