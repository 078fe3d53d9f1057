"""Is the device right: parts of the embedded bundle, against the CPU."""

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from denoiser_fast_path import random_conditions, to_device
from torch import Tensor

from gld_ros.backbones.interface import NUM_LEVELS
from gld_ros.diffusion.fast_path import precompute, step, time_constants
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
