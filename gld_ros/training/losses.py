"""Losses of the encoder and decoder stages, as free functions on batches.

Images are (N, 3, H, W) in [0, 1]; geometry is in the scene's normalised units.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def ssim_map(a: Tensor, b: Tensor, window: int = 7) -> Tensor:
    """Return the structural similarity of (N, C, H, W) images in [0, 1] with a uniform window."""
    c1, c2 = 0.01**2, 0.03**2
    pad = window // 2

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, stride=1, padding=pad, count_include_pad=False)

    mu_a, mu_b = mean(a), mean(b)
    var_a = mean(a * a) - mu_a * mu_a
    var_b = mean(b * b) - mu_b * mu_b
    covariance = mean(a * b) - mu_a * mu_b
    numerator = (2 * mu_a * mu_b + c1) * (2 * covariance + c2)
    return numerator / ((mu_a * mu_a + mu_b * mu_b + c1) * (var_a + var_b + c2))


def structural_dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 - SSIM (7x7 uniform window) averaged over full and half size."""
    half_a, half_b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return 1 - 0.5 * (ssim_map(a, b).mean() + ssim_map(half_a, half_b).mean())


def gradient_difference(a: Tensor, b: Tensor, levels: int = 3) -> Tensor:
    """Return the mean L1 distance of image gradients over `levels` pyramid levels."""
    total = a.new_zeros(())
    difference = a - b
    for level in range(levels):
        if level:
            difference = F.avg_pool2d(difference, 2)
        horizontal = difference[..., :, 1:] - difference[..., :, :-1]
        vertical = difference[..., 1:, :] - difference[..., :-1, :]
        total = total + horizontal.abs().mean() + vertical.abs().mean()
    return total / levels


@dataclass(frozen=True)
class ImageLossWeights:
    """Weights of the losses that compare images without any pretrained network."""

    l1: float = 1.0
    ssim: float = 0.3
    gradient: float = 0.5


def image_losses(decoded: Tensor, images: Tensor) -> dict[str, Tensor]:
    """Return `l1`, `ssim` (dissimilarity) and `gradient` of (N, 3, H, W) images."""
    return {
        "l1": (decoded - images).abs().mean(),
        "ssim": structural_dissimilarity(decoded, images),
        "gradient": gradient_difference(decoded, images),
    }


def weighted_image_loss(losses: dict[str, Tensor], weights: ImageLossWeights) -> Tensor:
    """Return the weighted sum of `image_losses`."""
    return (
        weights.l1 * losses["l1"]
        + weights.ssim * losses["ssim"]
        + weights.gradient * losses["gradient"]
    )


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_weight: Tensor) -> Tensor:
    """Return |d reconstruction / d W| / (|d adversarial / d W| + 1e-6), at most 1e4, detached.

    W is the decoder's last weight: both losses then pull on the decoder with like strength.
    """
    wanted = torch.autograd.grad(reconstruction, last_weight, retain_graph=True)[0].norm()
    given = torch.autograd.grad(adversarial, last_weight, retain_graph=True)[0].norm()
    return (wanted / (given + 1e-6)).clamp(0.0, 1e4).detach()


def confident_l1(error: Tensor, confidence: Tensor, valid: Tensor, alpha: float = 0.1) -> Tensor:
    """Return mean(c * error - alpha * log c) over valid elements.

    `error` is a non-negative residual, `confidence` >= 1; the logarithm keeps c from collapsing.
    """
    terms = confidence * error - alpha * torch.log(confidence)
    return (terms * valid).sum() / valid.sum().clamp_min(1)


def log_depth_gradient(predicted: Tensor, true: Tensor, valid: Tensor, scales: int = 3) -> Tensor:
    """Return the L1 distance of log-depth gradients at `scales` strides (1, 2, 4, ...).

    Depths are (..., H, W); pairs with an invalid end do not count.
    """
    difference = predicted.clamp_min(1e-4).log() - true.clamp_min(1e-4).log()
    total = predicted.new_zeros(())
    for scale in range(scales):
        stride = 2**scale
        d, v = difference[..., ::stride, ::stride], valid[..., ::stride, ::stride]
        for gradient, both in (
            (d[..., :, 1:] - d[..., :, :-1], v[..., :, 1:] * v[..., :, :-1]),
            (d[..., 1:, :] - d[..., :-1, :], v[..., 1:, :] * v[..., :-1, :]),
        ):
            total = total + (gradient.abs() * both).sum() / both.sum().clamp_min(1)
    return total / (2 * scales)
