"""One context: a region that computes in the types of its tensors, also under autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off on `device`; does nothing on "meta", which has none."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
