"""What launching costs and compiling gives: a level-1 step eager, as a CUDA graph, compiled."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from gld_ros.diffusion.fast_path import step
from gpu_parts.machine import Figures, Machine, NotHere, relative_error

PROGRAM = Path(__file__).resolve().parents[1] / "gpu.py"


def captured(machine: Machine, call: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A CUDA graph of a call, and the tensor that its replays write."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()
    return graph, output


def step_variants(machine: Machine, name: str, call: Callable[[], Tensor]) -> list[Figures]:
    """The call as it is, and as a CUDA graph where there is CUDA."""
    rows = [{"variant": name, "ms": statistics.median(machine.milliseconds(call))}]
    if machine.device.type == "cuda":
        expected = call()
        graph, output = captured(machine, call)
        output.fill_(float("nan"))  # what a replay does not write shows
        times = machine.milliseconds(graph.replay)
        rows.append(
            {
                "variant": f"{name}, CUDA graph",
                "ms": statistics.median(times),
                "error": relative_error(output, expected),
            }
        )
    return rows


def cuda_graph(machine: Machine) -> list[Figures]:
    """A level-1 step, guided and not: launched kernel by kernel, and replayed as one graph."""
    if machine.device.type != "cuda":
        raise NotHere("CUDA graphs need CUDA")
    denoiser = machine.denoisers["level 1"]
    noisy, at, run = machine.guided_step(denoiser)
    rows = []
    for kind, constants in (("guided", run), ("unguided", run.first_scenes(1))):
        rows += step_variants(machine, kind, lambda r=constants: step(denoiser, noisy, at, r))
    return rows


def compiled_variants(machine: Machine) -> Iterator[Figures]:
    """The guided level-1 step: eager, its blocks compiled, the whole of it compiled."""
    denoiser = machine.denoisers["level 1"]
    noisy, at, run = machine.guided_step(denoiser)
    expected = step(denoiser, noisy, at, run)
    yield from step_variants(machine, "eager", lambda: step(denoiser, noisy, at, run))
    for name in ("blocks compiled", "step compiled"):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        whole = name == "step compiled"
        compiled = torch.compile(step) if whole else step
        started = time.perf_counter()
        try:
            for block in [] if whole else denoiser.blocks:
                block.compile()
            output = compiled(denoiser, noisy, at, run)
            machine.synchronize()
            first_s = time.perf_counter() - started
            rows = step_variants(machine, name, lambda c=compiled: c(denoiser, noisy, at, run))
            rows[0] |= {
                "first_call_s": first_s,
                "error": relative_error(output, expected),
                "graph_breaks": sum(torch._dynamo.utils.counters["graph_break"].values()),
            }
            yield from rows
        except Exception as error:  # noqa: BLE001 (its text is the result)
            yield {"variant": name, "failed": f"{type(error).__name__}: {error}"[:2000]}
        for block in denoiser.blocks:
            block._compiled_call_impl = None  # torch has no public way back to eager


def compiled(machine: Machine, limit_s: float) -> list[Figures]:
    """`compiled_variants` in a process of its own, which is ended when its time is over."""
    limit_s = max(1.0, min(limit_s, machine.seconds_left))
    command = [sys.executable, str(PROGRAM), "--compiled-variants"]
    command += ["--device", str(machine.device), "--size", machine.size_name]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, start_new_session=True)
        ending = None
        try:
            if process.wait(limit_s):
                errors.seek(0)
                ending = f"ended with {process.returncode}: {errors.read()[-1500:]}"
        except subprocess.TimeoutExpired:
            ending = f"not finished after {limit_s:.0f} s"
            os.killpg(process.pid, signal.SIGKILL)  # it has compilers of its own
            process.wait()
        out.seek(0)
        rows = [json.loads(line) for line in out.read().splitlines() if line.startswith("{")]
    return rows + ([{"variant": "the rest", "failed": ending}] if ending else [])
