"""Where and in which precision a pipeline runs, and how long its stages take.

Shared by the pipelines and `pretrained`.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import torch

Dtype = torch.dtype | Literal["auto", "float32", "bfloat16", "float16", "fp32", "bf16", "fp16"]

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


class StageSeconds:
    """Time spent working in each stage; what the caller does between steps is not counted."""

    def __init__(self) -> None:
        self.total = {"encoding": 0.0, "sampling": 0.0, "decoding": 0.0}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count what the block takes to `stage`."""
        start = time.monotonic()
        yield
        self.total[stage] += time.monotonic() - start


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of a name, "auto" being CUDA where there is one; raises ValueError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}; use 'auto', 'cpu', 'cuda' or 'cuda:N'") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no CUDA device; use 'cpu'")
    return resolved


def resolve_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The type of a name; "auto": what `device` multiplies fastest at next to the same results.

    That is bfloat16 or else float16 on a GPU, on a CPU bfloat16 if it has products of it, else
    float32.
    """
    if isinstance(dtype, torch.dtype):
        if dtype not in _DTYPES.values():
            raise ValueError(f"dtype is {dtype}; use float32, bfloat16 or float16")
        return dtype
    if dtype == "auto":
        if device.type != "cuda":
            return torch.bfloat16 if cpu_multiplies_bf16() else torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; use 'auto' or one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


@cache
def cpu_multiplies_bf16() -> bool:
    """Whether this processor has instructions for products of bfloat16 (AVX512-BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="ignore")
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def free_memory(device: torch.device) -> None:
    """Give what has no owner any more back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
