"""What an exception of a model means for the worker: out of memory, device lost, or a defect."""

from enum import Enum

from gld_ros.mapping.synthesizer import DeviceFault, OutOfMemory


class Fault(Enum):
    """What an exception of a synthesizer means for the worker."""

    OUT_OF_MEMORY = "out_of_memory"
    DEVICE_LOST = "device_lost"
    OTHER = "other"


def fault_of(error: BaseException) -> Fault:
    """Kind of the synthesizer's own exceptions; other backends supply their own function."""
    if isinstance(error, OutOfMemory | MemoryError):
        return Fault.OUT_OF_MEMORY
    if isinstance(error, DeviceFault):
        return Fault.DEVICE_LOST
    return Fault.OTHER
