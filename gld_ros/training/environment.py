"""Process environment of a training run: allocator, threads and arithmetic precision.

Owns what must be decided before or right after Python starts; the loop only reads the result.
"""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from gld_ros.pipeline_device import cpu_multiplies_bf16

log = logging.getLogger(__name__)

# glibc hands every large temporary back to the kernel by default, so each training step pays for
# page faults again; keeping the memory makes streaming kernels several times faster on CPU.
ALLOCATOR_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1000000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclass(frozen=True)
class Precision:
    """Arithmetic of the forward pass: `autocast_dtype` is None for plain float32."""

    name: str
    autocast_dtype: torch.dtype | None

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the context that the forward pass runs in."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(device.type, self.autocast_dtype)


def allocator_is_tuned() -> bool:
    """Return whether the C library's allocator settings were present when the process started."""
    return all(os.environ.get(key) == value for key, value in ALLOCATOR_ENVIRONMENT.items())


def restart_with_tuned_allocator(command: Sequence[str]) -> None:
    """Replace this process by Python with `command` and the allocator settings in place.

    glibc reads the settings only at process start, hence the restart. Does nothing when they are
    already set, outside Linux, or under an allocator that was preloaded on purpose.
    """
    if allocator_is_tuned() or sys.platform != "linux" or os.environ.get("LD_PRELOAD"):
        return
    environment = {**os.environ, **ALLOCATOR_ENVIRONMENT}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *command], environment)


def choose_precision(requested: str, device: torch.device) -> Precision:
    """Turn `auto`, `fp32` or `bf16` into a precision for `device`.

    Raises ValueError for any other name.
    """
    if requested == "auto":
        fast = cpu_multiplies_bf16() if device.type == "cpu" else torch.cuda.is_bf16_supported()
        requested = "bf16" if fast else "fp32"
    if requested == "fp32":
        return Precision("fp32", None)
    if requested == "bf16":
        return Precision("bf16", torch.bfloat16)
    raise ValueError(f"precision {requested!r} is unknown; allowed: auto, fp32, bf16")


def log_environment(device: torch.device, precision: Precision) -> None:
    """Write the facts that decide training speed to the log, once per run."""
    log.info(
        "allocator tuned: %s · cpu bf16: %s · precision: %s · device: %s · threads: %d",
        "yes" if allocator_is_tuned() else "no",
        "native" if cpu_multiplies_bf16() else "absent",
        precision.name,
        device,
        torch.get_num_threads(),
    )
