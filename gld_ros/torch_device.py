"""Which device torch runs on, from what a caller writes."""

import torch


def torch_device(device: str | torch.device) -> torch.device:
    """The device meant by "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".

    Raises ValueError for another name, and for CUDA where torch sees none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}; use 'auto', 'cpu', 'cuda' or 'cuda:N'") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no CUDA device; use 'cpu'")
    return resolved
