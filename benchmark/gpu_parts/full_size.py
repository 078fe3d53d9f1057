"""How fast the device is: every stage by itself, and whole samples by solver and guidance."""

import time

import torch
from denoiser_fast_path import random_conditions, to_device
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gld_ros.backbones.interface import NUM_LEVELS
from gld_ros.diffusion.fast_path import precompute, step, time_constants
from gld_ros.diffusion.flow import draw_noise, shift_times, time_grid, time_shift
from gld_ros.diffusion.guidance import Guidance
from gld_ros.diffusion.solvers import Solver
from gld_ros.novel_view_stages import (
    decode,
    decode_rgb,
    decoder_inputs,
    encode_references,
    level_tokens,
    sample,
    sampling_conditions,
)
from gld_ros.weights.statistics import LevelStatistics
from gpu_parts.machine import Figures, Machine, NotHere, bfloat16_regions, with_unconditional

GUIDANCE_SCALE = 1.5
LONGEST_KERNELS = 16


def stages(machine: Machine) -> list[Figures]:
    """Every stage of a sample by itself."""
    backbone, image_hw = machine.backbone, machine.size.image_hw
    rows = [
        machine.stage("encode", "float32", lambda: backbone.encode_levels(machine.images, [0, 1]))
    ]
    with bfloat16_regions(machine.device):
        rows.append(
            machine.stage(
                "encode", "bfloat16", lambda: backbone.encode_levels(machine.images, [0, 1])
            )
        )
    for name, denoiser in machine.denoisers.items():
        both = with_unconditional(machine.conditions(denoiser))
        rows.append(
            machine.stage(
                f"{name}: precompute",
                "bfloat16",
                lambda d=denoiser, c=both: (precompute(d, c), time_constants(d, torch.rand(49))),
            )
        )
        noisy, at, run = machine.guided_step(denoiser)
        alone = run.first_scenes(1)
        for kind, constants in (("guided", run), ("unguided", alone)):
            rows.append(
                machine.stage(
                    f"{name}: {kind} step",
                    "bfloat16",
                    lambda d=denoiser, r=constants, n=noisy, t=at: step(d, n, t, r),
                )
            )
    tokens = machine.size.grid_hw[0] * machine.size.grid_hw[1]
    inputs = [
        torch.randn(1, machine.size.views, tokens, backbone.channels, device=machine.device)
        for _ in range(NUM_LEVELS)
    ]
    decoder = machine.rgb_decoder
    rows.append(
        machine.stage("RGB decoder", "bfloat16", lambda: decode_rgb(decoder, inputs, image_hw))
    )
    rows.append(
        machine.stage(
            "geometry head", "float32", lambda: backbone.decode_geometry(inputs, image_hw)
        )
    )
    return rows


def kernels(machine: Machine) -> list[Figures]:
    """Where a guided level-1 step spends its time: the kernels that take longest."""
    if machine.device.type != "cuda":
        raise NotHere("kernels are CUDA's")
    denoiser = machine.denoisers["level 1"]
    noisy, at, run = machine.guided_step(denoiser)
    step(denoiser, noisy, at, run)
    machine.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        step(denoiser, noisy, at, run)
        machine.synchronize()
    events = [e for e in recorded.key_averages() if e.device_type == DeviceType.CUDA]
    events.sort(key=lambda e: -e.self_device_time_total)
    whole_us = sum(e.self_device_time_total for e in events)
    rows = [
        {
            "kernel": e.key[:100],
            "launches": e.count,
            "ms": e.self_device_time_total / 1e3,
            "share": e.self_device_time_total / whole_us,
        }
        for e in events[:LONGEST_KERNELS]
    ]
    return [
        *rows,
        {"kernel": "all", "launches": sum(e.count for e in events), "ms": whole_us / 1e3},
    ]


def whole_sample(machine: Machine, solver: Solver, steps: int, guidance: Guidance) -> Figures:
    """References to images and depth, as the pipeline does it; seconds of each stage."""
    backbone, views = machine.backbone, machine.size.views
    blank = torch.zeros(backbone.channels), torch.ones(backbone.channels)
    levels = {level: LevelStatistics(*blank) for level in (0, 1)}
    seconds, latents, source = {}, {}, None

    def stamp(name: str) -> None:
        machine.synchronize()
        now = time.perf_counter()
        seconds[name], marks[0] = now - marks[0], now

    machine.synchronize()
    marks = [time.perf_counter()]
    encoded = encode_references(backbone, levels, machine.images)
    stamp("encode")
    for level, (name, denoiser) in zip((1, 0), machine.denoisers.items(), strict=True):
        one = to_device(
            random_conditions(denoiser.config, views, machine.size.grid_hw), machine.device
        )
        conditions = sampling_conditions(
            denoiser, encoded.latents[level], one.camera_map, one.viewmats, one.K_px, source
        )
        noise = draw_noise(conditions.reference_latent.shape, level, machine.device)
        stamp("inputs")
        for state in sample(
            denoiser,
            conditions,
            noise,
            num_steps=steps,
            shift=None,
            guidance=guidance,
            solver=solver,
        ):
            latents[level] = source = state.latent
        stamp(name)
    tokens = level_tokens(backbone, levels, latents, encoded.special)
    result = decode(
        backbone, machine.rgb_decoder, decoder_inputs(backbone, tokens), machine.size.image_hw
    )
    stamp("decode")
    seconds.pop("inputs")  # made on the CPU by this script, not by the pipeline
    finite = bool(torch.isfinite(result.rgb).all() and torch.isfinite(result.geometry.depth).all())
    return {"seconds": seconds, "total_s": sum(seconds.values()), "finite": finite}


def samples(machine: Machine) -> list[Figures]:
    """Whole samples: the published procedure, and solvers that need fewer steps."""
    channels, size = machine.backbone.channels, machine.size
    rows: list[Figures] = []
    shift = time_shift(channels, *size.grid_hw, size.views)
    latest, earliest = (float(shift_times(torch.tensor(t), shift)) for t in (0.75, 0.25))
    always = Guidance(GUIDANCE_SCALE)
    middle = Guidance(GUIDANCE_SCALE, interval=(earliest, latest))
    plans: list[tuple[str, Solver, int, Guidance]] = [
        ("euler, guided throughout", "euler", size.published_steps, always)
    ]
    for steps in size.fewer_steps:
        plans.append(("ab2, guided throughout", "ab2", steps, always))
        plans.append(("ab2, guided in the middle half", "ab2", steps, middle))
    whole_sample(machine, "euler", 2, always)  # warms up
    for name, solver, steps, guidance in plans:
        if machine.seconds_left < 15:
            rows.append({"sample": f"{name}, {2 * steps} calls: no time left"})
            continue
        run = lambda s=solver, n=steps, g=guidance: whole_sample(machine, s, n, g)  # noqa: E731
        results = [run(), run()] if machine.seconds_left > 60 else [run()]
        peak = machine.peak_mib(run) if not rows else None  # the same for all
        best = min(results, key=lambda r: r["total_s"])
        guided = sum(guidance.acts_at(float(t)) for t in time_grid(steps + 1, shift)[:-1])
        rows.append(
            {
                "sample": name,
                "calls": 2 * steps,
                "guided_calls": 2 * guided,
                **best,
                "totals_s": [r["total_s"] for r in results],
                "peak_mib": None if peak is None else peak[0],
            }
        )
        print(f"  {name}, {2 * steps} calls: {best['total_s']:.2f} s", flush=True)
    return rows
