"""Random numbers of training: every draw is a pure function of (seed, step, sample index).

A resumed run, and a run spread over several processes, therefore draws exactly what one
uninterrupted process would have drawn.
"""

import hashlib

import torch
from torch import Tensor

_MASK_63_BIT = (1 << 63) - 1


def derived_seed(*parts: int | str) -> int:
    """Hash integers and strings into one 63-bit seed."""
    text = "/".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") & _MASK_63_BIT


def generator_for(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded from `parts`."""
    return torch.Generator().manual_seed(derived_seed(*parts))


def sample_generators(
    seed: int, step: int, sample_indices: range, purpose: str
) -> list[torch.Generator]:
    """Return one generator per sample of the global batch."""
    return [generator_for(seed, step, index, purpose) for index in sample_indices]


def normal_per_sample(shape: tuple[int, ...], generators: list[torch.Generator]) -> Tensor:
    """Draw standard normal noise (len(generators), *shape), one generator per sample."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators])


def uniform_per_sample(generators: list[torch.Generator]) -> Tensor:
    """Draw one uniform number in [0, 1) per sample."""
    return torch.stack([torch.rand((), generator=g) for g in generators])
