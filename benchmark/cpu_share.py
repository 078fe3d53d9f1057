"""What share of a matrix product's rate the published networks reach on this CPU.

    python benchmark/cpu_share.py

A denoiser of the published widths with few blocks, 1 + 1 views at 504x280, float32, one thread,
against the matrix product that `gld_ros.mapping.expected_work` times; both in processor seconds, so
that other work on the machine counts less. The result belongs in `CPU_SHARE` there.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from gld_ros.diffusion.conditioning import CAMERA_CHANNELS, DenoiserConditions
from gld_ros.diffusion.config import GLD_DA3_LEVEL1
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.mapping.expected_work import TIMED_SIDE, denoiser_operations

IMAGE_HW, REFERENCES, VIEWS = (280, 504), 1, 2


def fastest_s(call: Callable[[], object], repeats: int) -> float:
    """Processor seconds of the fastest of some calls."""
    seconds = []
    for _ in range(repeats):
        started_s = time.process_time()
        call()
        seconds.append(time.process_time() - started_s)
    return min(seconds)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    config = replace(GLD_DA3_LEVEL1, depth=(2, 1))
    denoiser = Denoiser(config).eval()
    latent = torch.rand(1, VIEWS, config.channels, IMAGE_HW[0] // 14, IMAGE_HW[1] // 14)
    conditions = DenoiserConditions(
        latent,
        REFERENCES,
        torch.rand(1, VIEWS, CAMERA_CHANNELS, *IMAGE_HW),
        torch.eye(4).repeat(1, VIEWS, 1, 1),
        torch.eye(3).repeat(1, VIEWS, 1, 1),
        IMAGE_HW,
    )
    side = TIMED_SIDE["cpu"]
    values = torch.rand(side, side)
    with torch.no_grad():
        product = 2 * side**3 / fastest_s(lambda: values @ values, 100)
        evaluation_s = fastest_s(lambda: denoiser(latent, torch.ones(1), conditions), 3)
    reached = denoiser_operations(config, REFERENCES, VIEWS - REFERENCES, IMAGE_HW) / evaluation_s
    print(
        f"matrix product {product / 1e9:.1f} GFLOP/s, networks {reached / 1e9:.1f} GFLOP/s: "
        f"share {reached / product:.2f}"
    )


if __name__ == "__main__":
    main()
