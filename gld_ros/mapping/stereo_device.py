"""Where keyframes are searched for depth: on the model's GPU until that fails, then on the CPU.

Owns what happens when a GPU has no memory left for it, or is lost. How depth is measured is
`gld_ros.measuring.measure`; which keyframes are, and with what, `measurements`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gld_ros.mapping.model_fault import Fault, fault_of
from gld_ros.measuring.frames import MeasuredDepth, PosedImage
from gld_ros.measuring.measure import MeasuringParameters, measure_depth

if TYPE_CHECKING:
    import torch


class StereoDevice:
    """Measures on a device; one that has failed is not tried again.

    device: None is NumPy on the CPU. fault_of tells what an exception of the device means, and
    `warn` is given one line when the CPU takes over.
    """

    def __init__(
        self,
        device: torch.device | None = None,
        fault_of: Callable[[BaseException], Fault] = fault_of,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.problem = ""  # why the CPU has taken over; for diagnostics
        self._device, self._fault_of, self._warn = device, fault_of, warn

    @property
    def name(self) -> str:
        """Of the device that measures now."""
        return "cpu" if self._device is None else str(self._device)

    def measure(
        self,
        reference: PosedImage,
        neighbours: Sequence[PosedImage],
        parameters: MeasuringParameters,
    ) -> MeasuredDepth:
        """`measure_depth` on the device, or on the CPU where that fails."""
        if self._device is not None:
            try:
                return measure_depth(reference, neighbours, parameters, self._device)
            except Exception as error:
                fault = self._fault_of(error)
                if fault is Fault.OTHER:
                    raise
                # As text: a kept exception would keep the tensors of the failed search alive.
                self._give_up(fault, str(error))
        return measure_depth(reference, neighbours, parameters)

    def _give_up(self, fault: Fault, error: str) -> None:
        what = "out of memory" if fault is Fault.OUT_OF_MEMORY else "device lost"
        self.problem = f"{what} on {self.name}: keyframes are measured on the CPU"
        self._device = None
        self._warn(f"{self.problem} ({error})")
