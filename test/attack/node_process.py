"""A `gld_node` process with an oracle for a model, to be attacked from outside."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

HW = (84, 112)
STEP_S = 0.02  # of a job; it has four
EXIT_TIMEOUT_S = 60.0
REPORT, REPORT_TIMEOUT_S = "GLD_MEMORY_REPORT", 60.0
SPARE_BYTES = 16 * 2**20  # of a process with little memory
LIBC = ctypes.CDLL("libc.so.6")
PR_SET_THP_DISABLE = 41  # linux/prctl.h
ALLOCATOR = ("GLIBC_TUNABLES", "PYTHONMALLOC")  # settings, by which memory that is free is kept


@dataclass(frozen=True)
class Memory:
    """Of a process: what it allocated and did not free, and the pages that it occupies."""

    in_use_mb: float
    resident_mb: float


class NodeProcess:
    """The process, and what the kernel says of it."""

    def __init__(self, log: IO[bytes], *parameters: str) -> None:
        self._report = f"{log.name}.memory"
        arguments = [word for parameter in parameters for word in ("-p", parameter)]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--ros-args", *arguments],
            stdout=log,
            stderr=log,
            env={
                **{k: v for k, v in os.environ.items() if k not in ALLOCATOR},
                REPORT: self._report,
                "PYTHONFAULTHANDLER": "1",
            },
        )

    @property
    def alive(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    def memory_mb(self) -> Memory:
        """What is in use and what is resident, after the allocator gave back what it keeps."""
        before = self._reports()
        os.kill(self.process.pid, signal.SIGUSR1)
        end_s = time.monotonic() + REPORT_TIMEOUT_S
        while len(reports := self._reports()) == len(before):
            assert time.monotonic() < end_s, "the process does not report its memory"
            time.sleep(0.1)
        return Memory(**json.loads(reports[-1]))

    def _reports(self) -> list[str]:
        path = Path(self._report)
        return path.read_text().splitlines() if path.exists() else []

    def freeze(self) -> None:
        """Stop the process as a debugger or a swapping machine does."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.process.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def limited(self, kind: int, limit: int) -> Iterator[None]:
        """Lower a limit of the process (`resource.RLIMIT_*`) for a while."""
        pid = self.process.pid
        soft, hard = resource.prlimit(pid, kind)
        resource.prlimit(pid, kind, (limit, hard))
        try:
            yield
        finally:
            if self.alive:
                resource.prlimit(pid, kind, (soft, hard))

    def few_descriptors(self) -> contextlib.AbstractContextManager[None]:
        """Leave the process two descriptors more than it has open."""
        numbers = [int(entry.name) for entry in Path(f"/proc/{self.process.pid}/fd").iterdir()]
        return self.limited(resource.RLIMIT_NOFILE, max(numbers) + 3)

    def little_memory(self) -> contextlib.AbstractContextManager[None]:
        """Leave the process a few megabytes of address space more than it has."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        size_kb = int(status.split("VmSize:")[1].split()[0])
        return self.limited(resource.RLIMIT_AS, size_kb * 1024 + SPARE_BYTES)

    def end(self) -> int:
        """Ask the process to end, and return its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def _load(parameters: Any) -> Any:
    from gld_ros.mapping.model import LoadedModel
    from gld_ros.mapping.model_fault import fault_of
    from gld_ros.mapping.synthesizer import OracleSynthesizer

    def render(T_world_cam: Any, K_px: Any, hw: tuple[int, int]) -> tuple[Any, Any]:
        return np.full((*hw, 3), 128, np.uint8), np.full(hw, 3.0, np.float32)

    synthesizer = OracleSynthesizer(render, step_delay_s=STEP_S)
    return LoadedModel(synthesizer, {"backend": "oracle"}, HW, fault_of, release=lambda: None)


class _MallocInfo(ctypes.Structure):
    """Glibc's `struct mallinfo2`: sizes in bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def _report_memory(number: int, frame: Any) -> None:
    gc.collect()
    LIBC.malloc_trim(0)
    LIBC.mallinfo2.restype = _MallocInfo
    info = LIBC.mallinfo2()
    resident_kb = int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])
    memory = Memory((info.uordblks + info.hblkhd) / 2**20, resident_kb / 1024)
    with Path(os.environ[REPORT]).open("a") as report:
        report.write(json.dumps(asdict(memory)) + "\n")


if __name__ == "__main__":
    from gld_ros.ros.main import main

    # Large pages round memory up by 2 MB each.
    LIBC.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    signal.signal(signal.SIGUSR1, _report_memory)
    sys.exit(main(sys.argv[1:], model_factory=_load))
