"""Device memory used by this process."""

import resource
import sys


def device_memory_bytes() -> tuple[int, int]:
    """Return used and peak bytes of the CUDA device, or resident memory where there is none."""
    # Another thread may be in the middle of importing torch, which has no `cuda` until then.
    cuda = sys.modules.get("torch.cuda")
    available = getattr(cuda, "is_available", None)
    if cuda is not None and available is not None and available():
        return cuda.memory_allocated(), cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open("/proc/self/statm") as file:  # noqa: PTH123 (a pseudo file, read once a second)
        used = int(file.read().split()[1]) * resource.getpagesize()
    return used, peak
