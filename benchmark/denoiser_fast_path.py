"""Seconds per guided sampling step of the denoiser: plain forward against the fast path.

Both evaluate the same random model on the same inputs, in turns, in one process, and must agree.
Owns only the measurement; the model is `gld_ros.diffusion.denoiser`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from gld_ros.diffusion.conditioning import (
    DenoiserConditions,
    camera_conditions,
    concatenate_conditions,
    unconditional,
)
from gld_ros.diffusion.config import GLD_DA3_CASCADE, GLD_DA3_LEVEL1, DenoiserConfig
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.fast_path import precompute, step, time_constants
from gld_ros.diffusion.flow import time_grid, time_shift

Result = TypeVar("Result")

MODELS = {
    "micro": DenoiserConfig(channels=64, hidden=(64, 96), depth=(3, 2), heads=(2, 2)),
    "tiny": DenoiserConfig(channels=384, hidden=(192, 384), depth=(6, 2), heads=(6, 6)),
    "mid": DenoiserConfig(channels=768, hidden=(384, 768), depth=(8, 2), heads=(6, 12)),
    "level1": GLD_DA3_LEVEL1,
    "cascade": GLD_DA3_CASCADE,
}

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def parse_arguments() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="tiny", help="size (default: tiny)")
    parser.add_argument(
        "--cascade-layout", action="store_true", help="condition the encoder on a source latent"
    )
    parser.add_argument("--views", type=int, default=4, help="views of the scene (default: 4)")
    parser.add_argument(
        "--grid",
        type=int,
        nargs=2,
        default=(6, 8),
        metavar=("ROWS", "COLUMNS"),
        help="patches per view (default: 6 8, an image of 112 x 84 pixels)",
    )
    parser.add_argument("--steps", type=int, default=10, help="timed steps (default: 10)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="processor counts the work of this process alone: for a machine that others use too, "
        "on the CPU only (default: wall)",
    )
    parser.add_argument(
        "--shares", action="store_true", help="also profile a fast step: time by kind of operation"
    )
    arguments = parser.parse_args()
    if arguments.clock == "processor" and torch.device(arguments.device).type != "cpu":
        parser.error("--clock processor measures the CPU; use --clock wall with --device cuda")
    return arguments


def random_conditions(
    config: DenoiserConfig, views: int, grid_hw: tuple[int, int]
) -> DenoiserConditions:
    """One scene of a camera that moves sideways, half of its views references."""
    image_hw = (14 * grid_hw[0], 14 * grid_hw[1])
    T_world_cam = torch.eye(4).repeat(1, views, 1, 1)
    T_world_cam[0, :, 0, 3] = torch.linspace(0.0, 1.0, views)
    K_px = torch.eye(3).repeat(1, views, 1, 1)
    K_px[..., 0, 0] = K_px[..., 1, 1] = float(image_hw[1])
    K_px[..., 0, 2], K_px[..., 1, 2] = image_hw[1] / 2, image_hw[0] / 2
    references = max(1, views // 2)
    camera_map, viewmats, _ = camera_conditions(T_world_cam, K_px, image_hw, references)
    latent = torch.randn(1, views, config.channels, *grid_hw)
    latent[:, references:] = 0.0
    source = torch.randn_like(latent) if config.source_conditioned else None
    return DenoiserConditions(latent, references, camera_map, viewmats, K_px, image_hw, source)


def to_device(conditions: DenoiserConditions, device: torch.device) -> DenoiserConditions:
    """The conditions with all tensors on the device."""
    moved = {
        name: value.to(device)
        for name, value in vars(conditions).items()
        if isinstance(value, torch.Tensor)
    }
    return replace(conditions, **moved)


def seconds(
    call: Callable[[], Result], device: torch.device, clock: Callable[[], float]
) -> tuple[float, Result]:
    """Time that the call takes, all work on the device included, and what it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start, result


def shares(call: Callable[[], object]) -> dict[str, float]:
    """Share of the operators' time on a CPU in matrix products, in attention and in the rest."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    kinds = {"matrix products": 0.0, "attention": 0.0, "the rest": 0.0}
    for event in seen.key_averages():
        if event.key in ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm"):
            kinds["matrix products"] += event.self_cpu_time_total
        elif "scaled_dot_product" in event.key:
            kinds["attention"] += event.self_cpu_time_total
        else:
            kinds["the rest"] += event.self_cpu_time_total
    return {kind: time_us / sum(kinds.values()) for kind, time_us in kinds.items()}


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    config, grid_hw = MODELS[arguments.model], tuple(arguments.grid)
    if arguments.cascade_layout:
        config = replace(config, separate_embedders=False, source_conditioned=True)

    denoiser = Denoiser(config).to(device).eval()
    for parameter in denoiser.parameters():
        # A fresh model has zero gates; without this the comparison of results would prove nothing.
        torch.nn.init.normal_(parameter, std=0.02)
    conditions = random_conditions(config, arguments.views, grid_hw)
    free = unconditional(conditions, intrinsics=config.unconditional_intrinsics)
    guided = to_device(concatenate_conditions(conditions, free), device)
    noisy = torch.randn_like(guided.reference_latent[:1]).repeat(2, 1, 1, 1, 1)
    grid = time_grid(arguments.steps + 1, time_shift(config.channels, *grid_hw, arguments.views))

    times: dict[str, list[float]] = {"plain": [], "fast": []}
    largest = 0.0
    clock = CLOCKS[arguments.clock]
    with torch.inference_mode():
        prepare, (run, known) = seconds(
            lambda: (precompute(denoiser, guided), time_constants(denoiser, grid)), device, clock
        )
        for index, i in enumerate(tqdm([0, *range(len(grid) - 1)], unit="step", disable=None)):
            rows = grid[i].expand(2).to(device)
            plain_s, plain = seconds(lambda t=rows: denoiser(noisy, t, guided), device, clock)
            fast_s, fast = seconds(
                lambda i=i: step(denoiser, noisy[:1], known[i], run), device, clock
            )
            difference = (plain - fast).abs().max() / plain.abs().max()
            largest = max(largest, difference.item())
            if index:  # the first turn warms up
                times["plain"].append(plain_s)
                times["fast"].append(fast_s)

        if arguments.shares:
            found = shares(lambda: step(denoiser, noisy[:1], known[0], run))
            print(", ".join(f"{kind} {share:.0%}" for kind, share in found.items()))

    size = sum(p.numel() for p in denoiser.parameters()) / 1e6
    print(
        f"{arguments.model}{' (cascade layout)' if arguments.cascade_layout else ''}: "
        f"{size:.1f} M parameters, {arguments.views} views x {grid_hw[0]} x {grid_hw[1]} patches, "
        f"guidance, float32, {device}, {arguments.threads} thread(s), "
        f"{arguments.clock} time, torch {torch.__version__}"
    )
    for name, values in times.items():
        print(
            f"{name:5s} {statistics.median(values):.4f} s per step "
            f"(median of {len(values)}; best {min(values):.4f})"
        )
    print(f"once per run: {prepare:.4f} s")
    ratio = statistics.median(times["plain"]) / statistics.median(times["fast"])
    best_ratio = min(times["plain"]) / min(times["fast"])
    print(f"plain / fast: {ratio:.2f} (best times: {best_ratio:.2f})")
    print(f"largest difference of the outputs, relative to the largest output: {largest:.1e}")


if __name__ == "__main__":
    main()
