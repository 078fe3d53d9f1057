"""What every part measures with: device, ceilings, models with random weights, clock."""

import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from denoiser_fast_path import random_conditions, to_device
from torch import Tensor, nn

from gld_ros.backbones.blocks import GATED_MULTIPLE, pad_gated_widths
from gld_ros.backbones.da3.config import DA3_BASE
from gld_ros.backbones.da3.model import DepthAnything3
from gld_ros.backbones.interface import NUM_LEVELS
from gld_ros.decoders.rgb import RgbDecoder, RgbDecoderConfig
from gld_ros.diffusion.conditioning import (
    DenoiserConditions,
    concatenate_conditions,
    unconditional,
)
from gld_ros.diffusion.config import GLD_DA3_CASCADE, GLD_DA3_LEVEL1
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.fast_path import RunConstants, TimeConstants, precompute, time_constants
from gld_ros.mapping.expected_work import operations
from gld_ros.novel_view_stages import sampling_conditions
from gld_ros.weights.bundle import Bundle
from gld_ros.weights.tensor_file import float32_at_run

PATCH = 14
SECONDS_PER_TIMING, MIN_REPEATS, MAX_REPEATS = 1.0, 3, 20
Figures = dict[str, Any]


class NotHere(Exception):
    """This machine or run has not what a part needs."""


@dataclass(frozen=True)
class Size:
    """What is run: sizes of the image and of the ceilings' operands, counts of views."""

    image_hw: tuple[int, int]
    references: int
    targets: int
    matmul_side: int
    copy_bytes: int
    published_steps: int
    fewer_steps: tuple[int, ...]

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Patch rows and columns."""
        return self.image_hw[0] // PATCH, self.image_hw[1] // PATCH

    @property
    def views(self) -> int:
        """References and targets."""
        return self.references + self.targets


SIZES = {
    "full": Size((280, 504), 4, 4, 8192, 1 << 30, 49, (25, 16)),
    "tiny": Size((56, 84), 1, 1, 256, 1 << 20, 3, (2,)),
}


class Machine:
    """The device, the size of what runs on it, its ceilings, and the models with random weights."""

    def __init__(self, device: torch.device, size_name: str, deadline: float) -> None:
        self.device, self.size_name, self.deadline = device, size_name, deadline
        self.size = SIZES[size_name]
        self.matmul_tflops: dict[str, float] = {}
        torch.manual_seed(0)

    @property
    def seconds_left(self) -> float:
        """Of the budget."""
        return self.deadline - time.monotonic()

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def random_module(self, build: Callable[[], nn.Module], dtype: torch.dtype) -> Any:
        """A module initialised on the device; what starts at zero gets values, as trained ones."""
        with torch.device(self.device):
            module = build().eval().requires_grad_(False)
        for parameter in module.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        module = cast(module, self.device, dtype)
        if self.device.type == "cuda":
            pad_gated_widths(module, GATED_MULTIPLE)  # as the pipeline does
        return module

    @cached_property
    def embedded(self) -> Bundle:
        """The bundle in the repository: small, trained."""
        return Bundle.open("tiny")

    @cached_property
    def backbone(self) -> DepthAnything3:
        """In float32, as the pipeline runs it."""
        small = self.embedded.config.backbone.config
        config = DA3_BASE if self.size_name == "full" else small
        return self.random_module(lambda: DepthAnything3(config), torch.float32)

    @cached_property
    def rgb_decoder(self) -> RgbDecoder:
        """In bfloat16."""
        config: Any = self.embedded.config.rgb_decoder
        if self.size_name == "full":
            config = RgbDecoderConfig(in_channels=NUM_LEVELS * DA3_BASE.channels)
        return self.random_module(lambda: RgbDecoder(config), torch.bfloat16)

    @cached_property
    def denoisers(self) -> dict[str, Denoiser]:
        """Level 1 and cascade, in bfloat16."""
        small = self.embedded.config.denoisers["level1"].config
        configs = {
            "level 1": small,
            "cascade": replace(small, separate_embedders=False, source_conditioned=True),
        }
        if self.size_name == "full":
            configs = {"level 1": GLD_DA3_LEVEL1, "cascade": GLD_DA3_CASCADE}
        return {
            name: self.random_module(lambda c=config: Denoiser(c), torch.bfloat16)
            for name, config in configs.items()
        }

    @cached_property
    def images(self) -> Tensor:
        """References (1, R, 3, H, W)."""
        return torch.rand(1, self.size.references, 3, *self.size.image_hw, device=self.device)

    def conditions(self, denoiser: Denoiser) -> DenoiserConditions:
        """One scene in the denoiser's precision."""
        one = random_conditions(denoiser.config, self.size.views, self.size.grid_hw)
        one = to_device(one, self.device)
        return sampling_conditions(
            denoiser,
            one.reference_latent[:, : self.size.references],
            one.camera_map,
            one.viewmats,
            one.K_px,
            one.source,
        )

    def guided_step(self, denoiser: Denoiser) -> tuple[Tensor, TimeConstants, RunConstants]:
        """Arguments of a guided `step`."""
        both = with_unconditional(self.conditions(denoiser))
        noisy = torch.randn_like(both.reference_latent[:1])
        return noisy, time_constants(denoiser, torch.tensor([0.9]))[0], precompute(denoiser, both)

    def milliseconds(self, call: Callable[[], object]) -> list[float]:
        """Times of repeated calls, by events on a GPU, after two that warm up."""
        call()
        self.synchronize()
        started = time.perf_counter()
        call()
        self.synchronize()
        once_s = time.perf_counter() - started
        repeats = int(min(MAX_REPEATS, max(MIN_REPEATS, SECONDS_PER_TIMING / once_s)))
        if self.device.type != "cuda":
            times = []
            for _ in range(repeats):
                started = time.perf_counter()
                call()
                times.append(1e3 * (time.perf_counter() - started))
            return times
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
        self.synchronize()
        return [a.elapsed_time(b) for a, b in itertools.pairwise(marks)]

    def peak_mib(self, call: Callable[[], object]) -> tuple[float, float] | None:
        """Device memory at the worst moment of a call, and how much of it the call added."""
        if self.device.type != "cuda":
            return None
        self.synchronize()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        self.synchronize()
        peak = torch.cuda.max_memory_allocated(self.device)
        return peak / 2**20, (peak - before) / 2**20

    def stage(self, name: str, precision: str, call: Callable[[], object]) -> Figures:
        """Time, operations, memory and share of the measured matmul rate of one stage."""
        times = self.milliseconds(call)
        median = statistics.median(times)
        tflop = operations(call) / 1e12
        peak = self.peak_mib(call)
        ceiling = self.matmul_tflops.get(precision)
        row = {
            "stage": name,
            "precision": precision,
            "ms": median,
            "ms_lowest": min(times),
            "ms_highest": max(times),
            "tflop": tflop,
            "tflops": tflop / median * 1e3,
            "share_of_matmul": None if ceiling is None else tflop / median * 1e3 / ceiling,
            "peak_mib": None if peak is None else peak[0],
            "added_mib": None if peak is None else peak[1],
        }
        print(f"  {name} ({precision}): {median:.2f} ms, {tflop:.3f} TFLOP", flush=True)
        return row


def cast(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module on a device and in a precision, but for what a bundle keeps in float32."""
    kept = float32_at_run(module)
    for name, values in (*module.named_parameters(), *module.named_buffers()):
        values.data = values.data.to(device, torch.float32 if name in kept else dtype)
    return module


def with_unconditional(conditions: DenoiserConditions) -> DenoiserConditions:
    """The doubled batch of guidance."""
    return concatenate_conditions(conditions, unconditional(conditions))


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm of the reference; not a number if anything is not."""
    value, reference = value.detach().cpu().double(), reference.detach().cpu().double()
    return float((value - reference).norm() / reference.norm())


def bfloat16_regions(device: torch.device) -> AbstractContextManager[object]:
    """Autocast: what the geometry backbone runs in when it is not float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16)


def ceilings(machine: Machine) -> Figures:
    """Rates that nothing here can exceed by much: a large matrix product, a large copy."""
    side, figures = machine.size.matmul_side, {}
    for precision in ("bfloat16", "float32"):
        dtype = getattr(torch, precision)
        a, b = (torch.randn(side, side, device=machine.device).to(dtype) for _ in range(2))
        median = statistics.median(machine.milliseconds(lambda a=a, b=b: a @ b))
        machine.matmul_tflops[precision] = 2 * side**3 / median / 1e9
        figures[f"matmul_{precision}_tflops"] = machine.matmul_tflops[precision]
    source = torch.randint(0, 255, (machine.size.copy_bytes,), device=machine.device).byte()
    target = torch.empty_like(source)
    median = statistics.median(machine.milliseconds(lambda: target.copy_(source)))
    figures["copy_gb_per_s"] = 2 * source.numel() / median / 1e6
    return figures | {"matmul_side": side}
