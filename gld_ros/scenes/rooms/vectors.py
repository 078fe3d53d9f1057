"""Vectors as one tensor per axis, and comparisons as numbers, for ray casting and shading.

Decisions per ray are float masks (0 or 1) and arithmetic instead of booleans and `torch.where`:
on CPU the latter cost ten times a multiplication.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Vec = tuple[Tensor, Tensor, Tensor]


def each(function: Callable[..., Tensor], *vectors: Vec) -> Vec:
    """Apply a function to the x, then the y, then the z components of vectors."""
    x, y, z = (function(*components) for components in zip(*vectors, strict=True))
    return x, y, z


def dot(a: Vec, b: Vec) -> Tensor:
    """Dot product, in the shape that both broadcast to."""
    return (a[0] * b[0]).addcmul_(a[1], b[1]).addcmul_(a[2], b[2])


def less(a: Tensor, b: Tensor | float) -> Tensor:
    """1.0 where a < b, else 0.0, in the shape of a."""
    return torch.lt(a, b, out=torch.empty_like(a))


def equal(a: Tensor, b: Tensor | float) -> Tensor:
    """1.0 where a == b, else 0.0, in the shape of a."""
    return torch.eq(a, b, out=torch.empty_like(a))
