"""Several processes as one run: ranks, shares of the global batch, and small reductions."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """This process's place among the processes of a run."""

    rank: int
    size: int
    local: int = 0  # number among the processes of this machine

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and the progress bar."""
        return self.rank == 0

    def share(self, batch_size: int) -> range:
        """Return this rank's positions in a global batch; raises ValueError on a remainder."""
        if batch_size % self.size:
            raise ValueError(f"batch_size {batch_size} is not a multiple of {self.size} processes")
        part = batch_size // self.size
        return range(self.rank * part, (self.rank + 1) * part)


def join_ranks(device: torch.device) -> Ranks:
    """Join the process group that torchrun announced in the environment, if there is one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Ranks(0, 1)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


def all_ranks_agree(value: bool, ranks: Ranks, device: torch.device) -> bool:
    """Return whether `value` is true on every rank."""
    if ranks.size == 1:
        return value
    flag = torch.tensor(float(value), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag.item() > 0.5)


def mean_over_ranks(
    values: dict[str, float], ranks: Ranks, device: torch.device
) -> dict[str, float]:
    """Average scalars that every rank holds under the same names."""
    if ranks.size == 1:
        return values
    names = sorted(values)
    packed = torch.tensor([values[n] for n in names], device=device, dtype=torch.float64)
    dist.all_reduce(packed)
    return dict(zip(names, (packed / ranks.size).tolist(), strict=True))
