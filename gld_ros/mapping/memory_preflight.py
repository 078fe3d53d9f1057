"""Whether the model fits into memory with the node's parameters; asked before weights are loaded.

Owns the budget (`gpu.memory_budget`, or a share of what is free), the comparison with the estimate
of `gld_ros.memory_estimate`, and the advice when it does not fit. A run that runs out of memory
nevertheless is handled by `gld_ros.mapping.degrade`. Imports torch only when called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gld_ros.mapping.parameters import SessionParameters

if TYPE_CHECKING:
    import torch

    from gld_ros.depth_pipeline import DepthPipeline
    from gld_ros.memory_estimate import MemoryEstimate
    from gld_ros.pipeline import NovelViewPipeline

GIB = 2**30
OWN_MEMORY_SHARE = 0.9  # of what is free on a device with memory of its own
SHARED_MEMORY_SHARE = 0.6  # where the rest of the robot's software takes from the same memory
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


class NotEnoughMemory(RuntimeError):
    """The model does not fit; the text gives the numbers and what to lower, in one line.

    need: the numbers alone. smaller: parameters of a smaller job that fits; empty if none does.
    """

    def __init__(self, need: str, advice: str, smaller: Mapping[str, int]) -> None:
        super().__init__(f"{need}; {advice}")
        self.need = need
        self.smaller = dict(smaller)


@dataclass(frozen=True)
class MemoryBudget:
    """How many bytes the node may take, and where that number comes from."""

    budget_bytes: int
    origin: str


@dataclass(frozen=True)
class _Demand:
    """The parameters that determine the memory of a job."""

    references: int
    targets: int
    samples: int


def check_memory(pipeline: NovelViewPipeline, parameters: SessionParameters) -> str:
    """Need against budget in words, such as "0.31 of 5.2 GiB"; raises NotEnoughMemory.

    Only where a bound does not fit is the need estimated, which takes seconds.
    """
    budget = memory_budget(pipeline.device, parameters.model.memory_budget_gib)
    demand = _Demand(
        parameters.sampler.reference_views,
        parameters.sampler.max_targets,
        parameters.sampler.samples,
    )
    bound = pipeline.memory_bound(
        demand.references,
        demand.targets,
        samples=demand.samples,
        guidance_scale=parameters.sampler.guidance_scale,
    )
    if bound <= budget.budget_bytes:
        return _less_than(bound, budget)
    estimate = _estimate(pipeline, parameters, demand)
    if estimate.peak_bytes <= budget.budget_bytes:
        return f"{estimate.peak_bytes / GIB:.2f} of {budget.budget_bytes / GIB:.2f} GiB"
    weights = estimate.stages[estimate.peak_stage].weights
    dtype = str(pipeline.dtype).removeprefix("torch.")
    raise NotEnoughMemory(
        f"model.bundle {parameters.model.bundle!r} needs about "
        f"{estimate.peak_bytes / GIB:.2f} GiB while {estimate.peak_stage} runs "
        f"({weights / GIB:.2f} GiB of weights) for {demand.references} reference views, "
        f"{demand.targets} targets and {demand.samples} sample(s) in {dtype}, but may take "
        f"{budget.budget_bytes / GIB:.2f} GiB ({budget.origin})",
        *_advice(pipeline, parameters, demand, budget),
    )


def check_depth_memory(pipeline: DepthPipeline, parameters: SessionParameters) -> str:
    """Like `check_memory` for the depth of one image at a time."""
    budget = memory_budget(pipeline.device, parameters.model.memory_budget_gib)
    bound = pipeline.memory_bound()
    if bound <= budget.budget_bytes:
        return _less_than(bound, budget)
    needed = pipeline.estimate().peak_bytes
    if needed <= budget.budget_bytes:
        return f"{needed / GIB:.2f} of {budget.budget_bytes / GIB:.2f} GiB"
    raise NotEnoughMemory(
        f"model.bundle {parameters.model.bundle!r} needs about {needed / GIB:.2f} GiB for the "
        f"depth of an image, but may take {budget.budget_bytes / GIB:.2f} GiB ({budget.origin})",
        "free memory, raise gpu.memory_budget, or use a smaller model.bundle or another device",
        {},
    )


def _less_than(bound_bytes: int, budget: MemoryBudget) -> str:
    return f"less than {bound_bytes / GIB:.2f} of {budget.budget_bytes / GIB:.2f} GiB"


def memory_budget(device: torch.device, parameter_gib: float) -> MemoryBudget:
    """What the node may take of a device: `parameter_gib`, and never more than is free.

    0 takes a share of what is free: 90 % of a device with memory of its own, 60 % of memory that
    is shared with the CPU.
    """
    free, shared = free_bytes(device)
    share = SHARED_MEMORY_SHARE if shared else OWN_MEMORY_SHARE
    if parameter_gib <= 0:
        return MemoryBudget(
            int(share * free), f"{share:.0%} of {free / GIB:.2f} GiB free; gpu.memory_budget is 0"
        )
    asked = int(parameter_gib * GIB)
    if asked <= free:
        return MemoryBudget(asked, f"gpu.memory_budget {parameter_gib:g}")
    return MemoryBudget(free, f"all that is free; gpu.memory_budget is {parameter_gib:g}")


def enforce_budget(device: torch.device, parameter_gib: float) -> None:
    """Make a CUDA allocator fail beyond an explicit budget, so that the degrade ladder acts.

    Does nothing without a budget, and on a CPU, where torch has no limit of its own.
    """
    import torch

    if device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(device).total_memory
    fraction = 1.0 if parameter_gib <= 0 else min(1.0, parameter_gib * GIB / total)
    torch.cuda.set_per_process_memory_fraction(fraction, device)


def free_bytes(device: torch.device) -> tuple[int, bool]:
    """Free bytes of a device, and whether the CPU takes from the same memory."""
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free, bool(torch.cuda.get_device_properties(device).is_integrated)
    return available_host_bytes(), True


def available_host_bytes() -> int:
    """Memory available for new allocations without swapping, within a container's limit."""
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return available  # no control group of version 2, or the root one: no limit
    return available if limit == "max" else max(0, min(available, int(limit) - used))


def _estimate(
    pipeline: NovelViewPipeline, parameters: SessionParameters, demand: _Demand
) -> MemoryEstimate:
    return pipeline.estimate(
        demand.references,
        demand.targets,
        samples=demand.samples,
        guidance_scale=parameters.sampler.guidance_scale,
    )


def _advice(
    pipeline: NovelViewPipeline,
    parameters: SessionParameters,
    demand: _Demand,
    budget: MemoryBudget,
) -> tuple[str, dict[str, int]]:
    """What to do, and the parameters of a smaller job that fits, if one does."""
    for less in _smaller(demand):
        needed = _estimate(pipeline, parameters, less).peak_bytes
        if needed <= budget.budget_bytes:
            advice = (
                f"sampler.reference_views {less.references}, sampler.max_targets "
                f"{less.targets} and sampler.samples {less.samples} would take "
                f"{needed / GIB:.2f} GiB"
            )
            smaller = {
                "sampler.reference_views": less.references,
                "sampler.max_targets": less.targets,
                "sampler.samples": less.samples,
            }
            return advice, smaller
    return (
        "no smaller job fits: free memory, raise gpu.memory_budget, or use model.precision bf16, "
        "a smaller model.bundle or another device",
        {},
    )


def _smaller(demand: _Demand) -> Iterator[_Demand]:
    """Smaller and smaller jobs, giving up first what affects quality least."""
    references = min(2, demand.references)
    steps = (
        _Demand(demand.references, demand.targets, 1),
        _Demand(demand.references, min(2, demand.targets), 1),
        _Demand(demand.references, 1, 1),
        _Demand(references, 1, 1),
        _Demand(1, 1, 1),
    )
    yield from (step for step in dict.fromkeys(steps) if step != demand)
