"""Safetensors files written one tensor at a time, and module parameters filled from them.

`safetensors.torch.save_file` needs every tensor in memory at once; `write_tensor_file` holds one.
`load_into` never initialises parameters and leaves nothing unaccounted for. Which files a bundle
has is not decided here.
"""

import errno
import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gld_ros.weights.errors import CoverageError, WeightsError

DTYPE_NAMES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_CODES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_ALIGNMENT = 64  # bytes; memory-mapped weights then start on a vector register boundary


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written: its name, shape and dtype are known before its values are read."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, name: str, values: Tensor) -> "PlannedTensor":
        """A plan for values that are in memory already."""
        return cls(name, tuple(values.shape), values.dtype, lambda: values)


@dataclass(frozen=True)
class WrittenFile:
    """What was written: SHA-256 in hex, bytes on disk, number of tensors and of values."""

    sha256: str
    size_bytes: int
    num_tensors: int
    num_values: int


def write_tensor_file(path: Path, tensors: Iterable[PlannedTensor]) -> WrittenFile:
    """Write a safetensors file with one tensor in memory at a time, and flush it to the disk.

    Values are cast to the planned dtype. Raises WeightsError that names the tensor if a value is
    not finite after the cast (float16 overflows above 65504), a shape differs from the plan, or
    the disk is full.
    """
    planned = sorted(tensors, key=lambda entry: (-entry.dtype.itemsize, entry.name))
    header = _header(planned)
    try:
        sha256, size_bytes = _write(path, header, planned)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise WeightsError(
            f"no space left on the disk of {path.parent}; nothing of the new folder is kept. Free "
            "some space and run the same command again"
        ) from error
    num_values = sum(math.prod(entry.shape) for entry in planned)
    return WrittenFile(sha256, size_bytes, len(planned), num_values)


def _write(path: Path, header: bytes, planned: list[PlannedTensor]) -> tuple[str, int]:
    """Write header and tensors; returns SHA-256 in hex and the number of bytes."""
    digest = hashlib.sha256()
    size_bytes = 0
    with path.open("wb") as file:
        for chunk in (struct.pack("<Q", len(header)), header):
            file.write(chunk)
            digest.update(chunk)
            size_bytes += len(chunk)
        for entry in planned:
            values = _values(entry, path).view(torch.uint8).numpy()
            file.write(values.data)
            digest.update(values.data)
            size_bytes += values.nbytes
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size_bytes


def _header(planned: list[PlannedTensor]) -> bytes:
    codes = {dtype: code for code, dtype in _CODES.items()}
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in planned:
        if entry.dtype not in codes:
            allowed = ", ".join(DTYPE_NAMES)
            raise WeightsError(f"{entry.name}: cannot store {entry.dtype}; allowed: {allowed}")
        if entry.name in entries:
            raise WeightsError(f"{entry.name} would be written twice")
        end = offset + math.prod(entry.shape) * entry.dtype.itemsize
        entries[entry.name] = {
            "dtype": codes[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-(len(text) + 8) % _ALIGNMENT)


def _values(entry: PlannedTensor, path: Path) -> Tensor:
    values = entry.read().detach()
    if tuple(values.shape) != entry.shape:
        raise WeightsError(f"{entry.name} has shape {tuple(values.shape)}, planned {entry.shape}")
    stored = values.to(device="cpu", dtype=entry.dtype).contiguous().reshape(-1)
    if not torch.isfinite(stored).all():
        raise WeightsError(
            f"{entry.name} holds values that are not finite as {entry.dtype}; "
            f"{path.name} is not written (bfloat16 or float32 hold a wider range than float16)"
        )
    return stored


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_layout(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype | str]]:
    """Name -> (shape, dtype) of every tensor of a safetensors file, from its header alone.

    A dtype that models do not use is given by its code, a string. Raises WeightsError when the
    file is missing, cut short or not safetensors.
    """
    with open_tensor_file(path) as file:
        layout: dict[str, tuple[tuple[int, ...], torch.dtype | str]] = {}
        for name in file.keys():  # noqa: SIM118 - a safetensors handle is not a mapping
            view = file.get_slice(name)
            code = view.get_dtype()
            layout[name] = (tuple(view.get_shape()), _CODES.get(code, code))
    return layout


def open_tensor_file(path: Path, device: str = "cpu") -> safe_open:
    """`safetensors.safe_open`, with WeightsError for a file that is missing or damaged."""
    if not path.is_file():
        raise WeightsError(f"{path} does not exist or is not a file")
    try:
        return safe_open(path, framework="pt", device=device)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error


def check_coverage(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Raise CoverageError unless names and shapes are equal, naming what differs (10 of a kind)."""
    problems = [f"missing {name} {expected[name]}" for name in sorted(expected.keys() - found)]
    problems += [f"unexpected {name} {found[name]}" for name in sorted(found.keys() - expected)]
    problems += [
        f"misshapen {name}: {found[name]} in the file, {expected[name]} in the model"
        for name in sorted(expected.keys() & found)
        if found[name] != expected[name]
    ]
    if problems:
        shown = "\n  ".join(problems[:10])
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CoverageError(f"{where}: {len(problems)} tensor(s) do not fit\n  {shown}{more}")


def load_into(
    module: nn.Module, path: Path, *, device: str | torch.device, dtype: torch.dtype
) -> None:
    """Fill `module`, built on the meta device, from a safetensors file in the running precision.

    Tensors go one by one from the mapped file to `device`; see `fill_module`, which also says
    what raises.
    """
    with open_tensor_file(path, str(device)) as file:
        names = list(file.keys())
        layout = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        check_coverage(module_layout(module), layout, str(path))
        fill_module(
            module,
            ((name, file.get_tensor(name)) for name in names),
            device=device,
            dtype=dtype,
            where=str(path),
        )


def fill_module(
    module: nn.Module,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    device: str | torch.device,
    dtype: torch.dtype,
    where: str,
) -> None:
    """Make named tensors the parameters of a module on the meta device; nothing is initialised.

    Each goes to `device` and `dtype`, those of `float32_at_run` to float32. Afterwards the module
    is in eval mode and needs no gradient. `where` names the source in error texts. Raises
    CoverageError for a missing, unexpected or misshapen tensor and WeightsError for one that is
    not of a floating-point dtype of `DTYPE_NAMES`.
    """
    float32_names = float32_at_run(module)
    state: dict[str, Tensor] = {}
    for name, values in tensors:
        if values.dtype not in DTYPE_NAMES.values():
            allowed = ", ".join(DTYPE_NAMES)
            raise WeightsError(f"{where}: {name} is stored as {values.dtype}; allowed: {allowed}")
        running = torch.float32 if name in float32_names else dtype
        state[name] = values.to(device=device, dtype=running)
    found = {name: tuple(values.shape) for name, values in state.items()}
    check_coverage(module_layout(module), found, where)
    module.load_state_dict(state, strict=True, assign=True)
    unfilled = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if unfilled:
        raise WeightsError(
            f"{type(module).__name__} keeps {', '.join(unfilled)} outside its state dict: they "
            "have no values after loading"
        )
    module.requires_grad_(False).eval()


def module_layout(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of everything a module keeps in its state dict."""
    return {name: tuple(values.shape) for name, values in module.state_dict().items()}


def float32_in_storage(module: nn.Module) -> frozenset[str]:
    """Full names of the tensors that are stored, and run, in float32 whatever was asked for.

    A module class lists them, relative to itself, in a class attribute `float32_parameters`:
    frequencies that are multiplied by large numbers lose their meaning in 16 bits.
    """
    names: set[str] = set()
    for prefix, part in module.named_modules():
        for name in getattr(type(part), "float32_parameters", ()):
            names.add(f"{prefix}.{name}" if prefix else name)
    return frozenset(names)


def float32_at_run(module: nn.Module) -> frozenset[str]:
    """Full names of the tensors that run in float32 whatever the running precision.

    Those of `float32_in_storage`, and everything below a module class with the class attribute
    `runs_in_float32 = True` (the depth head and the cameras, where the method asks for it).
    """
    names = set(float32_in_storage(module))
    for prefix, part in module.named_modules():
        if getattr(type(part), "runs_in_float32", False):
            names |= {f"{prefix}.{name}" if prefix else name for name in part.state_dict()}
    return frozenset(names)
