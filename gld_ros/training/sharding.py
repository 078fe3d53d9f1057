"""Parameters spread over processes (FSDP2), and whole again for checkpoints and bundles.

Checkpoints always hold whole tensors, so a run may go on with another number of processes, sharded
or not. With unsharded parameters every function here changes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gld_ros.training.config import ConfigError
from gld_ros.training.distributed import Ranks


def shard_modules(
    units: Sequence[nn.Module], trained: Mapping[str, Tensor], ranks: Ranks, device: torch.device
) -> None:
    """Shard `units` (inner modules before the ones that contain them) over all processes.

    Raises ConfigError when a trained parameter belongs to no unit: it would not be synchronised.
    """
    if device.type == "cuda":
        mesh = init_device_mesh("cuda", (ranks.size,))
    else:
        mesh = init_device_mesh("cpu", (ranks.size,))
    for unit in units:
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    covered = {id(p) for unit in units for p in unit.parameters()}
    left = [name for name, p in trained.items() if id(p) not in covered]
    if left and not units:
        raise ConfigError("distributed: fsdp is made for level1 and cascade; use ddp here")


def whole(value: Any) -> Any:
    """Gather sharded tensors inside nested containers; every process must call this."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {key: whole(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(entry) for entry in value)
    return value


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a module with whole tensors; every process must call this."""
    return {name: whole(value.detach()) for name, value in module.state_dict().items()}


def placed_like(value: Tensor, reference: Tensor) -> Tensor:
    """Return whole `value` on the device of `reference`, sharded as that one is."""
    value = value.to(reference.device)
    if isinstance(reference, DTensor):
        return distribute_tensor(value, reference.device_mesh, reference.placements)
    return value
