"""Is the device right: parts of the embedded bundle and measured depth, against the CPU."""

import copy
import statistics
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from denoiser_fast_path import random_conditions, to_device
from torch import Tensor

from gld_ros.backbones.interface import NUM_LEVELS
from gld_ros.diffusion.fast_path import precompute, step, time_constants
from gld_ros.measuring.frames import PosedImage
from gld_ros.measuring.measure import MeasuringParameters, measure_depth
from gld_ros.novel_view_stages import decode_rgb, decoder_inputs
from gld_ros.weights.bundle import Bundle
from gpu_parts.machine import (
    PATCH,
    Figures,
    Machine,
    bfloat16_regions,
    cast,
    relative_error,
    with_unconditional,
)


def numerics(machine: Machine) -> list[Figures]:
    """Relative errors of the embedded bundle's parts on the device, against float32 on the CPU."""
    rows = []
    for name, evaluate in embedded_parts(machine.embedded):
        reference = evaluate(torch.device("cpu"), torch.float32)
        errors = {
            str(dtype).removeprefix("torch."): relative_error(
                evaluate(machine.device, dtype), reference
            )
            for dtype in (torch.float32, torch.bfloat16)
        }
        rows.append({"part": name, **errors})
        print(f"  {name}: {errors}", flush=True)
    return rows


def embedded_parts(
    bundle: Bundle,
) -> Iterator[tuple[str, Callable[[torch.device, torch.dtype], Tensor]]]:
    """Parts by name, each a function of device and precision, on the same random inputs."""
    image_hw = bundle.config.resolutions_hw[0]
    grid_hw = image_hw[0] // PATCH, image_hw[1] // PATCH
    images = torch.rand(1, 2, 3, *image_hw)
    modules = {name: bundle.load_module(name) for name in bundle.config.module_names}
    levels = modules["backbone"].encode_levels(images, range(NUM_LEVELS))
    inputs = decoder_inputs(modules["backbone"], levels)

    def module(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
        return cast(copy.deepcopy(modules[name]), device, dtype)

    scene = random_conditions(bundle.config.denoisers["level1"].config, 4, grid_hw)
    noisy = torch.randn_like(scene.reference_latent)

    def backbone_run(
        device: torch.device, dtype: torch.dtype, run: Callable[[Any], Tensor]
    ) -> Tensor:
        backbone = module("backbone", device)
        with bfloat16_regions(device) if dtype == torch.bfloat16 else nullcontext():
            return run(backbone)

    def encoder(device: torch.device, dtype: torch.dtype) -> Tensor:
        return backbone_run(
            device, dtype, lambda b: b.encode_levels(images.to(device), [3])[3].patches
        )

    def geometry_head(device: torch.device, dtype: torch.dtype) -> Tensor:
        some = [level.to(device, dtype) for level in inputs]
        return backbone_run(device, dtype, lambda b: b.decode_geometry(some, image_hw).depth)

    def denoiser_step(device: torch.device, dtype: torch.dtype) -> Tensor:
        denoiser = module("level1", device, dtype)
        one = to_device(scene, device)
        one = replace(
            one,
            reference_latent=one.reference_latent.to(dtype),
            camera_map=one.camera_map.to(dtype),
        )
        run = precompute(denoiser, with_unconditional(one))
        at = time_constants(denoiser, torch.tensor([0.7]))[0]
        return step(denoiser, noisy.to(device, dtype), at, run)

    def rgb(device: torch.device, dtype: torch.dtype) -> Tensor:
        decoder = module("rgb_decoder", device, dtype)
        return decode_rgb(decoder, [level.to(device) for level in inputs], image_hw)

    yield "encoder", encoder
    yield "guided denoiser step", denoiser_step
    yield "RGB decoder", rgb
    yield "geometry head", geometry_head


def measuring(machine: Machine) -> Figures:
    """Measured depth of a textured plane: the device against the CPU, and the truth."""
    depth_m, shift_px, hw = 2.0, 8, (120, 160)
    texture = np.random.default_rng(0).integers(0, 255, (hw[0], hw[1] + 2 * shift_px, 3))
    K_px = np.array([[hw[1], 0, hw[1] / 2], [0, hw[1], hw[0] / 2], [0, 0, 1]], np.float64)
    views = []
    for i in range(3):
        T_fixed_cam = np.eye(4)
        T_fixed_cam[0, 3] = i * shift_px * depth_m / hw[1]
        image = np.ascontiguousarray(texture[:, i * shift_px : i * shift_px + hw[1]], np.uint8)
        views.append(PosedImage(image, K_px, T_fixed_cam, i, "camera"))
    views = [views[1], views[0], views[2]]
    parameters = MeasuringParameters()
    on_cpu = measure_depth(views[0], views[1:], parameters)
    there = replace(parameters, device=str(machine.device))
    on_device = measure_depth(views[0], views[1:], there)
    both = np.isfinite(on_cpu.depth_m) & np.isfinite(on_device.depth_m)
    one = np.isfinite(on_cpu.depth_m) != np.isfinite(on_device.depth_m)
    difference = np.abs(on_device.depth_m[both] / on_cpu.depth_m[both] - 1)
    return {
        "coverage_cpu": on_cpu.coverage,
        "coverage_device": on_device.coverage,
        "measured_by_one_alone": float(one.mean()),
        "largest_relative_difference": float(difference.max()),
        "median_error_to_truth": float(np.median(np.abs(on_device.depth_m[both] / depth_m - 1))),
        "ms": statistics.median(
            machine.milliseconds(lambda: measure_depth(views[0], views[1:], there))
        ),
    }
