"""What one GPU makes of the published sizes: numerics, times, memory, whole samples, compilation.

    python benchmark/gpu.py --out gpu.json       # budget of 200 s, no network, random weights
    python benchmark/gpu.py --table gpu.json     # its tables as Markdown, without a run

Parts are independent: one that fails is recorded with its error, and the rest goes on; parts that
find no time left are named. The JSON is written after every part. Without CUDA (or with `--device
cpu --size tiny`) the same parts run in small. Owns the order, the budget and the file; what is
measured is in `gpu_parts`.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed

import torch
from gpu_parts.compilation import compiled, compiled_variants, cuda_graph
from gpu_parts.full_size import kernels, samples, stages
from gpu_parts.machine import SIZES, Figures, Machine, NotHere, ceilings
from gpu_parts.measuring import measuring
from gpu_parts.numerics import numerics
from gpu_parts.table import markdown

COMPILE_SECONDS = 60.0


def describe(machine: Machine) -> Figures:
    """What the figures were measured on."""
    name = "CPU"
    if machine.device.type == "cuda":
        name = torch.cuda.get_device_name(machine.device)
    size = machine.size
    return {
        "device": name,
        "torch": torch.__version__,
        "size": machine.size_name,
        "image_hw": size.image_hw,
        "views": f"{size.references}+{size.targets}",
    }


def run_parts(machine: Machine, report: Figures, compile_s: float, out: Path | None) -> None:
    """Run all parts, keeping what each gives or why it gives nothing."""
    parts: dict[str, Callable[[Machine], Any]] = {
        "ceilings": ceilings,
        "numerics": numerics,
        "measuring": measuring,
        "stages": stages,
        "kernels": kernels,
        "samples": samples,
        "cuda_graph": cuda_graph,
        "compiled": lambda m: compiled(m, compile_s),
    }
    for name, part in parts.items():
        print(f"{name} ({machine.seconds_left:.0f} s left)", flush=True)
        started, entry = time.monotonic(), {"status": "ok"}
        if machine.seconds_left < 5:
            entry = {"status": "skipped", "error": "no time left"}
        else:
            try:
                with torch.no_grad():
                    entry["result"] = part(machine)
            except NotHere as reason:
                entry = {"status": "skipped", "error": str(reason)}
            except Exception as error:  # noqa: BLE001 (recorded; the other parts go on)
                traceback.print_exc()
                entry = {"status": "failed", "error": f"{type(error).__name__}: {error}"[:3000]}
        entry["seconds"] = round(time.monotonic() - started, 1)
        report["parts"][name] = entry
        if out is not None:
            out.write_text(json.dumps(report, indent=1))


def main() -> int:
    """Measure and print; 1 if a part failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="JSON", help="where to write the figures")
    parser.add_argument("--table", type=Path, metavar="JSON", help="print earlier figures, no run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES, help="default: full on a GPU, else tiny")
    parser.add_argument("--seconds", type=float, default=200.0, help="budget (default: 200)")
    parser.add_argument("--compile-seconds", type=float, default=COMPILE_SECONDS)
    parser.add_argument("--compiled-variants", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.table is not None:
        print(markdown(json.loads(arguments.table.read_text())))
        return 0
    device = torch.device(arguments.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    size = arguments.size or ("full" if device.type == "cuda" else "tiny")
    machine = Machine(device, size, time.monotonic() + arguments.seconds)
    if arguments.compiled_variants:
        with torch.no_grad():
            for row in compiled_variants(machine):
                print(json.dumps(row), flush=True)
        return 0
    report: Figures = {**describe(machine), "parts": {}}
    run_parts(machine, report, arguments.compile_seconds, arguments.out)
    print(markdown(report))
    return int(any(part["status"] == "failed" for part in report["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
