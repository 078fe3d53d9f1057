"""ImageNet normalisation, and the check of a geometry backbone's input images."""

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def imagenet_normalise(images: Tensor) -> Tensor:
    """Shift and scale RGB in [0, 1], channels third from last, to ImageNet statistics."""
    mean = images.new_tensor(IMAGENET_MEAN)[:, None, None]
    std = images.new_tensor(IMAGENET_STD)[:, None, None]
    return (images - mean) / std


def imagenet_denormalise(images: Tensor) -> Tensor:
    """The inverse of `imagenet_normalise`; nothing is clamped."""
    mean = images.new_tensor(IMAGENET_MEAN)[:, None, None]
    std = images.new_tensor(IMAGENET_STD)[:, None, None]
    return images * std + mean


def validate_images(images: Tensor, patch_size: int) -> None:
    """Raise ValueError unless images are finite (B, V, 3, H, W) in about [0, 1], whole patches."""
    if images.ndim != 5 or images.shape[2] != 3:
        raise ValueError(f"images must have shape (B, V, 3, H, W), got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point in [0, 1], got {images.dtype}")
    if images.shape[0] < 1 or images.shape[1] < 1:
        raise ValueError(f"images hold no view: shape {tuple(images.shape)}")
    height, width = images.shape[-2:]
    if height < patch_size or width < patch_size or height % patch_size or width % patch_size:
        raise ValueError(
            f"image height and width must be positive multiples of {patch_size}, got "
            f"{height}x{width}"
        )
    # A memory estimate or a graph being traced: shapes without values.
    if images.is_meta or torch.compiler.is_compiling():
        return
    low, high = torch.aminmax(images.detach())
    if not torch.isfinite(low + high):
        raise ValueError("images hold NaN or infinite values")
    # Interpolated and decoded images overshoot [0, 1] a little; 8-bit ranges are mistakes.
    if low < -1 or high > 2:
        raise ValueError(
            f"images must be in [0, 1], got values from {low.item():.3g} to {high.item():.3g}"
        )
