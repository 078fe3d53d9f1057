"""One VGGT fixture file: sizes in its metadata, parameters, inputs and expected outputs.

Tensors are named `param/NAME`, `in/NAME` and `out/NAME`; NAME of a parameter is the published one.
Modules are filled as published checkpoints are, with every tensor accounted for.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gld_ros.selftest.fixture import Fixture
from gld_ros.selftest.rows import Tolerance
from gld_ros.weights.tensor_file import fill_module

Module = TypeVar("Module", bound=nn.Module)

# References are float32 on a CPU; the absolute part is that of single modules of unit scale, the
# relative part a few units in the last place, for values in pixels. In 16 bits single elements say
# little, so there the norm of the difference is compared.
FLOAT32 = Tolerance(absolute=2e-5, relative=1e-6)
_LIMITS = {
    torch.float32: FLOAT32,
    torch.float16: Tolerance(norm=2e-2),
    torch.bfloat16: Tolerance(norm=1e-1),
}


@dataclass
class ModuleFile:
    """A fixture with the sizes and weights of its modules, and where and how they run."""

    config: dict[str, Any]
    parameters: dict[str, Tensor]
    fixture: Fixture
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def read(cls, path: Path, device: torch.device, dtype: torch.dtype) -> "ModuleFile":
        """Load a file; raises ValueError for one without sizes or a precision not offered."""
        config = read_config(path)
        if config is None:
            raise ValueError("its metadata has no config with the kind and sizes of a module")
        if dtype not in _LIMITS:
            raise ValueError(f"no tolerances for {dtype}; allowed: {', '.join(map(str, _LIMITS))}")
        groups: dict[str, dict[str, Tensor]] = {"param": {}, "in": {}, "out": {}, "": {}}
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
                group, _, rest = name.partition("/")
                known = group in groups and rest != ""
                groups[group if known else ""][rest if known else name] = file.get_tensor(name)
        fixture = Fixture(path.stem, groups["in"], groups["out"], groups[""])
        return cls(config, groups["param"], fixture, device, dtype)

    @property
    def limit(self) -> Tolerance:
        """How far outputs of denoisers and the RGB decoder may be off."""
        return _LIMITS[self.dtype]

    def input(self, name: str) -> Tensor:
        """An input where the modules run."""
        return self.fixture.inputs[name].to(self.device)

    def cases(self, quantity: str) -> list[str]:
        """Names of the cases that have an input `CASE/quantity`."""
        ending = f"/{quantity}"
        names = (name for name in self.fixture.inputs if name.endswith(ending))
        return sorted(name.removesuffix(ending) for name in names)

    def fill(self, module: Module, prefix: str = "", dtype: torch.dtype | None = None) -> Module:
        """`module`, built on the meta device, with the parameters below `prefix`."""
        weights = {
            name.removeprefix(prefix): values
            for name, values in self.parameters.items()
            if name.startswith(prefix)
        }
        fill_module(
            module,
            weights.items(),
            device=self.device,
            dtype=dtype or torch.float32,
            where=f"{self.fixture.name}: {prefix or 'parameters'}",
        )
        return module

    def expect_constants(self, **constants: Any) -> None:
        """Raise ValueError if the file was made with other constants than the model has."""
        other = {k: self.config[k] for k, v in constants.items() if self.config.get(k, v) != v}
        if other:
            raise ValueError(f"made with {other}; this model has {constants}")


def read_config(path: Path) -> dict[str, Any] | None:
    """Sizes of a fixture file of this kind, or None."""
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "null"))
    except (OSError, ValueError, SafetensorError):
        return None
    return config if isinstance(config, dict) and isinstance(config.get("kind"), str) else None


def grid_of(image_hw: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Patch rows and columns of an image."""
    return image_hw[0] // patch_size, image_hw[1] // patch_size
