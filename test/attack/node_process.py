"""A `gld_node` process with an oracle for a model, to be attacked from outside."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

HW = (84, 112)
STEP_S = 0.02  # of a job; it has four
EXIT_TIMEOUT_S = 60.0
TIDYING_S = 2.0
PR_SET_THP_DISABLE = 41  # linux/prctl.h


class NodeProcess:
    """The process, and what the kernel says of it."""

    def __init__(self, log: IO[bytes], *parameters: str) -> None:
        arguments = [word for parameter in parameters for word in ("-p", parameter)]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--ros-args", *arguments],
            stdout=log,
            stderr=log,
        )

    @property
    def alive(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    def resident_mb(self) -> float:
        """Memory in use, as /proc has it; what the allocator keeps is given back first."""
        os.kill(self.process.pid, signal.SIGUSR1)
        time.sleep(TIDYING_S)
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def freeze(self) -> None:
        """Stop the process as a debugger or a swapping machine does."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.process.pid, signal.SIGCONT)

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
    from gld_ros.mapping.synthesizer import OracleSynthesizer
    from gld_ros.mapping.worker import fault_of

    def render(T_world_cam: Any, K_px: Any, hw: tuple[int, int]) -> tuple[Any, Any]:
        return np.full((*hw, 3), 128, np.uint8), np.full(hw, 3.0, np.float32)

    synthesizer = OracleSynthesizer(render, step_delay_s=STEP_S)
    return LoadedModel(synthesizer, {"backend": "oracle"}, HW, fault_of, release=lambda: None)


def _give_back_memory(number: int, frame: Any) -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


if __name__ == "__main__":
    from gld_ros.ros.main import main

    # Large pages round memory up by 2 MB each.
    ctypes.CDLL("libc.so.6").prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    signal.signal(signal.SIGUSR1, _give_back_memory)
    sys.exit(main(sys.argv[1:], model_factory=_load))
