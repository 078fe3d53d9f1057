"""AOTInductor packages: one `.pt2` file per part, loaded by torch alone, in Python or C++."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

Network = Callable[[Sequence[Tensor]], list[Tensor]]


def require_aoti() -> None:
    """Raise ValueError where torch cannot write packages."""
    version = tuple(int(number) for number in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 6):
        raise ValueError(
            f"torch is {torch.__version__}; AOTInductor packages need 2.6 or newer "
            "(pip install --upgrade torch)"
        )


def write_package(program: ExportedProgram, path: Path) -> None:
    """Compile a traced part for the device of its tensors; needs a C++ compiler."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about torch
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def load_package(path: Path) -> Network:
    """The network in a package, from example inputs in order to outputs in order."""
    compiled = torch._inductor.aoti_load_package(str(path))

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        out = compiled(*inputs)
        return [out] if isinstance(out, Tensor) else list(out)

    return run
