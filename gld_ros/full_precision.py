"""A context in which operations keep the types of their tensors, also under autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off on `device`, if it is on; "meta" has none.

    Where it is off, traced graphs stay free of it: ONNX does not know it.
    """
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
