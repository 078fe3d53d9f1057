"""Where keyframes are searched for depth: on the model's GPU until that fails, then on the CPU.

Owns what happens when a GPU has no memory left for it, or is lost, and when the process that
searches on the CPU is. How depth is measured is `gld_ros.measuring.measure`; which keyframes are,
and with what, `measurements`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gld_ros.mapping.model_fault import Fault, fault_of
from gld_ros.measuring.frames import MeasuredDepth, PosedImage
from gld_ros.measuring.measure import MeasuringParameters, measure_depth
from gld_ros.measuring.process import MeasuringProcess, ProcessLost

if TYPE_CHECKING:
    import torch


MOST_LOSSES = 3  # of the process, after which a thread measures


class StereoDevice:
    """Measures on a device; one that has failed is not tried again.

    device: None is NumPy on the CPU, in a process of its own between `start` and `stop`, which may
    be lost MOST_LOSSES times. fault_of tells what an exception of the device means, and `warn` is
    given one line when something else takes over.
    """

    def __init__(
        self,
        device: torch.device | None = None,
        fault_of: Callable[[BaseException], Fault] = fault_of,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._device, self._fault_of, self._warn = device, fault_of, warn
        self._process: MeasuringProcess | None = None
        self._losses = 0  # of the process
        self._device_problem = self._process_problem = ""

    def start(self, expected: bool = True) -> None:
        """From now on use a process on the CPU, since threads of the caller are busy.

        It loads at once where searches are expected, else with the first one.
        """
        self._process, self._losses, self._process_problem = MeasuringProcess(), 0, ""
        if expected and self._device is None:
            self._process.start()

    def stop(self) -> None:
        """End the process; a search that runs there raises ProcessLost."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    @property
    def name(self) -> str:
        """Of the device that measures now."""
        return "cpu" if self._device is None else str(self._device)

    @property
    def problem(self) -> str:
        """Why something else has taken over, for diagnostics; empty while nothing has."""
        return "; ".join(filter(None, (self._device_problem, self._process_problem)))

    def measure(
        self,
        reference: PosedImage,
        neighbours: Sequence[PosedImage],
        parameters: MeasuringParameters,
    ) -> MeasuredDepth:
        """`measure_depth` on the device, or on the CPU where that fails.

        Raises SearchFailed for what the process raised, ProcessLost once it is stopped, and what
        `measure_depth` raises.
        """
        if self._device is not None:
            try:
                return measure_depth(reference, neighbours, parameters, self._device)
            except Exception as error:
                fault = self._fault_of(error)
                if fault is Fault.OTHER:
                    raise
                # As text: a kept exception would keep the tensors of the failed search alive.
                self._give_up(fault, str(error))
        process = self._process
        if process is not None:
            try:
                return process.measure(reference, neighbours, parameters)
            except ProcessLost as error:
                if process is not self._process:  # stopped
                    raise
                self._lost(error)
        return measure_depth(reference, neighbours, parameters)

    def _give_up(self, fault: Fault, error: str) -> None:
        what = "out of memory" if fault is Fault.OUT_OF_MEMORY else "device lost"
        self._device_problem = f"{what} on {self.name}: keyframes are measured on the CPU"
        self._device = None
        self._warn(f"{self._device_problem} ({error})")

    def _lost(self, error: ProcessLost) -> None:
        self._losses += 1
        if self._losses == MOST_LOSSES:
            self._process = None
            self._process_problem = f"{error}: a thread measures keyframes, more slowly"
            self._warn(self._process_problem)
        else:
            self._warn(f"{error}, and is started again")
