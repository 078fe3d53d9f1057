"""An export from a bundle to a folder: trace, write, reload, compare with eager mode, measure.

Owns the order, the checks and `export.json`. The parts are `parts`, the formats a file each.
"""

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from gld_ros import __version__
from gld_ros.export.aoti import Network, load_package, require_aoti, write_package
from gld_ros.export.onnx_file import PACKAGES, load_onnx, require_onnx, write_onnx
from gld_ros.export.parts import Part, RunSize, build_part, check_size, part_names
from gld_ros.export.tensorrt import require_trtexec, write_engine
from gld_ros.pipeline_device import resolve_device
from gld_ros.weights.atomic_folder import new_folder
from gld_ros.weights.bundle import Bundle

Format = Literal["aoti", "onnx", "tensorrt"]
REPORT_FILE = "export.json"
MAX_RELATIVE_ERROR = 1e-3  # float32 on both sides: rounding is a thousandth of this


@dataclass(frozen=True)
class ExportedPart:
    """What became of one part; errors are against the eager module on the example inputs.

    max_abs_error is the largest over all outputs, relative_error the largest norm of an output's
    difference over its norm. Times are medians of turns taken one after the other.
    """

    name: str
    files: tuple[str, ...]
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    size_bytes: int
    max_abs_error: float
    relative_error: float
    export_s: float
    load_s: float
    eager_ms: float
    exported_ms: float


def trace(part: Part) -> ExportedProgram:
    """The graph of a part at the shapes of its example inputs, by `torch.export`."""
    # Tables that depend on sizes alone must be there before: made while tracing, they would hold
    # no values, and would be kept.
    part.eager()
    with torch.no_grad():
        return torch.export.export(part.module.eval(), tuple(part.inputs.values()))


def export_bundle(
    bundle: Bundle,
    out: str | Path,
    format: Format,
    *,
    size: RunSize,
    parts: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
    repeats: int = 5,
    overwrite: bool = False,
    progress: Callable[[ExportedPart], None] | None = None,
) -> list[ExportedPart]:
    """Write the parts of a bundle (None: all) and `export.json` to a new folder `out`.

    The folder appears when every part has been compared, or not at all. ONNX files are compared
    on the CPU; TensorRT engines are built from compared ONNX files and not run. Raises ValueError
    for sizes and parts that the bundle has not, for what the format misses on this machine, and
    for a part whose relative error is above 1e-3; BundleError if `out` exists.
    """
    check_size(bundle.config, size)
    names = part_names(bundle.config) if parts is None else tuple(dict.fromkeys(parts))
    unknown = [name for name in names if name not in part_names(bundle.config)]
    if unknown or not names:
        raise ValueError(
            f"bundle {bundle.config.name!r} has no part {', '.join(unknown) or 'to export'}; "
            f"it has {', '.join(part_names(bundle.config))}"
        )
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; at least 1 is needed")
    where = resolve_device(device)
    if format == "aoti":
        require_aoti()
    else:
        require_onnx()
        if where.type != "cpu":
            raise ValueError(f"device is {where}; {format} files are compared on the CPU: use cpu")
    trtexec = require_trtexec() if format == "tensorrt" else None
    done = []
    with new_folder(Path(out), overwrite=overwrite) as folder:
        for name in names:
            part = build_part(bundle, name, size, where)
            with _named(part):
                exported = _export_part(part, format, folder, trtexec, repeats)
            done.append(exported)
            if progress is not None:
                progress(exported)
        report = _report(bundle, format, size, where, done)
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return done


def _export_part(
    part: Part, format: Format, folder: Path, trtexec: str | None, repeats: int
) -> ExportedPart:
    started = time.perf_counter()
    program = trace(part)
    if format == "aoti":
        path = folder / f"{part.name}.pt2"
        write_package(program, path)
    else:
        path = folder / f"{part.name}.onnx"
        write_onnx(program, path, tuple(part.inputs), part.outputs)
    export_s = time.perf_counter() - started
    started = time.perf_counter()
    network = load_package(path) if format == "aoti" else load_onnx(path)
    load_s = time.perf_counter() - started
    compared = _compared(part, network, repeats)
    if trtexec is not None:
        started = time.perf_counter()
        write_engine(trtexec, path, path.with_suffix(".engine"))
        export_s += time.perf_counter() - started
    files = sorted(folder.glob(f"{part.name}.*"))
    return replace(
        compared,
        files=tuple(file.name for file in files),
        size_bytes=sum(file.stat().st_size for file in files),
        export_s=round(export_s, 2),
        load_s=round(load_s, 3),
    )


def _compared(part: Part, network: Network, repeats: int) -> ExportedPart:
    """Errors, and times of both taken in turns; ValueError when they are not the same network."""
    inputs = list(part.inputs.values())
    truth, made = part.eager(), network(inputs)
    absolute, relative = _errors(truth, made)
    if not relative <= MAX_RELATIVE_ERROR:  # also where it is not a number
        raise ValueError(
            f"the exported network is another one: relative error {relative:.1e}, largest "
            f"difference {absolute:.1e}; at most {MAX_RELATIVE_ERROR:.0e} is allowed"
        )
    eager_s, exported_s = [], []
    for _ in range(repeats):
        eager_s.append(_seconds(part.eager, inputs[0].device))
        exported_s.append(_seconds(lambda: network(inputs), inputs[0].device))
    return ExportedPart(
        name=part.name,
        files=(),
        inputs={name: tuple(x.shape) for name, x in part.inputs.items()},
        outputs={name: tuple(x.shape) for name, x in zip(part.outputs, truth, strict=True)},
        size_bytes=0,
        max_abs_error=absolute,
        relative_error=relative,
        export_s=0.0,
        load_s=0.0,
        eager_ms=round(1e3 * median(eager_s), 2),
        exported_ms=round(1e3 * median(exported_s), 2),
    )


def _errors(truth: Sequence[Tensor], made: Sequence[Tensor]) -> tuple[float, float]:
    """Largest absolute error, and largest norm of an output's difference over its norm."""
    absolute, relative = 0.0, 0.0
    for right, found in zip(truth, made, strict=True):
        if right.shape != found.shape:
            return float("inf"), float("inf")
        difference = found.double() - right.double()
        absolute = max(absolute, difference.abs().max().item())
        norm = right.double().norm().item()
        wrong = difference.norm().item()
        relative = max(relative, wrong / norm if norm else wrong)
        if not (torch.isfinite(difference).all()):
            return float("nan"), float("nan")
    return absolute, relative


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


@contextmanager
def _named(part: Part) -> Iterator[None]:
    """Errors of the block say which part they are of."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"part {part.name}: {error}") from error


def _report(
    bundle: Bundle, format: Format, size: RunSize, device: torch.device, done: list[ExportedPart]
) -> dict[str, Any]:
    config = bundle.config
    packages = () if format == "aoti" else PACKAGES
    return {
        "bundle": config.name,
        "licence": config.licence,
        "non_commercial": config.non_commercial,
        "random_weights": config.random_weights,
        "format": format,
        "image_hw": list(size.image_hw),
        "references": size.references,
        "targets": size.targets,
        "dtype": "float32",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": {
            "gld_ros": __version__,
            "torch": torch.__version__,
            **{name: version(name) for name in packages},
        },
        "parts": {part.name: asdict(part) for part in done},
    }
