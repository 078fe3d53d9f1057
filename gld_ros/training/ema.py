"""Exponential moving average of trained parameters."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class ParameterAverage:
    """Running average of the trainable parameters of a module, kept in float32.

    The decay warms up as min(decay, (1 + n) / (10 + n)), so that early averages forget the
    initialisation quickly.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA decay is {decay}; allowed: 0 <= decay < 1")
        self.decay = decay
        self.updates = 0
        self.shadow: dict[str, Tensor] = {
            name: p.detach().clone().float()
            for name, p in module.named_parameters()
            if p.requires_grad
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present parameters."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        trained = [(n, p.detach().float()) for n, p in module.named_parameters() if p.requires_grad]
        torch._foreach_lerp_(
            [_local(self.shadow[n]) for n, _ in trained], [_local(p) for _, p in trained], 1 - decay
        )

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchange averaged and live parameters in place; calling it twice restores both."""
        for name, parameter in module.named_parameters():
            if name in self.shadow:
                live = parameter.detach().clone()
                parameter.copy_(self.shadow[name])
                self.shadow[name].copy_(live)


def _local(value: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, and any other tensor as it is."""
    return value.to_local() if isinstance(value, DTensor) else value
